"""Damage and changes during a run cause an error that names shard and key, no crash or hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imgprep.dataset.format import DATASET_INFO, LABELS, MEAN_IMAGE_NPY, RGB_PCA
from tests.conftest import REPOSITORY
from tests.feeding import SMALL, copy_of, loading, overwrite
from train.errors import DataError
from train.feed.dataset import open_dataset
from train.feed.records import RecordReader

ORDERED = replace(SMALL, shuffle=False)


def read_all(dataset: Path) -> int:
    with loading(open_dataset(dataset), ORDERED, batch_images=10) as loader:
        return sum(len(batch.images) for batch in loader.epoch(0))


@pytest.mark.parametrize(
    "damage", [b"\0" * 40, b"not an image at all, but text"], ids=["zeros", "text"]
)
def test_a_damaged_record_is_named(built: Path, tmp_path: Path, damage: bytes) -> None:
    dataset = copy_of(built, tmp_path / "damaged")
    shard, key = overwrite(dataset, 57, 0, damage)
    with pytest.raises(DataError, match=key) as raised:
        read_all(dataset)
    assert shard in str(raised.value)
    assert "imgprep verify" in str(raised.value)
    assert not [t for t in threading.enumerate() if t.name == "imgprep-feeder"]


def test_a_record_that_declares_a_huge_image_is_named(built: Path, tmp_path: Path) -> None:
    """The error comes before DALI allocates 12 GB for it."""
    dataset = copy_of(built, tmp_path / "damaged")
    reader = RecordReader(open_dataset(dataset), "train")
    frame = reader.read([57])[0].content.index(b"\xff\xc0")
    _, key = overwrite(dataset, 57, frame + 5, b"\xff\xdc\xff\xdc")
    with pytest.raises(DataError, match=f"{key}: declares 65500x65500 pixels, not 256 square"):
        read_all(dataset)


def test_batches_before_the_damage_arrive_and_the_loader_stays_usable(
    built: Path, tmp_path: Path
) -> None:
    dataset = copy_of(built, tmp_path / "damaged")
    overwrite(dataset, 57, 0, b"\0" * 40)
    with loading(open_dataset(dataset), ORDERED, batch_images=10) as loader:
        batches = loader.epoch(0)
        for _ in range(5):
            assert len(next(batches).images) == 10
        with pytest.raises(DataError):
            list(batches)
        rest = list(loader.epoch(0, first_step=6))
    assert sum(len(batch.images) for batch in rest) == 96 - 60


@pytest.mark.parametrize("record", [0, 8])
def test_damage_in_the_next_epoch_does_not_disturb_this_one(
    built: Path, tmp_path: Path, record: int
) -> None:
    """Its first batches are computed early, but the error comes with the batch that has it."""
    dataset = copy_of(built, tmp_path / "damaged")
    with loading(open_dataset(dataset), ORDERED, batch_images=4) as loader:
        epoch = loader.epoch(0)
        batches = [next(epoch) for _ in range(10)]
        _, key = overwrite(dataset, record, 0, b"\0" * 40)
        batches += epoch
        assert sum(len(batch.images) for batch in batches) == 96
        later = loader.epoch(1)
        for _ in range(record // 4):
            assert len(next(later).images) == 4
        with pytest.raises(DataError, match=key):
            next(later)


def test_pixels_that_do_not_decode_are_named_after_the_batches_before_them(
    built: Path, tmp_path: Path
) -> None:
    """The header is whole, so that DALI gets the record and fails on it."""
    dataset = copy_of(built, tmp_path / "damaged")
    frame = RecordReader(open_dataset(dataset), "train").read([57])[0].content.index(b"\xff\xc4")
    _, key = overwrite(dataset, 57, frame, b"\0" * 400)
    with loading(open_dataset(dataset), ORDERED, batch_images=10) as loader:
        batches = loader.epoch(0)
        for _ in range(5):
            assert len(next(batches).images) == 10
        with pytest.raises(DataError, match=key):
            next(batches)


def test_a_size_that_no_record_has_is_refused_before_memory_is_allocated(
    built: Path, tmp_path: Path
) -> None:
    """A changed index may claim that a record is as large as its shard."""
    dataset = copy_of(built, tmp_path / "damaged")
    reader = RecordReader(open_dataset(dataset), "train")
    reader._spans[3, 1] = 1 << 40
    with pytest.raises(DataError, match=r"train-000000\.tar: .*: 1,099,511,627,776 bytes are not"):
        reader.read([3])


def test_a_label_that_is_not_a_class_is_named(built: Path, tmp_path: Path) -> None:
    dataset = copy_of(built, tmp_path / "damaged")
    data = open_dataset(dataset)
    reader = RecordReader(data, "train")
    offset, _, label_offset, _ = reader._spans[3].tolist()
    _, key = overwrite(dataset, 3, label_offset - offset, b"0004")
    with pytest.raises(DataError, match=f"{key}.*0004.*4 classes"):
        read_all(dataset)


def test_a_shard_of_the_wrong_size_is_refused(built: Path, tmp_path: Path) -> None:
    dataset = copy_of(built, tmp_path / "damaged")
    shard = dataset / "train-000001.tar"
    os.truncate(shard, shard.stat().st_size - 10_240)
    with pytest.raises(DataError, match=r"train-000001\.tar: .* bytes, but the index says"):
        read_all(dataset)


def test_a_missing_shard_is_named(built: Path, tmp_path: Path) -> None:
    dataset = copy_of(built, tmp_path / "damaged")
    (dataset / "train-000002.tar").unlink()
    with pytest.raises(DataError, match=r"train-000002\.tar: No such file"):
        read_all(dataset)


def test_a_shard_truncated_during_a_run_does_not_crash_it(built: Path, tmp_path: Path) -> None:
    """A mapped file would raise SIGBUS here."""
    dataset = copy_of(built, tmp_path / "damaged")
    data = open_dataset(dataset)
    with loading(data, ORDERED, batch_images=2) as loader:
        batches = loader.epoch(0)
        next(batches)
        for shard in dataset.glob("train-*.tar"):
            os.truncate(shard, 4096)
        with pytest.raises(DataError, match=r"truncated|the index says"):
            list(batches)


def edit_json(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def edit(dataset: Path) -> None:
        value = json.loads((dataset / name).read_text())
        change(value)
        (dataset / name).write_text(json.dumps(value))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / DATASET_INFO).unlink(), "not a finished dataset"),
        (edit_json(DATASET_INFO, lambda v: v.update(classes=5)), "edited"),
        (edit_json(LABELS, lambda v: v.update(order="other")), "labels.json: not the file"),
        (edit_json(RGB_PCA, lambda v: v.update(images=3)), "rgb_pca.json: not the file"),
        (lambda d: (d / MEAN_IMAGE_NPY).write_bytes(b"x"), "mean_image.npy: not the file"),
        (lambda d: (d / MEAN_IMAGE_NPY).unlink(), "No such file"),
    ],
    ids=["no index", "index edited", "labels", "pca", "mean", "no mean"],
)
def test_an_edited_dataset_is_refused(
    built: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    dataset = copy_of(built, tmp_path / "damaged")
    damage(dataset)
    with pytest.raises(DataError, match=message):
        open_dataset(dataset)


@pytest.mark.parametrize("content", [b"", b"v1.2 24\n", b"v1.2 1\njpg 0 1 a.jpg\n", b"\xff\xfe"])
def test_an_index_that_does_not_fit_is_refused(built: Path, tmp_path: Path, content: bytes) -> None:
    dataset = copy_of(built, tmp_path / "damaged")
    (dataset / "train-000000.idx").write_bytes(content)
    with pytest.raises(DataError, match=r"train-000000\.idx"):
        read_all(dataset)


def test_a_process_that_forgets_to_close_ends(built: Path) -> None:
    """In the middle of an epoch, with the feeding thread at work."""
    program = (
        "import sys, torch; from pathlib import Path\n"
        "from train.feed.dataset import open_dataset\n"
        "from train.config import InputConfig\n"
        "from train.feed.loader import Share, TrainLoader\n"
        "loader = TrainLoader(open_dataset(Path(sys.argv[1])), InputConfig(), Share(0, 1),\n"
        "                     batch_images=4, seed=0, device=torch.device('cpu'))\n"
        "batches = loader.epoch(0); next(batches); print('ok')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(built)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stderr
