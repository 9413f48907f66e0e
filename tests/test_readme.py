"""The pages are true: snippets run, tables name what a build writes, links and paths exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY, imgprep
from tests.documents import (
    PAGES,
    README,
    TOOLS_PAGE,
    anchors,
    links,
    marked,
    section,
    text_of,
)
from tests.reading import labels_of_shards

EXAMPLE_DEST = "/data/imagenet-256"
README_LINES_MAX = 250


def first_cells(table: str) -> set[str]:
    """Everything in backticks in the first column."""
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def run_snippet(name: str, dest: Path) -> str:
    code = marked(f"run: {name}")
    assert EXAMPLE_DEST in code
    ran = subprocess.run(
        [sys.executable, "-c", code.replace(EXAMPLE_DEST, str(dest))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_webdataset_snippet_reads_every_record(built: Path) -> None:
    assert run_snippet("webdataset", built).strip() == summary(built)


def test_the_dali_snippet_reads_every_record(built: Path) -> None:
    assert len(labels_of_shards(built, "train")) % 8 == 0  # whole batches: no record comes twice
    assert run_snippet("dali", built).strip() == summary(built)


def summary(dest: Path) -> str:
    labels = labels_of_shards(dest, "train").values()
    return f"{len(labels)} records, sum of labels {sum(labels)}"


def fields_of(value: Any, path: str = "") -> Iterator[str]:
    """Every field of a JSON value in the notation of the tables; an empty list shows none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from fields_of(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from fields_of(inner, f"{path}[]")
    elif value != []:
        yield path


GENERAL = (
    (r"(?<=\.)(train|val)(?=\.|$|\[)", "<split>"),
    (r"^(counts\.(?:<split>\.)?).+", r"\1<what>"),
    (r"^(problem_counts\.).+", r"\1<kind>"),
    (r"^(files\.).+", r"\1<name>"),
)


def general(field: str) -> str:
    for pattern, replacement in GENERAL:
        field = re.sub(pattern, replacement, field)
    return field


@pytest.fixture(scope="module")
def flawed(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in both of whose splits an image was skipped and one had a decoder warning, from a
    source with a problem."""
    place = tmp_path_factory.mktemp("flawed")
    source = place / "source"
    shutil.copytree(mini, source)
    (source / "train" / "n99999999").mkdir()
    for split in ("train", "val"):
        text, unended, *_ = sorted((source / split).glob("*/*.JPEG"))
        text.write_text("not an image at all")
        unended.write_bytes(unended.read_bytes()[:-2])
    ran = imgprep("build-shards", source, place / "out", "--on-error", "skip")
    assert ran.code == 3, ran.err
    return place / "out"


@pytest.mark.parametrize(
    ("table", "pattern"),
    [
        ("dataset_info.json", "dataset_info.json"),
        ("labels.json", "labels.json"),
        ("rgb_pca.json", "rgb_pca.json"),
        ("report.json", "report.json"),
        ("marker", ".imgprep/done/*.json"),
    ],
)
def test_field_tables_name_exactly_the_fields(
    flawed: Path, built: Path, table: str, pattern: str
) -> None:
    found: set[str] = set()
    for path in [*built.glob(pattern), *flawed.glob(pattern)]:
        fields = fields_of(json.loads(path.read_text()))
        found |= {general(field) for field in fields}
    assert found == first_cells(marked(f"fields: {table}"))


def test_the_file_table_names_exactly_what_a_build_leaves(built: Path) -> None:
    left = {
        re.sub(
            r"(^|/)(train|val)-\d{6}\.",
            r"\1<split>-<number>.",
            re.sub(r"^(train|val)-sources", "<split>-sources", str(path.relative_to(built))),
        )
        for path in built.rglob("*")
        if path.is_file()
    }
    assert left == first_cells(marked("files"))


def test_arrays_are_as_the_file_table_says(built: Path) -> None:
    for name in ("mean_image.npy", "pixel_sum.npy"):
        array = np.load(built / name, allow_pickle=False)
        (row,) = [line for line in marked("files").splitlines() if line.startswith(f"| `{name}`")]
        assert f"{array.shape} {array.dtype}" in row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_picture_and_anchor_of_a_page_exists(page: Path) -> None:
    broken = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), {README}
    while waiting:
        page = waiting.pop()
        reached.add(page)
        named = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        waiting |= {target for target in named if target in PAGES} - reached
    assert reached == set(PAGES)


def test_every_path_that_a_page_names_exists() -> None:
    named = {
        path.rstrip(".,")
        for page in PAGES
        for path in re.findall(r"(?<![\w./-])((?:tools|tests|imgprep)/[\w./-]*)", text_of(page))
    }
    assert {"tools/demo", "tools/test", "tools/setup"} <= named
    missing = {path for path in named if not (REPOSITORY / path).exists()}
    modules = {path for path in missing if any(REPOSITORY.glob(f"{path}.*"))}
    assert sorted(missing - modules) == []


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= README_LINES_MAX


def test_the_readme_repeats_figures_of_the_page_of_measurements() -> None:
    """Ratios against other tools, and sizes on disk."""
    ratios = re.findall(r"\*\*[\d.]+\*\*", section(README, "Compared with other tools"))
    sizes = re.findall(r"\| ([^|]*GB) \|", section(README, "Time and disk"))
    assert len(ratios) >= 8
    assert len(sizes) >= 4
    measured = text_of(TOOLS_PAGE)
    assert [figure for figure in [*ratios, *sizes] if figure not in measured] == []


def masked(line: str) -> str:
    """A line without its numbers and their alignment, which other codecs and clocks change."""
    line = re.sub(r"sha256 [0-9a-f]+", "sha256 #", line)
    return " ".join(re.sub(r"[-+±]?\d[\d.,]*", "#", line).split())


def test_the_tour_is_what_the_commands_print(mini_archives: Path, tmp_path: Path) -> None:
    """Word for word; a line that ends with an ellipsis up to there."""
    (tmp_path / "mini").symlink_to(mini_archives)
    printed = ["mini: 4 classes, 96 train, 24 val images, archives"]
    commands = re.findall(r"^\$ imgprep (.+)$", marked("tour: mini"), re.MULTILINE)
    assert len(commands) == 4
    for arguments in commands:
        ran = imgprep(*arguments.split(), cwd=tmp_path)
        assert ran.code == 0, ran.err
        printed += ran.out.splitlines()
    real = [masked(line) for line in printed]
    for line in marked("tour: mini").splitlines():
        if line.startswith("$ ") or line in ("", "…"):
            continue
        shown = masked(line.removesuffix("…"))
        assert any(one.startswith(shown) if line.endswith("…") else one == shown for one in real), (
            f"no command prints {line!r}"
        )


def test_pictures_are_small_and_can_be_drawn_again(built: Path, tmp_path: Path) -> None:
    committed = REPOSITORY / "tools" / "pictures"
    assert sum(path.stat().st_size for path in committed.iterdir()) < 1_200_000
    tool = REPOSITORY / "tools" / "figures.py"
    command = [sys.executable, str(tool), str(built), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    drawn_again = sorted(path.name for path in tmp_path.iterdir())
    others = {
        "stats-page.png",
        "preview.png",
        "run-report.png",
    }  # drawn otherwise
    assert {path.name for path in committed.iterdir()} - others == set(drawn_again)
    for name in drawn_again:
        with Image.open(tmp_path / name) as drawn, Image.open(committed / name) as shown:
            assert drawn.size == shown.size
