"""The mini ImageNet for the demo and other tests: repeatable, with the intended unusual files."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "mini_imagenet.py"
EXIF_ORIENTATION = 0x0112


def make(out: Path, *options: str) -> Path:
    command = [sys.executable, str(SCRIPT), str(out), "--images-per-class", "4", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def members_of(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of(make(tmp_path_factory.mktemp("mini") / "folders"))


@pytest.mark.parametrize("layout", ["class-folders", "archives"])
def test_same_arguments_give_the_same_bytes(layout: str, tmp_path: Path) -> None:
    one, two = (files_of(make(tmp_path / name, "--layout", layout)) for name in ("one", "two"))
    assert one == two


def test_another_seed_gives_other_photos(folders: dict[str, bytes], tmp_path: Path) -> None:
    other = files_of(make(tmp_path / "other", "--seed", "1"))
    assert len(other) == len(folders)
    assert not set(other.values()) & set(folders.values())


def test_archives_hold_the_same_images_as_folders(
    folders: dict[str, bytes], tmp_path: Path
) -> None:
    archives = make(tmp_path / "archives", "--layout", "archives")
    train = {
        f"train/{outer.removesuffix('.tar')}/{name}": data
        for outer, inner in members_of((archives / "ILSVRC2012_img_train.tar").read_bytes()).items()
        for name, data in members_of(inner).items()
    }
    assert train == {name: data for name, data in folders.items() if name.startswith("train/")}
    val = members_of((archives / "ILSVRC2012_img_val.tar").read_bytes())
    by_file_name = {
        Path(name).name: data for name, data in folders.items() if name.startswith("val/")
    }
    assert val == by_file_name


def test_the_unusual_files_are_there(folders: dict[str, bytes]) -> None:
    seen: Counter[str] = Counter()
    for name, data in folders.items():
        with Image.open(io.BytesIO(data)) as image:
            seen[f"{image.format} {image.mode}"] += 1
            seen["turned"] += image.getexif().get(EXIF_ORIENTATION) == 6
            seen["tiny"] += min(image.size) < 64
            seen["large"] += max(image.size) >= 2000
        assert name.endswith(".JPEG")
    assert seen["JPEG RGB"] == len(folders) - 3
    odd = ("JPEG L", "JPEG CMYK", "PNG RGB", "turned", "tiny", "large")
    assert [seen[kind] for kind in odd] == [1] * len(odd)


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert files_of(tmp_path) == {"mine": b"mine"}
