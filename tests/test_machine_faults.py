"""Faults of the machine end a command with a message; they never make an image bad."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from imgprep.build.job import build
from imgprep.build.options import BuildOptions
from imgprep.dataset.index import load_index
from imgprep.errors import SourceFaultError, StoreError
from imgprep.image.memory import DecoderMemoryError, memory_errors
from imgprep.sources.folders import scan_folder
from imgprep.sources.local_tree import LocalTree
from imgprep.sources.manifest import SourceScan
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from imgprep.spec import BuildSpec, ImageSpec
from imgprep.storage.local import LocalStore
from imgprep.storage.reading import read_bytes
from tests.conftest import files_of, imgprep
from tests.test_store_build import Silent
from tests.trees import Shape, make_class_folders, tar_bytes, tiny_jpeg


@contextmanager
def no_more_files() -> Iterator[None]:
    """Within the block this process can open no file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(highest)]  # fill the gaps
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in spare:
            os.close(fd)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three classes of three images."""
    return make_class_folders(tmp_path / "src", Shape(), val="none")


def test_more_archives_than_files_that_may_be_open(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for number in range(100):
        name = f"n{number:08d}"
        images = [(f"{name}_{each}.JPEG", tiny_jpeg(name, each)) for each in (1, 2)]
        (source / f"{name}.tar").write_bytes(tar_bytes(images))

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    options = ("--on-error", "skip", "--jobs", 2, "--shard-images", 100)
    ran = imgprep("build-shards", source, tmp_path / "out", *options, preexec_fn=few_files)
    assert ran.code == 0, ran.err
    assert load_index(tmp_path / "out").splits["train"].records == 200


def test_without_a_free_file_no_image_is_bad(folders: Path) -> None:
    rows = scan_source(folders).splits["train"]
    with SourceReader(folders, rows) as reader:
        with no_more_files(), pytest.raises(SourceFaultError, match=r"_1\.JPEG .*ulimit -n"):
            reader.read(0)
        assert reader.read(0) == tiny_jpeg("n01440764", 1)


def test_without_a_free_file_a_dataset_is_not_damaged(built: Path) -> None:
    with no_more_files(), pytest.raises(StoreError, match=r"labels\.json: Too many open files"):
        read_bytes(LocalStore(built), "labels.json")


class Disturbing(Silent):
    """Disturbs the source between the scan and the first read."""

    def __init__(self, disturb: object) -> None:
        self._disturb = disturb

    def scanned(self, scan: SourceScan) -> None:
        assert callable(self._disturb)
        self._disturb()


@pytest.mark.parametrize("policy", ["skip", "fail"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("folder away", r"n01440764_\d\.JPEG cannot be read: No such file .*: put it back"),
        ("file away", r"n01440764_1\.JPEG cannot be read: No such file .*: put it back"),
        ("file cut", r"n01440764_1\.JPEG changed since the scan: it had .* bytes, now 10"),
        ("file grown", r"n01440764_1\.JPEG changed since the scan: it had .* bytes, now"),
        ("a folder for a file", r"n01440764_1\.JPEG cannot be read: Is a directory"),
    ],
)
def test_a_source_that_changes_ends_the_build_under_either_policy(
    folders: Path, tmp_path: Path, fault: str, message: str, policy: str
) -> None:
    folder = folders / "train" / "n01440764"
    victim, kept = folder / "n01440764_1.JPEG", tmp_path / "kept"

    def disturb() -> None:
        if fault == "folder away":
            folder.rename(kept)
            return
        victim.rename(kept)
        if fault == "file cut":
            victim.write_bytes(kept.read_bytes()[:10])
        elif fault == "file grown":
            victim.write_bytes(kept.read_bytes() + b"more")
        elif fault == "a folder for a file":
            victim.mkdir()

    dest, spec = tmp_path / "out", BuildSpec(image=ImageSpec(size_px=32), shard_images=2)
    options = BuildOptions(jobs=1, on_error="skip" if policy == "skip" else "fail")
    with pytest.raises(SourceFaultError, match=message):
        build(folders, dest, spec, options, Disturbing(disturb))
    assert not (dest / "dataset_info.json").exists()
    if fault == "folder away":
        kept.rename(folder)
    elif fault == "a folder for a file":
        victim.rmdir()
        kept.rename(victim)
    else:
        kept.rename(victim)
    outcome = build(folders, dest, spec, options, Silent())
    assert outcome.index.splits["train"].records == 9
    assert outcome.report.skipped_images == 0


def test_a_folder_that_vanishes_during_the_scan_is_not_an_empty_class(folders: Path) -> None:
    with pytest.raises(SourceFaultError, match="gone cannot be read: No such file"):
        scan_folder(LocalTree(folders), "gone")


def png(width_px: int, height_px: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width_px, height_px), (9, 99, 199)).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_too_little_memory_for_an_image_ends_the_build(
    folders: Path, tmp_path: Path, kind: str
) -> None:
    """The message names the image and what to lower; with more memory the build is resumed."""
    victim = folders / "train" / "n01443537" / "n01443537_2.JPEG"
    if kind == "png":
        victim.write_bytes(png(8000, 6000))
    else:
        with Image.new("RGB", (9000, 8000)) as picture:
            picture.save(victim, "JPEG", progressive=True)

    def little_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (450 << 20, 450 << 20))

    dest = tmp_path / "out"
    options = ("build-shards", folders, dest, "--shard-images", 2, "--jobs", 1)
    ran = imgprep(*options, "--on-error", "skip", preexec_fn=little_memory)
    assert ran.code == 1, ran.out + ran.err
    message = "n01443537/n01443537_2.JPEG: not enough memory: use fewer --jobs, lower "
    assert message in ran.err
    assert "--max-megapixels" in ran.err
    assert "Traceback" not in ran.err
    assert imgprep(*options).code == 0
    assert imgprep("build-shards", folders, tmp_path / "whole", *options[3:]).code == 0
    assert files_of(dest) == files_of(tmp_path / "whole")


def test_only_memory_that_a_sound_image_needs_is_a_fault_of_the_machine() -> None:
    """A damaged header may ask for any amount: then the exception of the decoder passes."""
    with pytest.raises(DecoderMemoryError), memory_errors(1 << 45):
        raise MemoryError
    with pytest.raises(MemoryError) as raised, memory_errors(100):
        raise MemoryError
    assert type(raised.value) is MemoryError
