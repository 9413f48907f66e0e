"""Faults of a remote source are retried or reported; no image is truncated or skipped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgprep.dataset.format import DATASET_INFO
from tests.conftest import Ran, imgprep
from tests.objectstore import Fault, ObjectStore, Request, environment_of
from tests.remote_source import look, look_apart, put_tree
from tests.test_remote_source import fingerprint, noise, same_bytes
from tests.trees import Shape, make_archives, make_class_folders

TRAIN = "ILSVRC2012_img_train.tar"
CREDENTIALS = "are the credentials right, and not expired|credentials have expired"
FOR_GOOD: dict[str, tuple[dict[str, Any], str]] = {
    "503": ({"kind": "status"}, "run the same command again"),
    "dropped": ({"kind": "drop", "before_server": True}, "run the same command again"),
    "broken off": ({"kind": "drop", "after_bytes": 9}, "run the same command again"),
    "silent": ({"kind": "stall"}, "run the same command again"),
    "short": ({"kind": "short", "after_bytes": 9}, "run the same command again"),
    "expired": ({"kind": "status", "status": 400, "code": "ExpiredToken"}, CREDENTIALS),
    "denied": ({"kind": "status", "status": 403, "code": "AccessDenied"}, CREDENTIALS),
}


@pytest.fixture
def impatient(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The bucket, for commands that soon give up."""
    config = {"read_timeout": 1, "retries": {"total_max_attempts": 1}}
    for name, value in environment_of(s3.proxy, **config).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IMGPREP_ATTEMPTS", "1")
    return s3


def from_the(number: int, part: str) -> Callable[[Request], bool]:
    """Matches the GETs of paths with ``part``, from the ``number``-th on."""
    heard = 0

    def matches(request: Request) -> bool:
        nonlocal heard
        heard += request.method == "GET" and part in request.path
        return heard >= number and part in request.path

    return matches


def test_temporary_faults_change_nothing(
    impatient: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMGPREP_ATTEMPTS")
    shape = Shape(train_per_class=8, val_images=8, image=noise)
    roots = [
        make_archives(tmp_path / "archives", shape),
        make_class_folders(tmp_path / "folders", shape),
    ]
    urls = [put_tree(impatient, root, root.name) for root in roots]
    proxy = impatient.proxy
    passing: list[dict[str, Any]] = [
        {"kind": "status", "times": 2},
        {"kind": "drop", "times": 1, "before_server": True},
        {"kind": "drop", "times": 2, "after_bytes": 100},
        {"kind": "short", "times": 2, "after_bytes": 100},
        {"kind": "stall", "times": 1},
    ]
    parts = (TRAIN, "_val_", "n01440764_")
    faults = [proxy.fail(methods="GET", path=part, **one) for part in parts for one in passing]
    faults.append(proxy.fail("status", methods="GET", query="list-type", times=2))
    found = look_apart(*urls)
    assert found == [look(root) for root in roots]
    assert all(fault.struck == fault.times for fault in faults)


@pytest.mark.parametrize("fault", FOR_GOOD)
def test_a_scan_names_the_store_that_fails(
    fault: str, impatient: ObjectStore, tmp_path: Path
) -> None:
    url = put_tree(impatient, make_archives(tmp_path), "source")
    settings, says = FOR_GOOD[fault]
    impatient.proxy.fail(path=TRAIN, **settings)
    check_named(imgprep("scan", url), f"{url}/{TRAIN}", says)


def check_named(ran: Ran, where: str, says: str) -> None:
    assert ran.code == 1, ran.err
    assert where in ran.err
    assert any(words in ran.err for words in says.split("|"))
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()[-1]) < 400


@pytest.mark.parametrize("fault", ["503", "expired"])
def test_a_build_skips_no_image_and_resumes(
    fault: str,
    impatient: ObjectStore,
    mini: Path,
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = put_tree(impatient, mini, "source")
    settings, says = FOR_GOOD[fault]
    options = ("--jobs", 1, "--shard-images", 20, "--on-error", "skip")
    breaks = Fault(**settings, matches=from_the(30, "/source/train/"))
    impatient.proxy.faults.append(breaks)
    ran = imgprep("build-shards", url, tmp_path, *options)
    check_named(ran, f"{url}/train/", says)
    assert breaks.struck
    assert list(tmp_path.glob("train-*.tar")), list(tmp_path.iterdir())
    assert not (tmp_path / DATASET_INFO).exists()
    impatient.proxy.heal()
    monkeypatch.delenv("IMGPREP_ATTEMPTS")
    impatient.proxy.fail("drop", methods="GET", path="/train/", times=2, after_bytes=500)
    impatient.proxy.fail("short", methods="GET", path="/train/", times=2, after_bytes=500)
    impatient.proxy.fail("stall", methods="GET", path="/train/", times=1)
    ran = imgprep("build-shards", url, tmp_path, *options)
    assert ran.code == 0, ran.err
    assert same_bytes(built, tmp_path)
    assert fingerprint(built) == fingerprint(tmp_path)


def test_an_object_deleted_during_the_build_is_not_a_bad_image(
    s3: ObjectStore, mini: Path, tmp_path: Path
) -> None:
    """The build ends and names it; when it is put back, the build is resumed."""
    url = put_tree(s3, mini, "source")
    victim = s3.names("source/val/")[3]
    content = s3.get(victim)
    heard: list[Request] = []

    def once_listed(request: Request) -> bool:
        """The first image is asked for: the scan is over."""
        if request.path.endswith((".JPEG", ".jpg")) and not heard:
            heard.append(request)
            s3.delete(victim)
        return False

    s3.proxy.faults.append(Fault("drop", once_listed))
    options = ("--split", "val", "--jobs", 1, "--on-error", "skip")
    ran = imgprep("build-shards", url, tmp_path, *options)
    assert ran.code == 1, ran.out
    assert f"{os.path.basename(victim)} cannot be read" in ran.err  # noqa: PTH119
    assert "put it back, and run the same command again" in ran.err
    assert not (tmp_path / "dataset_info.json").exists()
    s3.put(victim, content)
    ran = imgprep("build-shards", url, tmp_path, "--split", "val", "--jobs", 1, "--force")
    assert ran.code == 0, ran.err
