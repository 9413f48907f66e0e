"""The page of a run (``train report RUN --html FILE``): lays out what ``show.report`` found."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgprep import __version__
from imgprep.dataset.labels import LabelMap
from imgprep.pages.images import Picture, jpeg, png
from imgprep.pages.page import (
    Bar,
    Card,
    Cards,
    Chart,
    Grid,
    Page,
    Pictures,
    Section,
    Table,
    write_page,
)
from imgprep.wording import counted, printable
from train.presets import preset
from train.run.error_text import error_text, has_top5, per_cent
from train.show import figures
from train.show.guesses import Guesses
from train.show.neighbours import Neighbour
from train.show.report import Measured, RunReport
from train.show.report_charts import confusion_chart, curve_charts
from train.show.run_state import RunState

WORST = 12
"""Number of classes in the confusion chart."""
PAIRS = 12
VALIDATIONS = 12
"""Rows of the table of validations: the last ones."""
PHOTO_PX, NEIGHBOUR_PX, SHOWN_PX = 224, 160, 112
FILTER_PX = 640
NTH = ("nearest", "2nd", "3rd", "4th", "5th", "6th")


def write_report_page(report: RunReport, path: Path) -> int:
    """Write the page; returns its size in bytes.

    Raises:
        UsageError: the packages of the extra ``figures`` are not installed.
        DestinationError: the file cannot be written.
    """
    return write_page(path, report_page(report))


def report_page(report: RunReport) -> Page:
    """Lay out a report as a page."""
    state, measured = report.state, report.measured
    sections = [_curves(state), *_filters(state)]
    if measured is not None:
        names = class_names(measured.data.labels)
        sections += [
            _confusion(measured, names),
            photos_section(measured, names),
            neighbours_section(measured, names),
        ]
    sections += _settings(state)
    return Page(
        title=f"Training run: {printable(state.folder.resolve().name)}",
        lead=_lead(report),
        facts=list(_facts(report)),
        sections=sections,
        footer=[f"imgprep {__version__}. Dataset fingerprint {state.fingerprint or 'unknown'}."],
    )


def class_names(labels: LabelMap) -> list[str]:
    """Return a short, unique name for each label: the class's first word, or its folder name."""
    short = [
        _safe(entry.words.split(",")[0] if entry.words else entry.name) for entry in labels.classes
    ]
    counts = Counter(short)
    return [
        name if counts[name] == 1 else f"{name} (label {label})" for label, name in enumerate(short)
    ]


def _safe(text: str) -> str:
    """Return the text as one line without control characters, never empty."""
    return printable(text.strip()) or "(no name)"


def _lead(report: RunReport) -> str:
    state = report.state
    updates = counted(state.updates, "update")
    begun = f"AlexNet, preset {state.config.preset}, {updates} so far."
    if report.measured is None:
        return f"{begun} No network has been saved yet, so this page shows only the curves."
    found = report.measured.evaluation
    classes = found.counts.classes
    errors = error_text(found.top1_error, found.top5_error, classes, digits=1)
    return (
        f"{begun} {state.saved_name} on {found.count:,} photographs: {errors} "
        f"(top-1 error by chance: {per_cent(1 - 1 / classes, 1)})."
    )


def _facts(report: RunReport) -> Iterator[tuple[str, str]]:
    state, measured = report.state, report.measured
    config, saved = state.config, state.saved
    yield "preset", config.preset
    yield "updates", f"{state.updates:,}"
    yield "epochs done", f"{state.epochs} of {config.optim.epochs}"
    yield "images an update", f"{config.optim.batch_images:,}"
    if state.lowest is not None:
        lowest, last = state.lowest, state.validations[-1]
        epoch = lowest["epoch"]
        yield "lowest top-1 error", f"{per_cent(float(lowest['top1_error']))}, epoch {epoch}"
        yield "last top-1 error", per_cent(float(last["top1_error"]))
        if has_top5(_classes(state)):
            yield "last top-5 error", per_cent(float(last["top5_error"]))
    if saved is not None:
        yield "classes", f"{saved.classes:,}"
        yield "parameters", f"{sum(tensor.numel() for tensor in saved.model.values()):,}"
    if measured is not None:
        splits = measured.data.index.splits
        yield "photographs", ", ".join(f"{n} {s.records:,}" for n, s in splits.items())
        yield "records", f"{measured.data.size_px} px, {measured.data.encoding}"
    if state.origin is not None:
        devices = ", ".join(map(_safe, state.origin.devices))
        many = f", {state.origin.processes} processes" if state.origin.processes > 1 else ""
        yield "trained on", f"{devices}{many}"
    if measured is not None:
        yield "measured on", measured.device
    yield "seed", str(config.seed)
    yield "dataset fingerprint", (state.fingerprint or "unknown")[:16]


def _classes(state: RunState) -> int | None:
    return None if state.saved is None else state.saved.classes


def _curves(state: RunState) -> Section:
    classes = _classes(state)
    charts = curve_charts(state.folder, classes)
    if not charts:
        return Section(title="Learning curves", text=["Nothing has been logged yet."])
    errors = ("top1_error", "top5_error") if has_top5(classes) else ("top1_error",)
    rows = [
        [
            row["epoch"],
            f"{int(row['global_step']):,}",
            f"{float(row['loss']):.4f}",
            *(per_cent(float(row[name])) for name in errors),
            f"{float(row['lr']):.3g}",
        ]
        for row in state.validations[-VALIDATIONS:]
    ]
    heads = ("top-1 error", "top-5 error")[: len(errors)]
    head = ["epoch", "updates", "loss", *heads, "learning rate"]
    tables = [Table(head=head, rows=rows, caption="The last validations")] if rows else []
    return Section(
        title="Learning curves",
        text=[
            "Training: means since the previous point, over augmented images and with dropout. "
            "Validation: the central crop, without dropout."
        ],
        parts=[*(Chart(svg=svg, caption=title) for title, svg in charts), *tables],
    )


def _filters(state: RunState) -> list[Section]:
    if state.saved is None:
        return []
    blocks = figures.filter_blocks(state.saved.model)
    count, _, side, _ = state.saved.model["conv1.weight"].shape
    each = count // len(blocks)
    captions = ["Column a", "Column b"] if len(blocks) == 2 else ["All filters"]
    pictures = [
        png(
            block,
            alt=f"{caption}: {each} filters of {side}x{side} pixels, 16 in a row",
            caption=f"{caption}: {each} filters",
            shown_px=min(block.shape[1], FILTER_PX),
            pixelated=True,
        )
        for caption, block in zip(captions, blocks, strict=True)
    ]
    text = (
        f"What the first layer looks for ({state.saved_name}): {count} filters of {side}x{side} "
        "pixels in three colours, as in the paper's figure 3. Each is scaled separately; grey is "
        "weight 0."
    )
    if len(blocks) == 2:
        text += " In 2012 column a was on the first GPU, column b on the second."
    return [Section(title="First-layer filters", text=[text], parts=[Pictures(items=pictures)])]


def _confusion(measured: Measured, names: Sequence[str]) -> Section:
    confusion, found = measured.confusion, measured.evaluation
    worst = confusion.worst(WORST)
    text = (
        f"{found.count:,} photographs of {measured.split}, central crop: "
        f"{error_text(found.top1_error, found.top5_error, found.counts.classes)}, "
        f"loss {found.loss:.4f}."
    )
    if not worst:
        return Section(title="Confusion", text=[text, "No image was misclassified."])
    errors, images = confusion.errors(), confusion.class_images()
    rows = [
        [
            names[label],
            f"{images[label]:,}",
            per_cent(errors[label], 1),
            ", ".join(f"{names[p.taken_for]} {p.images}" for p in confusion.mistakes(label, 3)),
        ]
        for label in worst
    ]
    pairs = [
        [names[p.true], names[p.taken_for], f"{p.images:,} of {p.of:,}"]
        for p in confusion.pairs(PAIRS)
    ]
    return Section(
        title="Confusion of the worst classes",
        text=[text],
        parts=[
            Chart(
                svg=confusion_chart(confusion, confusion.involved(WORST), names),
                caption="Photographs by class (rows) and what they were taken for (columns); "
                "outlined: correct. A stronger colour is a larger share of the class.",
            ),
            Table(
                head=["class", "photographs", "top-1 error", "taken most often for"],
                rows=rows,
                caption="The classes with the highest error",
                numbers=False,
            ),
            Table(
                head=["class", "taken for", "photographs"],
                rows=pairs,
                caption="The most frequent mistakes",
                numbers=False,
            ),
        ],
    )


def photos_section(measured: Measured, names: Sequence[str]) -> Section:
    """Show photographs with their best classes, as in the paper's figure 4."""
    cards = [
        Card(
            picture=_photo(measured, each, names),
            bars=[
                Bar(
                    name=names[guess.label],
                    share=guess.probability,
                    marked=guess.label == each.label,
                )
                for guess in each.best
            ],
        )
        for each in measured.guesses
    ]
    text = (
        f"A sample of {measured.split} (seed {measured.seed}), from different classes where "
        "possible, with the five best classes and their probabilities, as in the paper's "
        "figure 4. A tick and bold letters mark the right class."
    )
    return Section(
        title="Photographs and their best labels", text=[text], parts=[Cards(items=cards)]
    )


def _photo(measured: Measured, each: Guesses, names: Sequence[str]) -> Picture:
    said = ", ".join(f"{names[g.label]} {g.probability:.0%}" for g in each.best)
    rank = "correct" if each.place == 1 else f"rank {each.place}" if each.place else "not in top 5"
    return jpeg(
        _smaller(measured, measured.split, each.record, PHOTO_PX),
        alt=f"Photograph of the class {names[each.label]}. The network answers: {said}.",
        caption=f"{names[each.label]}: {rank}",
    )


def neighbours_section(measured: Measured, names: Sequence[str]) -> Section:
    """Show photographs with their nearest neighbours, as in the paper's figure 4."""
    count = max((len(each.nearest) for each in measured.neighbourhoods), default=0)
    rows = []
    for each in measured.neighbourhoods:
        name = names[each.label]
        shown = jpeg(
            _smaller(measured, measured.split, each.record, NEIGHBOUR_PX),
            alt=f"Photograph of {measured.split}, class {name}",
            shown_px=SHOWN_PX,
        )
        rows.append((name, [shown, *(_near(measured, n, each.label, names) for n in each.nearest)]))
    text = (
        f"For each photograph of {measured.split}, the {count} nearest of {measured.sample:,} "
        f"training photographs (seed {measured.seed}), by Euclidean distance of the "
        f"{measured.units:,} values that the last layer reads (in AlexNet those of fc7), as in the "
        "paper's figure 4. "
        "A tick marks the same class."
    )
    grid = Grid(
        columns=["photograph", *NTH[:count]],
        rows=rows,
        caption="Below each photograph: its class and its distance",
    )
    return Section(title="Nearest neighbours", text=[text], parts=[grid])


def _near(measured: Measured, near: Neighbour, label: int, names: Sequence[str]) -> Picture:
    same = near.label == label
    return jpeg(
        _smaller(measured, "train", near.record, NEIGHBOUR_PX),
        alt=f"Training photograph, class {names[near.label]}, distance {near.distance:.2f}",
        caption=f"{'✓ ' if same else ''}{names[near.label]}, {near.distance:.2f}",
        shown_px=SHOWN_PX,
    )


def _smaller(measured: Measured, split: str, record: int, side_px: int) -> figures.Picture:
    from PIL import Image

    picture = Image.fromarray(measured.pictures[split, record])
    if picture.width > side_px:
        picture = picture.resize((side_px, side_px), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _settings(state: RunState) -> list[Section]:
    """List the settings in which the run differs from its preset."""
    config = state.config
    usual = dict(_flat(dataclasses.asdict(preset(config.preset, config.optim.epochs))))
    rows = [
        [name, _shown(value), _shown(usual.get(name))]
        for name, value in _flat(dataclasses.asdict(config))
        if value != usual.get(name)
    ]
    if not rows:
        return []
    table = Table(
        head=["setting", "this run", "preset"],
        rows=rows,
        caption="All other settings are those of the preset",
        numbers=False,
    )
    return [Section(title="Settings that differ from the preset", parts=[table])]


def _shown(value: Any) -> str:
    return "not set" if value is None else _safe(str(value))


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
