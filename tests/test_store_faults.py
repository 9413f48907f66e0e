"""Faults of an object store during a build: a retry or a message, never a damaged shard."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import command, files_of, imgprep
from tests.objectstore import ObjectStore, environment_of, wait_until
from tests.test_store_build import beside as beside_shards

Start = Callable[..., subprocess.Popen[str]]
VAL = ("--split", "val", "--shard-images", 12, "--jobs", 1)
"""Two shards: the second is made while the first is sent."""


@pytest.fixture(scope="module")
def local(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("local") / "set"
    assert imgprep("build-shards", mini, dest, *VAL).code == 0
    return dest


@pytest.fixture(autouse=True)
def quick(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is silent for a second at most, and things are tried three times."""
    retries = {"mode": "standard", "total_max_attempts": 2}
    for name, value in environment_of(s3.proxy, read_timeout=1, retries=retries).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IMGPREP_ATTEMPTS", "3")


def beside(s3: ObjectStore) -> dict[str, bytes]:
    return beside_shards(s3.objects("set/"))


def check_markers(s3: ObjectStore) -> int:
    """Every marker's shard is there, whole; returns the number of markers."""
    names = [
        n for n in s3.names("set/") if re.fullmatch(r"set/\.imgprep/done/(train|val)-\d+\.json", n)
    ]
    for name in names:
        marker = json.loads(s3.get(name))
        shard = name.replace(".imgprep/done/", "").removesuffix(".json")
        tar = s3.get(f"{shard}.tar")
        assert hashlib.sha256(tar).hexdigest() == marker["sha256"]
        idx = s3.get(f"{shard}.idx")
        assert hashlib.sha256(idx).hexdigest() == marker["idx_sha256"]
    return len(names)


PASSING = {
    "connections break and the server is busy": (
        {"kind": "drop", "before_server": True, "methods": "PUT", "times": 3},
        {"kind": "drop", "before_server": True, "methods": "GET HEAD", "times": 3},
        {"kind": "drop", "methods": "PUT", "path": ".tar", "times": 2},
        {"kind": "drop", "methods": "GET", "path": "rows.npy", "times": 1, "after_bytes": 100},
        {"kind": "status", "methods": "PUT", "path": ".json", "times": 4},
        {"kind": "status", "methods": "GET", "times": 2, "status": 500, "code": "InternalError"},
    ),
    "the server falls silent, bytes change, ETags say nothing": (
        {"kind": "stall", "methods": "PUT", "path": "val-000000.tar", "times": 1},
        {"kind": "stall", "methods": "GET", "path": "order-val.npy", "times": 1},
        {"kind": "corrupt", "methods": "PUT", "path": "val-000000.tar", "times": 1},
        {"kind": "corrupt", "methods": "PUT", "path": "val-000001.json", "times": 1},
        {"kind": "corrupt", "methods": "PUT", "path": "dataset_info.json", "times": 1},
        {"kind": "etag"},
    ),
}


@pytest.mark.parametrize("name", PASSING)
def test_temporary_faults_only_cost_time(
    s3: ObjectStore, mini: Path, local: Path, name: str
) -> None:
    faults = [s3.proxy.fail(**fault) for fault in PASSING[name]]  # type: ignore[arg-type]
    ran = imgprep("build-shards", mini, f"{s3.url}/set", *VAL)
    assert ran.code == 0, ran.err
    assert all(fault.struck for fault in faults)
    assert beside(s3) == files_of(local)
    assert check_markers(s3) == 2


FOR_GOOD = {
    "credentials that expire": (
        {"kind": "status", "methods": "PUT", "path": ".tar", "status": 400, "code": "ExpiredToken"},
        "token has expired",
        "renew the credentials and run the same command again",
    ),
    "a key that may not write markers": (
        {"kind": "status", "methods": "PUT", "path": "val-000000.json", "status": 403,
         "code": "AccessDenied"},
        "Access Denied",
        "renew the credentials and run the same command again",
    ),
    "a server that stays busy": (
        {"kind": "status", "methods": "PUT", "path": ".tar"},
        "reduce your request rate",
        "run the same command again",
    ),
    "a wire that spoils every shard": (
        {"kind": "corrupt", "methods": "PUT", "path": ".tar"},
        "cannot write val-00000",
        "run the same command again",
    ),
    "a network that is gone at the end": (
        {"kind": "drop", "before_server": True, "methods": "PUT", "path": "labels.json"},
        "cannot write statistics and index",
        "run the same command again",
    ),
}  # fmt: skip


def test_permanent_faults_end_in_a_message_and_the_next_run_resumes(
    s3: ObjectStore, mini: Path, local: Path
) -> None:
    """One fault after the other, into the same place; then there is none."""
    for name, (fault, why, way_on) in FOR_GOOD.items():
        made = s3.proxy.fail(**fault)  # type: ignore[arg-type]
        ran = imgprep("build-shards", mini, f"{s3.url}/set", *VAL)
        assert (ran.code, made.struck > 0) == (1, True), (name, ran.err)
        for words in (f"imgprep: {s3.url}/set: ", why, way_on):
            assert words in ran.err, name
        assert "Traceback" not in ran.err
        s3.proxy.heal()
        check_markers(s3)
        assert "set/dataset_info.json" not in s3.names("set/")
    again = imgprep("build-shards", mini, f"{s3.url}/set", *VAL)
    assert again.code == 0, again.err
    assert beside(s3) == files_of(local)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"kind": "status", "status": 400, "code": "ExpiredToken"}, "token has expired"),
        ({"kind": "drop", "before_server": True}, "Connection was closed"),
    ],
)
def test_an_unreachable_store_is_named(
    s3: ObjectStore, mini: Path, fault: dict[str, object], why: str
) -> None:
    s3.proxy.fail(**fault)  # type: ignore[arg-type]
    ran = imgprep("build-shards", mini, f"{s3.url}/set", *VAL)
    assert ran.code == 1
    assert f"imgprep: {s3.url}/set: " in ran.err
    assert why in ran.err
    assert "Traceback" not in ran.err


@pytest.fixture
def start(mini: Path, s3: ObjectStore) -> Iterator[Start]:
    """Starts builds in process groups of their own; none outlives its test."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*options: object) -> subprocess.Popen[str]:
        build = subprocess.Popen(
            command("build-shards", mini, f"{s3.url}/set", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        begun.append(build)
        return build

    yield begin
    for build in begun:
        with suppress(ProcessLookupError):
            os.killpg(build.pid, signal.SIGKILL)
        build.communicate()


def test_a_build_killed_during_an_upload_is_resumed(
    s3: ObjectStore, mini: Path, tmp_path: Path, start: Start
) -> None:
    """SIGKILL while a large shard goes in parts: what was sent of it is swept by the next build."""
    large = ("--encoding", "raw", "--size", 512, "--shard-images", 24)
    options = ("--split", "train", "--limit", 72, "--jobs", 1, *large)
    assert imgprep("build-shards", mini, tmp_path / "set", *options).code == 0
    stuck = s3.proxy.fail("stall", path="train-000001.tar", query="partNumber=2")
    build = start(*options)
    wait_until(lambda: stuck.struck and s3.names("set/.imgprep/done/"))
    os.killpg(build.pid, signal.SIGKILL)
    build.communicate()
    s3.proxy.heal()
    assert check_markers(s3) == 1
    assert "set/train-000001.tar" not in s3.names("set/")
    assert s3.unfinished_uploads() == ["set/train-000001.tar"]
    again = imgprep("build-shards", mini, f"{s3.url}/set", *options)  # at once: no one holds it
    assert again.code == 0, again.err
    assert "already done: 1 of 3 shards" in again.err
    assert s3.unfinished_uploads() == []
    assert beside(s3) == files_of(tmp_path / "set")


def test_a_second_build_is_refused_and_ctrl_c_publishes_nothing(
    s3: ObjectStore, mini: Path, local: Path, start: Start
) -> None:
    stuck = s3.proxy.fail("stall", methods="PUT", path="val-000000.tar")
    first = start(*VAL)
    wait_until(lambda: stuck.struck)
    second = imgprep("build-shards", mini, f"{s3.url}/set", *VAL)
    assert second.code == 1
    assert f"{s3.url}/set: another build is writing here" in second.err
    assert f"process {first.pid}" in second.err
    assert re.search(r"run the same command again in \d+ s", second.err)
    os.killpg(first.pid, signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "run the same command again to resume" in err
    s3.proxy.heal()
    assert check_markers(s3) == 0
    assert "set/.imgprep/lock" not in s3.names("set/")
    assert imgprep("build-shards", mini, f"{s3.url}/set", *VAL).code == 0
    assert beside(s3) == files_of(local)


def test_a_build_that_lost_the_store_sends_nothing_more(s3: ObjectStore, start: Start) -> None:
    stuck = s3.proxy.fail("stall", path="order-val.npy", methods="GET", times=1)
    build = start(*VAL)
    wait_until(lambda: stuck.struck)
    other = json.dumps({"token": "other", "host": "far-away", "pid": 1, "renewed": 0})
    s3.put("set/.imgprep/lock", other.encode())
    s3.proxy.heal()
    _, err = build.communicate(timeout=60)
    assert build.returncode == 1
    assert "another build took over" in err
    assert "far-away" in err
    assert not [name for name in s3.names("set/") if name.endswith(".tar")]
    assert s3.get("set/.imgprep/lock") == other.encode()
