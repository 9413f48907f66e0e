"""Equal seeds give equal batches for any division of work; exact resume; clean shutdown."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.feeding import CPU, SMALL, joined, loading
from tests.objectstore import wait_until
from train.config import FloatType
from train.errors import ConfigError, DataError
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.feeder import READY_BATCHES
from train.feed.loader import Batch, EvalLoader, Share, TrainLoader


@pytest.fixture(scope="module")
def data(built: Path) -> TrainingSet:
    return open_dataset(built)


def run_epoch(data: TrainingSet, epoch: int = 1, **options: object) -> list[Batch]:
    with loading(data, **options) as loader:  # type: ignore[arg-type]
        return list(loader.epoch(epoch))


def feeders() -> int:
    return sum(thread.name == "imgprep-feeder" for thread in threading.enumerate())


def test_threads_do_not_change_a_batch(data: TrainingSet) -> None:
    one = joined(run_epoch(data, config=replace(SMALL, threads=1)))
    three = joined(run_epoch(data, config=replace(SMALL, threads=3)))
    for left, right in zip(one, three, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("batch_images", [1, 7, 32, 500])
def test_batch_size_does_not_change_an_image(data: TrainingSet, batch_images: int) -> None:
    whole = joined(run_epoch(data, batch_images=96))
    batches = run_epoch(data, batch_images=batch_images)
    for left, right in zip(whole, joined(batches), strict=True):
        np.testing.assert_array_equal(left, right)
    sizes = [batch.global_images for batch in batches]
    assert sum(sizes) == 96
    assert set(sizes[:-1]) <= {batch_images}


@pytest.mark.parametrize("size", [2, 3, 40])
def test_world_size_does_not_change_a_global_batch(data: TrainingSet, size: int) -> None:
    """With 40 processes and 9 or 6 rows most have no rows, but still yield a batch in each step."""
    whole = run_epoch(data, batch_images=9)
    shares = [
        run_epoch(data, share=Share(rank, size), batch_images=9)
        for rank in (range(size) if size < 9 else (0, 1, 21, 39))
    ]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert {part.global_images for part in parts} == {batch.global_images}
        for part in parts:
            rows = slice(part.first_row, part.first_row + len(part.images))
            torch.testing.assert_close(part.images, batch.images[rows], rtol=0, atol=0)
            assert part.images.shape[1:] == (3, 32, 32)
            np.testing.assert_array_equal(part.record_n, batch.record_n[rows])
            assert part.labels_n.tolist() == batch.labels_n[rows].tolist()
        if size < 9:
            assert sum(len(part.images) for part in parts) == batch.global_images


@pytest.mark.parametrize("first_step", [1, 4, 5, 6])
def test_a_resumed_epoch_yields_the_same_batches(data: TrainingSet, first_step: int) -> None:
    with loading(data, batch_images=20) as loader:
        assert loader.steps_per_epoch == 5
        expected = [*list(loader.epoch(2))[first_step:], *loader.epoch(3)]
    with loading(data, batch_images=20) as loader:
        found = [*loader.epoch(2, first_step), *loader.epoch(3)]
    assert len(found) == len(expected)
    (images, records), (found_images, found_records) = joined(expected), joined(found)
    assert images.tobytes() == found_images.tobytes()
    assert records.tobytes() == found_records.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_images_have_the_type_asked_for_in_channels_last_memory(
    data: TrainingSet, dtype: FloatType
) -> None:
    exact, _ = joined(run_epoch(data))
    batches = run_epoch(data, config=replace(SMALL, dtype=dtype))
    images, _ = joined(batches)
    step = {"float32": 0, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    np.testing.assert_allclose(images, exact, rtol=step, atol=1e-4)
    for batch in batches:
        assert batch.images.dtype == getattr(torch, dtype)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels_n.dtype == torch.int64


def test_a_batch_stays_valid_after_later_batches_and_closing(data: TrainingSet) -> None:
    """The tensors share DALI's memory, which must not be reused while they exist."""
    batches = []
    with loading(data, batch_images=10) as loader:
        for epoch in range(3):
            batches += [(batch.images, batch.images.clone()) for batch in loader.epoch(epoch)]
    gc.collect()
    assert all(torch.equal(kept, copy) for kept, copy in batches)


def test_abandoned_epochs_and_closing_leave_no_thread(data: TrainingSet) -> None:
    before = threading.active_count()
    with loading(data, batch_images=5) as loader:
        for epoch in range(3):
            next(iter(loader.epoch(epoch)))
        first, second = loader.epoch(0), loader.epoch(1)
        next(first)
        assert feeders() == 1
        expected = next(second)
        assert list(first) == []  # the second has ended the first
        assert feeders() == 1
        assert len(list(second)) == 19
        np.testing.assert_array_equal(next(loader.epoch(1)).images, expected.images)
    loader.close()  # closing twice is allowed
    assert feeders() == 0
    del loader, first, second
    gc.collect()
    assert threading.active_count() == before


def test_threads_and_files_do_not_grow_over_epochs(data: TrainingSet) -> None:
    with loading(data, batch_images=16) as loader:
        counts = []
        for epoch in range(3):
            list(loader.epoch(epoch))
            gc.collect()
            files = len(list(Path("/proc/self/fd").iterdir()))
            tasks = len(list(Path("/proc/self/task").iterdir()))
            counts.append((files, tasks))
    assert counts[1] == counts[2]


@pytest.mark.parametrize("size", [1, 2, 5, 30])
@pytest.mark.parametrize("batch_images", [1, 10, 24, 100])
def test_validation_counts_each_record_once(
    data: TrainingSet, size: int, batch_images: int
) -> None:
    seen: list[int] = []
    for rank in range(size):
        loader = EvalLoader(data, SMALL, Share(rank, size), batch_images=batch_images, device=CPU)
        batches = list(loader)
        assert len(loader) == len(batches)
        for batch in batches:
            assert len(batch.images_v) == 1
            assert len(batch.images_v[0]) == len(batch.labels_n) == len(batch.record_n)
            seen += batch.record_n.tolist()
        loader.close()
    assert seen == list(range(data.records("val")))


def test_evaluation_is_the_same_each_time(data: TrainingSet) -> None:
    loader = EvalLoader(data, SMALL, Share(0, 1), batch_images=7, device=CPU)
    first = torch.cat([batch.images_v[0] for batch in loader])
    second = torch.cat([batch.images_v[0] for batch in loader])
    loader.close()
    assert torch.equal(first, second)
    assert feeders() == 0


def test_impossible_loaders_are_refused(data: TrainingSet) -> None:
    with pytest.raises(ConfigError, match="rank must be from 0 to 1; got 2"):
        Share(2, 2)
    with (
        pytest.raises(ConfigError, match="at most 256"),
        loading(data, replace(SMALL, crop_px=300)),
    ):
        pass
    with pytest.raises(DataError, match="no split 'test'"):
        EvalLoader(data, SMALL, Share(0, 1), batch_images=1, device=CPU, split="test")


@pytest.mark.parametrize("validates", [False, True])
def test_an_epoch_begins_with_batches_that_are_ready(data: TrainingSet, validates: bool) -> None:
    """The first batches are computed while the epoch before ends, also during a validation; the
    same thread goes on, and no more than the queue holds is computed."""
    config = replace(SMALL, lighting_stop_epoch=2)
    with loading(data, config, batch_images=20) as loader:
        val = EvalLoader(data, config, Share(0, 1), batch_images=7, device=CPU)
        found = []
        for epoch in range(4):
            if epoch:
                wait_until(lambda: loader.ready == READY_BATCHES)
            waits = loader.counters.waits
            batches = loader.epoch(epoch)
            found += [next(batches) for _ in range(READY_BATCHES)]
            assert loader.counters.waits == waits or epoch == 0
            found += batches
            if validates:
                assert sum(len(batch.labels_n) for batch in val) == data.records("val")
        assert loader.counters.threads == 1
        assert loader.counters.batches == 4 * loader.steps_per_epoch
        val.close()
    restarted = [
        b for epoch in range(4) for b in run_epoch(data, epoch, config=config, batch_images=20)
    ]
    for left, right in zip(joined(found), joined(restarted), strict=True):
        np.testing.assert_array_equal(left, right)


def test_another_epoch_than_the_next_is_computed_anew(data: TrainingSet) -> None:
    with loading(data, batch_images=20) as loader:
        first = list(loader.epoch(0))
        again = list(loader.epoch(0))
        later = list(loader.epoch(5, 2))
        assert loader.counters.threads == 3
        list(loader.epoch(6))
        assert loader.counters.threads == 3
    assert joined(first)[0].tobytes() == joined(again)[0].tobytes()
    np.testing.assert_array_equal(
        joined(later)[0], joined(run_epoch(data, 5, batch_images=20)[2:])[0]
    )


def test_closing_is_prompt_while_batches_wait(data: TrainingSet) -> None:
    loader = TrainLoader(data, SMALL, Share(0, 1), batch_images=20, seed=7, device=CPU)
    list(loader.epoch(0))
    wait_until(lambda: loader.ready == READY_BATCHES)
    loader.close()
    assert feeders() == 0
    assert loader.ready == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("imgprep-plan")]
