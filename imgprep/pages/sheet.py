"""Contact sheets: rows of captioned pictures, drawn into one by Pillow.

Suffix ``hwc``: row, column, channel. A box is (left, top, width, height) in pixels.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import DestinationError, UsageError
from imgprep.storage import real_path
from imgprep.storage.atomic import write_bytes

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Picture = NDArray[np.uint8]
Box = tuple[int, int, int, int]

MARGIN_PX = 16
GAP_PX = 8
LINE_PX = 16
"""Height of one line of text."""
CELL_PX_MIN = 168
"""A cell with a caption is at least this wide."""
TITLE_SIZE, TEXT_SIZE = 18, 12
PAPER, INK, GREY = (255, 255, 255), (26, 26, 26), (95, 95, 95)
"""Both text colours are easy to read on the paper (contrast 17 and 6.4)."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A picture and the lines of text below it."""

    pixels_hwc: Picture
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Pictures side by side under one heading."""

    heading: str
    tiles: Sequence[Tile]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sheet:
    """The contents of a sheet, to be drawn."""

    title: str
    note: tuple[str, ...] = ()
    """Lines below the title."""
    columns: tuple[str, ...] = ()
    """Column headings, one per tile of a row; empty for none."""
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A sheet as pixels, and the box of each picture in each row."""

    pixels_hwc: Picture
    boxes: list[list[Box]]


def draw(sheet: Sheet) -> Drawn:
    """Draw a sheet: pictures pixel for pixel; text that does not fit is cut short."""
    from PIL import Image, ImageDraw

    widths = _column_widths(sheet)
    head_px = _head_px(sheet)
    heights = [_row_px(row) for row in sheet.rows]
    title_px = _length(sheet.title, TITLE_SIZE)
    note_px = max((_length(text, TEXT_SIZE) for text in sheet.note), default=0)
    body_px = sum(widths) + GAP_PX * (len(widths) - 1)
    width_px = 2 * MARGIN_PX + max(title_px, note_px, body_px)
    canvas = Image.new("RGB", (width_px, head_px + sum(heights) + MARGIN_PX), PAPER)
    pen = _Pen(ImageDraw.Draw(canvas), width_px - 2 * MARGIN_PX)
    _draw_head(pen, sheet, widths)
    boxes, top = [], head_px
    for row, height_px in zip(sheet.rows, heights, strict=True):
        pen.text((MARGIN_PX, top), row.heading, INK)
        left, found = MARGIN_PX, []
        for tile, cell_px in zip(row.tiles, widths, strict=False):
            height, width = tile.pixels_hwc.shape[:2]
            corner = (left, top + LINE_PX + 2)
            canvas.paste(Image.fromarray(tile.pixels_hwc), corner)
            found.append((*corner, width, height))
            for number, line in enumerate(tile.lines):
                below = corner[1] + height + 2 + number * LINE_PX
                pen.text((left, below), line, GREY, cell_px)
            left += cell_px + GAP_PX
        boxes.append(found)
        top += height_px
    return Drawn(np.asarray(canvas), boxes)


def stacked(sheets: Sequence[Drawn]) -> Drawn:
    """Join sheets into one, stacked and aligned left; their rows follow each other."""
    width_px = max(sheet.pixels_hwc.shape[1] for sheet in sheets)
    parts, boxes, top = [], [], 0
    for sheet in sheets:
        height, width = sheet.pixels_hwc.shape[:2]
        padded = ((0, 0), (0, width_px - width), (0, 0))
        parts.append(np.pad(sheet.pixels_hwc, padded, constant_values=PAPER[0]))
        boxes += [[(x, y + top, w, h) for x, y, w, h in row] for row in sheet.boxes]
        top += height
    return Drawn(np.concatenate(parts), boxes)


def check_target(out: Path, folder: Path | None) -> None:
    """Check that a sheet may be written to ``out``; ``folder`` is the dataset's, None at a URL.

    Raises:
        UsageError: ``out`` does not end in .png, or is inside the dataset.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: a sheet is written as PNG: choose a name that ends in .png")
    if folder is not None and real_path(folder) in real_path(out).parents:
        raise UsageError(
            f"{out} is inside the dataset {folder}, which must not change: choose another folder"
        )


def write_png(out: Path, pixels_hwc: Picture) -> None:
    """Write a picture, whole or not at all.

    Raises:
        DestinationError: it cannot be written.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels_hwc).save(buffer, format="PNG", compress_level=6)
    try:
        write_bytes(out, buffer.getvalue())
    except OSError as exc:
        raise DestinationError(f"{out}: cannot write the sheet: {exc.strerror or exc}") from exc


@dataclass(frozen=True, slots=True)
class _Pen:
    """Writes lines of text and cuts them where their space ends."""

    canvas: Any
    width_px: int

    def text(
        self,
        corner: tuple[int, int],
        text: str,
        colour: tuple[int, int, int],
        width_px: int | None = None,
        size: int = TEXT_SIZE,
    ) -> None:
        line = _fitted(text, size, width_px or self.width_px)
        self.canvas.text(corner, line, fill=colour, font=_font(size))


def _draw_head(pen: _Pen, sheet: Sheet, widths: Sequence[int]) -> None:
    pen.text((MARGIN_PX, MARGIN_PX - 4), sheet.title, INK, size=TITLE_SIZE)
    top = MARGIN_PX + TITLE_SIZE + 6
    for line in sheet.note:
        pen.text((MARGIN_PX, top), line, GREY)
        top += LINE_PX
    left = MARGIN_PX
    for name, cell_px in zip(sheet.columns, widths, strict=False):
        pen.text((left, top + GAP_PX), name, INK, cell_px)
        left += cell_px + GAP_PX


def _head_px(sheet: Sheet) -> int:
    columns_px = GAP_PX + LINE_PX if sheet.columns else 0
    return MARGIN_PX + TITLE_SIZE + 6 + LINE_PX * len(sheet.note) + columns_px + GAP_PX


def _column_widths(sheet: Sheet) -> list[int]:
    widths: dict[int, int] = {}
    for row in sheet.rows:
        for k, tile in enumerate(row.tiles):
            least = CELL_PX_MIN if tile.lines else 0
            widths[k] = max(widths.get(k, 0), least, tile.pixels_hwc.shape[1])
    return list(widths.values())


def _row_px(row: Row) -> int:
    """Heading, pictures, captions, and the gap to the next row."""
    cells = (tile.pixels_hwc.shape[0] + 2 + LINE_PX * len(tile.lines) for tile in row.tiles)
    return LINE_PX + 2 + max(cells, default=0) + 2 * GAP_PX


@lru_cache
def _font(size: int) -> FreeTypeFont | ImageFont:
    """Return Pillow's own font: in any size where Pillow has FreeType, else in one small size."""
    from PIL import ImageFont, features

    return ImageFont.load_default(size if features.check("freetype2") else None)


def _printable(text: str) -> str:
    """Return ``text`` as one line of ASCII, all that the font has; accents are dropped."""
    line = unicodedata.normalize("NFKD", " ".join(text.split()))
    plain = "".join(letter for letter in line if not unicodedata.combining(letter))
    return plain.encode("ascii", "replace").decode("ascii")


def _length(text: str, size: int) -> int:
    return int(_font(size).getlength(_printable(text))) + 1


def _fitted(text: str, size: int, width_px: int) -> str:
    line = _printable(text)
    if _length(line, size) <= width_px:
        return line
    while line and _length(line + "...", size) > width_px:
        line = line[:-1]
    return line.rstrip() + "..."
