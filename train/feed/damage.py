"""Find the records that cannot be used before DALI gets them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.encodings import SidesField, encoding_of
from imgprep.errors import FormatError
from imgprep.spec import longest_px
from train.errors import DataError
from train.feed.graph_spec import GraphSpec
from train.feed.spans import RecordBatch

KNOWN_HEADERS_MAX = 16
"""Good headers that are remembered. A dataset has a few: with and without colour, for instance."""


@dataclass(frozen=True, slots=True, eq=False)
class _Header:
    """A header without fault. Those of rectangles may state any sides that a record may have."""

    content: NDArray[np.uint8]
    sides: SidesField | None
    """Where a rectangle states its sides; None if all records have the same."""


class HeaderScreen:
    """Checks what the image files of a batch declare, so that DALI does not allocate gigabytes for
    a damaged one.

    The headers of a dataset repeat, so all rows are compared at once with the headers that were
    found good before; a row with a new header is checked alone.
    """

    def __init__(self, spec: GraphSpec) -> None:
        self._encoding = encoding_of(spec.encoding)
        self._size_px, self._shape = spec.size_px, spec.shape
        self._good: list[_Header] = []
        """Headers without fault, the last ones found."""

    def check(self, batch: RecordBatch) -> NDArray[np.int64]:
        """Check a batch; returns height and width of each record (n, 2), pixels.

        Raises:
            DataError: a file is not a record of the dataset's encoding, size and shape.
        """
        size_hw = np.full((len(batch), 2), self._size_px)
        if not self._encoding.needs_decoder:
            return size_hw  # pixels, whose number was checked when they were read
        rows = np.arange(len(batch))
        for header in self._good:
            rows = self._with_another_header(batch, rows, header, size_hw)
        while len(rows):
            content = batch.content(int(rows[0]))
            try:
                size_hw[rows[0]] = self._encoding.record_size(content, self._size_px, self._shape)
            except FormatError as exc:
                raise DataError(str(exc)) from exc
            header = self._header_of(content)
            rows = self._with_another_header(batch, rows[1:], header, size_hw)
            self._good = [*self._good, header][-KNOWN_HEADERS_MAX:]
        return size_hw

    def _header_of(self, content: bytes) -> _Header:
        start = np.frombuffer(content[: self._encoding.header_bytes(content)], np.uint8)
        sides = self._encoding.sides_in(content) if self._shape == "rectangle" else None
        return _Header(start, sides)

    def _with_another_header(
        self,
        batch: RecordBatch,
        rows: NDArray[np.int64],
        header: _Header,
        size_hw: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return those of ``rows`` that do not begin with ``header``; write the sizes of the others
        to ``size_hw``."""
        length, sides = len(header.content), header.sides
        if not len(rows) or length > batch.rows.shape[1]:
            return rows
        starts = batch.rows[:, :length] if len(rows) == len(batch) else batch.rows[rows, :length]
        same_bytes = starts == header.content
        if sides is not None:
            same_bytes[:, sides.offset : sides.end] = True
        same = same_bytes.all(1) & (batch.size_n[rows] >= length)
        if sides is not None:
            found_hw = sides.read(starts[:, sides.offset : sides.end])
            longest = longest_px(self._size_px, self._shape)
            same &= (found_hw.min(1) == self._size_px) & (found_hw.max(1) <= longest)
            size_hw[rows[same]] = found_hw[same]
        return np.asarray(rows[~same])
