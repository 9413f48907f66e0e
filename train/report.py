"""All that the page of a run shows, worked out: ``train.report_page`` only lays it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgprep.recordfile import record_pixels
from train.choose import choose_records, sample_records
from train.compatible import check_dataset
from train.confusion import Confusion, ConfusionCounter
from train.dataset import TrainingSet, open_dataset
from train.errors import DataError
from train.evaluate import Evaluation, evaluate
from train.feed.loader import EvalLoader, Share
from train.feed.records import RecordReader
from train.guesses import Guesses, GuessKeeper
from train.launch import find_hardware
from train.measure import device_for, saved_net
from train.neighbours import Neighbourhood, features_of, nearest
from train.net.memory import keep_pages
from train.run_state import RunState, dataset_of, read_run

PHOTOS = 8
"""Photographs whose best classes are shown, as many as in the paper's figure 4."""
ASKED = 5
"""Photographs whose neighbours are shown, as many as there."""
ALONE = Share(0, 1)

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRequest:
    """What to report on."""

    run: Path
    dataset: str | None = None
    """None: where it lay when the run was started."""
    split: str = "val"
    device: str = "auto"
    seed: int = 0
    """Picks the photographs, and the training records that neighbours are looked for in."""
    sample: int = 2000
    """Training records that neighbours are looked for in; all, if there are fewer."""
    batch_images: int = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measured:
    """What the network of a run makes of a split."""

    data: TrainingSet
    split: str
    device: str
    seed: int
    evaluation: Evaluation
    confusion: Confusion
    guesses: list[Guesses]
    neighbourhoods: list[Neighbourhood]
    """Records asked for are of ``split``, their neighbours of train."""
    sample: int
    """Training records that neighbours were looked for in."""
    units: int
    """Length of the vectors compared."""
    pictures: dict[tuple[str, int], Picture]
    """Central crops, as the network saw them, by split and record."""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            **self.evaluation.to_json(),
            "split": self.split,
            "seed": self.seed,
            "confusion": {
                "images": self.confusion.images,
                "worst": self.confusion.worst(10),
                "pairs": [
                    {"class": p.true, "taken_for": p.taken_for, "images": p.images, "of": p.of}
                    for p in self.confusion.pairs(10)
                ],
            },
            "photos": [
                {
                    "record": each.record,
                    "label": each.label,
                    "best": [[guess.label, guess.probability] for guess in each.best],
                }
                for each in self.guesses
            ],
            "neighbours": {
                "among": self.sample,
                "units": self.units,
                "photos": [
                    {
                        "record": each.record,
                        "label": each.label,
                        "nearest": [[n.record, n.label, n.distance] for n in each.nearest],
                    }
                    for each in self.neighbourhoods
                ],
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunReport:
    """A run, and what its network does; nothing measured before the first checkpoint."""

    state: RunState
    measured: Measured | None

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        measured = None if self.measured is None else self.measured.to_json()
        return {**self.state.to_json(), "measured": measured}


def make_report(
    request: ReportRequest, line: Callable[[str], None] = lambda text: None
) -> RunReport:
    """Read the run, and measure its network on its dataset. ``line`` is told how it goes on.

    Raises:
        CheckpointError: no run is here, it is damaged, or it was trained on another dataset.
        ConfigError: it is not known where the dataset lies, or the device is not here.
        DataError, FormatError: the dataset cannot be read, or has no such split.
    """
    state = read_run(request.run)
    if state.saved is None:
        return RunReport(state=state, measured=None)
    data = open_dataset(dataset_of(state, request.dataset))
    check_dataset(state.saved, data.fingerprint)
    if not data.records(request.split):
        raise DataError(
            f"{data.location}: no records in split {request.split!r}; name another with --split"
        )
    return RunReport(state=state, measured=_measure(state, data, request, line))


@torch.no_grad()
def _measure(
    state: RunState, data: TrainingSet, request: ReportRequest, line: Callable[[str], None]
) -> Measured:
    assert state.saved is not None
    hardware = find_hardware()
    device = device_for(request.device, hardware.gpus)
    if device.type == "cpu":
        torch.set_num_threads(hardware.cores)
        keep_pages()
    net = saved_net(state.saved, state.config, data, device)
    reader = RecordReader(data, request.split)
    loaders = _loaders(state, data, request, device)
    try:
        photos, asked = (
            choose_records(reader, count, seed=request.seed, name=f"report-{name}")
            for name, count in (("photos", PHOTOS), ("neighbours", ASKED))
        )
        line(f"measuring {state.saved_name} on {data.records(request.split):,} photographs")
        confusion, keeper = ConfusionCounter(), GuessKeeper(photos)

        def watch(record_n: NDArray[np.int64], probability_nk: Tensor, labels_n: Tensor) -> None:
            confusion.add(probability_nk, labels_n)
            keeper.add(record_n, probability_nk, labels_n)

        evaluation = evaluate(
            (net,), loaders[request.split], count=data.records(request.split), watch=watch
        )
        pool = sample_records(
            data.records("train"), request.sample, seed=request.seed, name="report-pool"
        )
        line(f"looking for neighbours among {len(pool):,} training photographs")
        wanted = features_of(net, loaders[request.split].pick(asked))
        found = nearest(wanted, features_of(net, loaders["train"].pick(pool)))
        near = sorted({each.record for one in found for each in one.nearest})
        pictures = {
            **_pictures(data, request.split, {*photos.tolist(), *asked.tolist()}, state),
            **_pictures(data, "train", near, state),
        }
    finally:
        reader.close()
        for loader in loaders.values():
            loader.close()
    return Measured(
        data=data,
        split=request.split,
        device=str(device),
        seed=request.seed,
        evaluation=evaluation,
        confusion=confusion.total(),
        guesses=keeper.total(),
        neighbourhoods=found,
        sample=len(pool),
        units=wanted.vectors_nd.shape[1],
        pictures=pictures,
    )


def _loaders(
    state: RunState, data: TrainingSet, request: ReportRequest, device: torch.device
) -> dict[str, EvalLoader]:
    """Of the split that is shown, and of the one that neighbours come from."""
    return {
        split: EvalLoader(
            data,
            state.config.input,
            ALONE,
            batch_images=request.batch_images,
            device=device,
            split=split,
        )
        for split in {request.split, "train"}
    }


def _pictures(
    data: TrainingSet, split: str, records: Iterable[int], state: RunState
) -> dict[tuple[str, int], Picture]:
    """The central crop of each record."""
    crop = state.config.input.crop_px
    low = (data.size_px - crop) // 2
    reader = RecordReader(data, split)
    try:
        found = {}
        for record in sorted(records):
            (read,) = reader.read([record])
            pixels = record_pixels(read.content, data.encoding, data.size_px)
            found[split, record] = pixels[low : low + crop, low : low + crop]
        return found
    finally:
        reader.close()
