"""Placement: decides which processes train on which devices."""

from __future__ import annotations

from dataclasses import dataclass

from imgprep.processors import processors
from imgprep.wording import counted
from train import program
from train.config import RunConfig
from train.errors import ConfigError
from train.world import World

NO_GPU = "--device cuda: no GPU is visible; check nvidia-smi, or use --device cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """Devices of this machine."""

    gpus: int
    """GPUs that this process may use."""
    cores: int
    """Processors that this process may use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Processes and devices of a run."""

    parallel: str
    """``none``, ``data`` or ``columns``."""
    processes: int
    """Processes on this machine."""
    device_type: str
    devices_per_process: int
    threads_per_process: int
    """For arithmetic on the CPU, and for decoding."""

    def devices(self, local_rank: int) -> tuple[str, ...]:
        """Device names of one process of this machine."""
        count = self.devices_per_process
        if self.device_type == "cpu":
            return ("cpu",) * count
        return tuple(f"cuda:{local_rank * count + k}" for k in range(count))


def find_hardware() -> Hardware:
    """Count GPUs and processors of this machine; imports torch."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Hardware(gpus=gpus, cores=processors())


def place(config: RunConfig, hardware: Hardware, world: World, processes: int | None) -> Placement:
    """Place a run on the devices.

    The automatic choice is a column on each of two GPUs if there are two and the network has two
    columns, else one GPU, else the CPU. ``processes`` is the number asked for on this machine;
    None takes one, or, for data parallelism, one per GPU (two on a CPU).

    Raises:
        ConfigError: there are too few devices, or the launcher started another number.
    """
    on_gpu = config.device == "cuda" or (config.device == "auto" and hardware.gpus > 0)
    if config.device == "cuda" and not hardware.gpus:
        raise ConfigError(NO_GPU)
    local = world.local_size if world.launched else processes or 1
    parallel = _parallel(config, hardware, max(world.size, local), local, on_gpu=on_gpu)
    per_process = 2 if parallel == "columns" else 1
    if world.launched:
        if processes not in (None, world.local_size):
            raise ConfigError(
                f"--processes {processes}, but a launcher started {world.local_size} on this "
                f"machine, as {' and '.join(world.variables)} in the environment say: omit "
                f"--processes, or run {_without(world.variables)} to start them here"
            )
        count = world.local_size
    else:
        count = processes or _processes(parallel, hardware, on_gpu)
    if on_gpu and count * per_process > hardware.gpus:
        raise ConfigError(
            f"the run needs {count * per_process} GPUs "
            f"({counted(count, 'process', 'processes')} of {counted(per_process, 'GPU')}), "
            f"but only {hardware.gpus} {'is' if hardware.gpus == 1 else 'are'} visible"
        )
    if parallel == "none" and (count > 1 or world.size > 1):
        raise ConfigError(
            "--parallel none runs one process: use --parallel data or columns for more"
        )
    return Placement(
        parallel=parallel,
        processes=count,
        device_type="cuda" if on_gpu else "cpu",
        devices_per_process=per_process,
        threads_per_process=max(1, hardware.cores // count),
    )


def _parallel(
    config: RunConfig, hardware: Hardware, size: int, local_size: int, *, on_gpu: bool
) -> str:
    """Choose for ``size`` processes, ``local_size`` of them on this machine."""
    if config.parallel != "auto":
        return config.parallel
    if on_gpu and config.net.columns == 2 and hardware.gpus >= 2 * local_size:
        return "columns"
    return "data" if size > 1 or (on_gpu and hardware.gpus >= 2) else "none"


def _processes(parallel: str, hardware: Hardware, on_gpu: bool) -> int:
    if parallel != "data":
        return 1
    return hardware.gpus if on_gpu else 2


def _without(variables: tuple[str, ...]) -> str:
    """The command that ignores the variables of a launcher."""
    return f"env {' '.join(f'-u {name}' for name in variables)} {program.command()} ..."
