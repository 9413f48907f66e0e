"""Charts inside a page: Vega-Lite to SVG, in the colours of the page, with words for readers.

Colours of a chart are CSS (``currentColor``, ``var(--series-1)``), so that they follow the page
into the dark. The page defines the variables: ``--series-1`` to ``--series-4``, ``--grid``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from imgprep.errors import UsageError

SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
SERIES: tuple[str, ...] = tuple(f"var(--series-{k})" for k in range(1, 5))
"""Colours of the series of a chart; told apart in light and dark, also without red and green."""
FONT = "system-ui, sans-serif"
LEAST_PX = 420
"""A wide chart is not made smaller than this, or its words could not be read: it scrolls."""

_CONFIG: dict[str, Any] = {
    "font": FONT,
    # Room for a browser whose letters are wider than those that the converter measured with.
    "padding": {"left": 14, "top": 6, "right": 14, "bottom": 6},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "gridColor": "var(--grid)",
        "domainColor": "var(--grid)",
        "tickColor": "var(--grid)",
    },
    "header": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12},
    "legend": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelLimit": 300,
        "columnPadding": 24,
    },
    "title": {"color": "currentColor", "fontSize": 13, "fontWeight": "normal"},
    "text": {"color": "currentColor", "fontSize": 12},
    "view": {"stroke": "var(--grid)"},
    "range": {"category": list(SERIES)},
}


def svg(spec: Mapping[str, Any], *, name: str, label: str, description: str) -> str:
    """A Vega-Lite chart as inline SVG: the same chart gives the same text.

    Args:
        spec: the chart, without ``$schema``, ``background`` and ``config``, which are set here.
        name: short, unique in the page: begins the ids inside (letters, digits, hyphens).
        label: what the chart is, for those who do not see it: its accessible name.
        description: what it shows, in a sentence or two.

    Raises:
        UsageError: vl-convert-python is not installed.
    """
    chart = {**_plain(spec), "$schema": SCHEMA, "background": None, "config": _CONFIG}
    text: str = _converter().vegalite_to_svg(chart)
    start, _, rest = text.partition(">")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', start)
    if not start.startswith("<svg") or size is None:
        raise AssertionError(f"vl-convert wrote {start[:200]!r} where SVG was expected")
    # The converter counts its ids through all charts of the process: count anew, by chart.
    for number, found in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', rest))):
        rest = re.sub(rf'(\bid="|url\(#){re.escape(found)}(?=[")])', rf"\g<1>{name}-{number}", rest)
    # A picture to assistive technology, named and described; its parts are not walked one by one.
    rest = re.sub(r' role="graphics-(?:object|symbol|document)"', "", rest)
    rest = re.sub(r' aria-(?:roledescription|hidden)="[^"]*"', "", rest)
    rest = re.sub(r' aria-label="[^"]*"', "", rest)
    width, height = size.groups()
    least = min(float(width), LEAST_PX)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" '
        f'viewBox="0 0 {width} {height}" style="max-width:{width}px;min-width:{least:.0f}px" '
        f'aria-labelledby="{name}-title" aria-describedby="{name}-desc">'
        f'<title id="{name}-title">{_escaped(_plain(label))}</title>'
        f'<desc id="{name}-desc">{_escaped(_plain(description))}</desc>{rest}'
    )


def colours(names: Sequence[str]) -> dict[str, list[str]]:
    """A colour scale that gives each of ``names`` its place in the series of the page."""
    return {"domain": list(names), "range": [SERIES[k % len(SERIES)] for k in range(len(names))]}


def _plain(value: Any) -> Any:
    """The same value; in its texts, what is no character of XML, or unseen, is escaped.

    Names of classes are names of folders, which may hold any byte. The converter ends the whole
    process at a control character.
    """
    if isinstance(value, str):
        return "".join(
            c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
            for c in value
        )
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _converter() -> Any:
    try:
        import vl_convert
    except ImportError as exc:
        raise UsageError(
            "charts need vl-convert-python: run tools/setup, or pip install 'imgprep[figures]'"
        ) from exc
    return vl_convert
