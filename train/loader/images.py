"""The public loader: an iterable over a prepared dataset for any torch model."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from imgprep.storage import Store
from train.errors import ConfigError
from train.feed.dataset import open_dataset
from train.feed.graph_spec import graph_spec
from train.feed.loader import Share, TrainLoader
from train.loader.progress import Progress
from train.loader.settings import LoaderSettings, input_config
from train.world import world_from


class ImageLoader:
    """Batches of a prepared dataset: ``for images, labels in ImageLoader(DEST, batch_images=256)``.

    ``images`` is a tensor (n, 3, crop_px, crop_px) of the type ``dtype``: levels (0-255) minus
    ``mean``, divided by ``sd``. ``labels`` is (n,) int64, in the class order of the dataset. Both
    are on ``device``. n is this process's share of ``batch_images``.

    A batch is a pure function of (dataset, settings, seed, epoch, position): it does not depend on
    the number of processes, threads or restarts. Each process of a distributed run makes its own
    ``ImageLoader`` with the same settings and gets its own rows of each global batch; so there is
    nothing to wrap, and no sampler to set (see ``LoaderSettings.rank``).

    Each iteration is an epoch: the first is epoch 0, the next begins epoch 1, also after a
    ``break``. ``state_dict`` may be called at any time, in the middle of an epoch too. A loader
    that loads it continues with the next batch that was not delivered, in any number of processes.
    Only one iteration runs at a time: a new one ends the previous one.
    """

    def __init__(self, dest: str | os.PathLike[str] | Store, **settings: Any) -> None:
        """Open the dataset at ``dest`` (a folder or URL) without reading an image.

        Args:
            settings: the fields of ``LoaderSettings``.

        Raises:
            ConfigError: a setting is unknown, wrong, or does not fit the dataset.
            DataError: there is no finished dataset, or it has no such split.
        """
        self.settings = LoaderSettings.of(settings)
        self._data = open_dataset(Path(dest) if isinstance(dest, os.PathLike) else dest)
        self._config = input_config(self.settings, self._data)
        graph_spec(self._data, self._config, batch_images=1, lighting=False)  # its checks
        self._batch_images, batches = self._batches()
        self._progress = Progress(batches=batches)
        self._loader: TrainLoader | None = None
        self._where: tuple[Share, torch.device] | None = None
        self._closing: weakref.finalize[..., ImageLoader] | None = None
        """Closes the threads and shards once nothing refers to this loader."""
        self._pid = os.getpid()

    @property
    def classes(self) -> int:
        """Number of classes; labels are below it."""
        return self._data.classes

    @property
    def images(self) -> int:
        """Number of images of the split."""
        return self._data.records(self.settings.split)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from 0."""
        return self._progress.epoch

    def __len__(self) -> int:
        """Number of batches of an epoch, the same in every process."""
        return self._progress.batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield ``(images, labels)`` to the end of the epoch, from the present position on.

        Nothing happens before the first batch is taken.

        Raises:
            DataError: a record cannot be read or decoded; the message names it.
            ConfigError: the launcher's environment is malformed.
        """
        loader, progress = self._opened(), self._progress
        epoch, first = progress.begin()
        with closing(loader.epoch(epoch, first)) as batches:  # type: ignore[type-var]
            for batch in batches:
                if self.settings.drop_last and batch.global_images < self._batch_images:
                    continue
                progress.advance()
                yield batch.images, batch.labels_n

    @property
    def sampler(self) -> ImageLoader:
        """This loader itself, which has no sampler: Lightning calls ``sampler.set_epoch`` before
        each epoch, and relies on it where it resumes at the end of one."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be ``epoch``; a position within it that was loaded is kept.

        It is never needed, because iterations count epochs by themselves.

        Raises:
            ConfigError: ``epoch`` is not a whole number from 0 on.
        """
        self._progress.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position as JSON values; batches that were computed ahead do not count."""
        return self._progress.state(self._data.fingerprint, self.settings.deciding())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of ``state_dict``, of any process and any number of processes.

        Raises:
            CheckpointError: it is malformed, or of another dataset or other settings.
        """
        self._progress.load(state_dict, self._data.fingerprint, self.settings.deciding())

    def __getstate__(self) -> dict[str, Any]:
        """Return what a spawned process gets: everything but the threads and open files."""
        return {**self.__dict__, "_loader": None, "_where": None, "_closing": None}

    def close(self) -> None:
        """Stop the threads and close the shards; an iteration opens them again."""
        if self._closing is not None:
            self._closing()
        self._loader = self._where = self._closing = None

    def _batches(self) -> tuple[int, int]:
        """Images of a whole batch, and batches of an epoch."""
        images = self.images
        if not images:
            have = ", ".join(self._data.index.splits)
            raise ConfigError(
                f"split {self.settings.split!r:.80} has no images in {self._data.location}: the "
                f"dataset has {have}"
            )
        size = self.settings.batch_images
        if self.settings.drop_last and images < size:
            raise ConfigError(
                f"drop_last leaves no batch: the split has {images} images, a batch {size}"
            )
        return size, images // size if self.settings.drop_last else -(-images // size)

    def _opened(self) -> TrainLoader:
        """Return the loader for the share and device that this process has now."""
        if self._loader is not None and self._pid != os.getpid():
            raise ConfigError(
                "this loader was used before the process was forked, and its threads are not here: "
                "make a loader in the new process, or start the process by spawn"
            )
        where = self._share(), self._device()
        if self._loader is None or self._where != where:
            self.close()
            self._loader = TrainLoader(
                self._data,
                self._config,
                where[0],
                batch_images=self._batch_images,
                seed=self.settings.seed,
                device=where[1],
                split=self.settings.split,
            )
            self._where, self._pid = where, os.getpid()
            self._closing = weakref.finalize(self, _close_here, self._loader, self._pid)
            self._closing.atexit = False
        return self._loader

    def _share(self) -> Share:
        """Read the share when an iteration begins: a launcher may have initialised
        torch.distributed after this loader was made."""
        if self.settings.rank is not None and self.settings.processes is not None:
            return Share(self.settings.rank, self.settings.processes)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return Share(torch.distributed.get_rank(), torch.distributed.get_world_size())
        world = world_from(os.environ)
        return Share(world.rank, world.size)

    def _device(self) -> torch.device:
        found = torch.device(
            self.settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        )
        if found.type == "cuda" and found.index is None:  # other threads have another current one
            return torch.device("cuda", torch.cuda.current_device())
        return found


def _close_here(loader: TrainLoader, pid: int) -> None:
    """Close the loader in the process that opened it: a forked process has none of its threads."""
    if os.getpid() == pid:
        loader.close()
