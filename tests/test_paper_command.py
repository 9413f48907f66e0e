"""``train paper``: from a dataset to the page, resumed, with failures, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from tests.cifararchives import Cifar, write_archive
from tests.conftest import REPOSITORY, Ran, imgprep
from tests.test_disk_full import NAME_SPACE, can_mount
from tests.training import train, train_command
from tests.trees import Shape, make_class_folders, tiny_jpeg, write_files
from train.feed.dataset import open_dataset
from train.paper.prepare import Preparation, Sources
from train.paper.scales import scale_of

TINY = (
    *("--set", "optim.epochs=1", "--set", "net.width_divisor=16", "--set", "input.crop_px=64"),
    *("--set", "device=cpu", "--set", "optim.batch_images=32"),
    *("--set", "log_every_steps=1"),
)
"""Three updates a run."""


@pytest.fixture(scope="module")
def dataset(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the size that the small scale reads, so that they need not be made smaller."""
    folder = tmp_path_factory.mktemp("paper") / "dataset"
    ran = imgprep("build-shards", mini, folder, "--size", 112, "--jobs", 1)
    assert ran.code == 0, ran.err
    return folder


def paper(dataset: Path, out: Path, *arguments: object) -> Ran:
    return train("paper", dataset, "--out", out, *TINY, *arguments)


def results(out: Path) -> Any:
    return json.loads((out / "results.json").read_text())


def test_runs_become_a_page_and_are_taken_the_next_time(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper"
    ran = paper(dataset, out, "--only", "lrn,biases", "--seeds", 2)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("2 items: ")
    found = results(out)
    assert (found["schema"], found["scale"], found["seeds"]) == (1, "small", 2)
    items = found["items"]
    assert [item["id"] for item in items] == ["lrn", "biases"]
    lrn = items[0]
    assert len(lrn["numbers"]["baseline"]) == len(lrn["numbers"]["changed"]) == 2
    assert len(lrn["commands"]) == 4
    commands = found["commands"]
    assert len(commands) == 6
    page, markdown = (out / "paper.html").read_text(), (out / "paper.md").read_text()
    assert all(item["text"] in markdown for item in items)
    assert "Local response normalisation" in page
    assert all(each["command"] in markdown for each in commands)

    times = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("last.pt")}
    again = paper(dataset, out, "--only", "lrn", "--seeds", 2)
    assert again.code == 0, again.err
    assert "4 commands of 4: already done" in again.err
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_command_of_the_page_can_be_typed(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper"
    expected = paper(dataset, out, "--only", "lrn", "--seeds", 1, "--dry-run", "--json")
    assert expected.code == 0, expected.err
    value = expected.json
    assert (value["runs"], value["evaluations"], value["done"]) == (2, 0, 0)
    assert value["seconds"] > 0
    assert value["disk_bytes"] > 0
    typed = [shlex.split(command) for command in value["commands"]]
    changed = typed[1][typed[1].index("fit") :]
    assert "net.lrn=false" in changed
    ran = train(*changed)
    assert ran.code == 0, ran.err
    last = Path(changed[changed.index("--out") + 1]) / "last.pt"
    before = last.stat().st_mtime_ns
    assert paper(dataset, out, "--only", "lrn", "--seeds", 1).code == 0
    assert last.stat().st_mtime_ns == before, "the run that was typed was trained again"


def started(dataset: Path, out: Path, *arguments: object) -> subprocess.Popen[str]:
    words = train_command("paper", dataset, "--out", out, *TINY, *arguments)
    return subprocess.Popen(
        words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(found: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not found():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def finished(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}


def test_ctrl_c_in_the_middle_loses_nothing(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper"
    some = ("--only", "lrn", "--seeds", 3)
    process = started(dataset, out, *some)
    wait_for(lambda: finished(out), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "of 6 commands done: run the same command again to resume" in error
    assert "Traceback" not in error
    before = finished(out)
    assert 0 < len(before) < 6
    assert paper(dataset, out, *some).code == 0
    after = finished(out)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before, "a finished run was trained again"


def test_a_killed_run_is_reported_and_the_others_continue(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper"
    some = ("--only", "lrn", "--seeds", 1)
    process = started(dataset, out, *some)
    wait_for(lambda: children(process.pid), process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "killed by SIGKILL" in error
    assert "1 of 2 commands failed" in error
    assert len(finished(out)) == 1
    (item,) = results(out)["items"]
    assert item["decision"] == "not made"
    again = paper(dataset, out, *some)
    assert again.code == 0, again.err
    assert len(finished(out)) == 2


def children(pid: int) -> list[int]:
    """The ``fit`` processes that a process started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    words = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return [child for child, line in words.items() if b"\0fit\0" in line]


def test_pre_trained_networks_are_tuned_and_averaged_with_others(
    dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "paper"
    ran = paper(dataset, out, "--only", "table2")
    assert ran.code == 0, ran.err
    found = results(out)
    (item,) = found["items"]
    numbers = item["numbers"]
    assert (len(numbers["one"]), len(numbers["tuned"]), numbers["classes"]) == (5, 2, 2)
    assert 0 <= numbers["seven"] <= 1
    commands = {each["name"].rsplit("-", 2)[0]: each["command"] for each in found["commands"]}
    assert f"--warm-start {out}/runs/conv6-all-s1-" in commands["conv6-tuned"]
    made = [each["command"] for each in found["commands"] if each["name"] == "dataset"]
    assert len(made) == 1, "the photographs have the size of the scale, so only classes are taken"
    listed = Path(shlex.split(made[0])[shlex.split(made[0]).index("--classes") + 1])
    assert len(listed.read_text().splitlines()) == 2


def test_a_dataset_that_can_show_nothing_is_refused(dataset: Path, tmp_path: Path) -> None:
    shape = Shape(image=grey, classes=("a", "b", "c"), train_per_class=2, val_images=3)
    few = make_class_folders(tmp_path / "few-source", shape)
    unvalidated = make_class_folders(tmp_path / "unvalidated-source", shape, val="none")
    for source in (few, unvalidated):
        assert imgprep("build-shards", source, source.with_suffix(".built")).code == 0
    out = tmp_path / "paper"
    ran = paper(few.with_suffix(".built"), out)
    assert ran.code == 1
    assert "3 classes; the paper's comparisons need at least 4" in ran.err
    ran = paper(unvalidated.with_suffix(".built"), out)
    assert ran.code == 1
    assert "no records in split 'val'" in ran.err
    assert not out.exists()
    ran = paper(dataset, out, "--only", "figure9")
    assert ran.code == 2
    assert "unknown item 'figure9': --only takes some of fig1, " in ran.err


def grey(class_name: str, number: int) -> bytes:
    """A grey photograph whose stripes are its class."""
    side, bright = 80, np.random.default_rng(number).integers(60, 200)
    stripes = (np.arange(side) // (2 + ord(class_name[-1]) % 8) % 2) * 40 + bright
    image_hwc = np.broadcast_to(stripes[:, None, None], (side, side, 1)).astype(np.uint8)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image_hwc), colorspace="GRAY"))


def test_grey_photographs_are_trained_on(tmp_path: Path) -> None:
    shape = Shape(image=grey, classes=("a", "b", "c", "d"), train_per_class=8, val_images=8)
    source = make_class_folders(tmp_path / "source", shape)
    built = tmp_path / "built"
    assert imgprep("build-shards", source, built, "--size", 112, "--jobs", 1).code == 0
    ran = paper(built, tmp_path / "paper", "--only", "colour", "--seeds", 1)
    assert ran.code == 0, ran.err
    (item,) = results(tmp_path / "paper")["items"]
    assert item["decision"] == "not decidable at this scale"


def test_a_folder_keeps_to_its_dataset(dataset: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper"
    assert paper(dataset, out, "--only", "lrn", "--seeds", 1, "--dry-run").code == 0
    ran = paper(built, out, "--only", "lrn", "--seeds", 1, "--dry-run")
    assert ran.code == 2
    assert f"{out} holds the runs of another dataset ({dataset})" in ran.err


def test_a_cifar_archive_that_is_cut_short_is_refused(dataset: Path, tmp_path: Path) -> None:
    whole = write_archive(
        tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", Cifar.random().binary()
    )
    whole.write_bytes(whole.read_bytes()[:-2000])
    ran = paper(dataset, tmp_path / "paper", "--only", "fig1", "--cifar", whole)
    assert ran.code == 1
    assert whole.name in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.skipif(not can_mount(), reason="no tmpfs may be mounted here")
def test_a_full_disk_is_a_sentence(dataset: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = train_command("paper", dataset, "--out", disk / "paper", *TINY, "--only", "lrn")
    script = f"mount -t tmpfs -o size=300k none {disk}; {shlex.join(command)} --seeds 1"
    ran = subprocess.run(
        [*NAME_SPACE, script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "no space left" in ran.stderr.lower()
    assert "Traceback" not in ran.stderr


def test_each_scale_has_its_own_part_of_classes_of_any_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_files(source, {f"{number}.jpg": tiny_jpeg("a", number) for number in range(10)})
    rows = "".join(f'{number}.jpg,"thing, {number % 5}"\n' for number in range(10))
    write_files(source, {"labels.csv": f"path,label\n{rows}".encode()})
    options = ("--labels", source / "labels.csv", "--val-per-class", 1, "--size", 16)
    assert imgprep("build-shards", source, tmp_path / "set", *options).code == 0
    data = open_dataset(tmp_path / "set")
    making = Preparation(
        out=tmp_path / "paper", sources=Sources(dataset=str(tmp_path / "set")), line=print
    )
    scale = scale_of("small", train_images=5)
    for limit in (2, 4, 2):
        part = replace(scale, record_px=8, classes_limit=limit)
        assert making.make(data, part, ())["photos"].classes == limit
