"""The pixels of a record as stored, to show to people."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from imgprep.errors import FormatError
from train.errors import DataError
from train.feed.dataset import TrainingSet
from train.feed.records import Record, RecordReader


def stored_pixels(
    data: TrainingSet, reader: RecordReader, number: int, record: Record
) -> NDArray[np.uint8]:
    """Decode record ``number``, read by ``reader``, to pixels (height, width, 3).

    Raises:
        DataError: it does not decode; the message names shard and key.
    """
    try:
        return encoding_of(data.encoding).pixels(record.content, data.size_px, data.shape)
    except FormatError as exc:
        raise DataError(f"{reader.where(number)}: {exc}; run imgprep verify --decode") from exc


def central_crop(
    data: TrainingSet, reader: RecordReader, number: int, crop_px: int
) -> tuple[int, NDArray[np.uint8]]:
    """Return the label of record ``number`` and its central crop, as the network sees it.

    Raises:
        DataError: it cannot be read or does not decode; the message names shard and key.
    """
    (record,) = reader.read([number])
    pixels = stored_pixels(data, reader, number, record)
    # The central crop of the central square, also where both surpluses of a rectangle are odd.
    low = (data.size_px - crop_px) // 2
    top, left = (low + (side - data.size_px) // 2 for side in pixels.shape[:2])
    return record.label, pixels[top : top + crop_px, left : left + crop_px]
