"""The public loader: settings, epochs, states, shares and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.feeding import CPU, loading
from train.config import InputConfig
from train.errors import CheckpointError, ConfigError
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.loader import Batch, Share
from train.loader import ImageLoader

IMAGES = 96
SMALL: dict[str, Any] = {"crop_px": 16, "device": "cpu", "threads": 1}
SD = (60.0, 61.0, 62.0)


@pytest.fixture(scope="module")
def data(built: Path) -> TrainingSet:
    return open_dataset(built)


def undisturbed(data: TrainingSet, batch_images: int, epochs: int) -> list[list[Batch]]:
    """The global batches of each epoch, by the trainer's loader in one process."""
    config = InputConfig(
        crop_px=16, crop="resized", lighting="off", mean="channel", sd_rgb=SD, threads=1
    )
    with loading(data, config, batch_images=batch_images, seed=3) as loader:
        return [list(loader.epoch(epoch)) for epoch in range(epochs)]


Loaders = dict[tuple[int, int, int], ImageLoader]


@pytest.fixture(scope="module")
def loaders() -> Iterator[Loaders]:
    """Loaders by batch, rank and number of processes; kept, because each new graph takes time."""
    kept: Loaders = {}
    yield kept
    for each in kept.values():
        each.close()


def loader_of(kept: Loaders, built: Path, batch_images: int, rank: int, size: int) -> ImageLoader:
    key = (batch_images, rank, size)
    if key not in kept:
        share = {"rank": rank, "processes": size}
        kept[key] = ImageLoader(built, batch_images=batch_images, seed=3, sd=SD, **share, **SMALL)
    return kept[key]


@pytest.mark.parametrize("part", range(4))
def test_stopped_and_resumed_runs_see_every_image_once_and_the_same_batches(
    built: Path, data: TrainingSet, loaders: Loaders, part: int
) -> None:
    """200 cases: stop at step k in a processes, resume in b; the batches are the undisturbed ones.

    Images are compared to the bit with those of the trainer's loader, which names its records.
    """
    batch_images = (7, 12, 32, 96)[part]
    expected = undisturbed(data, batch_images, 3)
    for batches in expected:
        seen = np.concatenate([batch.record_n for batch in batches])
        assert sorted(seen.tolist()) == list(range(IMAGES))
    steps = len(expected[0])
    draw = random.Random(part)
    for _ in range(50):
        before, after = draw.randint(1, 4), draw.randint(1, 4)
        epoch, stop = draw.randint(0, 1), draw.randint(0, steps)
        parts = []
        for rank in range(before):
            loader = loader_of(loaders, built, batch_images, rank, before)
            loader.set_epoch(epoch + 1)  # away from wherever the last case left it
            loader.set_epoch(epoch)
            parts.append(list(islice(loader, stop)))
            state = loader.state_dict()
        check(parts, expected[epoch][:stop])
        state = json.loads(json.dumps(state))
        parts = []
        for rank in range(after):
            loader = loader_of(loaders, built, batch_images, rank, after)
            loader.load_state_dict(state)
            parts.append(list(loader))
        rest = expected[epoch][stop:] if stop < steps else expected[epoch + 1]
        check(parts, rest)


def check(parts: list[list[tuple[torch.Tensor, torch.Tensor]]], expected: list[Batch]) -> None:
    """The rows of all processes together are the global batches."""
    assert {len(part) for part in parts} == {len(expected)}
    for step, batch in enumerate(expected):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), batch.images)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), batch.labels_n)


WORKER = """
import hashlib, json, os, sys
import torch.distributed as dist
from train.loader import ImageLoader

dest, stop, state, out = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
loader = ImageLoader(dest, batch_images=20, crop_px=16, seed=3, device="cpu", threads=1)
rank = int(os.environ["RANK"])
if os.environ["INITIALISE"]:
    dist.init_process_group("gloo")  # after the loader was made
    rank = dist.get_rank()
    for name in ("RANK", "WORLD_SIZE"):
        del os.environ[name]
if state:
    loader.load_state_dict(state)
rows = []
for images, labels in loader:
    rows.append([hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images])
    if len(rows) == stop:
        break
with open(f"{out}/{rank}", "w") as file:
    json.dump([rows, loader.state_dict()], file)
if os.environ["INITIALISE"]:
    dist.destroy_process_group()
"""


def run_processes(
    dest: Path, size: int, stop: int, state: object, out: Path, initialise: str
) -> tuple[list[list[str]], object]:
    """Start real processes; return the image hashes of each global batch, and the state."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    command = [sys.executable, "-c", WORKER, str(dest), str(stop), json.dumps(state), str(out)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **variables, "RANK": str(rank), "INITIALISE": initialise},
            cwd=Path(__file__).parents[1],
        )
        for rank in range(size)
    ]
    assert [process.wait(300) for process in started] == [0] * size
    shares = [json.loads((out / str(rank)).read_text()) for rank in range(size)]
    states = [share[1] for share in shares]
    assert all(each == states[0] for each in states)
    steps = zip(*(share[0] for share in shares), strict=True)
    return [[row for part in step for row in part] for step in steps], states[0]


def hashes_of_an_epoch(built: Path) -> list[list[str]]:
    loader = ImageLoader(built, batch_images=20, seed=3, **SMALL)
    whole = [[hashlib.sha256(i.numpy().tobytes()).hexdigest() for i in x] for x, _ in loader]
    loader.close()
    assert len(whole) == len(loader) == 5
    return whole


def test_real_processes_share_each_batch_and_resume_in_another_number(
    built: Path, tmp_path: Path
) -> None:
    """torch.distributed, initialised after the loader was made, says which process this is."""
    whole = hashes_of_an_epoch(built)
    first, state = run_processes(built, 2, 2, {}, tmp_path / "first", "gloo")
    assert first == whole[:2]
    rest, state = run_processes(built, 3, 0, state, tmp_path / "rest", "gloo")
    assert rest == whole[2:]
    assert isinstance(state, dict)
    assert (state["epoch"], state["batches"]) == (1, 0)


def test_without_torch_distributed_the_launchers_environment_gives_the_share(
    built: Path, tmp_path: Path
) -> None:
    found, _ = run_processes(built, 2, 0, {}, tmp_path / "all", "")
    assert found == hashes_of_an_epoch(built)


@pytest.fixture
def loader(built: Path) -> Iterator[ImageLoader]:
    made = ImageLoader(built, batch_images=20, seed=3, **SMALL)
    yield made
    made.close()


def first_images(loader: ImageLoader) -> torch.Tensor:
    return next(iter(loader))[0]


def test_each_iteration_is_an_epoch_and_an_untouched_iterator_costs_none(
    loader: ImageLoader,
) -> None:
    epochs = [torch.cat([images for images, _ in loader]) for _ in range(2)]
    assert loader.epoch == 2
    assert not torch.equal(epochs[0], epochs[1])
    loader.set_epoch(0)
    iter(loader), iter(loader)
    assert torch.equal(first_images(loader), epochs[0][:20])  # an epoch that is abandoned
    assert loader.state_dict()["batches"] == 1
    assert torch.equal(first_images(loader), epochs[1][:20])
    loader.set_epoch(1)
    assert torch.equal(first_images(loader), epochs[1][:20])


def test_a_state_counts_delivered_batches_only(loader: ImageLoader) -> None:
    for step, _ in enumerate(loader, start=1):
        state = loader.state_dict()
        assert (state["epoch"], state["batches"]) == ((0, step) if step < 5 else (1, 0))


def test_setting_the_epoch_of_a_loaded_state_keeps_its_position(
    built: Path, loader: ImageLoader
) -> None:
    """Loops that set the epoch before each iteration resume in the middle of one."""
    list(islice(loader, 3))
    other = ImageLoader(built, batch_images=20, seed=3, **SMALL)
    other.load_state_dict(loader.state_dict())
    other.set_epoch(0)
    assert len(list(other)) == 2
    other.load_state_dict(loader.state_dict())
    other.set_epoch(1)
    assert len(list(other)) == 5
    other.close()


def test_a_loader_can_be_sent_to_another_process(loader: ImageLoader) -> None:
    list(islice(loader, 3))
    copy = pickle.loads(pickle.dumps(loader))
    assert copy.state_dict() == loader.state_dict()
    copy.close()


def test_short_last_batches_can_be_dropped(built: Path) -> None:
    dropping = ImageLoader(built, batch_images=20, drop_last=True, **SMALL)
    assert len(dropping) == 4
    assert [len(images) for images, _ in dropping] == [20] * 4
    assert (dropping.epoch, dropping.state_dict()["batches"]) == (1, 0)
    assert [len(images) for images, _ in dropping] == [20] * 4
    dropping.close()


def test_a_validation_split_is_neither_shuffled_nor_augmented(
    built: Path, data: TrainingSet
) -> None:
    loader = ImageLoader(built, split="val", batch_images=10, crop_px=224, device="cpu")
    images = torch.cat([x for x, _ in loader])
    assert torch.equal(torch.cat([x for x, _ in loader]), images)
    loader.close()
    assert len(images) == loader.images == data.records("val")
    config = InputConfig(crop="centre", flip=False, lighting="off", shuffle=False, mean="none")
    from train.feed.loader import EvalLoader

    plain = EvalLoader(data, config, Share(0, 1), batch_images=10, device=CPU)
    levels = torch.cat([batch.images_v[0] for batch in plain])
    plain.close()
    mean = torch.tensor(data.pca.mean_rgb)[:, None, None]
    sd = torch.tensor(np.sqrt((data.pca.eigenvectors**2) @ data.pca.eigenvalues))[:, None, None]
    torch.testing.assert_close(images, ((levels - mean) / sd).float(), atol=1e-4, rtol=1e-4)


def test_default_images_are_standardised(built: Path) -> None:
    loader = ImageLoader(built, augmentation="none", crop_px=256, device="cpu")
    images = torch.cat([x for x, _ in loader])
    loader.close()
    assert images.is_contiguous()
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=0.01, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), atol=0.01, rtol=0)


def test_the_papers_augmentation_gives_the_trainers_batches(built: Path, data: TrainingSet) -> None:
    with loading(data, InputConfig(crop_px=32, threads=1), batch_images=20, seed=3) as trainer:
        expected = [batch.images for batch in trainer.epoch(0)]
    loader = ImageLoader(
        built,
        batch_images=20,
        augmentation="paper",
        crop_px=32,
        mean="image",
        sd=None,
        seed=3,
        memory_format="channels-last",
        device="cpu",
    )
    for (images, _), batch in zip(loader, expected, strict=True):
        assert torch.equal(images, batch)
        assert images.is_contiguous(memory_format=torch.channels_last)
    loader.close()


def test_types_by_name_or_of_torch(built: Path) -> None:
    for dtype in ("bfloat16", torch.bfloat16):
        loader = ImageLoader(built, dtype=dtype, batch_images=4, **SMALL)
        assert first_images(loader).dtype == torch.bfloat16
        loader.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 3}, "unknown setting 'batch': choose from split, batch_images, crop_px"),
        ({"batch_images": 0}, "batch_images must be a whole number of at least 1; got 0"),
        ({"batch_images": "8"}, "batch_images must be a whole number of at least 1; got '8'"),
        ({"seed": -1}, "seed must be a whole number of at least 0; got -1"),
        ({"split": "test"}, "split 'test' has no images in .*: the dataset has train, val"),
        ({"split": 3}, "split must be a name; got 3"),
        ({"augmentation": "new"}, "augmentation must be one of modern, paper, none; got 'new'"),
        ({"mean": (0.485, 0.456, 0.406)}, r"mean is given in levels \(0-255\), .* multiply by 255"),
        ({"sd": (0.229, 0.224, 0.225)}, "sd is given in levels"),
        ({"mean": "dataset"}, "mean must be one of channels, image, three values, None; got"),
        ({"mean": (1, 2)}, r"mean must be 3 numbers; got \(1, 2\)"),
        ({"mean": (1, 2, 300)}, "mean_rgb must be three numbers from 0 to 255"),
        ({"sd": "image"}, "sd must be one of channels, three values, None; got 'image'"),
        ({"crop_px": 257}, "crop_px must be at most 256, the size of the records; got 257"),
        ({"crop_area": 0.5}, "crop_area must be 2 numbers; got 0.5"),
        ({"crop_area": (0, 1)}, "crop_area must be two numbers in increasing order, above 0"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16; got 'int8'"),
        ({"memory_format": "NCHW"}, "memory_format must be one of channels-last, channels-first"),
        ({"device": "tpu9"}, "device must be cpu or cuda"),
        ({"device": "mps"}, "device must be cpu or cuda"),
        ({"shuffle": "yes"}, "shuffle must be True or False; got 'yes'"),
        ({"drop_last": True, "batch_images": 100}, "drop_last leaves no batch: the split has 96"),
        ({"rank": 0}, "rank and processes go together: give both or neither"),
        ({"threads": 0}, "threads must be a whole number of at least 1; got 0"),
    ],
)
def test_wrong_settings_are_refused(built: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageLoader(built, **{"device": "cpu", **settings})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "f00"}, "belongs to another dataset: its fingerprint is f00, this one's is"),
        ({"version": 9}, "has version 9; this imgprep reads version 1"),
        ({"settings": None}, "it has no settings"),
        ({"settings": {}}, "saved with split = None, and this loader has 'train'"),
        ({"epoch": -1}, "malformed: epoch -1, batches 2 of 5"),
        ({"epoch": True}, "malformed: epoch True"),
        ({"epoch": 10**30}, "malformed: epoch 1000"),
        ({"batches": 5}, "malformed: epoch 0, batches 5 of 5"),
        ({"batches": "2"}, "malformed: epoch 0, batches '2' of 5"),
    ],
)
def test_foreign_and_malformed_states_are_refused(
    loader: ImageLoader, changes: dict[str, object], message: str
) -> None:
    list(islice(loader, 2))
    state = {**loader.state_dict(), **changes}
    with pytest.raises(CheckpointError, match=message):
        loader.load_state_dict(state)
    assert loader.state_dict()["batches"] == 2
    with pytest.raises(CheckpointError, match="not a state of an ImageLoader"):
        loader.load_state_dict([state])  # type: ignore[arg-type]


def test_a_state_of_other_settings_is_refused_but_types_and_threads_may_change(
    built: Path, loader: ImageLoader
) -> None:
    state = loader.state_dict()
    other = ImageLoader(built, batch_images=24, seed=3, **SMALL)
    with pytest.raises(CheckpointError, match=r"saved with batch_images = 20, .* has 24: set it b"):
        other.load_state_dict(state)
    free: dict[str, Any] = {"dtype": "float16", "memory_format": "channels-last", "threads": 2}
    ImageLoader(built, batch_images=20, seed=3, **{**SMALL, **free}).load_state_dict(state)


def test_a_wrong_epoch_is_refused(loader: ImageLoader) -> None:
    for epoch in (-1, 1.5, "2", True):
        with pytest.raises(ConfigError, match="epoch must be a whole number of at least 0; got"):
            loader.set_epoch(epoch)  # type: ignore[arg-type]
