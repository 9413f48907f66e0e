"""The components that a training run is built from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from train.config import RunConfig
from train.feed.dataset import TrainingSet
from train.feed.loader import EvalLoader, TrainLoader
from train.net import Net
from train.optim.sgd import Sgd
from train.run.logs import RunLogs
from train.run.saving import Saver
from train.run.step import Stepper
from train.run.stop import StopSignal
from train.world import World


class TextOutput(Protocol):
    """Receives lines of progress and warnings; the command line prints them."""

    def line(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunComponents:
    """The components of a run; none is replaced while it trains."""

    config: RunConfig
    data: TrainingSet
    world: World
    folder: Path
    classes: int
    net: Net
    sgd: Sgd
    stepper: Stepper
    saver: Saver
    train: TrainLoader
    val: EvalLoader | None
    logs: RunLogs
    stop: StopSignal
    output: TextOutput
