"""Self-contained HTML pages: one file, no network, no script, light and dark, for any width.

``Page``, ``Section`` and the parts of a section hold the content; ``page.html`` and ``page.css``
beside this module decide how it looks. All text is escaped; only ``Chart.svg`` is markup.
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

# Names are untrusted: control characters, lone surrogates, marks that reverse the text direction.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart of ``imgprep.pages.charts.svg``."""

    svg: str
    caption: str = ""
    kind: str = "chart"


@dataclass(frozen=True, kw_only=True, slots=True)
class Charts:
    """Small charts side by side, or stacked where the page is narrow."""

    items: Sequence[str]
    """Each of ``imgprep.pages.charts.svg``."""
    caption: str = ""
    kind: str = "charts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of text; the first column heads its row, the others are aligned as numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    numbers: bool = True
    """False: all columns are text, aligned left."""
    kind: str = "table"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Pictures side by side, wrapped to the width of the page."""

    items: Sequence[Picture]
    caption: str = ""
    kind: str = "pictures"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Pictures in named rows and columns.

    On a narrow page the grid scrolls sideways. A ``compact`` grid instead keeps all columns in
    view, smaller, each row below its name: use it for pictures that are compared along a row.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Picture]]]
    caption: str
    compact: bool = False
    kind: str = "grid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A name and a share between 0 and 1, drawn as a bar."""

    name: str
    share: float
    marked: bool = False
    """The right one: marked by a tick and bold letters, not by colour alone."""


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
    """A heading, its paragraphs, and its charts, tables and pictures."""

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
    """Return the page as HTML; equal pages give equal text.

    Raises:
        UsageError: Jinja2 is not installed.
    """
    template = templates(Path(__file__).parent).get_template("page.html")
    text: str = template.render(page=page)
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


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


def templates(folder: Path) -> Any:
    """Return the Jinja environment of a folder of templates, which escapes all text.

    Raises:
        UsageError: Jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as exc:
        raise UsageError(
            "pages need Jinja2: run tools/setup, or pip install 'imgprep[figures]'"
        ) from exc
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
