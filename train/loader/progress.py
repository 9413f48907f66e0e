"""How far a loader is: the epoch, the batches that it has delivered, and states of both.

A state counts global batches, so that it does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from train.errors import CheckpointError, ConfigError

VERSION = 1
EPOCH_END = 2**31


@dataclass(kw_only=True, slots=True)
class Progress:
    """The position of a loader. A batch counts when it is delivered, not when it is computed."""

    batches: int
    """Global batches of an epoch; at least 1."""
    epoch: int = 0
    """The epoch of the next batch, from 0."""
    delivered: int = 0
    """Batches of that epoch that were delivered; below ``batches``."""
    is_set: bool = True
    """Whether the next iteration begins exactly here: nothing was delivered since the position was
    set. Otherwise an iteration was abandoned, and the next one begins the next epoch."""

    def begin(self) -> tuple[int, int]:
        """Begin an iteration; returns its epoch and first batch."""
        if self.delivered and not self.is_set:
            self.epoch, self.delivered = self.epoch + 1, 0
        return self.epoch, self.delivered

    def advance(self) -> None:
        """Count a batch; after the last one the position is the beginning of the next epoch."""
        self.is_set = False
        self.delivered += 1
        if self.delivered == self.batches:
            self.epoch, self.delivered = self.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Move to the beginning of ``epoch``; a position set within it (by ``load``) is kept.

        Raises:
            ConfigError: ``epoch`` is not a whole number from 0 on.
        """
        if not _is_count(epoch, EPOCH_END):
            raise ConfigError(f"epoch must be a whole number of at least 0; got {epoch!r:.80}")
        if epoch != self.epoch or not self.is_set:
            self.epoch, self.delivered, self.is_set = epoch, 0, True

    def state(self, fingerprint: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the position, the dataset and the settings as JSON values."""
        return {
            "version": VERSION,
            "epoch": self.epoch,
            "batches": self.delivered,
            "dataset": fingerprint,
            "settings": dict(settings),
        }

    def load(self, state: object, fingerprint: str, settings: Mapping[str, Any]) -> None:
        """Move to the position of ``state``.

        Raises:
            CheckpointError: it is malformed, or of another dataset or other settings.
        """
        if not isinstance(state, Mapping) or not isinstance(state.get("settings"), Mapping):
            raise CheckpointError("this is not a state of an ImageLoader: it has no settings")
        if state.get("version") != VERSION:
            raise CheckpointError(
                f"the loader's state has version {state.get('version')!r:.20}; this imgprep reads "
                f"version {VERSION}"
            )
        if state.get("dataset") != fingerprint:
            raise CheckpointError(
                f"the loader's state belongs to another dataset: its fingerprint is "
                f"{state.get('dataset')!s:.64}, this one's is {fingerprint}"
            )
        saved = state["settings"]
        for name, value in settings.items():
            if _plain(saved.get(name)) != value:
                raise CheckpointError(
                    f"the loader's state was saved with {name} = {saved.get(name)!r:.80}, and this "
                    f"loader has {value!r:.80}: set it back, or start without the state"
                )
        epoch, delivered = state.get("epoch"), state.get("batches")
        if not _is_count(epoch, EPOCH_END) or not _is_count(delivered, self.batches):
            raise CheckpointError(
                f"the loader's state is malformed: epoch {epoch!r:.20}, batches {delivered!r:.20} "
                f"of {self.batches}"
            )
        self.epoch, self.delivered, self.is_set = epoch, delivered, True


def _is_count(value: object, end: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < end


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
