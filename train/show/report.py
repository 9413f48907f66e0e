"""Measure everything that the page of a run shows; ``train.show.report_page`` lays it out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.errors import DataError
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.loader import EvalLoader, Share
from train.feed.records import RecordReader
from train.feed.remote.shards import sequential
from train.run.evaluate import Evaluation, evaluate
from train.saved.compatible import check_dataset
from train.show.choose import choose_records, sample_records
from train.show.confusion import Confusion, ConfusionCounter
from train.show.guesses import Guesses, GuessKeeper
from train.show.measure import ready_device, saved_net
from train.show.neighbours import Neighbourhood, features_of, nearest
from train.show.run_state import RunState, dataset_of, read_run
from train.show.stored import central_crop

PHOTOS = 8
"""Photographs shown with their best classes, as many as in the paper's figure 4."""
ASKED = 5
"""Photographs shown with their neighbours, as many as in that figure."""
ALONE = Share(0, 1)

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRequest:
    """What to report on."""

    run: Path
    dataset: str | None = None
    """None: where it was when the run started."""
    split: str = "val"
    device: str = "auto"
    seed: int = 0
    """Chooses the photographs and the training records that are searched for neighbours."""
    sample: int = 2000
    """Training records to search for neighbours; all, if there are fewer."""
    batch_images: int = 64
    cache_folder: str | None = None
    """For a dataset at a URL, as in ``InputConfig``."""
    cache_gib: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measured:
    """What the network of a run does on a split."""

    data: TrainingSet
    split: str
    device: str
    seed: int
    evaluation: Evaluation
    confusion: Confusion
    guesses: list[Guesses]
    neighbourhoods: list[Neighbourhood]
    """The records are of ``split``, their neighbours of train."""
    sample: int
    """Training records that were searched for neighbours."""
    units: int
    """Length of the compared vectors."""
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
    """A run and what its network does; ``measured`` is None before the first checkpoint."""

    state: RunState
    measured: Measured | None

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        measured = None if self.measured is None else self.measured.to_json()
        return {**self.state.to_json(), "measured": measured}


def make_report(
    request: ReportRequest, line: Callable[[str], None] = lambda text: None
) -> RunReport:
    """Read the run and measure its network on its dataset; ``line`` gets lines of progress.

    Raises:
        CheckpointError: the folder holds no run, or its checkpoint is damaged or was trained on
            another dataset.
        ConfigError: the location of the dataset is unknown, or this machine lacks the device.
        DataError, FormatError: the dataset cannot be read, or has no such split.
    """
    state = read_run(request.run)
    if state.saved is None:
        return RunReport(state=state, measured=None)
    data = open_dataset(dataset_of(state, request.dataset))
    check_dataset(state.saved, data.fingerprint)
    if not data.records(request.split):
        raise DataError(
            f"{data.location}: split {request.split!r} has no records: name another with --split"
        )
    return RunReport(state=state, measured=_measure(state, data, request, line))


@torch.no_grad()
def _measure(
    state: RunState, data: TrainingSet, request: ReportRequest, line: Callable[[str], None]
) -> Measured:
    assert state.saved is not None
    device = ready_device(request.device)
    net = saved_net(state.saved, state.config, data, device)
    config = state.config.input.with_cache(request.cache_folder, request.cache_gib)
    splits = {request.split, "train"}
    readers = {split: RecordReader(data, split, sequential(config)) for split in splits}
    loaders = {
        split: EvalLoader(
            data, config, ALONE, batch_images=request.batch_images, device=device, split=split
        )
        for split in splits
    }
    with ExitStack() as opened:
        for split in splits:
            opened.callback(readers[split].close)
            opened.callback(loaders[split].close)
        photos, asked = (
            choose_records(readers[request.split], count, seed=request.seed, name=f"report-{name}")
            for name, count in (("photos", PHOTOS), ("neighbours", ASKED))
        )
        line(f"measuring {state.saved_name} on {data.records(request.split):,} photographs")
        confusion, keeper = ConfusionCounter(), GuessKeeper(photos)

        def watch(record_n: NDArray[np.int64], probability_nk: Tensor, labels_n: Tensor) -> None:
            confusion.add(probability_nk, labels_n)
            keeper.add(record_n, probability_nk, labels_n)

        evaluation = evaluate(
            (net,), loaders[request.split], count=data.records(request.split), on_batch=watch
        )
        pool = sample_records(
            readers["train"], request.sample, seed=request.seed, name="report-pool"
        )
        line(f"searching {len(pool):,} training photographs for neighbours")
        wanted = features_of(net, loaders[request.split].pick(asked))
        found = nearest(wanted, features_of(net, loaders["train"].pick(pool)))
        near = {each.record for one in found for each in one.nearest}
        shown = {(request.split, n) for n in (*photos.tolist(), *asked.tolist())}
        shown |= {("train", n) for n in near}
        crop_px = state.config.input.crop_px
        pictures = {
            (split, number): central_crop(data, readers[split], number, crop_px)[1]
            for split, number in sorted(shown)
        }
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
