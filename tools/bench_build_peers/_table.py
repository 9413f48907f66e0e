"""Formats results as a markdown table."""

from __future__ import annotations

from statistics import median
from typing import Any

from _registry import PEERS

Json = dict[str, Any]


FULL_SET_IMAGES = 1_281_167 + 50_000
"""ILSVRC2012, train and val."""
SAME = ("date", "hardware", "photos", "pairs")
"""Fields that must be equal in all runs of one table."""


def _joined(earlier: Json, later: Json) -> Json:
    """Join the pairs of both, and keep the warm-up runs that took more memory."""
    warm_up = {
        name: max(earlier["warm_up"][name], run, key=lambda one: one["peak_pss_mib"] or 0.0)
        for name, run in later["warm_up"].items()
    }
    return {**later, "warm_up": warm_up, "pairs": earlier["pairs"] + later["pairs"]}


def merged(runs: list[Json]) -> Json:
    """Merge several runs into one result; pairs of a repeated peer are joined.

    Raises:
        ValueError: they differ in machine, date, photos or pairs.
    """
    differing = [name for name in SAME if any(run[name] != runs[0][name] for run in runs)]
    if differing:
        raise ValueError(f"the files differ in {', '.join(differing)}")
    ours = {
        key: " / ".join(dict.fromkeys(run["imgprep"][key] for run in runs))
        for key in runs[0]["imgprep"]
    }
    peers: dict[str, Json] = {}
    for run in runs:
        for name, result in run["peers"].items():
            earlier = peers.get(name, result)
            again = earlier is not result and "pairs" in earlier and "pairs" in result
            peers[name] = _joined(earlier, result) if again else result
    return {**runs[0], "imgprep": ours, "peers": peers}


def ratios(result: Json, name: str, key: str) -> list[float]:
    """Return imgprep's speed over the peer's, for each pair (``key``: the seconds compared)."""
    runs = [pair["runs"] for pair in result["pairs"]]
    return [float(run[name][key] / run["imgprep"][key]) for run in runs]


def _spread(values: list[float]) -> str:
    return f"**{median(values):.2f}** [{' '.join(f'{value:.2f}' for value in values)}]"


def _rate(images: int, result: Json, name: str, key: str) -> str:
    return f"{median(images / pair['runs'][name][key] for pair in result['pairs']):.0f}"


def _peak_mib(result: Json, name: str) -> float:
    runs = [result["warm_up"], *(pair["runs"] for pair in result["pairs"])]
    return float(max(run[name]["peak_pss_mib"] or 0.0 for run in runs))


def _row(images: int, name: str, result: Json) -> str:
    if "error" in result:
        return f"| {result['what']} | | failed | | | | | |"
    alone = PEERS[name].output == "none"  # for the limit, start time and memory have no meaning
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items())
    cells = (
        result["what"],
        versions,
        _rate(images, result, name, "inner_seconds"),
        _rate(images, result, "imgprep", "inner_seconds"),
        _spread(ratios(result, name, "inner_seconds")),
        "-" if alone else _spread(ratios(result, name, "wall_seconds")),
        "-" if alone else f"{median(ratios(result, name, 'cpu_seconds')):.2f}",
        "-" if alone else f"{_peak_mib(result, name):.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _imgprep_rates(data: Json) -> list[float]:
    """Return images per second of every timed run of imgprep with two jobs."""
    done = [result for result in data["peers"].values() if "error" not in result]
    runs = [pair["runs"]["imgprep"] for result in done for pair in result["pairs"]]
    return [data["photos"]["images"] / run["inner_seconds"] for run in runs]


def _imgprep_row(data: Json) -> str:
    done = [result for result in data["peers"].values() if "error" not in result]
    rates = _imgprep_rates(data)
    peak = max(_peak_mib(result, "imgprep") for result in done)
    versions = ", ".join(f"{key} {value}" for key, value in data["imgprep"].items())
    rate = f"{median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f} in {len(rates)} runs)"
    return (
        f"| imgprep, 2 jobs, statistics, fsync | {versions} | {rate} | | 1 | 1 | 1 | {peak:.0f} |"
    )


def best_off_the_shelf(data: Json) -> tuple[str, list[float]] | None:
    """Return the fastest off-the-shelf peer and its ratios."""
    found = [
        (median(values), name, values)
        for name, result in data["peers"].items()
        if PEERS[name].off_the_shelf and "error" not in result
        for values in [ratios(result, name, "inner_seconds")]
    ]
    return min(found)[1:] if found else None


def _charged_whole(data: Json) -> bool:
    """Whether imgprep reported no total, so that its imports are counted."""
    runs = [pair["runs"]["imgprep"] for r in data["peers"].values() for pair in r.get("pairs", ())]
    return any(run["inner_seconds"] == run["wall_seconds"] for run in runs)


def _summary(data: Json) -> list[str]:
    lines = []
    if _charged_whole(data):
        lines.append("- NOT COMPARABLE: imgprep reported no total_seconds; inner is its whole run")
    best = best_off_the_shelf(data)
    if best:
        lines.append(f"- imgprep / best off-the-shelf peer ({best[0]}): {_spread(best[1])}")
    named = (
        ("webdataset-simd", "imgprep / the webdataset script on the same pillow-simd"),
        ("img2dataset", "imgprep / img2dataset"),
        ("limit", "imgprep / decode + encode alone"),
        ("imgprep-1", "2 jobs / 1 job"),
    )
    for name, label in named:
        result = data["peers"].get(name)
        if result and "error" not in result:
            lines.append(f"- {label}: {_spread(ratios(result, name, 'inner_seconds'))}")
    rates = _imgprep_rates(data)
    if rates:
        slow, middle, fast = (
            f"{FULL_SET_IMAGES / rate / 60:.0f}" for rate in (min(rates), median(rates), max(rates))
        )
        lines.append(
            f"- all of ILSVRC2012 ({FULL_SET_IMAGES:,} images) at imgprep's median rate, if its "
            f"photos are like these and the disks are fast enough: {middle} min ({fast}-{slow})"
        )
    return lines


def markdown(data: Json) -> str:
    """Return header, table and summary of a result of ``bench_build.py run``."""
    machine, photos = data["hardware"], data["photos"]
    images = photos["images"]
    family, model = machine["cpu_family_model"]
    head = (
        f"{machine['cpu']} (family {family}, model {model}), {len(machine['cores_used'])} of "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB; Linux {machine['kernel']}, Python "
        f"{machine['python']}; {data['date']}. {images} photos ({photos['distinct']} distinct, "
        f"mean {photos['mean_megapixels']:.2f} MP and {photos['mean_bytes'] / 1000:.0f} kB), page "
        f"cache warm; {data['pairs']} pairs per run after a warm-up, in turns. Ratios are "
        "imgprep's speed over the peer's within a pair, median [all]: above 1, imgprep is faster. "
        "Inner leaves out the imports of the started process; whole is start to exit; CPU is the "
        "peer's CPU seconds over imgprep's. Memory is the largest sum of PSS over the "
        "process tree, sampled in the warm-up runs."
    )
    columns = (
        "peer",
        "versions",
        "img/s inner",
        "imgprep in the same pairs",
        "ratio, inner",
        "ratio, whole",
        "CPU",
        "peak MiB",
    )
    rows = [_row(images, name, result) for name, result in data["peers"].items()]
    if any("error" not in result for result in data["peers"].values()):
        rows.append(_imgprep_row(data))
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows]
    return "\n".join([head, "", *table, "", *_summary(data), ""])
