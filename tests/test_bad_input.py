"""Each bad input is reported with file and cause: ``fail`` stops, ``skip`` continues (exit 3)."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgprep.dataset.index import load_index
from tests.conftest import Ran, imgprep, make_mini
from tests.reading import labels_of_shards, source_of
from tests.trees import Shape, make_archives, make_class_folders, tar_bytes, tiny_jpeg

Spoil = Callable[[bytes], bytes]


def jpeg(width_px: int, height_px: int) -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (height_px, width_px, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


PHOTO = jpeg(300, 280)


def corrupt_segment(data: bytes) -> bytes:
    """A Huffman table whose length runs over the next segments."""
    at = data.index(b"\xff\xc4")
    return data[: at + 2] + b"\x7f\xff" + data[at + 4 :]


def bomb(_: bytes) -> bytes:
    """A frame header that declares 60,000 x 60,000 pixels."""
    at = PHOTO.index(b"\xff\xc0")
    return PHOTO[: at + 5] + b"\xea\x60\xea\x60" + PHOTO[at + 9 :]


SPOILED: dict[str, tuple[Spoil, str]] = {
    "truncated": (lambda data: data[: len(data) // 2], "truncated|ends|premature"),
    "empty": (lambda _: b"", "no bytes"),
    "text": (lambda _: b"404 Not Found\n" * 40, "not an image|format"),
    "corrupt segment": (corrupt_segment, "JPEG|corrupt|segment|Huffman|DHT"),
    "bomb": (bomb, "megapixel"),
}
GOOD = {"1x1": jpeg(1, 1), "10000x1": jpeg(10_000, 1), "1x10000": jpeg(1, 10_000)}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three classes of three usable images each."""
    return make_class_folders(tmp_path / "src", Shape(image=lambda *_: PHOTO, val_images=3))


def build(source: Path, dest: Path, *arguments: object) -> Ran:
    return imgprep("build-shards", source, dest, "--shard-images", 4, "--jobs", 1, *arguments)


@pytest.mark.parametrize("name", SPOILED)
def test_fail_names_the_file_and_the_cause(folders: Path, tmp_path: Path, name: str) -> None:
    spoil, cause = SPOILED[name]
    victim = folders / "train" / "n01443537" / "n01443537_2.JPEG"
    victim.write_bytes(spoil(PHOTO))
    ran = build(folders, tmp_path / "out")
    assert ran.code == 1
    assert "1 bad entry in the source" in ran.err
    line = next(line for line in ran.err.splitlines() if "n01443537_2.JPEG" in line)
    assert matches(cause, line), line
    assert "--on-error skip" in ran.err
    assert not (tmp_path / "out" / "dataset_info.json").exists()


def matches(pattern: str, text: str) -> bool:
    return any(word.lower() in text.lower() for word in pattern.split("|"))


@pytest.mark.parametrize("name", SPOILED)
def test_skip_finishes_with_three_and_labels_do_not_shift(
    folders: Path, tmp_path: Path, name: str
) -> None:
    victim = folders / "train" / "n01440764" / "n01440764_1.JPEG"
    victim.write_bytes(SPOILED[name][0](PHOTO))
    dest = tmp_path / "out"
    ran = build(folders, dest, "--on-error", "skip")
    assert ran.code == 3, ran.err
    report = json.loads((dest / "report.json").read_text())
    listed = [skip["where"] for skip in report["skipped"]["train"] + report["problems"]]
    assert len(listed) == 1
    assert listed[0].endswith("n01440764/n01440764_1.JPEG")
    assert load_index(dest).splits["train"].records == 8
    check_labels(dest)
    assert imgprep("verify", dest, "--decode").code == 0


def check_labels(dest: Path) -> None:
    """Every record has the label of its own source's class."""
    classes = [entry["name"] for entry in json.loads((dest / "labels.json").read_text())["classes"]]
    for split in load_index(dest).splits:
        sources = source_of(dest, split)
        for key, label in labels_of_shards(dest, split).items():
            assert f"/{classes[label]}/" in f"/{sources[key]}"


def test_fail_lists_all_that_is_wrong_and_keeps_what_is_done(folders: Path, tmp_path: Path) -> None:
    """Then ``skip`` resumes the build: the policy is not part of the spec."""
    for number in (1, 3):
        (folders / "train" / "n01440764" / f"n01440764_{number}.JPEG").write_bytes(b"no image")
    (folders / "val" / "n02085620").mkdir(exist_ok=True)
    dest = tmp_path / "out"
    ran = build(folders, dest)
    assert ran.code == 1
    assert "2 bad entries" in ran.err
    done = len(list(dest.glob("*.tar")))
    ran = build(folders, dest, "--on-error", "skip")
    assert ran.code == 3
    assert f"already done: {done} of 4 shards" in ran.err or done == 0
    assert imgprep("verify", dest, "--decode").code == 0


def test_max_errors_stops_early(folders: Path, tmp_path: Path) -> None:
    for path in sorted((folders / "train").rglob("*.JPEG")):
        path.write_bytes(b"no image")
    ran = build(folders, tmp_path / "out", "--max-errors", 2)
    assert ran.code == 1
    assert ran.err.count("n0") <= 4
    ran = build(folders, tmp_path / "out", "--on-error", "skip", "--max-errors", 2)
    assert ran.code == 1


def test_nothing_usable_is_a_failure_not_an_empty_shard(folders: Path, tmp_path: Path) -> None:
    for path in sorted((folders / "train").rglob("*.JPEG")):
        path.write_bytes(b"no image")
    ran = build(folders, tmp_path / "out", "--on-error", "skip")
    assert ran.code == 1
    assert "none of its images can be used" in ran.err
    assert not list((tmp_path / "out").glob("train-*.tar"))


@pytest.mark.parametrize("name", GOOD)
def test_extreme_shapes_are_usable(folders: Path, tmp_path: Path, name: str) -> None:
    (folders / "train" / "n01440764" / "n01440764_1.JPEG").write_bytes(GOOD[name])
    ran = build(folders, tmp_path / "out")
    assert ran.code == 0, ran.err
    assert imgprep("verify", tmp_path / "out", "--decode").code == 0


def test_odd_formats_are_usable(folders: Path, tmp_path: Path) -> None:
    sixteen = Image.fromarray((np.arange(90_000).reshape(300, 300) % 65_536).astype(np.uint16))
    palette = Image.open(io.BytesIO(PHOTO)).quantize(16)
    for number, picture in enumerate((sixteen, palette), 1):
        picture.save(folders / "train" / "n01440764" / f"n01440764_{number}.JPEG", "PNG")
    dest = tmp_path / "out"
    ran = build(folders, dest)
    assert ran.code == 0, ran.err
    counts = json.loads((dest / "report.json").read_text())["counts"]["train"]
    assert counts["format PNG"] == 2
    assert counts["mode P"] == 1


def test_a_bomb_passes_when_the_limit_is_raised(folders: Path, tmp_path: Path) -> None:
    (folders / "train" / "n01440764" / "n01440764_1.JPEG").write_bytes(jpeg(1500, 1000))
    refused = build(folders, tmp_path / "a", "--max-megapixels", 1)
    assert refused.code == 1
    assert "--max-megapixels" in refused.err
    assert build(folders, tmp_path / "b", "--max-megapixels", 2).code == 0


def test_an_empty_class_keeps_its_label(folders: Path, tmp_path: Path) -> None:
    shutil.rmtree(folders / "val")
    (folders / "train" / "n01440000").mkdir()
    ran = build(folders, tmp_path / "out")
    assert ran.code == 1
    assert "n01440000" in ran.err
    ran = build(folders, tmp_path / "out", "--on-error", "skip")
    assert ran.code == 3
    assert load_index(tmp_path / "out").classes == 4
    assert set(labels_of_shards(tmp_path / "out", "train").values()) == {1, 2, 3}
    check_labels(tmp_path / "out")


def test_unicode_names(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for name in ("chien français", "猫", os.fsdecode(b"caf\xe9")):
        (source / name).mkdir(parents=True)
        (source / name / "übung\t1.jpg").write_bytes(PHOTO)
    ran = build(source, tmp_path / "out")
    assert ran.code == 0, ran.err
    assert imgprep("verify", tmp_path / "out", "--decode").code == 0


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are escaped in messages, and listed in the report."""
    folder = tmp_path / "src" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(PHOTO)
    (folder / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"no image")
    ran = build(tmp_path / "src", tmp_path / "out")
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert "bad" in ran.err
    assert build(tmp_path / "src", tmp_path / "out", "--on-error", "skip").code == 3
    skipped = json.loads((tmp_path / "out" / "report.json").read_text())["skipped"]["train"]
    assert skipped[0]["where"].encode("utf-8", "surrogateescape").endswith(b"bad\xff.jpg")


def test_an_unreadable_file(folders: Path, tmp_path: Path) -> None:
    victim = folders / "train" / "n01440764" / "n01440764_1.JPEG"
    victim.chmod(0)
    options = {"preexec_fn": without_root_rights}
    ran = imgprep("build-shards", folders, tmp_path / "out", **options)
    assert ran.code == 1
    assert "n01440764_1.JPEG: " in ran.err
    assert "no permission to read it" in ran.err
    ran = imgprep("build-shards", folders, tmp_path / "out", "--on-error", "skip", **options)
    assert ran.code == 3


def without_root_rights() -> None:
    """Make file permissions apply to root too (tests often run as root)."""
    if os.geteuid() == 0:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        pr_capbset_drop, cap_dac_override, cap_dac_read_search = 24, 1, 2
        for capability in (cap_dac_override, cap_dac_read_search):
            if libc.prctl(pr_capbset_drop, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl")


def test_a_destination_without_permission(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    dest = tmp_path / "locked" / "out"
    ran = imgprep("build-shards", folders, dest, preexec_fn=without_root_rights)
    assert ran.code == 1
    assert f"{dest}: cannot write: Permission denied" in ran.err
    assert "Traceback" not in ran.err


def test_a_full_disk(folders: Path, tmp_path: Path) -> None:
    """A limit on the file size makes a write fail as a full disk does; then the build resumes."""
    dest = tmp_path / "out"

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    ran = imgprep("build-shards", folders, dest, "--split", "val", preexec_fn=small_files)
    assert ran.code == 1
    assert "no space left" in ran.err
    assert "Traceback" not in ran.err
    assert not list(dest.glob("val-*"))
    assert not list(dest.glob(".*partial"))
    assert imgprep("build-shards", folders, dest, "--split", "val").code == 0


@pytest.mark.parametrize("place", ["", "train/n01440764", "deeper/out"])
def test_destination_inside_source(folders: Path, place: str) -> None:
    before = sorted(folders.rglob("*"))
    ran = build(folders, folders / place)
    assert ran.code == 2
    assert "inside SOURCE" in ran.err
    assert sorted(folders.rglob("*")) == before


def test_source_inside_destination(folders: Path, tmp_path: Path) -> None:
    assert build(folders, folders.parent).code == 2


def test_a_destination_that_is_not_ours(folders: Path, tmp_path: Path) -> None:
    dest = tmp_path / "photos"
    dest.mkdir()
    (dest / "holiday.jpg").write_bytes(PHOTO)
    for arguments in ((), ("--force",)):
        ran = build(folders, dest, *arguments)
        assert ran.code == 1
        assert "was not made by imgprep" in ran.err
        assert [path.name for path in dest.iterdir()] == ["holiday.jpg"]
    (tmp_path / "file").write_text("")
    assert build(folders, tmp_path / "file").code == 1


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    return make_archives(tmp_path / "src", Shape(image=tiny_jpeg))


def rewrite_train(source: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    """Change the inner tars of the train archive."""
    path = source / "ILSVRC2012_img_train.tar"
    with tarfile.open(path) as tar:
        inner = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    path.write_bytes(tar_bytes(change(inner).items()))


def odd_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """An inner tar with one good member and one odd one."""
    odd = tarfile.TarInfo(name)
    odd.type, odd.linkname = kind, link
    return tar_bytes([(tarfile.TarInfo("n01440764_1.JPEG"), PHOTO), (odd, PHOTO)])


ODD_TARS: dict[str, tuple[bytes, str]] = {
    "absolute name": (odd_member("/etc/passwd"), "/etc/passwd"),
    "dot-dot name": (odd_member("../../escape.JPEG"), "../../escape.JPEG"),
    "symbolic link": (odd_member("link.JPEG", tarfile.SYMTYPE, "/etc/passwd"), "link.JPEG"),
    "hard link": (odd_member("hard.JPEG", tarfile.LNKTYPE, "n01440764_1.JPEG"), "hard.JPEG"),
    "duplicate": (odd_member("n01440764_1.JPEG"), "n01440764_1.JPEG"),
}


@pytest.mark.parametrize("name", ODD_TARS)
def test_odd_members_are_named_and_never_followed(
    archives: Path, tmp_path: Path, name: str
) -> None:
    inner, member = ODD_TARS[name]
    rewrite_train(archives, lambda tars: {**tars, "n01440764.tar": inner})
    ran = build(archives, tmp_path / "out")
    assert ran.code == 1
    assert f"ILSVRC2012_img_train.tar:n01440764.tar:{member}" in ran.err
    assert build(archives, tmp_path / "out", "--on-error", "skip").code == 3
    check = imgprep("verify", tmp_path / "out", "--decode")
    assert check.code == 0, check.out
    assert load_index(tmp_path / "out").splits["train"].records == 7


def test_an_inner_tar_that_is_missing(archives: Path, tmp_path: Path) -> None:
    """A class of the devkit is missing from the train archive: the others keep their labels."""
    rewrite_train(archives, lambda tars: {k: v for k, v in tars.items() if "n01443537" not in k})
    ran = build(archives, tmp_path / "out")
    assert ran.code == 1
    assert "n01443537" in ran.err
    assert build(archives, tmp_path / "out", "--on-error", "skip").code == 3
    assert load_index(tmp_path / "out").classes == 3
    assert set(labels_of_shards(tmp_path / "out", "train").values()) == {0, 2}


def test_a_tar_that_was_cut_short(mini_archives: Path, tmp_path: Path) -> None:
    source = tmp_path / "src"
    shutil.copytree(mini_archives, source)
    path = source / "ILSVRC2012_img_train.tar"
    os.truncate(path, path.stat().st_size * 2 // 3)
    ran = build(source, tmp_path / "out", "--shard-images", 30)
    assert ran.code == 1
    assert "ILSVRC2012_img_train.tar" in ran.err
    ran = build(source, tmp_path / "out", "--shard-images", 30, "--on-error", "skip")
    assert ran.code == 3, ran.err
    assert imgprep("verify", tmp_path / "out", "--decode").code == 0


def test_validation_labels_that_do_not_match_the_count(archives: Path, tmp_path: Path) -> None:
    with tarfile.open(archives / "ILSVRC2012_img_val.tar") as tar:
        val = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    val.popitem()
    (archives / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(val.items()))
    for policy in ("fail", "skip"):  # no policy may shift labels
        ran = build(archives, tmp_path / "out", "--on-error", policy)
        assert ran.code == 1
        assert "5" in ran.err
        assert "6" in ran.err


def test_the_mini_set_itself_is_clean(tmp_path: Path) -> None:
    source = make_mini(tmp_path / "src", "archives")
    scan = imgprep("scan", source, "--json").json
    assert scan["layout"] == "archives"
    assert scan["problems"] == []
