#!/usr/bin/env python3
"""Print the summary of one or more `imgprep-train paper` runs as a Markdown table.

    .venv/bin/python tools/paper_summary.py NAME=RESULTS.JSON...

A row for each item, and for each results.json a column with its decision and what was found; the
last rows are the machine, the date, the number of seeds and the duration.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FACTS = ("scale", "dataset", "seeds", "machine", "date", "duration")


def facts(results: dict[str, Any]) -> dict[str, str]:
    """Return what a reader must know of a set of runs."""
    data = results["dataset"]["used"]
    minutes = results["seconds"] / results["side_by_side"] / 60
    return {
        "scale": results["scale"],
        "dataset": f"{data['classes']} classes, {data['train_images']:,} photographs for training, "
        f"{data['val_images']:,} for validation",
        "seeds": str(results["seeds"]),
        "machine": results["machine"],
        "date": results["date"][:10],
        "duration": f"{minutes:,.0f} minutes: {len(results['commands'])} commands, "
        f"{results['side_by_side']} at a time",
    }


def table(named: dict[str, dict[str, Any]]) -> str:
    """Return the table of several results, whose columns are called by their names."""
    found = {
        name: {item["id"]: item for item in results["items"]} for name, results in named.items()
    }
    titles = {item["id"]: item["title"] for results in named.values() for item in results["items"]}
    rows = [["item", *named], ["---"] * (1 + len(named))]
    for key, title in titles.items():
        cells = []
        for items in found.values():
            item = items.get(key)
            cells.append("-" if item is None else f"**{item['decision']}**. {item['text']}")
        rows.append([title, *cells])
    columns = [facts(results) for results in named.values()]
    rows += [[name, *(each[name] for each in columns)] for name in FACTS]
    return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in rows)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", metavar="NAME=RESULTS.JSON")
    named = {}
    for each in parser.parse_args().results:
        name, _, path = each.partition("=")
        named[name] = json.loads(Path(path).read_text("utf-8"))
    sys.stdout.write(f"{table(named)}\n")


if __name__ == "__main__":
    main()
