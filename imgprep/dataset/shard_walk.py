"""Read the structure of a shard as ``shards`` writes it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from imgprep.dataset.format import LABEL_EXTENSION
from imgprep.dataset.shards import BLOCK_BYTES, padding, ustar_header


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a tar, and the position of its content."""

    name: str
    offset: int
    size_bytes: int


class BadTarError(Exception):
    """The structure of the tar is damaged, so its remaining members cannot be found."""


def members(tar: mmap.mmap | bytes) -> Iterator[Member]:
    """Members of a tar that ``ShardWriter`` wrote.

    Raises:
        BadTarError: a header differs from what we write, or the end is missing.
    """
    offset = 0
    while True:
        header = tar[offset : offset + BLOCK_BYTES]
        if len(header) < BLOCK_BYTES:
            raise BadTarError(f"the tar ends at byte {len(tar):,}, before its end marker")
        if not any(header):
            return
        try:
            name = header[:100].rstrip(b"\0")
            size_bytes = int(header[124:135], 8)
            if ustar_header(name, size_bytes) != header:
                raise ValueError
            text = name.decode("ascii")
        except ValueError as exc:
            raise BadTarError(f"the tar header at byte {offset:,} is damaged") from exc
        yield Member(text, offset + BLOCK_BYTES, size_bytes)
        offset += BLOCK_BYTES + size_bytes + len(padding(size_bytes))


def records(tar: mmap.mmap | bytes, image_extension: str) -> Iterator[tuple[Member, Member]]:
    """Pairs of members, image and label, that share a key.

    Raises:
        BadTarError: as ``members``, or a record is not image then label.
    """
    walk = members(tar)
    for image in walk:
        label = next(walk, None)
        key, _, extension = image.name.partition(".")
        follows = label is not None and label.name == f"{key}.{LABEL_EXTENSION}"
        if extension != image_extension or label is None or not follows:
            raise BadTarError(f"{image.name}: not followed by its label")
        yield image, label


def index_line(image: Member, label: Member) -> str:
    """The line of a record in a DALI index."""
    return " ".join(
        f"{member.name.partition('.')[2]} {member.offset} {member.size_bytes} {member.name}"
        for member in (image, label)
    )
