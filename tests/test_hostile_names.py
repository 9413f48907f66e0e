"""Hostile class and file names are built, verified and drawn, and never interpreted."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import imgprep
from tests.trees import tiny_jpeg

NAMES = (
    b"<script>alert(1)<", b"\x1b]0;owned\x07", b"raw\xff\xfe", b"two\nlines\ttab", b"{{7*7}}",
    "\u202edlrow".encode(), b"' onload='x", b"$(touch owned)", b"-rf", b"%s%n",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of classes with hostile names; each also had a bad image with such a name."""
    place = tmp_path_factory.mktemp("names")
    for name in NAMES:
        folder = os.fsencode(place / "source") + b"/train/" + name
        os.makedirs(folder)  # noqa: PTH103 (bytes)
        for file, data in ((b"a", tiny_jpeg(repr(name), 1)), (name, b"not an image")):
            with open(folder + b"/" + file + b".JPEG", "wb") as made:  # noqa: PTH123
                made.write(data)
    options = ("--size", 16, "--jobs", 1, "--on-error", "skip")
    ran = imgprep("build-shards", place / "source", place / "dataset", *options)
    assert ran.code == 3, ran.err
    is_plain(ran.out + ran.err)
    assert sorted(path.name for path in place.iterdir()) == ["dataset", "source"]
    return place / "dataset"


def is_plain(text: str) -> None:
    assert all(letter.isprintable() or letter in "\n\r" for letter in text)


def test_messages_contain_no_control_characters(hostile: Path) -> None:
    for command in (("scan", hostile.parent / "source"), ("verify", hostile, "--decode")):
        ran = imgprep(*command)
        assert ran.code == 0, ran.err
        is_plain(ran.out + ran.err)
    labels = json.loads((hostile / "labels.json").read_bytes())["classes"]
    assert {os.fsencode(entry["name"]) for entry in labels} == set(NAMES)


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}


def test_a_page_shows_them_and_runs_nothing(hostile: Path, tmp_path: Path) -> None:
    ran = imgprep("stats", hostile, "--html", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    text = (tmp_path / "page.html").read_bytes().decode("utf-8")
    seen = Seen()
    seen.feed(text)
    assert "svg" in seen.tags
    assert not seen.tags & {"script", "iframe", "object", "embed", "foreignobject"}
    assert not [name for name in seen.attributes if name.startswith("on")]
    assert "default-src 'none'" in text
    assert "&lt;script&gt;" in text
    assert "49" not in text or "{{7*7}}" in text
    assert not set(text) & set(map(chr, [*range(9), *range(11, 32), 127]))


def test_a_sheet_of_them_is_drawn(hostile: Path, tmp_path: Path) -> None:
    ran = imgprep("preview", hostile, "-o", tmp_path / "sheet.png")
    assert ran.code == 0, ran.err
    is_plain(ran.out + ran.err)
