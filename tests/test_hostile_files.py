"""Malicious numbers, nesting and names: one of our errors, which names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import marker_name
from imgprep.dataset.index import load_index
from imgprep.dataset.labels import LabelMap
from imgprep.dataset.markers import read_marker
from imgprep.dataset.npyfile import map_npy, read_npy
from imgprep.errors import DestinationError, FormatError, ImageError
from imgprep.sources.manifest import ROW_DTYPE
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from imgprep.storage import open_store
from imgprep.storage.atomic import read_json
from imgprep.wording import plain
from tests.checkpoints import make_checkpoint
from tests.conftest import imgprep
from tests.fuzzing import changed_dataset, dataset, original
from tests.imagefiles import after_start, picture, saved
from tests.schemas import with_checksum
from tests.trees import make_class_folders
from train.config import InputConfig, RunConfig
from train.errors import CheckpointError, ConfigError, DataError
from train.feed.dataset import open_dataset
from train.feed.records import RecordReader
from train.net.kernels import cpu
from train.run.logs import STEP_FIELDS, read_rows
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint_file import read_values, write_values
from train.settings import read_toml, resolve
from train.show.export import export_checkpoint
from train.show.measure import MeasureOptions, measure


def forged_index(**changes: Any) -> bytes:
    info = json.loads(original("dataset_info.json"))
    info["spec"].update(changes)
    return json.dumps(info).encode()


DEEP = ("[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, '{"a":' + "[" * 40 + "]" * 40 + "}")


@pytest.mark.parametrize("text", DEEP, ids=["open", "objects", "lists"])
def test_deeply_nested_json_is_rejected(text: str, tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(FormatError, match=r"deep\.json: it is not valid JSON: .* too deep"):
        read_json(tmp_path / "deep.json", "it")


NPY: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "objects": lambda data: data.replace(b"'<i8'", b"'|O' "),
    "version 2": lambda data: data[:6] + b"\2" + data[7:],
    "no dict": lambda data: data.replace(b"{'descr'", b"['descr'"),
    "unhashable": lambda data: data.replace(b"{'descr': '<i8'", b"{[]:1, 'a': '<i8'"),
    "open bracket": lambda data: data.replace(b"(16, 16, 3)", b"((16, 16, 3"),
    "negative": lambda data: data.replace(b"(16, 16, 3)", b"(-6, -8,16)"),
    "a zip": lambda data: b"PK\3\4" + data,
    "python 2": lambda data: data.replace(b"(16, 16, 3)", b"(16L,16, 3)"),
    "fortran": lambda data: data.replace(b"'fortran_order': False", b"'fortran_order': True "),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", NPY)
def test_odd_npy_files_are_value_errors(damage: str, tmp_path: Path) -> None:
    whole = original("pixel_sum.npy")
    assert read_npy(whole).shape == (16, 16, 3)
    spoilt = NPY[damage](whole)
    assert spoilt != whole
    (tmp_path / "a.npy").write_bytes(spoilt)
    with pytest.raises(ValueError):
        read_npy(spoilt)
    with pytest.raises(ValueError):
        map_npy(tmp_path / "a.npy")


def test_an_array_comes_back_both_ways(tmp_path: Path) -> None:
    for array in (np.arange(12.0).reshape(3, 4), np.zeros(0), np.zeros(3, ROW_DTYPE), np.array(7)):
        np.save(tmp_path / "a.npy", array)
        for found in (read_npy((tmp_path / "a.npy").read_bytes()), map_npy(tmp_path / "a.npy")):
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert np.array_equal(found, array)
            assert not found.size or not found.flags.writeable
            assert type(found) is np.ndarray


def changed(name: str, **fields: Any) -> bytes:
    text = json.dumps({**json.loads(original(name)), **fields})
    return text.replace('"HUGE"', "1e400").encode()


@pytest.mark.parametrize(
    "fields",
    [{"records": "HUGE"}, {"counts": []}, {"skipped": 3}, {"rgb_second": "x"}, {"number": None}],
)
def test_odd_markers_are_format_errors(fields: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / marker_name("m")
    path.parent.mkdir(parents=True)
    content = changed(marker_name("train-000000"), **fields)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"m\.json: damaged done marker"):
        read_marker(open_store(tmp_path), "m")
    path.write_bytes(with_checksum(content))
    with pytest.raises(FormatError, match=r"m\.json: malformed"):
        read_marker(open_store(tmp_path), "m")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "../x", ""])
def test_names_that_no_file_can_have_are_rejected(name: str) -> None:
    info = json.loads(original("dataset_info.json"))
    info["splits"]["train"]["shards"][0]["name"] = name
    content = json.dumps(info).encode()
    refused_index(content)


def refused_index(content: bytes) -> None:
    with (
        changed_dataset("dataset_info.json", content, forged=True) as folder,
        pytest.raises(FormatError, match=r"dataset_info\.json: malformed"),
    ):
        load_index(folder)


def test_an_unknown_encoding_and_long_labels_are_rejected() -> None:
    refused_index(forged_index(**{"image.encoding": ["jpeg"]}))
    refused_index(changed("dataset_info.json", label_digits=19))


def test_a_class_name_of_lone_surrogates_is_rejected() -> None:
    value = json.loads(original("labels.json"))
    value["classes"][0]["name"] = "\ud800"
    with pytest.raises(FormatError, match="malformed"):
        LabelMap.from_json(value)
    with (
        changed_dataset("labels.json", json.dumps(value).encode(), forged=True) as folder,
        pytest.raises(DataError, match=r"labels\.json: "),
    ):
        open_dataset(folder)


def test_a_dali_index_whose_sums_overflow_is_rejected() -> None:
    lines = original("train-000000.idx").decode().splitlines()
    words = lines[1].split()
    for at, word in ((6, "20000"), (6, str(2**62)), (2, str(2**63 - 1)), (5, str(2**62))):
        odd = [*words[:at], word, *words[at + 1 :]]
        if at == 5:
            odd[6] = str(2**62 + 1)  # their sum is negative in 64 bits
        content = "\n".join([lines[0], " ".join(odd), *lines[2:], ""]).encode()
        with (
            changed_dataset("train-000000.idx", content, forged=False) as folder,
            pytest.raises(DataError, match=r"train-000000\.idx"),
        ):
            RecordReader(open_dataset(folder), "train")


def test_a_huge_image_file_is_rejected_unread(tmp_path: Path) -> None:
    source = make_class_folders(tmp_path / "s", val="none")
    victim = next((source / "train").glob("*/*"))
    os.truncate(victim, 2 << 30)  # a sparse file: it takes no space
    rows = scan_source(source).splits["train"]
    largest = int(np.argmax(rows.rows["size_bytes"]))
    with (
        SourceReader(source, rows) as reader,
        pytest.raises(ImageError, match="larger than an image file may be"),
    ):
        reader.read(largest)


def test_a_huge_integer_in_a_checkpoint_is_rejected(tmp_path: Path) -> None:
    write_values(tmp_path / "x.pt", {"version": 10**5000})
    with pytest.raises(CheckpointError, match=r"x\.pt: damaged, or not a checkpoint") as caught:
        read_values(tmp_path / "x.pt")
    assert "weights_only" not in str(caught.value)  # no advice to run what is in it


def test_records_are_checked_by_their_header() -> None:
    fault = partial(encoding_of("jpeg").fault, size_px=40)
    clean = jpeg_of(40)
    for content in (clean, clean, jpeg_of(40, quality=50), clean + b"x"):
        assert fault(content) is None
    assert fault(jpeg_of(41)) == "declares 41x41 pixels, not 40 square"
    other = after_start(jpeg_of(41), clean[2 : clean.index(b"\xff\xdb")])
    assert fault(other) == "declares 41x41 pixels, not 40 square"
    assert fault(clean[:100]) == "truncated JPEG: the file ends inside its header"
    assert fault(b"") == fault(saved(Image.new("RGB", (40, 40)), "PNG")) == "not a JPEG"
    fault = partial(encoding_of("png").fault, size_px=40)
    assert fault(saved(Image.new("RGB", (40, 40)), "PNG")) is None
    assert fault(saved(Image.new("RGB", (40, 41)), "PNG")) == "declares 40x41 pixels, not 40 square"
    assert fault(clean) == fault(b"") == "not a PNG"


def jpeg_of(side_px: int, **options: object) -> bytes:
    return saved(Image.fromarray(picture(side_px, side_px)), "JPEG", **options)


def test_the_norm_divides_by_no_overflow() -> None:
    values = bytearray(16)
    with pytest.raises(ValueError, match="cannot be handled"):
        cpu._cpu.lrn_forward(values, values, 2**62, 2**62, 5, 2.0, 1e-4, True, False)


def test_a_network_is_not_made_to_the_size_that_a_checkpoint_claims(tmp_path: Path) -> None:
    data = open_dataset(dataset())
    config = RunConfig(input=InputConfig(crop_px=2**20))
    facts = {"label_order_sha256": data.label_order_sha256, "classes": data.classes}
    checkpoints.save(tmp_path, make_checkpoint(config=config, **facts), keep=1)
    assert checkpoints.load(tmp_path / "last.pt").config == json.loads(json.dumps(asdict(config)))
    with pytest.raises(CheckpointError, match="another architecture"):
        measure([tmp_path / "last.pt"], dataset(), MeasureOptions(device="cpu"))
    with pytest.raises(CheckpointError, match="another architecture"):
        export_checkpoint(tmp_path / "last.pt", tmp_path / "net.onnx")


TOML = {
    "deep lists": ("seed = " + "[" * 5000 + "]" * 5000, "nested too deep"),
    "deep tables": (".".join("a" * 5000) + " = 1", "nested too deep"),
    "float of 400 digits": ("[optim]\nlr = 1" + "0" * 400, "optim.lr must be a finite number"),
    "infinite": ("[net]\ninit_sd = inf", "net.init_sd must be a finite number"),
    "no number": ("[net]\ninit_bias = nan", "net.init_bias must be a finite number"),
    "large": ("seed = 9223372036854775808", "seed must be a finite number"),
    "many epochs": ('preset = "source-2012"\n[optim]\nepochs = 1' + "0" * 400, "optim.epochs"),
    "preset of a list": ("preset = []", "preset must be a name"),
    "norm": ("[net]\nlrn_size = -1", "lrn_size must be odd and from 1 to 65"),
}


@pytest.mark.parametrize("case", TOML)
def test_odd_settings_are_config_errors(case: str, tmp_path: Path) -> None:
    text, message = TOML[case]
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve(None, read_toml(tmp_path / "c.toml"), {})


@pytest.mark.parametrize(
    "row", [b"1,0,1,16,\xff", b"1,0,1,16,x,0,0,0,0,0,0", b"1.5" + b",0" * 10, b"1"]
)
def test_odd_logs_are_rejected(row: bytes, tmp_path: Path) -> None:
    (tmp_path / "steps.csv").write_bytes(",".join(STEP_FIELDS).encode() + b"\n" + row + b"\n")
    with pytest.raises(DestinationError, match=r"steps\.csv: its columns"):
        read_rows(tmp_path / "steps.csv", STEP_FIELDS)


# ---- the terminal ----------------------------------------------------------------------------


def test_names_cannot_control_the_terminal(tmp_path: Path) -> None:
    assert plain("a\x1b[2Jé\n\udcff\ud800\u202e") == "a\\x1b[2Jé\n\\udcff\\ud800\\u202e"
    (tmp_path / "\x1b]0;owned\x07").mkdir()
    ran = imgprep("scan", tmp_path)
    assert ran.code == 2
    assert "\x1b" not in ran.err
    assert r"\x1b]0;owned\x07" in ran.err
