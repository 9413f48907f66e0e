"""File systems without locks, hard links and folders that can be flushed; locks and links."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgprep.errors import BusyError
from imgprep.storage.lease import Lease
from imgprep.storage.local import LocalStore
from tests.conftest import REPOSITORY, command, files_of, imgprep
from tests.nolocks import without_locks
from tests.training import SMALL, train_command

BUILD = ("--jobs", 2, "--shard-images", 8)
LEASE = ".imgprep/lock.lease"


def run(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_build_without_file_locks_is_the_same_build(
    mini: Path, tmp_path: Path, error: int
) -> None:
    options = ("--split", "val", *BUILD)
    assert imgprep("build-shards", mini, tmp_path / "with", *options).code == 0
    ran = run(without_locks(tmp_path, error), "build-shards", mini, tmp_path / "out", *options)
    assert ran.returncode == 0, ran.stderr
    assert files_of(tmp_path / "out") == files_of(tmp_path / "with")
    assert not (tmp_path / "out" / LEASE).exists()


def test_a_second_build_is_refused_and_a_killed_one_is_resumed(mini: Path, tmp_path: Path) -> None:
    environment, dest = without_locks(tmp_path), tmp_path / "out"
    arguments = ("build-shards", mini, dest, *BUILD)
    first = subprocess.Popen(command(*arguments), env=environment, start_new_session=True)
    try:
        while not list(dest.glob("*.tar")):
            assert first.poll() is None, "the build ended too early"
            time.sleep(0.01)
        os.killpg(first.pid, signal.SIGSTOP)
        second = run(environment, *arguments)
        assert second.returncode == 1
        assert f"{dest}: another build is writing here" in second.stderr
        assert f"process {first.pid}, since" in second.stderr
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert (dest / LEASE).exists()
    third = run(environment, *arguments)  # at once: the holder is dead
    assert third.returncode == 0, third.stderr
    assert imgprep("verify", dest, "--decode").code == 0


def test_a_build_that_lost_its_lease_publishes_nothing_more(mini: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    process = subprocess.Popen(
        command("build-shards", mini, dest, *BUILD),
        env=without_locks(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(dest.glob("*.tar")):
        assert process.poll() is None, "the build ended too early"
        time.sleep(0.01)
    lease = json.loads((dest / LEASE).read_text())
    LocalStore(dest).write(LEASE, json.dumps({**lease, "token": "another"}).encode())
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "another build took over" in err
    assert json.loads((dest / LEASE).read_text())["token"] == "another"
    assert not (dest / "dataset_info.json").exists()


def test_a_lock_names_its_holder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with (
        store.hold("lock"),
        pytest.raises(BusyError, match=rf"another build .*, process {os.getpid()}, since \d"),
        LocalStore(tmp_path).hold("lock"),
    ):
        pass
    (tmp_path / "lock").write_bytes(b"\xff" * 5000)  # an old holder, or anything
    with store.hold("lock") as token:
        assert token == ""
        store.check_hold("lock", token)


def test_a_new_file_is_created_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create("folder/a", b"1")
    with pytest.raises(FileExistsError):
        store.create("folder/a", b"2")
    assert store.read("folder/a") == b"1"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a"]


def test_a_training_runs_without_file_locks_and_refuses_a_second_process(
    built: Path, tmp_path: Path
) -> None:
    environment, out = without_locks(tmp_path), tmp_path / "run"
    words = train_command("fit", built, "--out", out, *SMALL, "--steps", 2)
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (out / "last.pt").exists()
    assert not (out / ".lock.lease").exists()
    with Lease(LocalStore(out), ".lock.lease"):
        again = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert f"another process is training in this folder ({socket.gethostname()!r}" in again.stderr


def test_a_cache_of_shards_needs_file_locks_and_says_so(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom train.errors import DataError\n"
        "from train.feed.remote.cache import ShardCache\n"
        "try:\n    ShardCache(Path(sys.argv[1]), 2**30).create()\n"
        "except DataError as exc:\n    print(exc)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "cache")]
    ran = subprocess.run(
        words,
        cwd=REPOSITORY,
        env=without_locks(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout == (
        f"{tmp_path}/cache: cannot cache shards here: this file system has no file locks "
        "(Function not implemented): choose another folder with --cache\n"
    ), ran.stderr


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe", "folder"])
def test_a_lock_is_never_another_file(tmp_path: Path, kind: str) -> None:
    precious, lock = tmp_path / "precious", tmp_path / "dest" / ".imgprep" / "lock"
    precious.write_text("years of work")
    lock.parent.mkdir(parents=True)
    if kind == "symbolic link":
        lock.symlink_to(precious)
    elif kind == "hard link":
        lock.hardlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(OSError), LocalStore(tmp_path / "dest").hold(".imgprep/lock"):
        pass
    assert precious.read_text() == "years of work"


def test_long_names_get_a_temporary_name_too(tmp_path: Path) -> None:
    for name in ("x" * 255, "ü" * 127):
        LocalStore(tmp_path).write(name, b"1")
        assert LocalStore(tmp_path).read(name) == b"1"
