"""A build that was stopped is resumed, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import command, files_of, imgprep

SHARDED = ("--shard-images", 8, "--jobs", 2)


@pytest.fixture(scope="module")
def undisturbed(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("undisturbed") / "dataset"
    assert imgprep("build-shards", mini, dest, *SHARDED).code == 0
    return dest


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a build in a process group of its own."""
    return subprocess.Popen(
        command("build-shards", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_shards(dest: Path, count: int) -> None:
    """Wait until some shards are done."""
    deadline = time.monotonic() + 60
    while len(list((dest / ".imgprep" / "done").glob("*.json"))) < count:
        assert time.monotonic() < deadline, "no shard in a minute"
        time.sleep(0.005)


def workers_of(pid: int) -> list[int]:
    """Worker processes of a build: its children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def session_is_gone(session: int) -> bool:
    """Whether no process of a session is left (except zombies)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (ProcessLookupError, FileNotFoundError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            return False
    return True


def wait_until_gone(session: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not session_is_gone(session):
        assert time.monotonic() < deadline, "processes of a killed build are still running"
        time.sleep(0.02)


@pytest.fixture
def running(mini: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A build with at least two shards done."""
    dest = tmp_path / "out"
    process = start(mini, dest, *SHARDED)
    try:
        wait_for_shards(dest, 2)
        yield process, dest
    finally:
        process.kill()
        process.communicate()


def test_killed_twenty_times_at_random(mini: Path, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL of the whole build, at moments spread over its start, work and last stage."""
    dest = tmp_path / "out"
    rng = random.Random(2012)
    kills = 0
    for attempt in range(200):
        process = start(mini, dest, *SHARDED)
        try:
            process.wait(timeout=rng.uniform(0.1, 1.6))
        except subprocess.TimeoutExpired:
            if kills % 2:
                process.kill()  # the parent alone: its workers must notice
            else:
                os.killpg(process.pid, signal.SIGKILL)  # all of them at once
            kills += 1
        process.communicate()
        wait_until_gone(process.pid)
        if kills == 20:
            break
        if process.returncode == 0 and attempt % 2 == 0:
            shutil.rmtree(dest)  # finished before twenty kills: start over
    assert kills == 20
    ran = imgprep("build-shards", mini, dest, *SHARDED)
    assert ran.code == 0, ran.err
    assert files_of(dest) == files_of(undisturbed)
    assert not list(dest.rglob("*.partial"))


def stopped(
    mini: Path, dest: Path, stop: Callable[[subprocess.Popen[str]], None]
) -> tuple[subprocess.Popen[str], str]:
    """A build that was stopped with two shards done or more, and its stderr.

    On a busy machine it may finish before the signal arrives: then try again.
    """
    for _ in range(5):
        process = start(mini, dest, *SHARDED)
        wait_for_shards(dest, 2)
        stop(process)
        _, err = process.communicate(timeout=20)
        if process.returncode != 0:
            break
        shutil.rmtree(dest)
    return process, err


def test_ctrl_c_is_prompt_and_clean(mini: Path, undisturbed: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    # as a terminal does: to the whole group
    process, err = stopped(mini, dest, lambda build: os.killpg(build.pid, signal.SIGINT))
    assert process.returncode == 1
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    wait_until_gone(process.pid)
    assert not list(dest.glob(".*.partial"))
    again = imgprep("build-shards", mini, dest, *SHARDED)
    assert again.code == 0
    assert re.search(r"already done: \d+ of 15 shards", again.err)
    assert files_of(dest) == files_of(undisturbed)


def test_sigterm_stops_as_ctrl_c_does(mini: Path, tmp_path: Path) -> None:
    process, err = stopped(mini, tmp_path / "out", subprocess.Popen.terminate)
    assert process.returncode == 1
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (signal.SIGKILL, "probably run out of memory: use fewer --jobs"),
        (signal.SIGSEGV, "a crash in compiled code: run the same command again"),
        (signal.SIGBUS, "a mapped file was cut or its disk failed"),
        (signal.SIGTERM, "run the same command again; finished shards are kept"),
    ],
)
def test_a_killed_worker_ends_the_build_at_once(
    running: tuple[subprocess.Popen[str], Path],
    mini: Path,
    undisturbed: Path,
    cause: signal.Signals,
    advice: str,
) -> None:
    process, dest = running
    workers = workers_of(process.pid)
    assert workers
    os.kill(workers[0], cause)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert re.search(rf"worker process {workers[0]} was killed by {cause.name} at ", err)
    assert advice in err
    wait_until_gone(process.pid)
    assert imgprep("build-shards", mini, dest, *SHARDED).code == 0
    assert files_of(dest) == files_of(undisturbed)


def test_ctrl_c_wakes_a_suspended_worker_to_clean_up(
    running: tuple[subprocess.Popen[str], Path],
) -> None:
    """It removes what it has half-written: it was not killed after a long wait."""
    process, dest = running
    os.kill(workers_of(process.pid)[0], signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "interrupted" in err
    wait_until_gone(process.pid)
    assert not list(dest.glob(".*.partial"))


def test_a_second_build_into_the_same_folder_is_refused(
    running: tuple[subprocess.Popen[str], Path], mini: Path
) -> None:
    process, dest = running
    process.send_signal(signal.SIGSTOP)
    try:
        second = imgprep("build-shards", mini, dest, *SHARDED)
    finally:
        process.send_signal(signal.SIGCONT)
    assert second.code == 1
    assert (
        f"another build is writing here ({os.uname().nodename!r}, process {process.pid}"
        in second.err
    )
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_finished_build_has_nothing_to_do(mini: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "out")
    ran = imgprep("build-shards", mini, tmp_path / "out", *SHARDED)
    assert ran.code == 0
    assert "nothing to build" in ran.out
    assert files_of(tmp_path / "out") == files_of(undisturbed)


@pytest.mark.parametrize(
    "name", ["train-000003.tar", "train-000003.idx", ".imgprep/done/train-000003.json"]
)
def test_a_lost_shard_is_rebuilt_to_the_bit(
    mini: Path, undisturbed: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(undisturbed, tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    ran = imgprep("build-shards", mini, tmp_path / "out", *SHARDED)
    assert ran.code == 0, ran.err
    assert files_of(tmp_path / "out") == files_of(undisturbed)


BESIDE = (
    *("report.json", "mean_image.png", "train-sources.tsv.gz", "val-sources.tsv.gz"),
    *("labels.json", "mean_image.npy", "rgb_pca.json"),
)


@pytest.mark.parametrize("lost", [*((name,) for name in BESIDE), BESIDE], ids="+".join)
def test_files_beside_the_shards_are_restored_without_reading_an_image(
    mini: Path, undisturbed: Path, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    dest = shutil.copytree(undisturbed, tmp_path / "out")
    for name in lost:
        (dest / name).unlink()
    shards = {path: path.stat().st_mtime_ns for path in dest.glob("*.tar")}
    damaged = imgprep("verify", dest)
    assert damaged.code == 4
    for name in lost:
        assert f"DAMAGED {name}: " in damaged.out
    ran = imgprep("build-shards", mini, dest, *SHARDED)
    assert ran.code == 0, ran.err
    assert "nothing to build" in ran.out
    restored = next(line for line in ran.out.splitlines() if line.startswith("restored "))
    assert sorted(restored.removeprefix("restored ").split(", ")) == sorted(lost)
    assert {path: path.stat().st_mtime_ns for path in dest.glob("*.tar")} == shards
    assert files_of(dest) == files_of(undisturbed)
    assert imgprep("verify", dest).code == 0


def test_a_picture_that_is_not_the_mean_image_is_damage(undisturbed: Path, tmp_path: Path) -> None:
    dest = shutil.copytree(undisturbed, tmp_path / "out")
    Image.new("RGB", (256, 256)).save(dest / "mean_image.png")
    ran = imgprep("verify", dest)
    assert "DAMAGED mean_image.png: is not the picture of mean_image.npy" in ran.out
    (dest / "mean_image.png").write_bytes(b"")
    assert "DAMAGED mean_image.png: cannot be read" in imgprep("verify", dest).out


@pytest.mark.parametrize("name", ["mean_image.npy", "rgb_pca.json", "dataset_info.json"])
def test_lost_statistics_are_recomputed(
    mini: Path, undisturbed: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(undisturbed, tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    ran = imgprep("build-shards", mini, tmp_path / "out", *SHARDED)
    assert ran.code == 0, ran.err
    assert files_of(tmp_path / "out") == files_of(undisturbed)


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--size", 128, "spec.image.size_px"),
        ("--filter", "bicubic", "spec.image.filter"),
        ("--quality", 90, "spec.image.quality"),
        ("--encoding", "png", "spec.image.encoding"),
        ("--exif", "apply", "spec.image.exif"),
        ("--seed", 5, "spec.seed"),
        ("--limit", 50, "spec.limit"),
        ("--split", "train", "spec.split"),
        ("--shard-images", 9, "spec.shard_images"),
    ],
)
def test_a_changed_spec_is_refused_by_name(
    mini: Path, undisturbed: Path, option: str, value: object, field: str
) -> None:
    before = files_of(undisturbed)
    ran = imgprep("build-shards", mini, undisturbed, *SHARDED, option, value)
    assert ran.code == 1
    assert field in ran.err
    assert "--force" in ran.err
    assert files_of(undisturbed) == before


def test_a_changed_source_is_refused_by_name(mini: Path, undisturbed: Path, tmp_path: Path) -> None:
    source, dest = tmp_path / "source", tmp_path / "out"
    shutil.copytree(mini, source)
    shutil.copytree(undisturbed, dest)
    victim = next((source / "train").rglob("*.JPEG"))
    data = victim.read_bytes()
    victim.write_bytes(data)  # same bytes, other time
    ran = imgprep("build-shards", source, dest, *SHARDED)
    assert (ran.code, "source.train.modified" in ran.err) == (1, True), ran.err
    victim.write_bytes(data + b"\0")
    ran = imgprep("build-shards", source, dest, *SHARDED)
    assert (ran.code, "source.train.sizes" in ran.err) == (1, True), ran.err
    victim.unlink()
    ran = imgprep("build-shards", source, dest, *SHARDED)
    assert (ran.code, "source.train.images" in ran.err) == (1, True), ran.err
    assert files_of(dest) == files_of(undisturbed)


@pytest.fixture
def unfinished(mini: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A source with a bad image, the build that stopped at it, and one that left the image out."""
    source = shutil.copytree(mini, tmp_path / "source")
    next((source / "train").rglob("*.JPEG")).write_bytes(b"not an image")
    assert imgprep("build-shards", source, tmp_path / "out", *SHARDED).code == 1
    whole = ("build-shards", source, tmp_path / "whole", *SHARDED, "--on-error", "skip")
    assert imgprep(*whole).code == 3
    return source, tmp_path / "out", tmp_path / "whole"


def test_a_flipped_bit_in_a_done_marker_is_noticed(unfinished: tuple[Path, Path, Path]) -> None:
    """Its sums would go into the covariance unseen: the shard is rebuilt instead."""
    source, dest, whole = unfinished
    markers = sorted((dest / ".imgprep" / "done").glob("train-*.json"))
    value = json.loads(markers[0].read_text())
    value["rgb_second"][0] ^= 1 << 30
    markers[0].write_text(json.dumps(value, indent=2))
    done = len(list((dest / ".imgprep" / "done").iterdir())) - 1
    ran = imgprep("build-shards", source, dest, *SHARDED, "--on-error", "skip")
    assert ran.code == 3, ran.err
    assert f"already done: {done} of 15 shards" in ran.err
    assert files_of(dest) == files_of(whole)


def test_a_dataset_without_its_identity_is_not_overwritten(
    mini: Path, undisturbed: Path, tmp_path: Path
) -> None:
    dest = shutil.copytree(undisturbed, tmp_path / "out")
    (dest / ".imgprep" / "identity.json").unlink()
    before = files_of(dest)
    ran = imgprep("build-shards", mini, dest, *SHARDED)
    assert ran.code == 1
    assert "identity.json, which says what it was built from, is missing" in ran.err
    assert files_of(dest) == before
    assert imgprep("build-shards", mini, dest, *SHARDED, "--force").code == 0
    assert files_of(dest) == before


def test_force_starts_over_and_touches_only_our_files(
    mini: Path, undisturbed: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    shutil.copytree(undisturbed, dest)
    (dest / "notes.txt").write_text("mine")
    ran = imgprep("build-shards", mini, dest, "--force", "--shard-images", 50, "--jobs", 2)
    assert ran.code == 0, ran.err
    assert (dest / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in dest.glob("train-*.tar")) == [
        "train-000000.tar",
        "train-000001.tar",
    ]
    assert imgprep("verify", dest).code == 0
