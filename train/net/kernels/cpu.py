"""The compiled CPU kernels of the LRN, if they were built, and the threads that run them.

They take float32 images in channels-last memory. The environment variable ``TRAIN_KERNEL``
chooses the backend when this module is imported: ``auto`` (the default) takes the first that works
of ``c-avx2``, ``c`` (the same source without AVX2) and ``torch``. ``torch`` needs no compiled code;
other types use it, and so does a GPU without Triton.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.errors import ConfigError
from train.net.kernels.constants import ChannelWindow, NormConstants

Array = NDArray[np.float32]

KERNEL_VARIABLE = "TRAIN_KERNEL"
PARTS_PER_THREAD = 8
"""Small parts, so that a thread on a busy processor delays the others little."""
SMALL = 1 << 16
"""With fewer values than this a second thread does not pay."""

_cpu: Any
try:
    _cpu = importlib.import_module("train.net._cpu")
except ImportError:  # not built: no compiler when the package was installed
    _cpu = None


def available_backends() -> tuple[str, ...]:
    """List the backends that work in this process, fastest first."""
    compiled = () if _cpu is None else (("c-avx2", "c") if _cpu.HAS_AVX2 else ("c",))
    return (*compiled, "torch")


def choose_backend(wanted: str | None) -> str:
    """Choose the backend for a value of ``TRAIN_KERNEL``.

    Raises:
        ConfigError: it does not work here.
    """
    working = available_backends()
    if wanted in (None, "", "auto"):
        return working[0]
    if wanted not in working:
        raise ConfigError(
            f"{KERNEL_VARIABLE} must be one of auto, {', '.join(working)} here; got {wanted!r}"
        )
    return str(wanted)


BACKEND: str = choose_backend(os.environ.get(KERNEL_VARIABLE))
"""The backend that this process uses; benchmarks and tests set it."""


def takes(x: Tensor, constants: NormConstants) -> bool:
    """Whether the kernels can read this tensor: float32 (n, c, h, w) on a CPU, channels last.

    Only for the published beta of 0.75. Never under ``torch.compile``, which cannot trace compiled
    code.
    """
    return (
        constants.beta == 0.75
        and BACKEND != "torch"
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def rows_of(x: Tensor) -> Array:
    """View the memory of a supported tensor with one row per pixel: (pixels, c), no copy."""
    rows: Array = x.detach().permute(0, 2, 3, 1).reshape(-1, x.shape[1]).numpy()
    return rows


def channel_forward(x: Tensor, constants: NormConstants, window: ChannelWindow) -> Tensor:
    """Compute ``y = x / (k + alpha * sum)**0.75``, of ``max(x, 0)`` if the window rectifies."""
    y = torch.empty_like(x, memory_format=torch.channels_last)
    settings = _settings(x, constants, window)
    in_parallel(lambda *rows: _cpu.lrn_forward(*rows, *settings), rows_of(x), rows_of(y))
    return y


def channel_backward(
    x: Tensor, gradient: Tensor, constants: NormConstants, window: ChannelWindow
) -> Tensor:
    """Compute the gradient of x from x and the gradient of y."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    result = torch.empty_like(x, memory_format=torch.channels_last)
    settings = _settings(x, constants, window)
    in_parallel(
        lambda *rows: _cpu.lrn_backward(*rows, *settings),
        *(rows_of(x), rows_of(gradient), rows_of(result)),
    )
    return result


def _settings(x: Tensor, constants: NormConstants, window: ChannelWindow) -> tuple[Any, ...]:
    return (
        *(x.shape[1], window.groups, window.size),
        *(constants.k, constants.alpha, window.rectify, BACKEND == "c-avx2"),
    )


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def in_parallel(work: Callable[..., None], *arrays: Array) -> None:
    """Call ``work(*arrays)`` on parts of the rows, in as many threads as torch uses.

    Python threads suffice, because ``work`` releases the GIL; a second OpenMP runtime beside
    torch's would compete with it. The calling thread works too.
    """
    threads = torch.get_num_threads() if arrays[0].size >= SMALL else 1
    count = threads * PARTS_PER_THREAD if threads > 1 else 1
    edges = [len(arrays[0]) * part // count for part in range(count + 1)]
    parts = iter(
        [
            tuple(array[start:stop] for array in arrays)
            for start, stop in itertools.pairwise(edges)
            if start < stop
        ]
    )

    def take_parts() -> None:
        for part in parts:  # each thread takes the next part when it is free; the GIL guards them
            work(*part)

    futures = [_pool(threads - 1).submit(take_parts) for _ in range(threads - 1)]
    take_parts()
    for future in futures:
        future.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), threads)  # a forked child does not have its parent's threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="train-kernel")
    return _pools[key]
