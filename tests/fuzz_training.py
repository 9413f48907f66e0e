"""Fuzz targets: the files that the training reads: datasets, checkpoints, settings, logs."""

from __future__ import annotations

import io
import itertools
import json
import struct
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imgprep.dataset.encodings import encoding_of
from imgprep.spec import Shape
from tests.checkpoints import make_checkpoint
from tests.feeding import packed
from tests.fuzzing import changed_dataset, original, ours, put, target, workspace
from tests.mutations import mutate_json, mutate_zip
from tests.trees import tiny_jpeg
from train.config import InputConfig, RunConfig
from train.feed.damage import HeaderScreen
from train.feed.dataset import open_dataset
from train.feed.graph_spec import GraphSpec
from train.feed.records import RecordReader
from train.net import net_layout
from train.net.kernels import cpu
from train.optim.schedule import ScheduleState
from train.run.logs import EPOCH_FIELDS, STEP_FIELDS, read_rows
from train.saved import checkpoint as checkpoints
from train.saved.compatible import ExpectedRun, changed_settings, check_resume
from train.saved.run_folder import Origin
from train.settings import from_json, read_toml, resolve, to_toml
from train.show.figures import thinned
from train.show.run_state import read_run


@target("idx", lambda: [original("train-000000.idx")], tokens=(b"jpg ", b"cls ", b"v1.2 ", b"\n"))
def idx(data: bytes) -> None:
    """The DALI index of a shard, and the records that it points to."""
    with (
        changed_dataset("train-000000.idx", data, forged=False) as folder,
        ours("train-000000"),
    ):
        reader = RecordReader(open_dataset(folder), "train")
        reader.prefetch(reader.plan(np.arange(len(reader))))
        for record in range(len(reader)):
            reader.where(record)
            reader.read([record])


def _record_files() -> list[bytes]:
    png = io.BytesIO()
    Image.new("RGB", (16, 40)).save(png, "PNG")
    jpeg = io.BytesIO()
    Image.new("RGB", (40, 16)).save(jpeg, "JPEG")
    return [tiny_jpeg("n", 1), jpeg.getvalue(), png.getvalue()]


@target("record-header", _record_files)
def record_header(data: bytes) -> None:
    """What the image files of a batch declare, beside files whose headers are known."""
    shapes: tuple[Shape, ...] = ("square", "rectangle")
    for shape, known in itertools.product(shapes, _record_files()):
        encoding = "png" if known.startswith(b"\x89PNG") else "jpeg"
        spec = GraphSpec(
            encoding=encoding,
            size_px=16,
            shape=shape,
            batch_images=3,
            threads=1,
            config=InputConfig(crop_px=8),
            mean_image_hwc=np.zeros((16, 16, 3), np.float32),
            mean_rgb=np.zeros(3, np.float32),
        )
        screen, how = HeaderScreen(spec), encoding_of(encoding)
        with ours():
            screen.check(packed([known]))
        with ours():
            sizes = screen.check(packed([data, known, data])).tolist()
            for content, (height, width) in zip([data, known, data], sizes, strict=True):
                assert how.record_size(content, 16, shape) == (height, width)


def _opened(name: str, data: bytes) -> None:
    with changed_dataset(name, data, forged=True) as folder, ours(name):
        open_dataset(folder)


@target("opened-labels", lambda: [original("labels.json")], mutate=mutate_json)
def opened_labels(data: bytes) -> None:
    """``labels.json`` as the training reads it, with a correct hash."""
    _opened("labels.json", data)


@target("opened-statistics", lambda: [original("rgb_pca.json")], mutate=mutate_json)
def opened_statistics(data: bytes) -> None:
    """``rgb_pca.json`` likewise."""
    _opened("rgb_pca.json", data)


@target("opened-mean", lambda: [original("mean_image.npy")])
def opened_mean(data: bytes) -> None:
    """``mean_image.npy`` likewise."""
    _opened("mean_image.npy", data)


@target("opened-index", lambda: [original("dataset_info.json")], mutate=mutate_json)
def opened_index(data: bytes) -> None:
    """``dataset_info.json`` with a correct fingerprint, and everything that it points to."""
    with changed_dataset("dataset_info.json", data, forged=True) as folder, ours(str(folder)):
        opened = open_dataset(folder)
        for split in opened.index.splits:
            reader = RecordReader(opened, split)
            reader.read(range(min(len(reader), 20)))


def _checkpoints() -> list[bytes]:
    small = make_checkpoint(
        model={"conv1.weight": torch.arange(12.0).reshape(2, 6)},
        velocities={"conv1.weight": torch.zeros(2, 6)},
    )
    stream = io.BytesIO()
    torch.save(checkpoints.to_values(small), stream)
    folder = workspace() / "run"
    folder.mkdir(exist_ok=True)
    checkpoints.save(folder, small, keep=1)
    return [(folder / "last.pt").read_bytes(), stream.getvalue()]


@target("checkpoint", _checkpoints, mutate=mutate_zip)
def checkpoint(data: bytes) -> None:
    """A checkpoint, and the checks that run before a network is made."""
    _loaded(put("checkpoint", "last.pt", data))


def _loaded(path: Path) -> None:
    saved = None
    with ours("last.pt"):
        saved = checkpoints.load(path)
    if saved is not None:
        with ours():
            _use(saved)


def _use(saved: checkpoints.Checkpoint) -> None:
    config = from_json(saved.config)
    net_layout(config.net, classes=saved.classes, image_px=config.input.crop_px)
    ScheduleState.from_json(saved.schedule)
    changed_settings(saved, config)
    expected = ExpectedRun(
        config=RunConfig(),
        dataset_fingerprint="f" * 64,
        label_order_sha256="a" * 64,
        classes=4,
        data_processes=2,
    )
    check_resume(saved, expected)


def _values() -> list[bytes]:
    values = checkpoints.to_values(make_checkpoint())
    return [
        json.dumps({k: v for k, v in values.items() if k not in ("model", "velocities")}).encode()
    ]


@target("checkpoint-values", _values, mutate=mutate_json)
def checkpoint_values(data: bytes) -> None:
    """A valid file with hostile values."""
    from train.saved.checkpoint_file import write_values

    try:
        values = json.loads(data)
        path = workspace() / "values" / "last.pt"
        path.parent.mkdir(exist_ok=True)
        tensors = {"conv1.weight": torch.zeros(2, 6)}
        write_values(path, {**values, "model": tensors, "velocities": tensors})
    except Exception:  # these values cannot be saved
        return
    _loaded(path)


def _norms() -> list[bytes]:
    values = torch.linspace(-9, 9, 480).numpy().tobytes()
    return [
        struct.pack("<5q", channels, groups, size, rectify, 480) + values
        for channels, groups, size, rectify in ((96, 2, 5, 1), (8, 1, 3, 0), (4, 4, 1, 1))
    ]


@target("norm", _norms, needs=("train.net._cpu",))
def norm(data: bytes) -> None:
    """Response normalisation with invalid arguments: ValueError, or the same results with AVX2
    and without."""
    channels, groups, size, rectify, count = struct.unpack_from("<5q", data.ljust(40, b"\0"))
    values = np.resize(np.frombuffer(data[40:] or b"\x07", np.uint8), 4 * 4096)
    x = values.view(np.float32)[: abs(count) % 4096].copy()
    results = []
    for avx2 in (False, True):
        y, z = np.full_like(x, 7), np.full_like(x, 7)
        try:
            arguments = (channels, groups, size, 2.0, 1e-4, bool(rectify & 1), avx2)
            cpu._cpu.lrn_forward(x, y, *arguments)
            cpu._cpu.lrn_backward(x, y, z, *arguments)
        except (ValueError, OverflowError):
            continue
        results.append((y, z))
    assert len(results) in (0, 2)
    if results and np.abs(np.nan_to_num(x)).max(initial=0) < 1e6:
        for one, other in zip(*results, strict=True):
            assert np.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True)


@target("run", lambda: [original_origin()], mutate=mutate_json)
def run(data: bytes) -> None:
    """``run.json`` in the folder of a run, with its settings and logs."""
    folder = put("run-folder", "run.json", data).parent
    put("run-folder", "config.toml", to_toml(RunConfig()).encode())
    put("run-folder", "steps.csv", _logs()[0])
    put("run-folder", "epochs.csv", _logs()[1])
    with ours(str(folder)):
        state = read_run(folder)
        json.dumps(state.to_json())


def original_origin() -> bytes:
    origin = Origin(
        dataset="/data", fingerprint="f" * 64, parallel="none", processes=1, devices=("cpu",)
    )
    return json.dumps(asdict(origin)).encode()


TOML_TOKENS = (
    b"[net]", b"[optim]", b"[input]", b"[[net]]", b"preset = ", b'"none"', b"nan", b"-inf",
    b"'''", b"a.b.c = 1\n", b"[" * 60, b"{a=" * 40, b"1979-05-27T07:32:00Z", b"true", b"= 9" * 3,
)  # fmt: skip


def _tomls() -> list[bytes]:
    return [
        to_toml(RunConfig()).encode(),
        b'preset = "source-2012"\n[optim]\nepochs = 3\nlr = 0.02\nstep_epochs = [1, 2]\n',
    ]


@target("settings", _tomls, tokens=TOML_TOKENS)
def settings(data: bytes) -> None:
    """``config.toml`` of a run, or a settings file."""
    path = put("settings", "config.toml", data)
    with ours():
        config = resolve(None, read_toml(path), {})
        net_layout(config.net, classes=4, image_px=config.input.crop_px)
        assert from_json(asdict(config)) == config


def _logs() -> list[bytes]:
    steps = ",".join(STEP_FIELDS) + "\n" + "\n".join("1,0,1,16,2.5,.5,.25,.01,9,1,2" for _ in "ab")
    epochs = ",".join(EPOCH_FIELDS) + "\n1,6,24,1.5,0.5,0.25,0.01\n"
    return [steps.encode() + b"\n", epochs.encode()]


@target("logs", _logs, tokens=(b",", b'"', b"\n", b"\0", b"nan", b"inf", b"\xff"))
def logs(data: bytes) -> None:
    """The CSV files of a run."""
    path = put("logs", "steps.csv", data)
    for fields in (STEP_FIELDS, EPOCH_FIELDS):
        with ours("steps.csv"):
            rows = read_rows(path, fields)
            thinned(rows)
            [int(row["global_step"]) for row in rows]
