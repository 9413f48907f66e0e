"""The public loader: one iteration at a time, and threads that end or are missed."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from train.errors import TrainError
from train.feed.feeder import FeedCounters, Stream
from train.loader import ImageLoader

SMALL: dict[str, Any] = {"crop_px": 16, "device": "cpu", "threads": 1}


@pytest.fixture
def loader(built: Path) -> Iterator[ImageLoader]:
    made = ImageLoader(built, batch_images=20, seed=3, **SMALL)
    yield made
    made.close()


def test_an_older_iterator_takes_nothing_from_a_newer_one(loader: ImageLoader) -> None:
    whole = [labels for _, labels in loader]
    loader.set_epoch(0)
    older = iter(loader)
    for _ in range(len(loader)):  # every batch, but not the end of the iteration
        next(older)
    newer = iter(loader)
    taken = [next(newer)]
    del older
    assert len([*taken, *newer]) == len(loader)

    loader.set_epoch(0)
    older = iter(loader)
    next(older)
    loader.load_state_dict(loader.state_dict())
    newer = iter(loader)
    rest = [next(newer)[1]]
    assert next(older, None) is None
    rest += [labels for _, labels in newer]
    assert len(rest) == len(whole) - 1
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[1:], strict=True))


def feeder_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "imgprep-feeder"}


def test_a_loader_that_nobody_refers_to_ends_its_thread(built: Path) -> None:
    before = feeder_threads()
    loader = ImageLoader(built, batch_images=20, **SMALL)
    assert len([*loader]) == len(loader)
    (thread,) = feeder_threads() - before
    del loader
    gc.collect()
    assert not thread.is_alive()


def test_integers_of_numpy_become_json_values(built: Path) -> None:
    loader = ImageLoader(built, batch_images=np.int64(20), seed=np.uint8(7), **SMALL)
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["settings"]["seed"] == 7


FORKED = """
import multiprocessing, sys
from train.loader import ImageLoader

def use() -> None:
    try:
        list(loader)
    except Exception as exc:
        print(type(exc).__name__, exc, flush=True)

loader = ImageLoader(sys.argv[1], batch_images=20, crop_px=16, device="cpu", threads=1)
list(loader)
child = multiprocessing.get_context("fork").Process(target=use)
child.start()
child.join()
loader.close()
"""


def test_a_process_that_was_forked_is_refused(built: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FORKED, str(built)], capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    assert ran.stdout.startswith("ConfigError this loader was used before the process was forked")


def test_a_stream_whose_thread_has_ended_is_not_waited_for() -> None:
    stream = Stream(FeedCounters())
    stream.thread = threading.Thread(target=lambda: None)
    stream.thread.start()
    stream.thread.join()
    with pytest.raises(TrainError, match="the thread that makes the batches is gone"):
        stream.take()
    assert stream.take() is None
