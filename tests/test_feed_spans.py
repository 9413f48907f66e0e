"""Reading many records into one buffer: the compiled reader and the Python one agree."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from train.config import InputConfig
from train.feed import spans
from train.feed.augment import epoch_draws
from train.feed.dataset import open_dataset
from train.feed.graph import Graph
from train.feed.graph_spec import FeedBatch, graph_spec
from train.feed.records import RecordReader
from train.feed.spans import new_buffer, read_spans

COMPILED = pytest.mark.skipif(spans._pread is None, reason="the compiled reader is not built")


@pytest.fixture(params=["compiled", "python"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the compiled code, then by Python."""
    if request.param == "python":
        monkeypatch.setattr(spans, "_pread", None)
    elif spans._pread is None:
        pytest.skip("the compiled reader is not built")


@pytest.mark.usefixtures("either")
def test_a_batch_holds_the_records_in_the_order_asked_for(built: Path) -> None:
    reader = RecordReader(open_dataset(built), "train")
    record_n = np.random.default_rng(0).permutation(len(reader))
    plan = reader.plan(record_n)
    reader.prefetch(plan)
    batch = reader.read_batch(plan, new_buffer)
    for row, number in enumerate(record_n.tolist()):
        (record,) = reader.read([number])
        assert batch.content(row) == record.content
        assert batch.labels_n[row] == record.label
    shards = [shard for shard, _, _ in plan.parts]
    in_order = [reader.shard_of(number) for number in record_n.tolist()]
    assert shards == list(dict.fromkeys(in_order)), "in the order of their first record"
    assert len(reader.read_batch(reader.plan(record_n[:0]), new_buffer)) == 0
    reader.close()


@pytest.mark.usefixtures("either")
def test_the_span_that_cannot_be_read_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    span_s = np.array([[0, 10, 0], [90, 10, 10], [95, 10, 20]], np.int64)
    buffer = np.zeros(30, np.uint8)
    file = os.open(path, os.O_RDONLY)
    assert read_spans(file, span_s, 0, 2, buffer) == (2, 0)
    assert buffer.tolist()[:20] == [*range(10), *range(90, 100)]
    assert read_spans(file, span_s, 0, 3, buffer) == (2, 0), "the file ends within the last span"
    os.close(file)
    stopped, error = read_spans(file, span_s, 1, 3, buffer)
    assert (stopped, os.strerror(error)) == (1, "Bad file descriptor")


@COMPILED
def test_records_have_no_python_calls_of_their_own(built: Path) -> None:
    """A batch costs as many calls with 96 records as with 8, apart from one for each shard."""
    data = open_dataset(built)
    config = InputConfig(crop_px=32, threads=1)
    reader = RecordReader(data, "train")
    graph = Graph(graph_spec(data, config, batch_images=96, lighting=True), "cpu", None)
    draws = epoch_draws(config, data.pca, data.size_px, 96, seed=0, epoch=0)

    def make(n: int) -> None:
        records = reader.read_batch(reader.plan(np.arange(n)), new_buffer)
        graph.submit(FeedBatch(records=records, draws=draws.rows(0, n)))
        graph.collect()

    def calls(n: int) -> int:
        total = 0

        def count(_: object, event: str, __: object) -> None:
            nonlocal total
            total += event in ("call", "c_call")

        make(n)  # so that files are open and headers known
        sys.setprofile(count)
        try:
            make(n)
        finally:
            sys.setprofile(None)
        return total

    assert calls(96) - calls(8) < 10 * len(reader.shard_records) < 96 - 8
    reader.close()


@COMPILED
@pytest.mark.parametrize(
    "span",
    [(0, 31, 0), (0, 10, 21), (0, -1, 0), (-1, 1, 0), (0, 1, -1), (2**63 - 1, 2, 0), (0, 2**62, 9)],
)
def test_spans_outside_the_buffer_are_refused(tmp_path: Path, span: tuple[int, int, int]) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    file = os.open(tmp_path / "file", os.O_RDONLY)
    span_s, buffer = np.array([span], np.int64), np.zeros(30, np.uint8)
    with pytest.raises(ValueError, match="outside the buffer"):
        read_spans(file, span_s, 0, 1, buffer)
    with pytest.raises(ValueError, match="list of spans"):
        read_spans(file, np.zeros((1, 3), np.int64), 0, 2, buffer)
    os.close(file)
