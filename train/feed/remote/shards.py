"""The shards of a split in an object store, downloaded ahead of their use into the cache.

DALI's own S3 reader is not used, because it chooses the order of the shards. Here batches are a
function of seed, epoch and position, so DALI's graph gets records by number, as from a local
folder, and the batches are identical.

An epoch mixes the records of ``input.window_shards`` shards, then those of the next ones. So a
window must fit into the cache; the next one is downloaded meanwhile, as far as it fits too.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.index import ShardInfo
from imgprep.storage import Store
from train.config import InputConfig
from train.errors import ConfigError, DataError
from train.feed.dataset import TrainingSet
from train.feed.remote.cache import ShardCache, default_folder, touch
from train.feed.remote.download import DownloadStoppedError
from train.feed.shard_files import OPEN_SHARDS
from train.feed.spans import will_need

PARALLEL_DOWNLOADS = 4
SPARE_SHARDS = 2
"""In addition to a window: a shard that is being downloaded, and one of the other split."""
TRIES = 3
"""How often a shard may be evicted between its download and its use."""
GIB = 1 << 30


def cache_of(config: InputConfig) -> ShardCache:
    """Return the cache of the settings."""
    folder = Path(config.cache_folder) if config.cache_folder else default_folder()
    return ShardCache(folder.expanduser(), int(config.cache_gib * GIB))


def check_cache(data: TrainingSet, config: InputConfig) -> str:
    """Describe in a sentence how the dataset fits the cache; empty if it is on a local disk.

    Raises:
        ConfigError: the cache is too small for a window of an epoch.
    """
    if data.index.store.folder is not None:
        return ""
    cache = cache_of(config)
    room = cache.room_bytes()
    for name, split in data.index.splits.items():
        _lookahead(split.shards, config if name == "train" else sequential(config), room, cache)
    total = sum(shard.bytes for split in data.index.splits.values() for shard in split.shards)
    text = f"{cache.folder}: room for {room / GIB:,.1f} GiB, the shards take {total / GIB:,.1f} GiB"
    if total > room:
        text += "; shards that do not fit are downloaded again in each epoch"
    return text


def sequential(config: InputConfig) -> InputConfig:
    """Return the settings for a split that is read shard by shard, in stored order."""
    return replace(config, shuffle=False)


def _window(config: InputConfig) -> int:
    return config.window_shards if config.shuffle else 1


def _lookahead(
    shards: Sequence[ShardInfo], config: InputConfig, room: int, cache: ShardCache
) -> int:
    """Return how many shards may be downloaded before they are read.

    Raises:
        ConfigError: the cache is too small for a window.
    """
    sizes = sorted((shard.bytes for shard in shards), reverse=True)
    if not sizes:
        return 0
    window = _window(config)
    needed = sum(sizes[:window]) + SPARE_SHARDS * sizes[0]
    if needed <= room:
        return max(1, min(max(window, PARALLEL_DOWNLOADS), (room - needed) // sizes[0]))
    fits = room // sizes[0] - SPARE_SHARDS
    smaller = f"set input.window_shards to {fits}, or " if 0 < fits < window else ""
    less = " (the disk is full)" if room < cache.limit_bytes else ""
    raise ConfigError(
        f"{cache.folder}: the shards that are read together ({min(window, len(sizes))}) need "
        f"{_gib(needed)} GiB of cache, but only {room / GIB:.4g} GiB are available{less}: {smaller}"
        f"set --cache-gib to {_gib(needed)} or more"
    )


def _gib(n_bytes: int) -> str:
    """Format GiB with enough digits for small values, rounded up."""
    return f"{n_bytes * 1.001 / GIB:.4g}"


class RemoteShards:
    """See ``ShardDescriptors``. Downloads run in threads; ``descriptor`` waits for its shard."""

    def __init__(self, store: Store, shards: Sequence[ShardInfo], config: InputConfig) -> None:
        self._store, self._shards = store, shards
        self._cache = cache_of(config)
        self._cache.create()
        room = self._cache.room_bytes()
        self._download_ahead = _lookahead(shards, config, room, self._cache)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._downloads: dict[int, Future[None]] = {}
        self._read_order: list[int] = []
        self._order_position: dict[int, int] = {}
        self._submitted = 0
        self._threads: ThreadPoolExecutor | None = None
        self._open_limit = min(OPEN_SHARDS, _window(config) + SPARE_SHARDS)
        self._closed = threading.Event()
        self._stopped: Callable[[], bool] = lambda: False

    def descriptor(self, number: int) -> int:
        """Wait for the shard, open it, and start to download the shards that follow it."""
        descriptor = self._open.pop(number, None)
        if descriptor is None:
            self._advance_to(number)
            self._close_evicted()
            descriptor = self._opened_when_cached(number)
        self._open[number] = descriptor
        return descriptor

    def will_need(self, number: int, span_s: NDArray[np.int64]) -> None:
        """Pass the hint on for open shards; ``expect`` has announced the others."""
        if number in self._open:
            will_need(self._open[number], span_s)

    def expect(self, numbers: Sequence[int]) -> None:
        """Start to download the first of them."""
        self._downloads = {
            n: future for n, future in self._downloads.items() if not future.cancel()
        }
        self._read_order = list(numbers)
        self._order_position = {}
        for place, number in enumerate(self._read_order):
            self._order_position.setdefault(number, place)
        self._submitted = 0
        self._submit_until(self._download_ahead)

    def stop_when(self, stopped: Callable[[], bool]) -> None:
        """Give up waiting once ``stopped`` returns true."""
        self._stopped = stopped

    def close(self) -> None:
        """Close the shards and stop the downloads, which end at their next request."""
        self._closed.set()
        self._closed = threading.Event()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
        self._downloads.clear()
        while self._open:
            os.close(self._open.popitem()[1])

    def _advance_to(self, number: int) -> None:
        """Note that reading has reached this shard, and download those after it."""
        place = self._order_position.get(number)
        if place is not None:
            self._submit_until(place + 1 + self._download_ahead)

    def _submit_until(self, end: int) -> None:
        while self._submitted < min(end, len(self._read_order)):
            number = self._read_order[self._submitted]
            self._submitted += 1
            if number not in self._open:
                self._submit(number)

    def _submit(self, number: int) -> Future[None]:
        future = self._downloads.get(number)
        if future is None or future.done():
            if self._threads is None:
                self._threads = ThreadPoolExecutor(PARALLEL_DOWNLOADS, "imgprep-shards")
            future = self._downloads[number] = self._threads.submit(
                self._cache.fetch, self._store, self._shards[number], self._closed.is_set
            )
        return future

    def _opened_when_cached(self, number: int) -> int:
        shard = self._shards[number]
        for _ in range(TRIES):
            self._await_download(number)
            descriptor = self._cache.open(shard)
            if descriptor is not None:
                return descriptor
        raise DataError(
            f"{self._store.where(shard.name)}: evicted {TRIES} times from {self._cache.folder} "
            "before it was read, because other runs share this cache: raise --cache-gib"
        )

    def _await_download(self, number: int) -> None:
        """Wait until the shard is cached; a download that failed earlier is retried once."""
        future = self._submit(number)
        try:
            while True:
                try:
                    return future.result(timeout=0.1)
                except FutureTimeoutError:
                    if self._stopped():
                        raise DownloadStoppedError from None
        except DownloadStoppedError as exc:
            raise DataError("stopped while waiting for a shard") from exc
        finally:
            if future.done():
                self._downloads.pop(number, None)

    def _close_evicted(self) -> None:
        """Mark open shards as used; close the evicted ones, which frees their disk space."""
        for number, descriptor in list(self._open.items()):
            if os.fstat(descriptor).st_nlink:
                touch(descriptor)
            else:
                os.close(self._open.pop(number))
        while len(self._open) >= self._open_limit:
            os.close(self._open.popitem(last=False)[1])
