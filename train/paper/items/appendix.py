"""Appendix: saturation, both kinds of dropout, PCA step by step, supervised and unsupervised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from imgprep.colour.stats import moments_of
from imgprep.pages.stats_data import cloud
from train.config import Activation, InputConfig, RunConfig
from train.feed.dataset import TrainingSet, open_dataset
from train.net import Net, build_net
from train.paper.ablation import BASELINE, baseline
from train.paper.clusters import Vectors, cluster_all, principal_components, small_pixels
from train.paper.clusters_parts import clusters_chart, clusters_sheets, clusters_table
from train.paper.dropout import dropout_report
from train.paper.dropout_parts import averages_chart, averages_table, signal_table
from train.paper.item import (
    Figure,
    Finished,
    FinishedRun,
    Item,
    ItemResult,
    RunSpec,
    Scale,
    Verdict,
)
from train.paper.pca_parts import climbs_table, pca_charts, pca_table
from train.paper.pca_steps import pca_steps
from train.paper.sample import Sample, network_batches, sample
from train.paper.saturation import NetState, net_state
from train.paper.saturation_parts import saturation_charts, saturation_table
from train.run.error_text import per_cent
from train.saved.compatible import check_dataset
from train.settings import from_json
from train.show.measure import ready_device, saved_net
from train.show.report_page import class_names

SEED = 0
SATURATION_PHOTOS = 32
DROPOUT_PHOTOS = 64
CLOUD_PHOTOS, CLOUD_PIXELS = 32, 1000
CLUSTER_PHOTOS, CLUSTER_CLASSES = 500, 10
OTHERS: tuple[Activation, ...] = tuple(name for name in get_args(Activation) if name != "relu")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Trained:
    """The network that a run ended with, and the dataset that it was trained on."""

    data: TrainingSet
    config: RunConfig
    net: Net
    updates: int

    @classmethod
    def of(cls, run: FinishedRun) -> _Trained:
        """Load it.

        Raises:
            CheckpointError: the checkpoint is damaged, or was trained on another dataset.
            DataError: the dataset cannot be read.
        """
        saved, data = run.checkpoint(), open_dataset(run.dataset)
        check_dataset(saved, data.fingerprint)
        config = from_json(saved.config)
        # A run on a GPU may be analysed on a machine without one.
        device = ready_device("cpu" if config.device == "cpu" else "auto")
        net = saved_net(saved, config, data, device)
        return cls(data=data, config=config, net=net, updates=saved.position.global_step)

    def initial(self) -> Net:
        """Return the same network with its initial weights."""
        return build_net(
            self.config.net,
            classes=self.data.classes,
            devices=self.net.devices,
            columns=False,
            seed=self.config.seed,
            image_px=self.config.input.crop_px,
        )

    def sample(self, split: str, count: int, classes: int | None = None) -> Sample:
        """Draw photographs of the dataset."""
        return sample(self.data, self.config.input, split, count, seed=SEED, classes=classes)

    def batches(self, split: str, taken: Sample) -> Iterator[torch.Tensor]:
        """Yield photographs as the network sees them."""
        return network_batches(self.data, self.config.input, split, taken, self.net.devices[0])

    def labels(self, taken: Sample) -> torch.Tensor:
        """Return the labels on the network's device."""
        return torch.from_numpy(taken.labels_n).to(self.net.devices[0])


def _one_baseline(scale: Scale, seeds: int) -> list[RunSpec]:
    return [baseline(SEED)]


def _nothing(scale: Scale, seeds: int) -> list[RunSpec]:
    return []


def _activations(scale: Scale, seeds: int) -> list[RunSpec]:
    changed = [
        RunSpec(name=f"activation-{name}", settings={"net.activation": name}, seed=SEED)
        for name in OTHERS
    ]
    return [baseline(SEED), *changed]


def _saturation(finished: Finished) -> ItemResult:
    names = (BASELINE, *(f"activation-{name}" for name in OTHERS))
    initial, trained = [], []
    for name in names:
        run = _Trained.of(finished.of(name)[0])
        taken = run.sample("train", SATURATION_PHOTOS)
        images, labels = torch.cat(list(run.batches("train", taken))), run.labels(taken)
        initial.append(net_state(run.initial(), images, labels, updates=0, seed=SEED))
        trained.append(net_state(run.net, images, labels, updates=run.updates, seed=SEED))
    states = [*initial, *trained]
    before, after = saturation_charts(initial), saturation_charts(trained)
    return ItemResult(
        verdict=Verdict(decision="shown", text=_saturation_text(trained)),
        figures=[
            Figure(part=before, caption=before.caption, table=saturation_table(initial)),
            Figure(part=after, caption=after.caption, table=saturation_table(trained)),
        ],
        remarks=[
            "Saturated: the slope of the activation is below 0.25 % of its steepest. A leaky ReLU "
            "has a slope of 1 % where a ReLU has none, so it never counts as saturated."
        ],
        numbers={"nets": [state.to_json() for state in states]},
    )


def _saturation_text(states: list[NetState]) -> str:
    said = []
    for state in states:
        shares = [layer.saturated for layer in state.layers if layer.saturated is not None]
        said.append(f"{state.activation} {per_cent(float(np.mean(shares)), 0)}")
    return (
        f"Saturated values after {states[0].updates:,} updates, mean over the layers: "
        f"{', '.join(said)}."
    )


def _dropout(finished: Finished) -> ItemResult:
    run = _Trained.of(finished.of(BASELINE)[0])
    taken = run.sample("val", DROPOUT_PHOTOS)
    images = torch.cat(list(run.batches("val", taken)))
    found = dropout_report(run.net, images, run.labels(taken), seed=SEED)
    last = found.averages[-1]
    chart = averages_chart(found)
    return ItemResult(
        verdict=Verdict(
            decision="shown",
            text=f"The average over {last.masks:,} masks and the one pass at test give "
            f"{per_cent(last.agreement, 0)} of the photographs the same class. Their logits "
            f"differ by {last.logit_difference:.2g} (RMS); those of a single mask differ by "
            f"{found.averages[0].logit_difference:.2g} from the one pass.",
        ),
        tables=[signal_table(found)],
        figures=[Figure(part=chart, caption=chart.caption, table=averages_table(found))],
        remarks=[
            "Vanilla dropout multiplies by the share of kept units at test, inverted dropout "
            "divides by it in training. Either way the mean of the signal is about the same in "
            "training and at test, but with the same weights inverted dropout passes on more, "
            "by the same factor at each layer. With the next layer's weights reduced by that "
            f"factor both compute the same: the largest difference of a logit is "
            f"{found.equivalent_difference:.1g}."
        ],
        numbers=found.to_json(),
    )


def _pca(finished: Finished) -> ItemResult:
    data = open_dataset(finished.dataset)
    whole = InputConfig(crop_px=data.size_px)
    taken = sample(data, whole, "train", CLOUD_PHOTOS, seed=SEED)
    found = pca_steps(moments_of(data.index), cloud(taken.photographs, CLOUD_PIXELS))
    charts = pca_charts(found)
    unique = [climb.angle_to_reference for climb in found.climbs if climb.is_unique]
    angle = f"by at most {max(unique):.0e} degrees" if unique else "in nothing that is determined"
    return ItemResult(
        verdict=Verdict(
            decision="shown",
            text=f"The axes differ from scikit-learn's {angle}. {found.missing}".strip(),
        ),
        tables=[pca_table(found)],
        figures=[Figure(part=charts, caption=charts.caption, table=climbs_table(found))],
        remarks=[
            "Centre: subtract the mean colour. Climb: multiply the axis by the covariance and "
            "shorten it to length 1, until it stays. Deflate: remove what lies along the axis "
            "found, and climb again."
        ],
        numbers=found.to_json(),
    )


def _unsupervised(finished: Finished) -> ItemResult:
    run = _Trained.of(finished.of(BASELINE)[0])
    taken = run.sample("val", CLUSTER_PHOTOS, CLUSTER_CLASSES)
    pixels = small_pixels(taken.photographs)
    described = {
        "pixels": pixels,
        "PCA features": principal_components(pixels, seed=SEED),
        "untrained fc7": _features(run, run.initial(), taken),
        "trained fc7": _features(run, run.net, taken),
    }
    found = cluster_all(described, taken.labels_n, seed=SEED)
    names = class_names(run.data.labels)
    chart = clusters_chart(found)
    sheets = clusters_sheets(found, taken.photographs, names, taken.labels_n)
    said = ", ".join(f"{each.description} {per_cent(each.purity, 0)}" for each in found)
    return ItemResult(
        verdict=Verdict(
            decision="shown",
            text=f"Purity of the clusters: {said}; at random about "
            f"{per_cent(found[-1].chance_purity, 0)}.",
        ),
        figures=[
            Figure(part=chart, caption=chart.caption, table=clusters_table(found)),
            *(Figure(part=sheet, caption=sheet.caption, table=None) for sheet in sheets),
        ],
        remarks=[
            f"k-means knows no labels. It makes as many clusters as there are classes among "
            f"{len(taken):,} validation photographs. Purity: the share of photographs that have "
            "the most frequent class of their cluster."
        ],
        numbers={"clusterings": [each.to_json() for each in found]},
    )


@torch.no_grad()
def _features(run: _Trained, net: Net, taken: Sample) -> Vectors:
    parts = [net.forward_features(images).cpu().numpy() for images in run.batches("val", taken)]
    vectors: Vectors = np.concatenate(parts)
    return vectors


ITEMS: tuple[Item, ...] = (
    Item(
        id="appendix-saturation",
        title="Appendix: saturating and non-saturating neurons",
        paper="Saturating nonlinearities learn much more slowly by gradient descent than the "
        "non-saturating max(0, x) (3.1).",
        notes="",
        runs=_activations,
        analyse=_saturation,
    ),
    Item(
        id="appendix-dropout",
        title="Appendix: both kinds of dropout",
        paper="Multiplying the outputs by 0.5 at test is a reasonable approximation to the "
        "geometric mean of the predictions of all dropout networks (4.2).",
        notes="",
        runs=_one_baseline,
        analyse=_dropout,
    ),
    Item(
        id="appendix-pca",
        title="Appendix: PCA of the colours, step by step",
        paper="The colour noise is along the principal components of the RGB values (4.1).",
        notes="",
        runs=_nothing,
        analyse=_pca,
    ),
    Item(
        id="appendix-unsupervised",
        title="Appendix: supervised and unsupervised learning",
        paper="The paper uses no unsupervised pre-training, and expects it to help (7).",
        notes="",
        runs=_one_baseline,
        analyse=_unsupervised,
    ),
)
