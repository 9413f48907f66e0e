"""Saves the state of a run: copied at once, written by a thread while the training goes on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imgprep.errors import DestinationError
from train.net import Net
from train.optim.sgd import Sgd
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import Checkpoint, Position
from train.saved.writer import BackgroundWriter

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveAs:
    """Under which names a checkpoint is saved besides ``last.pt``, as ``checkpoint.save`` does."""

    best: bool = False
    epoch_end: bool = False
    keep_previous: bool = False
    keep: int


class Snapshot:
    """Copies of weights and velocities in memory of the host, made anew by each ``take``.

    The memory is kept, and pinned for a GPU, which then copies at the speed of the bus.
    """

    def __init__(self, net: Net, sgd: Sgd) -> None:
        self._net, self._sgd = net, sgd
        self._weights: Tensors | None = None
        self._negative: Tensors | None = None

    def take(self) -> tuple[Tensors, Tensors]:
        """Copy all weights and all *negative* velocities by canonical name; waits for the devices.

        The copies are valid until the next call.
        """
        weights = dict(self._net.named_parameters())
        if self._weights is None or self._negative is None:
            self._weights, self._negative = (self._net.host_tensors() for _ in range(2))
        self._net.canonical(weights, into=self._weights)
        self._net.canonical(self._sgd.negative_velocities(), into=self._negative)
        for device in set(self._net.devices):
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        return self._weights, self._negative


class Saver:
    """Saves checkpoints of one run in ``folder``; only the main process writes."""

    def __init__(self, folder: Path, net: Net, sgd: Sgd) -> None:
        self._folder = folder
        self._snapshot = Snapshot(net, sgd)
        self._writer = BackgroundWriter()
        self._written: Position | None = None
        self.saved_at: Position | None = None
        """Where the run was at the newest save; ``wait`` makes sure that it is on disk."""

    def resumed_from(self, position: Position) -> None:
        """Note the checkpoint that the run resumed from."""
        self.saved_at = self._written = position

    def take(self) -> tuple[Tensors, Tensors]:
        """Copy weights and negative velocities for ``save``, once the save before is on disk.

        Raises:
            DestinationError: the checkpoint before could not be written.
        """
        self.wait()
        return self._snapshot.take()

    def save(self, checkpoint: Checkpoint, how: SaveAs) -> None:
        """Begin to write a checkpoint whose tensors are those of ``take``, so with negative
        velocities, which the thread turns round.

        Raises:
            DestinationError: the checkpoint before could not be written.
        """

        def write() -> None:
            for velocity in checkpoint.velocities.values():
                values = velocity.numpy()
                np.negative(values, out=values)
            checkpoints.save(
                self._folder,
                checkpoint,
                best=how.best,
                epoch_end=how.epoch_end,
                keep_previous=how.keep_previous,
                keep=how.keep,
            )
            self._written = checkpoint.position

        self._writer.start(write)
        self.saved_at = checkpoint.position

    def wait(self) -> None:
        """Wait until the newest save is on disk.

        Raises:
            DestinationError: it could not be written; ``saved_at`` is then the one before.
        """
        try:
            self._writer.wait()
        except DestinationError:
            self.saved_at = self._written
            raise

    def withdraw(self) -> None:
        """Undo a save with ``keep_previous``.

        Raises:
            DestinationError: the folder cannot be written.
        """
        self.wait()
        self.saved_at = self._written = checkpoints.withdraw(self._folder)

    def on_disk(self) -> Position | None:
        """Where the run was at the newest save that is on disk, for the message of another error;
        waits for the thread."""
        with suppress(DestinationError):
            self.wait()
        return self._written

    def close(self) -> None:
        """Wait for the thread."""
        self._writer.join()
