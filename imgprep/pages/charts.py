"""Charts for a page: Vega-Lite to inline SVG, with a description for screen readers.

Chart colours are CSS (``currentColor``, ``var(--series-1)``), so they follow the page into dark
mode. The page defines the variables ``--series-1`` to ``--series-4`` and ``--grid``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from imgprep.errors import UsageError
from imgprep.wording import plain

SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
SERIES: tuple[str, ...] = tuple(f"var(--series-{k})" for k in range(1, 5))
"""Series colours; distinct in light and dark mode, also for readers who confuse red and green."""
FONT = "system-ui, sans-serif"
WIDTH_PX_MIN = 420
"""A wide chart never shrinks below this width, or its text could not be read; it scrolls."""

_CONFIG: dict[str, Any] = {
    "font": FONT,
    # Room for browsers whose letters are wider than the font that the converter measured.
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
    """Return a Vega-Lite chart as inline SVG; equal charts give equal text.

    Args:
        spec: the chart without ``$schema``, ``background`` and ``config``, which are set here.
        name: a short name, unique on the page, of letters, digits and hyphens; prefixes the ids.
        label: the accessible name of the chart: what it is.
        description: the accessible description: what it shows, in a sentence or two.

    Raises:
        UsageError: vl-convert-python is not installed.
    """
    chart = {**_plain(spec), "$schema": SCHEMA, "background": None, "config": _CONFIG}
    text: str = _converter().vegalite_to_svg(chart)
    start, _, rest = text.partition(">")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', start)
    if not start.startswith("<svg") or size is None:
        raise AssertionError(f"vl-convert wrote {start[:200]!r} where SVG was expected")
    # The converter numbers its ids across all charts of the process: renumber them per chart.
    for number, found in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', rest))):
        rest = re.sub(rf'(\bid="|url\(#){re.escape(found)}(?=[")])', rf"\g<1>{name}-{number}", rest)
    # Screen readers get one named and described picture, not each of its parts.
    rest = re.sub(r' role="graphics-(?:object|symbol|document)"', "", rest)
    rest = re.sub(r' aria-(?:roledescription|hidden)="[^"]*"', "", rest)
    rest = re.sub(r' aria-label="[^"]*"', "", rest)
    width, height = size.groups()
    least = min(float(width), WIDTH_PX_MIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" '
        f'viewBox="0 0 {width} {height}" style="max-width:{width}px;min-width:{least:.0f}px" '
        f'aria-labelledby="{name}-title" aria-describedby="{name}-desc">'
        f'<title id="{name}-title">{_escaped(_plain(label))}</title>'
        f'<desc id="{name}-desc">{_escaped(_plain(description))}</desc>{rest}'
    )


def colours(names: Sequence[str]) -> dict[str, list[str]]:
    """Return a colour scale that gives each of ``names`` one of the page's series colours."""
    return {"domain": list(names), "range": [SERIES[k % len(SERIES)] for k in range(len(names))]}


def _plain(value: Any) -> Any:
    """Return the value with characters that XML forbids, or that are invisible, escaped in texts.

    Class names are folder names and may hold any byte; the converter would end the whole process
    at a control character.
    """
    if isinstance(value, str):
        return plain(value)
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
