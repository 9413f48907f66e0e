"""The page of a dataset's colour statistics: ``imgprep stats DEST --html FILE``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep import __version__
from imgprep.colour.pca import LEVELS, Reading, RgbPca, angle_degrees
from imgprep.colour.published import PUBLISHED_MEANS, PUBLISHED_PCAS
from imgprep.colour.stats import StatsReport
from imgprep.image.resize import central_square
from imgprep.pages.images import jpeg, png
from imgprep.pages.page import Chart, Charts, Grid, Page, Part, Pictures, Section, Table, write_page
from imgprep.pages.stats_charts import COMPONENTS, classes_chart, cloud_charts, components_chart
from imgprep.pages.stats_data import (
    NOISE_SD,
    READINGS,
    STEPS,
    StatsData,
    gather,
    shift_levels,
    under_noise,
)
from imgprep.spec import Solver
from imgprep.storage import Location
from imgprep.wording import printable, readable_bytes

LISTED = 20
"""How many skipped images and problems are listed by name."""
TILE_PX = 112
READING_WORDS: Mapping[Reading, str] = {
    "source": "As in the author's source: alpha times the root of the eigenvalue, pixels 0-255",
    "paper": "As in the paper: alpha times the eigenvalue itself, pixels 0-1",
}


def write_stats_page(location: Location, path: Path, solver: Solver) -> tuple[StatsReport, int]:
    """Write the page; returns the statistics that it shows and its size in bytes.

    Raises:
        FormatError, StoreError: the dataset cannot be read.
        UsageError: the packages of the extra ``figures`` are not installed.
        DestinationError: the file cannot be written.
    """
    data = gather(location, solver)
    return data.report, write_page(path, stats_page(data))


def stats_page(data: StatsData) -> Page:
    """Lay out the gathered data as a page."""
    index, rgb = data.index, data.report.rgb
    name = printable(str(index.location).rstrip("/").rpartition("/")[2])
    shards = sum(len(split.shards) for split in index.splits.values())
    total_bytes = sum(shard.bytes for split in index.splits.values() for shard in split.shards)
    facts = [
        *((f"{name} records", f"{split.records:,}") for name, split in index.splits.items()),
        ("classes", f"{index.classes:,}"),
        ("shards", f"{shards:,}, {readable_bytes(total_bytes)}"),
        ("pixels in the statistics", f"{rgb.pixels:,}"),
        ("mean colour, R G B", " ".join(f"{level:.1f}" for level in data.report.pca.mean_rgb)),
        ("fingerprint", index.fingerprint[:12]),
    ]
    of_squares = " (their central squares)" if index.shape == "rectangle" else ""
    return Page(
        title=f"Colour statistics: {name}",
        lead=(
            f"Exact statistics of {rgb.images:,} training images{of_squares} of {rgb.size_px}x"
            f"{rgb.size_px} pixels: what AlexNet subtracts, and the noise that it adds."
        ),
        facts=facts,
        sections=[
            _mean(data),
            _components(data),
            _cloud(data),
            _noise(data),
            _classes(data),
            _oddities(data),
            _spec(data),
        ],
        footer=[
            f"imgprep {__version__}. Dataset fingerprint {index.fingerprint}.",
            *(f"{each.key}: {each.source}." for each in PUBLISHED_PCAS),
            f"{PUBLISHED_MEANS[-1].key}: {PUBLISHED_MEANS[-1].source}.",
        ],
    )


def _mean(data: StatsData) -> Section:
    rgb = data.report.pca.mean_rgb
    alt = f"Mean of all training images; its mean colour is {', '.join(f'{v:.0f}' for v in rgb)}"
    picture = png(data.mean_image_hwc, alt=alt, shown_px=256)
    rows = [
        ["this dataset", *(f"{level:.2f}" for level in rgb)],
        *([known.key, *(f"{level:.2f}" for level in known.rgb)] for known in PUBLISHED_MEANS),
    ]
    table = Table(head=["mean, levels 0-255", "R", "G", "B"], rows=rows, caption="Mean colour")
    text = "The mean of each pixel position over the training set, from exact integer sums."
    return Section(title="Mean image", text=[text], parts=[Pictures(items=[picture]), table])


def _components(data: StatsData) -> Section:
    pca = data.report.pca
    share = 100 * pca.explained_variance_ratio
    head = ["", *COMPONENTS]
    rows = [
        ["standard deviation, 0-255", *(f"{v:.3f}" for v in pca.stdevs)],
        ["eigenvalue, 0-255", *(f"{v:,.2f}" for v in pca.eigenvalues)],
        ["eigenvalue, 0-1", *(f"{v:.5f}" for v in pca.eigenvalues / LEVELS**2)],
        ["explained variance, %", *(f"{v:.2f}" for v in share)],
        *(
            [f"eigenvector, {channel}", *(f"{v:+.4f}" for v in row)]
            for channel, row in zip("RGB", pca.eigenvectors, strict=True)
        ),
        *(
            [f"angle to {each.theirs.key}, degrees", *(f"{v:.2f}" for v in each.angle_degrees)]
            for each in data.report.comparisons
        ),
    ]
    charts = [components_chart(pca, squared=False), components_chart(pca, squared=True)]
    caption = "Compared with published values for ImageNet; sources at the foot of the page."
    return Section(
        title="Principal components of the colours",
        text=[f"The PCA of every pixel of the training set, by {pca.solver}."],
        parts=[
            Charts(items=charts, caption=caption),
            Table(head=head, rows=rows, caption="The three components"),
        ],
    )


def _cloud(data: StatsData) -> Section:
    text = (
        f"{len(data.cloud_rgb):,} pixels sampled from {data.cloud_records} training records, each "
        "in its own colour. The lines are the three principal axes, two standard deviations to "
        "either side of the mean. PC1 is "
        f"{_from_grey(data.report.pca):.1f} degrees from the grey axis."
    )
    return Section(
        title="Colour cloud",
        text=[text],
        parts=[Charts(items=cloud_charts(data), caption="The same cloud seen from three sides")],
    )


def _from_grey(pca: RgbPca) -> float:
    """Return the angle between the first axis and (1, 1, 1), in degrees."""
    return float(angle_degrees(pca.eigenvectors[:, :1], np.ones((3, 1)))[0])


def _noise(data: StatsData) -> Section:
    pca, photo = data.report.pca, data.photo
    class_name = printable(data.labels.classes[photo.label].name)
    grids: list[Part] = []
    small = _shrunk(central_square(photo.pixels_hwc, data.index.size_px))
    for reading in READINGS:
        rows = []
        for k, component in enumerate(COMPONENTS):
            tiles = [
                jpeg(
                    under_noise(small, pca, reading, k, step),
                    alt=f"The photo with {_signed(step)} standard deviations of {component}, "
                    f"{reading}",
                )
                for step in STEPS
            ]
            shift = ", ".join(f"{v:+.2f}" for v in shift_levels(pca, reading)[:, k])
            rows.append((f"{component}: {shift}", tiles))
        caption = (
            f"{READING_WORDS[reading]}. Beside each row: what one standard deviation adds to "
            f"R, G and B, in levels 0-255.{_unseen(pca, reading)}"
        )
        columns = [_signed(step) for step in STEPS]
        grids.append(Grid(columns=columns, rows=rows, caption=caption, compact=True))
    text = [
        "AlexNet adds one colour to each training image: the sum over the components of a random "
        f"alpha (normal, standard deviation {NOISE_SD}) times a multiplier times the axis. The "
        "paper says that the multiplier is the eigenvalue; the source that its author released "
        "uses the square root and then divides the image by 1.1 (not shown). Columns: alpha from "
        "-3 to +3 standard deviations.",
        f"The photo: record {photo.key}, class {class_name}, the most colourful of "
        f"{data.cloud_records} records drawn.",
    ]
    return Section(title="Effect of the lighting noise", text=text, parts=grids)


def _signed(step: int) -> str:
    return f"{step:+d}".replace("-", "\N{MINUS SIGN}") if step else "0"


def _unseen(pca: RgbPca, reading: Reading) -> str:
    """Name the components whose noise is too small to change 8-bit pixels; empty if none."""
    most = max(STEPS) * np.abs(shift_levels(pca, reading)).max(axis=0)
    small = [f"{COMPONENTS[k]} ({v:.2f})" for k, v in enumerate(most) if v < 0.5]
    if not small:
        return ""
    return (
        f" Less than half a level even at {max(STEPS)} standard deviations, so not visible here: "
        f"{', '.join(small)}. The trainer adds the noise in floating point."
    )


def _shrunk(pixels_hwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    small = Image.fromarray(pixels_hwc).resize((TILE_PX, TILE_PX), Image.Resampling.BOX)
    return np.asarray(small)


def _classes(data: StatsData) -> Section:
    rows = []
    for split, counts in data.class_counts.items():
        order = np.argsort(counts, kind="stable")
        for what, label in (("smallest", int(order[0])), ("largest", int(order[-1]))):
            entry = data.labels.classes[label]
            words = f"{entry.name} ({entry.words})" if entry.words else entry.name
            rows.append([f"{split}, {what}", f"{counts[label]:,}", printable(words)])
        rows.append([f"{split}, mean", f"{counts.mean():,.1f}", ""])
    caption = "Smallest and largest classes (ties: the first and the last), and the mean"
    head = ["", "images", "class"]
    table = Table(head=head, rows=rows, caption=caption, numbers=False)
    caption = "Source images per class, including those that were skipped."
    parts: list[Part] = [Chart(svg=classes_chart(data), caption=caption), table]
    return Section(title="Classes", parts=parts)


def _oddities(data: StatsData) -> Section:
    build = data.build
    rows = [
        [what, split, f"{count:,}"]
        for split, counts in build.get("counts", {}).items()
        for what, count in counts.items()
    ]
    rows += [
        [f"problem: {kind}", "", f"{count:,}"]
        for kind, count in build.get("problem_counts", {}).items()
    ]
    parts: list[Part] = [
        Table(head=["what", "split", "images"], rows=rows, caption="Counts of the build")
    ]
    left_out = list(_left_out(build))
    if left_out:
        shown = left_out[:LISTED]
        caption = f"Skipped: {len(left_out):,}" + (
            f", the first {LISTED}" * (len(left_out) > LISTED)
        )
        table = Table(head=["where", "cause"], rows=shown, caption=caption, numbers=False)
        parts.append(table)
    text = "Nothing was skipped." if not left_out else "Some images could not be used."
    return Section(title="Oddities", text=[text], parts=parts)


def _left_out(build: Mapping[str, Any]) -> Iterator[list[str]]:
    found = [*build.get("problems", [])]
    for skips in build.get("skipped", {}).values():
        found += skips
    for each in found:
        yield [printable(str(each["where"])), printable(str(each["cause"]))]


def _spec(data: StatsData) -> Section:
    spec = [
        [name, "not set" if value is None else str(value)]
        for name, value in data.index.spec.items()
    ]
    versions = [[name, str(value)] for name, value in data.build.get("versions", {}).items()]
    return Section(
        title="How it was made",
        text=["Datasets with equal fingerprints hold equal data."],
        parts=[
            Table(head=["setting", "value"], rows=spec, caption="Specification", numbers=False),
            Table(head=["what ran", "version"], rows=versions, caption="Versions", numbers=False),
        ],
    )
