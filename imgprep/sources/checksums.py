"""Hash the official archives and compare them with the published MD5s."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imgprep.errors import SourceError
from imgprep.sources.challenges import ILSVRC2012
from imgprep.sources.open_tree import open_tree
from imgprep.sources.tree import Tree


@dataclass(frozen=True, slots=True)
class ChecksumResult:
    """The MD5 of one official archive."""

    name: str
    md5: str
    expected: str
    """The published MD5."""
    size_bytes: int
    expected_bytes: int | None
    """The published size, where it is known."""

    @property
    def ok(self) -> bool:
        """Whether the archive is the published one."""
        return self.md5 == self.expected

    def render(self) -> str:
        """The result as one line, with advice where the archive is not the published one."""
        if self.ok:
            return f"{self.name}: MD5 {self.md5} matches"
        advice = "download it again; a subset or a repacked archive never matches"
        if self.size_bytes == self.expected_bytes:
            advice = "the size is right, so the content is damaged: download it again"
        elif self.expected_bytes is not None:
            advice = (
                f"it has {self.size_bytes:,} bytes, the published archive {self.expected_bytes:,}: "
                "download it again if it should be whole; a subset or a repacked archive never "
                "matches, so scan it without --checksum"
            )
        return f"{self.name}: MD5 {self.md5} DIFFERS from the published {self.expected}: {advice}"


def checksum_archives(
    location: str | Path, progress: Callable[[int, int], None] | None = None
) -> list[ChecksumResult]:
    """Hash the official archives that a source has, in parallel.

    Args:
        location: the folder of the archives, a path or a URL.
        progress: called with (bytes done, bytes in total), from one thread at a time.

    Raises:
        SourceError: an archive cannot be read.
    """
    tree = open_tree(location)
    names = [name for name in ILSVRC2012.md5_by_archive if tree.is_file(name)]
    if not names:
        return []
    total_bytes = sum(tree.size_bytes(name) for name in names)
    lock = threading.Lock()
    done_bytes = 0

    def advance(read_bytes: int) -> None:
        nonlocal done_bytes
        with lock:
            done_bytes += read_bytes
            if progress:
                progress(done_bytes, total_bytes)

    with ThreadPoolExecutor(len(names), "imgprep-md5") as pool:
        try:
            digests = list(pool.map(lambda name: _md5(tree, name, advance), names))
        except BaseException:
            tree.stop()
            raise
    return [
        ChecksumResult(
            name,
            digest,
            ILSVRC2012.md5_by_archive[name],
            tree.size_bytes(name),
            ILSVRC2012.bytes_by_archive.get(name),
        )
        for name, digest in zip(names, digests, strict=True)
    ]


def _md5(tree: Tree, name: str, advance: Callable[[int], None]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        for chunk in tree.chunks(name):
            digest.update(chunk)
            advance(len(chunk))
    except OSError as exc:
        raise SourceError(f"{tree.where(name)} cannot be read: {exc.strerror or exc}") from exc
    return digest.hexdigest()
