"""Read the DALI index of a shard (``.idx``): the positions of its records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import DALI_INDEX_VERSION, LABEL_DIGITS_MAX, LABEL_EXTENSION
from imgprep.dataset.index import ShardInfo
from imgprep.errors import FormatError
from imgprep.storage import Store
from imgprep.storage.reading import read_bytes

SHARD_BYTES_MAX = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class ShardSpans:
    """Positions of the records of a shard, in order."""

    spans: NDArray[np.int64]
    """(records, 4): offset and size in bytes of the image, then of the label."""
    names: list[bytes]
    """Names of the image files: ``<key>.<extension>``."""


def read_dali_index(store: Store, shard: ShardInfo, encoding: str) -> ShardSpans:
    """The index of ``shard``; each line is ``ext offset size name`` of an image and of its label.

    Raises:
        FormatError: it is not a DALI index, or not that of this shard.
        OSError: it is missing, or cannot be read.
        StoreError: an object store does not answer, or refuses.
    """
    where = store.where(shard.idx_name)
    first, _, rest = read_bytes(store, shard.idx_name).partition(b"\n")
    words = rest.split()
    try:
        columns = [list(map(int, words[column::8])) for column in (1, 2, 5, 6)]
        spans = np.array(columns, dtype=np.int64).T
    except (ValueError, OverflowError) as exc:
        raise FormatError(f"{where}: not a DALI index; run imgprep verify") from exc
    ends = spans[:, 2] + spans[:, 3]
    fits = (
        first.decode("ascii", "replace") == f"{DALI_INDEX_VERSION} {shard.records}"
        and len(words) == 8 * shard.records
        and set(words[0::8]) <= {encoding_of(encoding).extension.encode()}
        and set(words[4::8]) <= {LABEL_EXTENSION.encode()}
        # each value is checked before any sum, so that no sum can overflow
        and bool((spans >= 0).all() and (spans <= min(shard.bytes, SHARD_BYTES_MAX)).all())
        and bool((spans[:, 0] + spans[:, 1] <= spans[:, 2]).all())
        and bool((spans[:, 3] <= LABEL_DIGITS_MAX).all())
        and bool((ends[:-1] <= spans[1:, 0]).all() and (ends <= shard.bytes).all())
    )
    if not fits:
        raise FormatError(f"{where}: does not describe {shard.name}; run imgprep verify")
    return ShardSpans(spans, words[3::8])
