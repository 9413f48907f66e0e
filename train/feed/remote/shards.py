"""The shards of a split in an object store, downloaded ahead of their use into the cache.

DALI has a reader for S3. It is not used: it reads shards in an order of its own, and here batches
are a function of seed, epoch and position, so records are handed to DALI's graph by number, as from
a local folder. Hence the same batches, to the bit.

An epoch reads the records of ``input.window_shards`` shards mixed with one another, then those of
the next ones. So a window must fit into the cache, and the next one is downloaded meanwhile as far
as it fits, too.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as WaitedError
from dataclasses import replace
from pathlib import Path

from imgprep.dataset.index import ShardInfo
from imgprep.storage import Store
from train.config import InputConfig
from train.errors import ConfigError, DataError
from train.feed.dataset import TrainingSet
from train.feed.remote.cache import ShardCache, default_folder, touch
from train.feed.remote.download import CacheStoppedError
from train.feed.shard_files import OPEN_SHARDS

DOWNLOADS_AT_ONCE = 4
SPARE_SHARDS = 2
"""Beside a window: one that is being downloaded, and one of the other split."""
TRIES = 3
"""Times that a shard may vanish between its download and its use."""
GIB = 1 << 30


def cache_of(config: InputConfig) -> ShardCache:
    """The cache that the settings name."""
    folder = Path(config.cache_folder) if config.cache_folder else default_folder()
    return ShardCache(folder.expanduser(), int(config.cache_gib * GIB))


def check_cache(data: TrainingSet, config: InputConfig) -> str:
    """How the cache will serve this dataset, as a sentence; empty for one on a local disk.

    Raises:
        ConfigError: it is too small for a window of an epoch.
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
        text += "; what does not fit is downloaded again in each epoch"
    return text


def sequential(config: InputConfig) -> InputConfig:
    """The same for a split that is read in the order of its shards, one after the other."""
    return replace(config, shuffle=False)


def _window(config: InputConfig) -> int:
    return config.window_shards if config.shuffle else 1


def _lookahead(
    shards: Sequence[ShardInfo], config: InputConfig, room: int, cache: ShardCache
) -> int:
    """Shards that may be downloaded before they are read. ConfigError as above."""
    sizes = sorted((shard.bytes for shard in shards), reverse=True)
    if not sizes:
        return 0
    window = _window(config)
    needed = sum(sizes[:window]) + SPARE_SHARDS * sizes[0]
    if needed <= room:
        return max(1, min(max(window, DOWNLOADS_AT_ONCE), (room - needed) // sizes[0]))
    fits = room // sizes[0] - SPARE_SHARDS
    smaller = f"set input.window_shards to {fits}, or " if 0 < fits < window else ""
    less = " (the disk has no more)" if room < cache.limit_bytes else ""
    raise ConfigError(
        f"{cache.folder}: the shards that are read at a time ({min(window, len(sizes))}) need "
        f"{_gib(needed)} GiB of cache, and {room / GIB:.4g} GiB may be taken{less}: {smaller}"
        f"set --cache-gib to {_gib(needed)} or more"
    )


def _gib(n_bytes: int) -> str:
    """As many digits as a small one needs; never less than it is."""
    return f"{n_bytes * 1.001 / GIB:.4g}"


class RemoteShards:
    """See ``ShardFiles``. Downloads run in threads; a shard that is not there yet is waited for."""

    def __init__(self, store: Store, shards: Sequence[ShardInfo], config: InputConfig) -> None:
        self._store, self._shards = store, shards
        self._cache = cache_of(config)
        self._cache.make()
        room = self._cache.room_bytes()
        self._ahead = _lookahead(shards, config, room, self._cache)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._coming: dict[int, Future[None]] = {}
        self._plan: list[int] = []
        self._place: dict[int, int] = {}
        self._submitted = 0
        self._threads: ThreadPoolExecutor | None = None
        self._open_most = min(OPEN_SHARDS, _window(config) + SPARE_SHARDS)
        self._ended = threading.Event()
        self._stopped: Callable[[], bool] = lambda: False

    def descriptor(self, number: int) -> int:
        """Wait for the shard, open it, and have those that follow it downloaded."""
        descriptor = self._open.pop(number, None)
        if descriptor is None:
            self._go_on(number)
            self._let_go()
            descriptor = self._wait_for(number)
        self._open[number] = descriptor
        return descriptor

    def will_need(self, number: int, offset: int, length: int) -> None:
        """A hint for shards that are open; the others are on their way by ``expect``."""
        if number in self._open:
            os.posix_fadvise(self._open[number], offset, length, os.POSIX_FADV_WILLNEED)

    def expect(self, numbers: Sequence[int]) -> None:
        """Begin to download the first of them."""
        self._coming = {n: future for n, future in self._coming.items() if not future.cancel()}
        self._plan = list(numbers)
        self._place = {}
        for place, number in enumerate(self._plan):
            self._place.setdefault(number, place)
        self._submitted = 0
        self._submit_until(self._ahead)

    def watch(self, stopped: Callable[[], bool]) -> None:
        """Give up waiting when this is true."""
        self._stopped = stopped

    def close(self) -> None:
        """Close the shards and end the downloads; they end at their next request."""
        self._ended.set()
        self._ended = threading.Event()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
        self._coming.clear()
        while self._open:
            os.close(self._open.popitem()[1])

    def _go_on(self, number: int) -> None:
        """The reader has come to this shard: those after it in the plan may come."""
        place = self._place.get(number)
        if place is not None:
            self._submit_until(place + 1 + self._ahead)

    def _submit_until(self, end: int) -> None:
        while self._submitted < min(end, len(self._plan)):
            number = self._plan[self._submitted]
            self._submitted += 1
            if number not in self._open:
                self._submit(number)

    def _submit(self, number: int) -> Future[None]:
        future = self._coming.get(number)
        if future is None or future.done():
            if self._threads is None:
                self._threads = ThreadPoolExecutor(DOWNLOADS_AT_ONCE, "imgprep-shards")
            future = self._coming[number] = self._threads.submit(
                self._cache.fetch, self._store, self._shards[number], self._ended.is_set
            )
        return future

    def _wait_for(self, number: int) -> int:
        shard = self._shards[number]
        for _ in range(TRIES):
            self._finish(number)
            descriptor = self._cache.open(shard)
            if descriptor is not None:
                return descriptor
        raise DataError(
            f"{self._store.where(shard.name)}: removed from {self._cache.folder} again and again "
            "before it was read: other runs share this cache; give them more with --cache-gib"
        )

    def _finish(self, number: int) -> None:
        """Wait until the shard is in the cache; what failed ahead of time is tried once more."""
        future = self._submit(number)
        try:
            while True:
                try:
                    return future.result(timeout=0.1)
                except WaitedError:
                    if self._stopped():
                        raise CacheStoppedError from None
        except CacheStoppedError as exc:
            raise DataError("stopped while waiting for a shard") from exc
        finally:
            if future.done():
                self._coming.pop(number, None)

    def _let_go(self) -> None:
        """Keep those that are open in the cache; give back the space of those that left it."""
        for number, descriptor in list(self._open.items()):
            if os.fstat(descriptor).st_nlink:
                touch(descriptor)
            else:
                os.close(self._open.pop(number))
        while len(self._open) >= self._open_most:
            os.close(self._open.popitem(last=False)[1])
