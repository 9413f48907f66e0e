"""Writes WebDataset shards with tarfile, for the peers that have no writer."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from types import TracebackType

from _task import SHARD_IMAGES


class TarShards:
    """Writes ``<key>.jpg`` and ``<key>.cls`` pairs, ``SHARD_IMAGES`` per tar."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.count = 0
        self._tar: tarfile.TarFile | None = None

    def add(self, jpeg: bytes, label: int) -> None:
        if self._tar is None or self.count % SHARD_IMAGES == 0:
            self.close()
            self._tar = tarfile.open(  # noqa: SIM115  (closed by close)
                self.out / f"shard-{self.count // SHARD_IMAGES:06d}.tar",
                "w",
                format=tarfile.USTAR_FORMAT,
            )
        key = f"{self.count:08d}"
        for name, data in ((f"{key}.jpg", jpeg), (f"{key}.cls", str(label).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
        self.count += 1

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def __enter__(self) -> TarShards:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
