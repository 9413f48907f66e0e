"""The loaders that bench_input compares: each takes a task and yields epochs without end.

All give the same tensors: float32, (n, 3, crop, crop) in channels-last order, cropped, mirrored,
with the central mean window subtracted and lighting noise added, divided (``source``) or not
(``paper``).
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from train.config import InputConfig
from train.feed.augment import EpochDraws, epoch_draws
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.graph import QUEUED_RUNS, Graph
from train.feed.graph_spec import FeedBatch, graph_spec, with_threads
from train.feed.loader import Share, TrainLoader
from train.feed.records import RecordReader
from train.feed.spans import RecordBatch, new_buffer

PRESETS = {
    "paper": InputConfig(),
    "source": InputConfig(crop_chunk=32, lighting="sqrt-eigenvalue", lighting_divide=True),
}
PROCESSES = 2
"""Workers on a CPU."""


@dataclass(frozen=True)
class Task:
    """The dataset to load, and how."""

    dataset: Path
    preset: str
    batch_images: int
    device: str = "cpu"
    """``cpu`` or ``cuda``: where the tensors are wanted."""

    @cached_property
    def data(self) -> TrainingSet:
        return open_dataset(self.dataset)

    @property
    def config(self) -> InputConfig:
        return replace(PRESETS[self.preset], threads=self.workers)

    @property
    def workers(self) -> int:
        """Threads of DALI, and worker processes of the others."""
        if self.device == "cpu":
            return PROCESSES
        return with_threads(PRESETS[self.preset], self.device).threads or 1

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cuda", 0) if self.device == "cuda" else torch.device("cpu")

    @cached_property
    def draws(self) -> EpochDraws:
        """Drawn in advance, so that the other loaders spend no time on it."""
        n = self.data.records("train")
        return epoch_draws(self.config, self.data.pca, self.data.size_px, n, seed=0, epoch=0)

    @cached_property
    def mean_window(self) -> NDArray[np.float32]:
        low = (self.data.size_px - self.config.crop_px) // 2
        high = low + self.config.crop_px
        return np.ascontiguousarray(self.data.mean_image_hwc[low:high, low:high])

    def records(self) -> list[bytes]:
        reader = RecordReader(self.data, "train")
        contents = [record.content for record in reader.read(range(len(reader)))]
        reader.close()
        return contents

    def batches(self) -> list[tuple[int, RecordBatch]]:
        """All records in batches, each with the number of its first record."""
        reader = RecordReader(self.data, "train")
        numbers = np.arange(len(reader))
        size = self.batch_images
        batches = [
            (low, reader.read_batch(reader.plan(numbers[low : low + size]), new_buffer))
            for low in range(0, len(reader), size)
        ]
        reader.close()
        return batches


def augment(task: Task, image_hwc: NDArray[np.uint8], row: int) -> NDArray[np.float32]:
    """The same augmentation in numpy, in as few passes as possible; ``row`` selects the draws."""
    draws, crop = task.draws, task.config.crop_px
    y, x = draws.crop_yx[row].tolist()
    part = image_hwc[y : y + crop, x : x + crop]
    if draws.flip[row]:
        part = part[:, ::-1]
    out = np.subtract(part, task.mean_window, dtype=np.float32)
    out += draws.lighting_rgb[row]
    if task.config.lighting_divide:
        out *= np.float32(1 / (1 + task.config.lighting_sd))
    return out


def decode_with_pillow(content: bytes) -> NDArray[np.uint8]:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def decode_with_simplejpeg(content: bytes) -> NDArray[np.uint8]:
    import simplejpeg

    return np.asarray(simplejpeg.decode_jpeg(content))


Decode = Callable[[bytes], NDArray[np.uint8]]
Epochs = Iterator[Iterator[int]]
"""Epochs; each yields the number of images of its batches."""


def ours(task: Task) -> Epochs:
    """``train.feed``, as the trainer uses it, reading from the shards."""
    loader = TrainLoader(
        task.data,
        task.config,
        Share(0, 1),
        batch_images=task.batch_images,
        seed=0,
        device=task.torch_device,
    )
    epoch = 0
    while True:
        yield (len(batch.images) for batch in loader.epoch(epoch))
        epoch += 1


def dali_alone(task: Task) -> Epochs:
    """What DALI's own nodes do: its reader, its decoder, its random crops and mirrors, in one pass
    with one mean per channel. Neither the paper's mean window nor its lighting noise."""
    from nvidia.dali import Pipeline, fn, types

    on_gpu = task.device == "cuda"
    paths = task.data.index.shard_paths("train")
    pipeline = Pipeline(task.batch_images, task.workers, 0 if on_gpu else None)
    with pipeline:
        jpeg, _ = fn.readers.webdataset(
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=["jpg", "cls"],
            missing_component_behavior="error",
            random_shuffle=True,
            name="reader",
        )
        image = fn.decoders.image(jpeg, device="mixed" if on_gpu else "cpu", output_type=types.RGB)
        pipeline.set_outputs(
            fn.crop_mirror_normalize(
                image,
                crop=(task.config.crop_px, task.config.crop_px),
                crop_pos_x=fn.random.uniform(range=(0.0, 1.0)),
                crop_pos_y=fn.random.uniform(range=(0.0, 1.0)),
                mirror=fn.random.coin_flip(),
                mean=[123.0, 116.0, 103.0],
                dtype=types.FLOAT,
                output_layout="HWC",
            )
        )
    pipeline.build()
    batches = task.data.records("train") // task.batch_images
    while True:
        yield (len(pipeline.run()[0]) for _ in range(batches))


def graph_alone(task: Task, *, noise: bool = True) -> Epochs:
    """The DALI graph on records in memory, without reading or copying to torch."""
    spec = graph_spec(task.data, task.config, batch_images=task.batch_images, lighting=noise)
    graph, batches = Graph(spec, "cpu", None), task.batches()

    def epoch() -> Iterator[int]:
        for low, records in batches:
            graph.submit(FeedBatch(records=records, draws=task.draws.rows(low, low + len(records))))
            while graph.pending > QUEUED_RUNS:
                yield graph.collect()[0].shape()[0]
        while graph.pending:
            yield graph.collect()[0].shape()[0]

    while True:
        yield epoch()


def dali_decode(task: Task, *, flip: bool) -> Epochs:
    """The first nodes of the graph: crop while decoding, and mirror; the output is uint8."""
    from nvidia.dali import Pipeline, fn

    crop, contents = task.config.crop_px, task.records()
    pipeline = Pipeline(task.batch_images, PROCESSES, None, prefetch_queue_depth=1)
    with pipeline:
        image = fn.decoders.image_slice(
            fn.external_source(name="record", no_copy=True),
            start=fn.external_source(name="corner", no_copy=True),
            shape=[crop, crop],
            axes=[0, 1],
            jpeg_fancy_upsampling=True,
        )
        if flip:
            image = fn.flip(image, horizontal=fn.external_source(name="flip", no_copy=True))
        pipeline.set_outputs(image)
    pipeline.build()
    under: deque[object] = deque()

    def collect() -> int:
        images = len(pipeline.share_outputs()[0])
        pipeline.release_outputs()
        under.popleft()
        return images

    def epoch() -> Iterator[int]:
        for low in range(0, len(contents), task.batch_images):
            part = slice(low, low + task.batch_images)
            feeds: dict[str, Any] = {
                "record": [np.frombuffer(content, np.uint8) for content in contents[part]],
                "corner": np.ascontiguousarray(task.draws.crop_yx[part]),
            }
            if flip:
                feeds["flip"] = task.draws.flip[part].astype(np.int32)
            for name, value in feeds.items():
                pipeline.feed_input(name, value)
            pipeline.schedule_run()
            under.append(feeds)
            while len(under) > QUEUED_RUNS:
                yield collect()
        while under:
            yield collect()

    while True:
        yield epoch()


class _Records(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A map-style dataset over the shards, written as usual for torch."""

    def __init__(self, task: Task, decode: Decode) -> None:
        self._task, self._decode = task, decode
        self._reader = RecordReader(task.data, "train")
        _ = task.draws, task.mean_window  # before the workers are forked

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        (record,) = self._reader.read([index])
        pixels = augment(self._task, self._decode(record.content), index)
        return torch.from_numpy(pixels), record.label


def torch_loader(task: Task, decode: Decode) -> Epochs:
    """torch's DataLoader with two workers."""
    loader: Any = torch.utils.data.DataLoader(
        _Records(task, decode),
        batch_size=task.batch_images,
        shuffle=True,
        num_workers=task.workers,
        persistent_workers=True,
        pin_memory=task.device == "cuda",
    )
    device = task.torch_device
    while True:
        yield (
            len(images.to(device, non_blocking=True).permute(0, 3, 1, 2)) for images, _ in loader
        )


def webdataset_loader(task: Task, decode: Decode) -> Epochs:
    """The webdataset package reading the same shards, with two workers."""
    import webdataset as wds

    shards = [str(path) for path in task.data.index.shard_paths("train")]

    def sample(record: dict[str, Any]) -> tuple[torch.Tensor, int]:
        row = int(record["__key__"].rpartition("-")[2]) % len(task.draws)
        return torch.from_numpy(augment(task, decode(record["jpg"]), row)), int(record["cls"])

    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards), seed=0, workersplitter=wds.split_by_worker)
        .shuffle(1000)
        .map(sample)
        .batched(task.batch_images, partial=True)
    )
    _ = task.draws, task.mean_window
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=PROCESSES, persistent_workers=True)
    while True:
        yield (len(images.permute(0, 3, 1, 2)) for images, _ in loader)


def decode_alone(task: Task) -> Epochs:
    """The upper bound: decoding and nothing else, in two processes that share nothing."""
    contents = task.records()
    context = multiprocessing.get_context("fork")
    with context.Pool(PROCESSES, keep, (contents,)) as pool:
        spans = [
            (low, min(low + task.batch_images, len(contents)))
            for low in range(0, len(contents), task.batch_images)
        ]
        while True:
            yield pool.imap_unordered(decode_span, spans)


_contents: list[bytes] = []


def keep(contents: list[bytes]) -> None:
    """Begin a process of ``decode_span``: contents come with the fork, so nothing is sent."""
    _contents.extend(contents)


def decode_span(span: tuple[int, int]) -> int:
    """Decode contents from the first place up to the second; returns how many."""
    import simplejpeg

    out = np.empty((256, 256, 3), np.uint8)
    for content in _contents[slice(*span)]:
        simplejpeg.decode_jpeg(content, buffer=out)
    return span[1] - span[0]


LOADERS: dict[str, Callable[[Task], Epochs]] = {
    "ours": ours,
    "dali-alone": dali_alone,
    "torch-pillow": lambda task: torch_loader(task, decode_with_pillow),
    "torch-simplejpeg": lambda task: torch_loader(task, decode_with_simplejpeg),
    "webdataset-pillow": lambda task: webdataset_loader(task, decode_with_pillow),
    "decode-alone": decode_alone,
    "graph": graph_alone,
    "graph-to-mean": lambda task: graph_alone(task, noise=False),
    "graph-to-flip": lambda task: dali_decode(task, flip=True),
    "graph-decode": lambda task: dali_decode(task, flip=False),
}
