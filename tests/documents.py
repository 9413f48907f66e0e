"""The pages that people read: their texts, marked parts, links and anchors."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
TRAIN_PAGE = REPOSITORY / "train" / "README.md"
TOOLS_PAGE = REPOSITORY / "tools" / "README.md"
FOLDERS = (".", "imgprep", "imgprep/*", "train", "train/*", "tests", "tools")
PAGES = sorted({page for folder in FOLDERS for page in REPOSITORY.glob(f"{folder}/*.md")})

_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def marked(marker: str) -> str:
    """The table or fenced block that follows ``<!-- marker -->`` in the one page that has it."""
    texts = [text for text in map(text_of, PAGES) if f"<!-- {marker} -->\n" in text]
    assert len(texts) == 1, f"{len(texts)} pages have <!-- {marker} -->"
    part = texts[0].partition(f"<!-- {marker} -->\n")[2]
    if part.startswith("```"):
        return part[part.index("\n") + 1 : part.index("\n```")]
    return part.partition("\n\n")[0].rstrip("\n")


def section(page: Path, heading: str) -> str:
    """The text below a heading of the second level, up to the next."""
    _, found, after = text_of(page).partition(f"\n## {heading}\n")
    assert found, f"{page.name} has no section {heading!r}"
    return after.partition("\n## ")[0]


def links(page: Path) -> list[str]:
    """The targets of all links and pictures that stay in the repository."""
    return _LINK.findall(_FENCED.sub("", text_of(page)))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes from the headings of a page."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", _FENCED.sub("", text_of(page)), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found
