"""A page that stands alone: one HTML file, no network, no script, light and dark, for any width.

What is in a page is said in values (``Page``, ``Section`` and the parts of a section); how it
looks is in ``page.html`` and ``page.css`` beside this module. All texts are escaped; only
``Chart.svg`` is markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from imgprep.errors import DestinationError, UsageError
from imgprep.pages.images import Picture
from imgprep.storage.atomic import write_bytes

# Names come from elsewhere: control characters, halves of characters, marks that turn the line.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart of ``imgprep.pages.charts.svg``."""

    svg: str
    caption: str = ""
    kind: str = "chart"


@dataclass(frozen=True, kw_only=True, slots=True)
class Charts:
    """Small charts side by side, below each other where the page is narrow."""

    items: Sequence[str]
    """Each of ``imgprep.pages.charts.svg``."""
    caption: str = ""
    kind: str = "charts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of texts; the first column heads its row, the others are aligned as numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    numbers: bool = True
    """False: all columns are texts, aligned left."""
    kind: str = "table"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Pictures side by side, in as many rows as the page needs."""

    items: Sequence[Picture]
    caption: str = ""
    kind: str = "pictures"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Pictures in rows and columns that have names.

    Where the page is narrow it scrolls sideways; or, ``compact``, all columns stay in view,
    smaller, each row below its name: for pictures that are compared along a row.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Picture]]]
    caption: str
    compact: bool = False
    kind: str = "grid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One guess of several: a name and a share of 1, drawn as a bar."""

    name: str
    share: float
    marked: bool = False
    """The right one: a sign and bold letters say so, not colour alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A picture with bars below it."""

    picture: Picture
    bars: Sequence[Bar] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cards:
    """Cards side by side."""

    items: Sequence[Card]
    caption: str = ""
    kind: str = "cards"


Part: TypeAlias = Chart | Charts | Table | Pictures | Grid | Cards


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading, paragraphs, and what they speak of."""

    title: str
    text: Sequence[str] = ()
    parts: Sequence[Part] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A whole page."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    footer: Sequence[str] = ()


def render(page: Page) -> str:
    """The page as HTML: the same values give the same text.

    Raises:
        UsageError: Jinja2 is not installed.
    """
    template = _environment().get_template("page.html")
    text: str = template.render(page=page)
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def write_page(path: Path, page: Page) -> int:
    """Write the page, whole or not at all; returns its size in bytes.

    Raises:
        UsageError: Jinja2 is not installed.
        DestinationError: the file cannot be written.
    """
    data = render(page).encode("utf-8", "replace")
    try:
        write_bytes(path, data)
    except OSError as exc:
        raise DestinationError(f"{path}: cannot write the page: {exc.strerror or exc}") from exc
    return len(data)


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as exc:
        raise UsageError(
            "pages need Jinja2: run tools/setup, or pip install 'imgprep[figures]'"
        ) from exc
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
