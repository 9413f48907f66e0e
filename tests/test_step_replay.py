"""Updates that are recorded once and replayed have the numbers of updates that are not.

On a GPU the recording is a CUDA graph. Here a recorder takes its place: like a graph it does
nothing when it records, and on each replay it computes on the buffers that it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from train.config import NetConfig, OptimConfig, Parallel, RunConfig
from train.feed.dataset import open_dataset
from train.feed.loader import Batch
from train.net import Net, build_net
from train.optim.schedule import Rates
from train.optim.sgd import Sgd
from train.run import step as step_module
from train.run.budget import make_budget
from train.run.job import FitJob
from train.run.launch import Placement
from train.run.replay import DIRECT_UPDATES, RunAhead, why_not_recorded
from train.run.step import Stepper
from train.world import World

CPU = torch.device("cpu")
PX = 64
WHOLE, SHORT = 6, 2
FIRST, LATER = Rates(0.01, 0.02), Rates(0.001, 0.02, {"conv1": 0.0})


class Recorder:
    """Keeps the work that it is given, and does it on each replay."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0
        self._work: Callable[[], None] | None = None

    def record(self, work: Callable[[], None]) -> None:
        self.recorded += 1
        self._work = work

    def replay(self) -> None:
        assert self._work is not None
        self.replayed += 1
        self._work()


def config_of(**settings: Any) -> RunConfig:
    optim = OptimConfig(batch_images=WHOLE, accumulate=settings.pop("accumulate", 1))
    net = NetConfig(width_divisor=16, init_sd=0.05, init_sd_conv345=0.1)
    return RunConfig(net=net, optim=optim, seed=5, **settings)


def net_of(config: RunConfig, *, columns: bool) -> Net:
    devices = [CPU, CPU] if columns else [CPU]
    return build_net(config.net, classes=7, devices=devices, columns=columns, seed=1, image_px=PX)


def batch(rows: int, number: int) -> Batch:
    draw = torch.Generator().manual_seed(number)
    images = 60 * torch.randn((rows, 3, PX, PX), generator=draw)
    return Batch(
        images=images.contiguous(memory_format=torch.channels_last),
        labels_n=torch.randint(7, (rows,), generator=draw),
        record_n=np.arange(rows),
        first_row=0,
        global_images=rows,
    )


RUN = [
    *[(WHOLE, FIRST)] * 5,
    (SHORT, FIRST),
    *[(WHOLE, FIRST)] * 2,
    *[(WHOLE, LATER)] * 3,
    (SHORT, LATER),
    (WHOLE, LATER),
]
"""Images and rates of each update: two epochs with a short last batch, and a lower rate."""


def train(stepper: Stepper) -> list[Tensor]:
    """Make the updates of ``RUN``; returns their sums."""
    found = []
    for number, (rows, rates) in enumerate(RUN):
        done = stepper(batch(rows, number), rates, global_step=number)
        assert done.images == rows
        found.append(done.sums.clone())
    return found


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("columns", [False, True], ids=["grouped", "columns"])
def test_replayed_updates_have_the_same_bits(columns: bool, accumulate: int) -> None:
    config = config_of(accumulate=accumulate)
    results = []
    for recorder in (None, Recorder()):
        net = net_of(config, columns=columns)
        sgd = Sgd(net, config.optim)
        sums = train(Stepper(net, sgd, config, World(), recording=recorder))
        results.append((sums, net.canonical_state(), net.canonical(sgd.velocities())))
    (sums, weights, velocities), replayed = results
    assert all(torch.equal(a, b) for a, b in zip(sums, replayed[0], strict=True))
    for name in weights:
        assert torch.equal(weights[name], replayed[1][name])
        assert torch.equal(velocities[name], replayed[2][name])
    assert recorder is not None
    whole = sum(rows == WHOLE for rows, _ in RUN)
    assert recorder.replayed == whole - DIRECT_UPDATES
    assert recorder.recorded == 2, "once, and once more for the other rates"


def test_a_replay_reads_buffers_that_stay_and_not_the_batch() -> None:
    config, recorder = config_of(), Recorder()
    net = net_of(config, columns=True)
    seen: list[list[Tensor]] = []

    def keep(module: object, arguments: tuple[Any, ...]) -> None:
        images, masks = arguments
        seen.append([images, *(mask for pair in masks.values() for mask in pair)])

    net.register_forward_pre_hook(keep)
    stepper = Stepper(net, Sgd(net, config.optim), config, World(), recording=recorder)
    batches = [batch(WHOLE, number) for number in range(5)]
    for number, each in enumerate(batches):
        stepper(each, FIRST, global_step=number)
    addresses = [[tensor.data_ptr() for tensor in tensors] for tensors in seen]
    assert addresses[2] == addresses[3] == addresses[4] != addresses[1]
    given = {each.images.data_ptr() for each in batches}
    assert [tensors[0].data_ptr() in given for tensors in seen] == [True, True, False, False, False]
    assert torch.equal(seen[-1][0], batches[-1].images)
    assert seen[-1][0].stride() == batches[-1].images.stride()


def test_inputs_of_another_form_are_recorded_after_direct_updates_of_their_own() -> None:
    config, recorder = config_of(), Recorder()
    net = net_of(config, columns=False)
    stepper = Stepper(net, Sgd(net, config.optim), config, World(), recording=recorder)
    for number in range(4):
        stepper(batch(WHOLE, number), FIRST, global_step=number)
    assert (recorder.recorded, recorder.replayed) == (1, 2)
    for number in range(4):
        other = batch(WHOLE, number)
        images = other.images.double().half()  # as with input.dtype=float16
        stepper(Batch(images, other.labels_n, other.record_n, 0, WHOLE), FIRST, global_step=number)
    assert (recorder.recorded, recorder.replayed) == (2, 4)


def test_a_dataset_smaller_than_the_batch_is_a_whole_batch() -> None:
    config, recorder = config_of(), Recorder()
    net = net_of(config, columns=False)
    stepper = Stepper(
        net, Sgd(net, config.optim), config, World(), whole_images=SHORT, recording=recorder
    )
    for number in range(4):
        stepper(batch(SHORT, number), FIRST, global_step=number)
    assert (recorder.recorded, recorder.replayed) == (1, 2)


def test_loss_scaling_is_part_of_the_recording() -> None:
    """With float16 the factor, its growth and a skipped update stay on the device."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no instructions for 16-bit arithmetic")
    config = config_of(precision="fp16")
    results = []
    for recorder in (None, Recorder()):
        net = net_of(config, columns=False)
        sgd = Sgd(net, config.optim)
        stepper = Stepper(net, sgd, config, World(), recording=recorder)
        sums = train(stepper)
        results.append((sums, net.canonical_state(), stepper.scaler_state()))
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))
    assert all(torch.equal(results[0][1][name], results[1][1][name]) for name in results[0][1])
    assert results[0][2] == results[1][2] != {}


@contextmanager
def counted_compilations() -> Iterator[list[torch.Size]]:
    """Let ``torch.compile`` call a backend that compiles nothing and notes each call."""
    compiled: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compiled.append(max((x.shape for x in inputs if isinstance(x, Tensor)), key=len))
        return graph.forward

    before = step_module.COMPILER
    step_module.COMPILER = backend  # type: ignore[assignment]
    try:
        yield compiled
    finally:
        step_module.COMPILER = before
        torch.compiler.reset()


# torch's tracing makes an instance of the class of an autograd function, and warns of it
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_a_short_last_batch_is_not_compiled() -> None:
    with counted_compilations() as compiled:
        config = config_of(compile=True)
        net = net_of(config, columns=False)
        stepper = Stepper(net, Sgd(net, config.optim), config, World())
        stepper(batch(WHOLE, 0), FIRST, global_step=0)
        whole = len(compiled)
        assert whole > 0
        for number, rows in enumerate((SHORT, WHOLE, SHORT, WHOLE)):
            stepper(batch(rows, number), FIRST, global_step=1 + number)
        assert len(compiled) == whole


def test_a_run_says_why_its_updates_are_not_replayed() -> None:
    one, two = [torch.device("cuda", 0)], [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert why_not_recorded(RunConfig(), one, 1) is None
    assert why_not_recorded(RunConfig(), [*one, *one], 1) is None, "both columns on one GPU"
    assert why_not_recorded(RunConfig(cuda_graph=False), one, 1) == "cuda_graph is false"
    assert "exchange of gradients" in str(why_not_recorded(RunConfig(), one, 2))
    assert "one GPU only" in str(why_not_recorded(RunConfig(), two, 1))


@pytest.mark.parametrize(
    ("parallel", "processes", "settings", "lines"),
    [
        ("none", 1, {}, ["step      precision tf32, replayed as a CUDA graph"]),
        (
            "none",
            1,
            {"cuda_graph": False, "deterministic": True},
            ["step      precision tf32, deterministic, queued by Python: cuda_graph is false"],
        ),
        (
            "columns",
            1,
            {},
            [
                "step      precision tf32, queued by Python: torch records the memory of one GPU "
                "only, and the columns are on two",
                "untried   more than one GPU",
            ],
        ),
        (
            "columns",
            2,
            {},
            [
                "step      precision tf32, queued by Python: an exchange of gradients inside a "
                "CUDA graph has not been tried",
                "untried   processes of two GPUs each: DistributedDataParallel then makes two NCCL "
                "communicators per process",
            ],
        ),
    ],
)
def test_the_plan_of_a_run_on_gpus_says_what_is_replayed_and_what_is_untried(
    built: Path, parallel: Parallel, processes: int, settings: dict[str, Any], lines: list[str]
) -> None:
    config = RunConfig(precision="tf32", parallel=parallel, **settings)
    placement = Placement(
        parallel=parallel,
        processes=processes,
        device_type="cuda",
        devices_per_process=2 if parallel == "columns" else 1,
        threads_per_process=1,
    )
    data = open_dataset(built)
    job = FitJob(
        config=config,
        data=data,
        world=World(),
        placement=placement,
        budget=make_budget(config, data, placement, World()),
        out=Path("run"),
    )
    found = job.summary().splitlines()
    assert [line for line in found if line.startswith(("step ", "untried"))] == lines
    assert len(found) <= 12


def test_python_waits_for_the_device_every_few_updates() -> None:
    done: list[str] = []

    class Mark:
        def __init__(self) -> None:
            self.number = 1 + sum(each.startswith("mark") for each in done)

        def record(self) -> None:
            done.append(f"mark {self.number}")

        def synchronize(self) -> None:
            done.append(f"wait {self.number}")

    ahead = RunAhead(Mark)
    for number in range(13):
        done.append(f"update {number}")
        ahead.after_update()
    marks = [each for each in done if not each.startswith("update")]
    assert marks == ["mark 1", "mark 2", "wait 1", "mark 3", "wait 2"]
    assert done.index("wait 1") == done.index("update 8") - 1
    RunAhead(None).after_update()


def test_a_process_without_images_makes_a_float16_update() -> None:
    config = RunConfig(
        net=NetConfig(width_divisor=16), optim=OptimConfig(batch_images=6), precision="fp16"
    )
    devices = (torch.device("cpu"),)
    net = build_net(config.net, classes=4, devices=devices, columns=False, seed=0, image_px=64)
    stepper = Stepper(net, Sgd(net, config.optim), config, World())
    nothing = Batch(
        images=torch.zeros(0, 3, 64, 64),
        labels_n=torch.zeros(0, dtype=torch.int64),
        record_n=np.arange(0),
        first_row=0,
        global_images=1,
    )
    assert stepper(nothing, Rates(0.01, 0.01), global_step=0).images == 0
