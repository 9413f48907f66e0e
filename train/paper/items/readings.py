"""The two readings: each difference between the paper's text and the author's source, alone.

The baseline has the source's settings; each group of runs changes one of them to what the paper
says. Where the scale already has the paper's value (short runs need a crop for each image and a new
order in each epoch), the group has the source's instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imgprep.pages.page import Table
from imgprep.wording import counted
from train.paper.ablation import BASELINE, baseline, comparison_json, last_error
from train.paper.item import Finished, Item, ItemResult, RunSpec, Scale, Verdict, seeds_of
from train.paper.statistics import LEVEL, Comparison, compare
from train.run.error_text import per_cent


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A setting that the paper and the source read differently."""

    name: str
    what: str
    setting: str
    paper: Any
    source: Any

    def change(self, scale: Scale) -> tuple[str, Any]:
        """Return whose value the changed runs have, and the value."""
        now = scale.settings.get(self.setting, self.source)
        paper = self.paper
        if self.setting == "net.init_sd_conv345":  # as wide as the others, which a scale widens
            paper = scale.settings.get("net.init_sd", paper)
        return ("source", self.source) if now == paper else ("paper", paper)

    def spec(self, scale: Scale, seed: int) -> RunSpec:
        """Return a changed run."""
        _, value = self.change(scale)
        return RunSpec(name=f"reading-{self.name}", settings={self.setting: value}, seed=seed)


READINGS = (
    Reading(name="init", what="weights of conv3-5 as wide as the others, not 3 times as wide",
            setting="net.init_sd_conv345", paper=0.01, source=0.03),
    Reading(name="order", what="ReLU before LRN and pooling in layer 1, not after them",
            setting="net.first_layer", paper="conv-relu-lrn-pool", source="conv-lrn-pool-relu"),
    Reading(name="alpha", what="alpha of LRN not divided by 5",
            setting="net.lrn_alpha_divided", paper=False, source=True),
    Reading(name="plane", what="no norm in the plane after the second LRN",
            setting="net.spatial_norm", paper=False, source=True),
    Reading(name="lighting", what="colour noise multiplied by the eigenvalue, not its root",
            setting="input.lighting", paper="eigenvalue", source="sqrt-eigenvalue"),
    Reading(name="divide", what="no division by 1.1 with the colour noise",
            setting="input.lighting_divide", paper=False, source=True),
    Reading(name="noise-end", what="colour noise to the end",
            setting="input.lighting_stop_epoch", paper=None, source=66),
    Reading(name="chunk", what="a crop and a flip for 32 images in a row",
            setting="input.crop_chunk", paper=1, source=32),
    Reading(name="shuffle", what="the same order in every epoch",
            setting="input.shuffle", paper=True, source=False),
    Reading(name="bias-rate", what="biases learn at the rate of the weights, not at twice of it",
            setting="optim.lr_bias_multiplier", paper=1.0, source=2.0),
    Reading(name="bias-decay", what="weight decay on biases, too",
            setting="optim.decay_biases", paper=True, source=False),
    Reading(name="bias-drops", what="the rate of biases drops with that of the weights",
            setting="optim.bias_drops", paper=None, source=0),
)  # fmt: skip
"""Not among them: the length of the schedule and the end of conv1, which a short run has no time
for."""


def _runs(scale: Scale, seeds: int) -> list[RunSpec]:
    specs = seeds_of(baseline, seeds)
    for reading in READINGS:
        specs += [reading.spec(scale, seed) for seed in range(seeds)]
    return specs


def _analyse(finished: Finished) -> ItemResult:
    base = [last_error(run) for run in finished.of(BASELINE)]
    found = {
        reading: compare([last_error(run) for run in finished.of(f"reading-{reading.name}")], base)
        for reading in READINGS
    }
    differ = [each for each, result in found.items() if _differs(result)]
    words = "; ".join(
        f"{each.what} ({100 * found[each].difference:+.1f} points)" for each in differ
    )
    text = (
        f"{len(differ)} of {len(READINGS)} single changes move the top-1 error by more than the "
        f"seeds explain{f': {words}' if differ else ''}."
    )
    return ItemResult(
        verdict=Verdict(decision="shown", text=text),
        tables=[_table(finished.scale, found)],
        remarks=["The paper and its source make no claim about these differences."],
        numbers={each.name: comparison_json(result) for each, result in found.items()},
    )


def _differs(found: Comparison) -> bool:
    return found.p is not None and found.p < LEVEL


def _table(scale: Scale, found: dict[Reading, Comparison]) -> Table:
    base = next(iter(found.values())).baseline
    rows: list[Sequence[str]] = [["the baseline", "", per_cent(base.mean), "", "", ""]]
    for reading, result in found.items():
        whose, value = reading.change(scale)
        interval = "-"
        if result.low is not None and result.high is not None:
            interval = f"{100 * result.low:+.1f} to {100 * result.high:+.1f}"
        rows.append(
            [
                reading.what,
                f"{reading.setting}={str(value).lower()} ({whose})",
                per_cent(result.changed.mean),
                f"{100 * result.difference:+.1f}",
                interval,
                "-" if result.p is None else f"{result.p:.3f}",
            ]
        )
    head = ["change", "setting", "top-1 error", "points", "95 % interval", "p"]
    seeds = counted(len(next(iter(found.values())).changed.values), "seed")
    caption = f"Top-1 error, last validation, centre crop; {seeds}"
    return Table(head=head, rows=rows, caption=caption, numbers=False)


READINGS_ITEM = Item(
    id="readings",
    title="The paper's text against its source",
    paper="The text and the source that the author released differ in the settings below.",
    notes="The source's run has 0.406640 and 0.182100; there is no run of the text alone.",
    runs=_runs,
    analyse=_analyse,
)
