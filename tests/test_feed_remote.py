"""Training from an object store: equal batches, a cache within its limit, plain errors."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgprep.dataset.index import ShardInfo
from tests.conftest import make_dataset
from tests.feeding import CPU, SMALL, joined, loading
from tests.objectstore import ObjectStore, wait_until
from train.config import InputConfig
from train.errors import ConfigError, DataError
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.loader import EvalLoader, Share
from train.feed.records import RecordReader
from train.feed.remote.cache import ShardCache, default_folder
from train.feed.remote.shards import RemoteShards, check_cache
from train.loader import ImageLoader
from train.presets import paper
from train.show.preview import TrainerSheetOptions, make_preview

SHARDS = 12
GIB = 1 << 30


@pytest.fixture(scope="module")
def dataset(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training shards of eight records, three of validation."""
    return make_dataset(mini, tmp_path_factory.mktemp("many") / "dataset", shard_images=8)


@pytest.fixture
def url(s3: ObjectStore, dataset: Path) -> str:
    """Copy the dataset to an object store, as ``aws s3 sync`` does."""
    for path in dataset.iterdir():
        if path.is_file():
            s3.put(f"set/{path.name}", path.read_bytes())
    s3.proxy.requests.clear()
    return f"{s3.url}/set"


@pytest.fixture
def data(url: str) -> TrainingSet:
    return open_dataset(url)


def shards_of(data: TrainingSet, split: str = "train") -> tuple[ShardInfo, ...]:
    return data.index.splits[split].shards


def config_for(data: TrainingSet, folder: Path, *, room: int, window: int) -> InputConfig:
    """Settings whose cache holds ``room`` of the largest shards."""
    largest = max(shard.bytes for name in ("train", "val") for shard in shards_of(data, name))
    gib = (room * largest + 1) / GIB
    return replace(SMALL, cache_folder=str(folder), cache_gib=gib, window_shards=window)


def bytes_in(folder: Path) -> int:
    """Measure under the lock, so that nothing is evicted and a renamed file counts once."""
    try:
        lock = (folder / "lock").open("r+b")
    except FileNotFoundError:
        return 0
    sizes: dict[int, int] = {}
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in folder.iterdir():
            with suppress(FileNotFoundError):
                state = path.stat()
                sizes[state.st_ino] = state.st_size
    return sum(sizes.values())


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Track the largest size of a folder by measuring it continuously."""
    largest, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            largest[0] = max(largest[0], bytes_in(folder))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        ended.set()
        thread.join()


def epochs(data: TrainingSet, config: InputConfig, count: int = 2, first_step: int = 0) -> Any:
    with loading(data, config) as loader:
        return joined([b for e in range(count) for b in loader.epoch(e, first_step)])


def assert_same(left: Any, right: Any) -> None:
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def downloads(s3: ObjectStore) -> int:
    return len(s3.proxy.heard("GET", ".tar"))


def test_batches_equal_those_of_the_folder_and_shards_are_downloaded_once(
    s3: ObjectStore, data: TrainingSet, dataset: Path, tmp_path: Path
) -> None:
    config = replace(SMALL, cache_folder=str(tmp_path / "cache"), window_shards=4)
    local = open_dataset(dataset)
    assert_same(epochs(data, config), epochs(local, config))
    assert downloads(s3) == SHARDS
    assert_same(epochs(data, config, 1, 2), epochs(local, config, 1, 2))  # a resumed run
    assert downloads(s3) == SHARDS
    for shard in shards_of(data):
        assert (tmp_path / "cache" / f"{shard.sha256}.tar").stat().st_size == shard.bytes


def test_the_public_loader_reads_a_url_through_the_cache(
    s3: ObjectStore, url: str, dataset: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"batch_images": 20, "crop_px": 16, "seed": 2, "device": "cpu"}
    remote = ImageLoader(url, cache_folder=str(tmp_path / "cache"), **settings)
    local = ImageLoader(dataset, **settings)
    for _ in range(2):  # the second epoch comes from the cache
        assert_same(*([images.numpy() for images, _ in loader] for loader in (remote, local)))
        assert downloads(s3) == SHARDS
    assert remote.state_dict() == local.state_dict()
    remote.close()
    local.close()


def test_validation_reads_through_the_cache(
    s3: ObjectStore, data: TrainingSet, dataset: Path, tmp_path: Path
) -> None:
    config = config_for(data, tmp_path, room=3, window=1)

    def all_views(source: TrainingSet) -> Any:
        loader = EvalLoader(source, config, Share(0, 1), batch_images=5, device=CPU)
        try:
            batches = list(loader)
        finally:
            loader.close()
        return [np.concatenate([b.images_v[0].numpy() for b in batches])]

    assert_same(all_views(data), all_views(open_dataset(dataset)))
    assert downloads(s3) == len(shards_of(data, "val"))


def test_the_cache_never_exceeds_its_limit(
    s3: ObjectStore, data: TrainingSet, dataset: Path, tmp_path: Path
) -> None:
    """Room for 5 of 12 shards, 2 in a window and some ahead: every epoch downloads them again."""
    config = config_for(data, tmp_path, room=5, window=2)
    limit = int(config.cache_gib * GIB)
    with watched(tmp_path) as largest:
        found = epochs(data, config, 3)
    assert_same(found, epochs(open_dataset(dataset), config, 3))
    assert max(shard.bytes for shard in shards_of(data)) < largest[0] <= limit
    assert SHARDS * 2 < downloads(s3) <= SHARDS * 4, "no shard comes twice in an epoch"
    assert not list(tmp_path.glob("*.partial"))


def test_other_files_in_the_cache_folder_stay(data: TrainingSet, tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("train-000000.tar", "download.partial", "notes.txt")]
    for path in others:
        path.write_bytes(b"mine")
    epochs(data, config_for(data, tmp_path, room=5, window=2), 2)
    assert [path.read_bytes() for path in others] == [b"mine"] * 3


def test_a_preview_equals_that_of_the_folder(
    data: TrainingSet, dataset: Path, tmp_path: Path
) -> None:
    config = replace(paper(), input=replace(SMALL, cache_folder=str(tmp_path)))
    ours, local = (
        make_preview(each, config, TrainerSheetOptions(images=3, draws=2)).drawn.pixels_hwc
        for each in (data, open_dataset(dataset))
    )
    np.testing.assert_array_equal(ours, local)
    assert list(tmp_path.glob("*.tar"))


def test_a_cache_that_is_too_small_is_refused_and_the_message_says_what_would_fit(
    data: TrainingSet, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    with pytest.raises(ConfigError, match=r"input\.window_shards to 3, .*--cache-gib") as raised:
        check_cache(data, config_for(data, folder, room=5, window=6))
    assert str(folder) in str(raised.value)
    with pytest.raises(ConfigError, match=r"\(1\) need .* set --cache-gib"):
        check_cache(data, config_for(data, folder, room=2, window=1))
    assert "downloaded again" in check_cache(data, config_for(data, folder, room=6, window=4))
    assert "downloaded again" not in check_cache(data, config_for(data, folder, room=90, window=4))
    assert not folder.exists()
    with pytest.raises(ConfigError), loading(data, config_for(data, folder, room=5, window=6)):
        pass


def test_the_next_window_comes_while_this_one_is_read(data: TrainingSet, tmp_path: Path) -> None:
    config = config_for(data, tmp_path, room=40, window=2)
    with loading(data, config, batch_images=4) as loader:
        next(iter(loader.epoch(0)))
        wait_until(lambda: len(list(tmp_path.glob("*.tar"))) >= 4)


EPOCH = """
import sys
from dataclasses import replace
from tests.feeding import SMALL, joined, loading
from train.feed.dataset import open_dataset
config = replace(SMALL, cache_folder=sys.argv[2], cache_gib=float(sys.argv[3]), window_shards=2)
with loading(open_dataset(sys.argv[1]), config) as loader:
    images, record_n = joined([batch for epoch in range(2) for batch in loader.epoch(epoch)])
print(len(record_n), images.sum())
"""


def start(url: str, folder: Path, gib: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", EPOCH, url, str(folder), str(gib)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("room", [5, 40])
def test_processes_share_a_cache(
    s3: ObjectStore, data: TrainingSet, url: str, tmp_path: Path, room: int
) -> None:
    """A large cache gets each shard once; a small one keeps its limit for all processes."""
    config = config_for(data, tmp_path, room=room, window=2)
    with watched(tmp_path) as largest:
        processes = [start(url, tmp_path, config.cache_gib) for _ in range(2)]
        ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert ended[0][0] == ended[1][0] != ""
    assert largest[0] <= int(config.cache_gib * GIB)
    if room == 40:
        assert downloads(s3) == SHARDS
    assert not list(tmp_path.glob("*.partial"))


def test_partial_files_of_a_killed_process_are_removed_by_the_next(
    s3: ObjectStore, data: TrainingSet, url: str, tmp_path: Path
) -> None:
    stall = s3.proxy.fail("stall", methods="GET", path=".tar")
    process = start(url, tmp_path, 1.0)
    try:
        wait_until(lambda: stall.struck)
    finally:
        process.kill()
        process.communicate()
    s3.proxy.heal()
    assert list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("*.tar"))
    config = replace(SMALL, cache_folder=str(tmp_path), window_shards=2)
    assert len(epochs(data, config, 1)[1]) == data.records("train")
    assert not list(tmp_path.glob("*.partial"))


def test_a_shard_may_be_evicted_while_it_is_read(data: TrainingSet, tmp_path: Path) -> None:
    config = config_for(data, tmp_path, room=SHARDS + 2, window=2)
    files = RemoteShards(data.index.store, shards_of(data), config)
    try:
        first = files.descriptor(0)
        whole = os.pread(first, 1 << 30, 0)
        for path in tmp_path.glob("*.tar"):
            path.unlink()
        assert files.descriptor(0) == first
        assert os.pread(first, 1 << 30, 0) == whole
        files.descriptor(1)  # now the space of the evicted shard is freed
        again = files.descriptor(0)
        assert os.fstat(again).st_nlink == 1
        assert os.pread(again, 1 << 30, 0) == whole
    finally:
        files.close()


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop", "times": 2, "before_server": True},
        {"kind": "drop", "times": 2, "after_bytes": 1000},
        {"kind": "status", "times": 2},
    ],
)
def test_temporary_faults_are_retried(
    s3: ObjectStore, data: TrainingSet, tmp_path: Path, fault: dict[str, Any]
) -> None:
    made = s3.proxy.fail(path="/set/train-000003.tar", methods="GET HEAD", **fault)
    config = replace(SMALL, cache_folder=str(tmp_path))
    assert len(epochs(data, config, 1)[1]) == data.records("train")
    assert made.struck == 2


def spoil(s3: ObjectStore, change: Callable[[bytes], bytes | None]) -> None:
    name = "set/train-000003.tar"
    changed = change(s3.get(name))
    s3.delete(name) if changed is None else s3.put(name, changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tar: tar[:700] + bytes([tar[700] ^ 1]) + tar[701:], "not the shard that the index"),
        (lambda tar: tar[:-512], "its size is not"),
        (lambda tar: None, "no such object"),
    ],
)
def test_a_wrong_object_is_named(
    s3: ObjectStore,
    data: TrainingSet,
    tmp_path: Path,
    change: Callable[[bytes], bytes | None],
    said: str,
) -> None:
    spoil(s3, change)
    config = replace(SMALL, cache_folder=str(tmp_path))
    with pytest.raises(DataError, match=said) as raised:
        epochs(data, config, 1)
    assert f"{data.location}/train-000003.tar" in str(raised.value)
    assert "imgprep verify" in str(raised.value)
    wait_until(lambda: not list(tmp_path.glob("*.partial")))
    bad = shards_of(data)[3].sha256
    assert not (tmp_path / f"{bad}.tar").exists()


def test_expired_credentials_end_the_run_with_a_plain_error(
    s3: ObjectStore, data: TrainingSet, tmp_path: Path
) -> None:
    s3.proxy.fail("status", path=".tar", status=400, code="ExpiredToken")
    with pytest.raises(DataError, match=r"train-\d+\.tar: .*expired.*credentials"):
        epochs(data, replace(SMALL, cache_folder=str(tmp_path)), 1)


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    s3: ObjectStore, data: TrainingSet, dataset: Path, tmp_path: Path
) -> None:
    config = replace(SMALL, cache_folder=str(tmp_path))
    whole = epochs(open_dataset(dataset), config, 1)
    for number, shard in enumerate(shards_of(data)[:3]):
        rotten = bytearray((dataset / shard.name).read_bytes())
        rotten[700 + number] ^= 1
        (tmp_path / f"{shard.sha256}.tar").write_bytes(rotten if number else b"short")
    assert_same(epochs(data, config, 1), whole)
    assert downloads(s3) == SHARDS


def test_waiting_for_a_shard_can_be_ended(
    s3: ObjectStore, data: TrainingSet, tmp_path: Path
) -> None:
    s3.proxy.fail("stall", methods="GET", path=".tar", seconds=600)
    reader = RecordReader(data, "train", replace(SMALL, cache_folder=str(tmp_path)))
    stopped, said = threading.Event(), []
    reader.stop_when(stopped.is_set)

    def read() -> None:
        with pytest.raises(DataError) as raised:
            reader.read([0])
        said.append(str(raised.value))

    waiting = threading.Thread(target=read)
    waiting.start()
    wait_until(lambda: s3.proxy.heard("GET", ".tar"))
    stopped.set()
    waiting.join(timeout=15)
    assert said == ["stopped while waiting for a shard"], "the stall lasts far longer"
    reader.close()


def test_the_environment_chooses_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGPREP_CACHE", "/a/b")
    assert default_folder() == Path("/a/b")
    monkeypatch.delenv("IMGPREP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_folder() == Path("/x/imgprep")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_folder() == Path("/home/me/.cache/imgprep")


def test_a_cache_folder_that_cannot_be_created_is_named(data: TrainingSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot cache shards here: .*--cache"):
        ShardCache(tmp_path / "file" / "cache", 1).create()
