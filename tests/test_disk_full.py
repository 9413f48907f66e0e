"""A file system that really fills up: a small tmpfs in its own mount namespace."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from tests.conftest import command, files_of, imgprep
from tests.trees import Shape, make_class_folders

OPTIONS = ("--shard-images", 10, "--jobs", 2, "--split", "train", "--quality", 100)
NAME_SPACE = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]


@cache
def can_mount() -> bool:
    """Whether this machine lets us mount a tmpfs that only our child sees."""
    if shutil.which("unshare") is None:
        return False
    script = "mount -t tmpfs none /mnt"
    return subprocess.run([*NAME_SPACE, script], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_mount(), reason="no tmpfs may be mounted here")


def noise(class_name: str, number: int) -> bytes:
    """A JPEG that takes far more bytes than a photograph, so that the guess of space is low."""
    rng = np.random.default_rng(zlib.crc32(f"{class_name}/{number}".encode()))
    return bytes(simplejpeg.encode_jpeg(rng.integers(0, 256, (256, 256, 3), np.uint8), quality=95))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(image=noise, train_per_class=20, val_images=0)
    return make_class_folders(tmp_path_factory.mktemp("noise") / "source", shape, val="none")


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("undisturbed") / "dataset"
    ran = imgprep("build-shards", source, dest, *OPTIONS)
    assert ran.code == 0, ran.err
    return dest


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.6, 0.9, 1.1, 1.3])
def test_a_disk_that_fills_up_loses_no_finished_shard(
    source: Path, undisturbed: Path, tmp_path: Path, share: float
) -> None:
    """Full while shards, pixel sums or statistics are written; with more space it is resumed.

    The finished set takes a share of 1, and before the last stage the pixel sums 0.45 more. Below
    0.55 the build would not start.
    """
    disk, full, mended = tmp_path / "disk", tmp_path / "full", tmp_path / "mended"
    disk.mkdir()
    build = shlex.join(command("build-shards", source, disk / "out", *OPTIONS))
    size_kib = int(share * bytes_of(undisturbed)) // 1024
    script = f"""
        mount -t tmpfs -o size={size_kib}k none {disk}
        {build} || echo first $?
        cp -r {disk}/out {full}
        mount -o remount,size=1g {disk}
        {build} >&2
        cp -r {disk}/out {mended}
    """
    ran = subprocess.run([*NAME_SPACE, script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "first 1"
    assert "no space left" in ran.stderr.lower()
    assert "run the same command again" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (full / "dataset_info.json").exists()
    assert not list(full.rglob("*.partial"))
    for marker in (full / ".imgprep" / "done").glob("train-*.json"):
        tar = (full / f"{marker.stem}.tar").read_bytes()
        assert hashlib.sha256(tar).hexdigest() == json.loads(marker.read_text())["sha256"]
    assert files_of(mended) == files_of(undisturbed)


def test_a_disk_that_is_too_small_is_refused_before_the_build(source: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    build = shlex.join(command("build-shards", source, disk / "out", *OPTIONS))
    script = f"mount -t tmpfs -o size=2m none {disk}; {build} || echo first $?; ls {disk}/out"
    ran = subprocess.run([*NAME_SPACE, script], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["first", "1"]
    assert "needed for 60 images, 2" in ran.stderr
