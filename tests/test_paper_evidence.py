"""The committed results of ``train paper`` can be read, and their summary names every item."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from train.paper.items import ITEMS
from train.paper.results import DECISIONS, SCHEMA

EVIDENCE = REPOSITORY / "tools" / "evidence"
NAMES = ("paper-small-demo", "paper-small-ilsvrc-mini")


@pytest.mark.parametrize("name", NAMES)
def test_the_results_have_every_item_and_a_decision(name: str) -> None:
    found = json.loads((EVIDENCE / name / "results.json").read_text("utf-8"))
    assert found["schema"] == SCHEMA
    assert [item["id"] for item in found["items"]] == [item.id for item in ITEMS]
    assert {item["decision"] for item in found["items"]} <= set(DECISIONS)
    assert sum(map(len, found["summary"].values())) == len(ITEMS)


def test_the_summary_has_a_row_for_every_item() -> None:
    words = [f"{name}={EVIDENCE / name / 'results.json'}" for name in NAMES]
    ran = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "paper_summary.py", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = ran.stdout.splitlines()
    assert rows[0] == f"| item | {' | '.join(NAMES)} |"
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2 : 2 + len(ITEMS)]] == [
        item.title for item in ITEMS
    ]


def test_the_page_of_the_training_shows_what_its_command_prints() -> None:
    page = (REPOSITORY / "train" / "README.md").read_text("utf-8")
    (line,) = re.findall(r"^\.venv/bin/python (tools/paper_summary\.py .+)$", page, re.MULTILINE)
    ran = subprocess.run(
        [sys.executable, *shlex.split(line)],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert len(ran.stdout.splitlines()) > len(ITEMS)
    assert ran.stdout.strip() in page
