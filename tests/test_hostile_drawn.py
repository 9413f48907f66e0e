"""Untrusted datasets with matching hashes: drawing them ends with an error that names the file."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imgprep.dataset.index import load_index, load_labels
from imgprep.errors import FormatError
from imgprep.pages.preview import PreviewOptions, choose_records
from imgprep.pages.stats_data import gather
from imgprep.storage import open_store
from imgprep.verify.dataset import read_source_labels
from tests.fuzzing import changed_dataset, dataset, original
from train.saved.run_folder import RunFolder
from train.show.run_state import read_run

IDX, SOURCES, REPORT = "train-000000.idx", "train-sources.tsv.gz", "report.json"


def chosen(folder: Path) -> None:
    """What ``imgprep preview`` reads."""
    index = load_index(folder)
    load_labels(index)
    label_of_row = read_source_labels(index.store, SOURCES, classes=index.classes)
    choose_records(index, "train", label_of_row, PreviewOptions())


def page(folder: Path) -> None:
    """What ``imgprep stats --html`` reads."""
    gather(folder, "scikit-learn")


def with_word(number: int, word: bytes) -> bytes:
    """The DALI index with one word of each line in place of another."""
    first, *lines = original(IDX).splitlines()
    changed = []
    for line in lines:
        words = line.split(b" ")
        words[number] = word
        changed.append(b" ".join(words))
    return b"\n".join([first, *changed]) + b"\n"


@pytest.mark.parametrize("read", [chosen, page])
@pytest.mark.parametrize(
    ("number", "word"),
    [
        (2, b"9" * 12),  # a size: room for it would be a terabyte
        (2, b"9" * 5000),
        (1, b"9" * 30),
        (1, b"-5"),
        (3, b"train-" + b"9" * 5000 + b".jpg"),
    ],
)
def test_an_index_that_claims_much(read: Callable[[Path], None], number: int, word: bytes) -> None:
    with (
        changed_dataset(IDX, with_word(number, word), forged=True) as folder,
        pytest.raises(FormatError, match=r"train-000000\.idx: .*; run imgprep verify"),
    ):
        read(folder)


@pytest.mark.parametrize("read", [chosen, page])
@pytest.mark.parametrize("label", [b"3", b"-1", b"999999999999"])
def test_a_source_of_no_class(read: Callable[[Path], None], label: bytes) -> None:
    rows = [line.split(b"\t", 2) for line in gzip.decompress(original(SOURCES)).splitlines()]
    lines = b"".join(b"\t".join([row, label, rest]) + b"\n" for row, _, rest in rows)
    with (
        changed_dataset(SOURCES, gzip.compress(lines), forged=True) as folder,
        pytest.raises(FormatError, match=r"train-sources\.tsv\.gz: .*unknown label"),
    ):
        read(folder)


@pytest.mark.parametrize("read", [chosen, page])
def test_invalid_labels_are_rejected(read: Callable[[Path], None]) -> None:
    fewer = json.loads(original("labels.json"))
    fewer["classes"].pop()
    for content in (b"{}", json.dumps(fewer).encode()):
        with (
            changed_dataset("labels.json", content, forged=True) as folder,
            pytest.raises(FormatError, match=r"labels\.json: "),
        ):
            read(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"counts": []},
        {"counts": {"train": {"jpeg": "<b>"}}},
        {"problem_counts": {"x": None}},
        {"problems": [{"where": "x"}]},
        {"problems": 7},
        {"skipped": {"train": ["x"]}},
        {"versions": ["x"]},
    ],
    ids=str,
)
def test_a_build_report_of_another_shape(fields: dict[str, object]) -> None:
    content = json.dumps({**json.loads(original(REPORT)), **fields}).encode()
    with (
        changed_dataset(REPORT, content, forged=True) as folder,
        pytest.raises(FormatError, match=r"report\.json: malformed build report"),
    ):
        page(folder)


@pytest.fixture
def piped(tmp_path: Path) -> Path:
    """The dataset, a pipe in place of a shard."""
    for path in dataset().iterdir():
        if path.is_file() and path.name != "train-000000.tar":
            (tmp_path / path.name).symlink_to(path)
    os.mkfifo(tmp_path / "train-000000.tar")
    return tmp_path


def test_a_pipe_in_place_of_a_shard_is_not_waited_for(piped: Path) -> None:
    with pytest.raises(FormatError, match="a pipe, socket or device, not a file"):
        chosen(piped)
    with pytest.raises(OSError, match="a pipe, socket or device"):
        open_store(piped).read("train-000000.tar")


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": "a\0b"}, {"dataset": "\ud800"}, {"dataset": 7}, {"parallel": []},
        {"processes": "2"}, {"fingerprint": None}, {"devices": 1}, {"x" * 9999: 1},
    ],
    ids=lambda fields: str(fields)[:30].encode("ascii", "backslashreplace").decode(),
)  # fmt: skip
def test_odd_notes_of_a_run_are_format_errors(fields: dict[str, object], tmp_path: Path) -> None:
    sound = {
        "dataset": "/data",
        "fingerprint": "f" * 64,
        "parallel": "none",
        "processes": 1,
        "devices": ["cpu"],
    }
    folder = RunFolder(tmp_path)
    folder.config.write_text("")
    folder.origin.write_text(json.dumps(sound))
    assert read_run(tmp_path).origin is not None
    folder.origin.write_text(json.dumps({**sound, **fields}))
    with pytest.raises(FormatError, match=r"run\.json: malformed") as caught:
        read_run(tmp_path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("read", [chosen, page])
def test_a_shard_that_was_cut_short(read: Callable[[Path], None]) -> None:
    half = original("train-000000.tar")[:2000]
    with (
        changed_dataset("train-000000.tar", half, forged=False) as folder,
        pytest.raises(FormatError, match=r"train-000000\.tar: ends before .*imgprep verify"),
    ):
        read(folder)
