"""Find the records that cannot be used before DALI gets them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from train.errors import DataError
from train.feed.graph_spec import GraphSpec
from train.feed.spans import RecordBatch

KNOWN_HEADERS_MAX = 16
"""Good headers that are remembered. A dataset has a few: with and without colour, for instance."""


class HeaderScreen:
    """Checks what the image files of a batch declare, so that DALI does not allocate gigabytes for
    a damaged one.

    The headers of a dataset repeat, so all rows are compared at once with the headers that were
    found good before; a row with a new header is checked alone.
    """

    def __init__(self, spec: GraphSpec) -> None:
        self._encoding, self._size_px = encoding_of(spec.encoding), spec.size_px
        self._good: dict[bytes, None] = {}
        """Headers without fault, the last ones found."""

    def check(self, batch: RecordBatch) -> None:
        """Check a batch.

        Raises:
            DataError: a file is not a record of the dataset's encoding and size.
        """
        if not self._encoding.needs_decoder:
            return  # pixels, whose number was checked when they were read
        rows = np.arange(len(batch))
        for header in self._good:
            rows = _with_another_header(batch, rows, header)
        while len(rows):
            content = batch.content(int(rows[0]))
            fault = self._encoding.fault(content, self._size_px)
            if fault:
                raise DataError(fault)
            header = content[: self._encoding.header_bytes(content)]
            rows = _with_another_header(batch, rows[1:], header)
            self._good[header] = None
            if len(self._good) > KNOWN_HEADERS_MAX:
                del self._good[next(iter(self._good))]


def _with_another_header(
    batch: RecordBatch, rows: NDArray[np.int64], header: bytes
) -> NDArray[np.int64]:
    """Return those of ``rows`` that do not begin with ``header``."""
    if not len(rows) or len(header) > batch.rows.shape[1]:
        return rows
    starts = (
        batch.rows[:, : len(header)] if len(rows) == len(batch) else batch.rows[rows, : len(header)]
    )
    same = (starts == np.frombuffer(header, np.uint8)).all(1)
    different = ~(same & (batch.size_n[rows] >= len(header)))
    return np.asarray(rows[different])
