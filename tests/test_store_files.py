"""A folder, memory and a real S3 server behave the same; files are whole or absent."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from fsspec.config import conf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgprep.errors import BusyError, UsageError
from imgprep.storage import Store, absolute, local, open_store, urls
from imgprep.storage.local import LocalStore
from imgprep.storage.reading import exists
from imgprep.storage.remote import RemoteStore
from imgprep.storage.upload import SLOWEST_BYTES_PER_SECOND, s3_etag
from tests.objectstore import ObjectStore

PART = 64 << 10
_NUMBERS = itertools.count()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without long pauses."""
    monkeypatch.setattr(urls, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("IMGPREP_ATTEMPTS", "3")
    quick = {"read_timeout": 1, "retries": {"mode": "standard", "total_max_attempts": 1}}
    monkeypatch.setitem(conf, "s3", {"config_kwargs": quick})


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    kind: str = request.param
    url = request.getfixturevalue("s3").url if kind == "s3" else ""
    locations = {
        "s3": f"{url}/some/folder",
        "folder": str(tmp_path / "some"),
        "file": f"file://{tmp_path}/some",
        "memory": f"memory://test-{next(_NUMBERS)}/some",
    }
    found = open_store(locations[kind])
    found.sweep()
    return found


def test_files_are_written_listed_and_removed_by_name(store: Store) -> None:
    assert store.entries() == {}
    assert store.names("none") == []
    store.write("b.txt", b"two")
    store.write("a.txt", b"")
    store.write("state/deep/c.txt", b"x" * 1000)
    assert store.entries() == {"a.txt": 0, "b.txt": 3, "state": None}
    assert store.names() == ["a.txt", "b.txt"]
    assert store.names("state/deep") == ["c.txt"]
    assert (store.read("b.txt"), store.read("state/deep/c.txt")) == (b"two", b"x" * 1000)
    assert store.size_bytes("state/deep/c.txt") == 1000
    store.write("b.txt", b"other")
    assert store.read("b.txt") == b"other"
    store.remove("a.txt", "b.txt", "never.txt")
    store.remove_folder("state")
    store.remove_folder("never")
    assert store.entries() == {}


def test_missing_files_raise_file_not_found(store: Store) -> None:
    store.write("here.txt", b"1")
    for ask in (store.read, store.size_bytes):
        with pytest.raises(FileNotFoundError) as caught:
            ask("none.txt")
        assert caught.value.strerror
    with pytest.raises(FileNotFoundError), store.as_file("none.txt") as path:
        path.read_bytes()
    assert exists(store, "here.txt")
    assert not exists(store, "none.txt")
    assert not exists(store, "here.txt/none.txt")


def test_a_large_file_appears_when_it_is_committed(store: Store) -> None:
    data = random.Random(1).randbytes(300_000)
    partial = store.partial("shard.tar")
    partial.file.write(data)
    assert store.names() == []
    partial.commit()
    assert store.names() == ["shard.tar"]
    assert store.read("shard.tar") == data
    dropped = store.partial("shard.tar")
    dropped.file.write(b"half")
    dropped.abandon()
    assert store.read("shard.tar") == data
    assert store.names() == ["shard.tar"]


def test_files_and_folders_are_available_on_a_local_disk(store: Store) -> None:
    with store.new_folder("state/manifest") as folder:
        (folder / "rows.npy").write_bytes(b"rows")
        (folder / "meta.json").write_bytes(b"{}")
    assert store.entries("state/manifest") == {"meta.json": 2, "rows.npy": 4}
    with store.as_file("state/manifest/rows.npy") as path:
        assert path.read_bytes() == b"rows"
        assert path.stat().st_size == 4
    with store.as_folder("state/manifest") as folder:
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
            "meta.json": b"{}",
            "rows.npy": b"rows",
        }


def test_a_location_opens_the_store_in_any_folder(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a.txt", b"1")
    assert open_store(store) is store
    assert open_store(store.location).read("a.txt") == b"1"
    assert store.where("a.txt").startswith(store.location)
    here = absolute(store)
    monkeypatch.chdir("/")
    assert open_store(here).read("a.txt") == b"1"


def test_only_one_build_holds_a_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOCK_SECONDS", 0.1)
    with store.hold("state/lock") as token:
        store.check_hold("state/lock", token)
        with (
            pytest.raises(BusyError, match="another build is writing here"),
            store.hold("state/lock"),
        ):
            pass
    with store.hold("state/lock"):
        pass


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense://bucket/x", "unknown kind of URL"),
        ("file://host/x", "three slashes"),
    ],
)
def test_unknown_urls_are_rejected(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_store(url)


def test_folder_objects_of_other_tools_are_not_files(s3: ObjectStore) -> None:
    s3.put("data/", b"")
    s3.put("data/sub/", b"")
    s3.put("data/a.txt", b"1")
    assert open_store(f"{s3.url}/data/").entries() == {"a.txt": 1, "sub": None}
    with pytest.raises(NotADirectoryError):
        open_store(f"{s3.url}/data/a.txt").entries()


@pytest.fixture
def parted(s3: ObjectStore, hasty: None) -> RemoteStore:
    """A store whose large files have parts of 64 KiB."""
    return RemoteStore(f"{s3.url}/x", part_bytes=PART)


@pytest.mark.parametrize("size", [0, 1, PART, 2 * PART - 1, 2 * PART, 3 * PART, 5 * PART + 7])
def test_large_files_are_sent_in_parts_and_verified_by_etag(
    s3: ObjectStore, parted: RemoteStore, tmp_path: Path, size: int
) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(data)
    parted.upload("file", tmp_path / "file")
    assert s3.get("x/file") == data
    parts = s3.proxy.heard("PUT", "x/file", "partNumber")
    assert len(parts) == (-(-size // PART) if size >= 2 * PART else 0)
    assert not s3.proxy.heard("GET", "x/file")  # nothing was read back
    if parts:
        assert s3_etag(tmp_path / "file", PART).endswith(f"-{len(parts)}")


def test_without_a_usable_etag_the_object_is_read_back(
    s3: ObjectStore, parted: RemoteStore, tmp_path: Path
) -> None:
    s3.proxy.fail("etag", methods="HEAD")
    s3.proxy.fail("etag", methods="PUT", path="x/small")
    (tmp_path / "file").write_bytes(random.Random(1).randbytes(200_000))
    parted.upload("file", tmp_path / "file")
    parted.write("small", b"some bytes")
    assert s3.proxy.heard("GET", "x/file")
    assert s3.proxy.heard("GET", "x/small")
    s3.proxy.fail("corrupt", methods="PUT", path="x/bad")
    with pytest.raises(OSError, match="not what was sent"):
        parted.upload("bad", tmp_path / "file")
    assert s3.names("x/") == ["x/file", "x/small"]


def test_an_upload_to_a_server_that_stops_reading_ends(
    s3: ObjectStore, hasty: None, tmp_path: Path
) -> None:
    seconds = 3 - (8 << 20) / SLOWEST_BYTES_PER_SECOND  # three in all
    store = RemoteStore(f"{s3.url}/x", part_bytes=4 << 20, send_seconds=seconds)
    (tmp_path / "file").write_bytes(bytes(8 << 20))
    fault = s3.proxy.fail("deaf", query="partNumber", times=1)
    store.upload("file", tmp_path / "file")
    assert (s3.get("x/file"), fault.struck) == (bytes(8 << 20), 1)
    assert s3.unfinished_uploads() == []


def test_unfinished_uploads_are_aborted(
    s3: ObjectStore, parted: RemoteStore, tmp_path: Path
) -> None:
    for key in ("x/shard.tar", "x/.imgprep/a.npy", "x/other/film.mp4", "y/shard.tar"):
        s3.call("POST", f"{key}?uploads")
    parted.sweep()
    assert s3.unfinished_uploads() == ["x/other/film.mp4", "y/shard.tar"]


def test_only_half_written_files_of_ours_are_swept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    others = (".film.partial", ".film.mp4.host.1.partial", "a.host.1.0a1b2c3d.partial")
    for name in others:
        (tmp_path / name).write_text("years of work")
    (tmp_path / ".a.host.1.00000000.partial").mkdir()
    store.partial("shard.tar").file.close()
    assert len(list(tmp_path.iterdir())) == 5
    store.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*others, ".a.host.1.00000000.partial"]
    )


FAULTS = st.lists(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["drop", "status", "corrupt", "etag"]),
            "methods": st.sampled_from(["PUT", "HEAD", "POST", "GET", "PUT POST HEAD GET DELETE"]),
            "times": st.integers(1, 12),
            "before_server": st.booleans(),
            "status": st.sampled_from([500, 503]),
        }
    ),
    max_size=4,
)


@given(faults=FAULTS, size=st.sampled_from([100, 100_000, 200_000]))
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_a_failed_upload_is_repeated_or_an_error(
    s3: ObjectStore, parted: RemoteStore, faults: list[dict[str, object]], size: int
) -> None:
    name = f"file-{next(_NUMBERS)}"
    content = random.Random(size).randbytes(size)
    for fault in faults:
        s3.proxy.fail(path=name, **fault)  # type: ignore[arg-type]
    partial = parted.partial(name)
    partial.file.write(content)
    try:
        partial.commit()
    except OSError:
        assert faults
        s3.proxy.heal()
        status, found = s3.call("GET", f"x/{name}")
        assert status == 404 or len(found) == size  # never a short one
    else:
        s3.proxy.heal()
        assert s3.get(f"x/{name}") == content
