"""Write files so that they are whole or absent: temporary name, flush to disk, rename."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

from imgprep.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTIAL_SUFFIX = ".partial"
_PARTIAL_NAME = re.compile(
    r"\..+\.[A-Za-z0-9-]*\.[0-9]+\.[0-9a-f]{8}" + re.escape(PARTIAL_SUFFIX), re.DOTALL
)
JSON_DEPTH_MAX = 32
"""Our own files are nested five deep."""
JSON_BYTES_MAX = 1 << 28
READ_BYTES_MAX = 1 << 32
"""A sparse file may claim any size; the largest of ours is a pixel sum of 402 MB."""
_STEM_BYTES_MAX = 100
_CANNOT_FLUSH = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that renames in it survive a power cut.

    Some network file systems cannot flush a folder; that is no error.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(fd)


class PartialFile:
    """A file being written under a temporary name in the folder of its final one.

    ``commit`` flushes it to disk and renames it; ``abandon`` removes it. The caller flushes the
    folder's entries (``sync_folder``), once for several files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        stem = os.fsencode(path.name)[:_STEM_BYTES_MAX].decode("utf-8", "ignore")
        self._temporary = path.with_name(f".{stem}.{_unique()}{PARTIAL_SUFFIX}")
        try:
            self.file: IO[bytes] = self._temporary.open("xb")  # x: never through a link
        except BaseException:  # an interrupt may come after the file was created
            self._temporary.unlink(missing_ok=True)
            raise

    def commit(self) -> None:
        """Flush to disk, then rename."""
        try:
            self._flush()
            self._temporary.replace(self.path)
        except BaseException:
            self.abandon()
            raise

    def commit_new(self) -> None:
        """As ``commit``, but only if no file has the final name; else ``FileExistsError``."""
        try:
            self._flush()
            try:
                os.link(self._temporary, self.path)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links: claim the name, then replace it
                os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
                self._temporary.replace(self.path)
        finally:
            self.abandon()

    def _flush(self) -> None:
        with self.file:
            self.file.flush()
            os.fsync(self.file.fileno())

    def abandon(self) -> None:
        """Remove the temporary file; a file of the final name stays as it was."""
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # closing flushes, which fails on a full disk
            self.file.close()


def _unique() -> str:
    """A name that no other process has, on any machine that shares the folder."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", os.uname().nodename)[:32]
    return f"{host}.{os.getpid()}.{secrets.token_hex(4)}"


@contextmanager
def partial_file(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing; it appears, whole and on disk, if the block succeeds."""
    partial = PartialFile(path)
    try:
        yield partial.file
    except BaseException:
        partial.abandon()
        raise
    partial.commit()
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file, whole or not at all."""
    with partial_file(path) as file:
        file.write(data)


def save_npy(file: IO[bytes], array: NDArray[Any]) -> None:
    """Write the array as ``.npy``, in pieces.

    ``numpy.save`` to a real file loses the reason of a failed write; through ``write`` it does not.
    """
    import numpy as np

    np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


def json_bytes(value: object) -> bytes:
    """JSON in UTF-8, indented, with a final newline; lone surrogates are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        return (json.dumps(value, indent=2, ensure_ascii=True) + "\n").encode("ascii")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object from a local file.

    Raises:
        FormatError: the file is missing, unreadable, not JSON or not an object.
    """
    try:
        data = read_regular(path)
    except OSError as exc:
        raise FormatError(f"{path}: cannot read {what}: {exc.strerror}") from exc
    return json_object(data, str(path), what)


def json_object(data: bytes, where: str, what: str) -> dict[str, Any]:
    """The JSON object in the content of a file, shallow enough to compare, hash and print.

    Raises:
        FormatError: it is not JSON, not an object, or nested too deeply.
    """
    if len(data) > JSON_BYTES_MAX:
        raise FormatError(f"{where}: {what} is larger than {JSON_BYTES_MAX >> 20} MiB")
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            raise FormatError(f"{where}: {what} must be a JSON object")
        if is_deeper(value, JSON_DEPTH_MAX):
            raise RecursionError
    except RecursionError as exc:
        raise FormatError(f"{where}: {what} is not valid JSON: it is nested too deeply") from exc
    except ValueError as exc:
        raise FormatError(f"{where}: {what} is not valid JSON: {exc}") from exc
    return value


def is_deeper(value: dict[str, Any], levels: int) -> bool:
    """Whether objects and lists (or tables and arrays) are nested in more than ``levels``."""
    layer: list[Any] = [value]
    for _ in range(levels):
        inner = (each.values() if isinstance(each, dict) else each for each in layer)
        layer = [item for items in inner for item in items if isinstance(item, dict | list)]
    return bool(layer)


def read_regular(path: Path) -> bytes:
    """The content of a regular file; a pipe would block, and a device may have no end.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > READ_BYTES_MAX:
            raise OSError(errno.EFBIG, f"larger than {READ_BYTES_MAX >> 30} GiB", str(path))
        return file.read()


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading. Raises as ``read_regular``."""
    file: IO[bytes] = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a file", str(path))
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def is_partial(name: str) -> bool:
    """Whether this is the temporary name of a file being written, see ``PartialFile``."""
    return _PARTIAL_NAME.fullmatch(name) is not None


def remove_partials(folder: Path) -> None:
    """Remove half-written files that a killed process left in ``folder``."""
    for leftover in folder.glob(f".*{PARTIAL_SUFFIX}"):
        if is_partial(leftover.name) and not leftover.is_dir():
            leftover.unlink(missing_ok=True)
