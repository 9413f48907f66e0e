"""A store under a URL of an object store, through fsspec."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from imgprep.storage.lease import Lease
from imgprep.storage.upload import PART_BYTES, S3, SEND_SECONDS, Uploader
from imgprep.storage.urls import attempt, file_system, scheme_of

REQUESTS_AT_ONCE = 16
"""Small requests that are sent at the same time."""


class RemoteStore:
    """Objects under a URL; see ``imgprep.storage.Store``.

    Files are written to the local disk (``TMPDIR``) and uploaded when they are whole; see
    ``imgprep.storage.upload`` for ``part_bytes`` and ``send_seconds``. An instance belongs to one
    process: pass its location to others.
    """

    folder = None

    def __init__(
        self, url: str, *, part_bytes: int = PART_BYTES, send_seconds: float = SEND_SECONDS
    ) -> None:
        self._url = url.rstrip("/") if not url.endswith("://") else url
        self._fs, self._root = file_system(url)
        self._uploader = Uploader(self._fs, scheme_of(url), part_bytes, send_seconds)

    @property
    def location(self) -> str:
        """The URL."""
        return self._url

    def __str__(self) -> str:
        return self._url

    def where(self, name: str) -> str:
        """URL of an object."""
        return f"{self._url}/{name}"

    def entries(self, folder: str = "") -> dict[str, int | None]:
        """Size of each object, None for each folder; one listing."""
        path = self._path(folder)
        try:
            found: list[dict[str, Any]] = attempt(lambda: self._fs.ls(path, detail=True))
        except FileNotFoundError:
            return {}
        if [entry["name"] for entry in found if entry["type"] == "file"] == [path]:
            raise NotADirectoryError(errno.ENOTDIR, "this is an object, not a folder")
        sizes = {
            str(entry["name"]).rstrip("/").rpartition("/")[2]: (
                int(entry["size"]) if entry["type"] == "file" else None
            )
            for entry in found
            if _is_plain(str(entry["name"])) and entry["name"] != path
        }
        return dict(sorted(sizes.items()))

    def names(self, folder: str = "") -> list[str]:
        """Names of the objects directly in ``folder``, sorted."""
        return [name for name, size in self.entries(folder).items() if size is not None]

    def size_bytes(self, name: str) -> int:
        """Size of an object."""
        found = attempt(lambda: self._fs.info(self._path(name)))
        if found["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "no such object")
        return int(found["size"])

    def read(self, name: str) -> bytes:
        """The content of an object, in one request."""
        # With one part s3fs sends no HEAD request first.
        one = {"max_concurrency": 1} if scheme_of(self._url) in S3 else {}
        return bytes(attempt(lambda: self._fs.cat_file(self._path(name), **one)))

    def write(self, name: str, data: bytes) -> None:
        """Write an object in one request, and verify it."""
        self._uploader.write(data, self._path(name))

    def create(self, name: str, data: bytes) -> None:
        """Write an object that must not exist yet, if the store can check that.

        Raises:
            FileExistsError: it exists.
        """
        path = self._path(name)

        def send() -> None:
            try:
                self._fs.pipe_file(path, data, mode="create")
            except (OSError, TypeError) as exc:
                if isinstance(exc, OSError) and exc.errno != errno.ENOSYS:
                    raise
                self._fs.pipe_file(path, data)  # this store has no conditional writes

        attempt(send)

    def partial(self, name: str) -> RemotePartial:
        """Begin a file on the local disk."""
        return RemotePartial(self, name)

    def upload(self, name: str, path: Path) -> None:
        """Upload a local file as ``name``, and verify it."""
        self._uploader.put(path, self._path(name))

    def remove(self, *names: str) -> None:
        """Remove objects, in any order."""
        self._remove(map(self._path, names))

    def remove_folder(self, folder: str) -> None:
        """Remove all objects in ``folder``, at any depth, as far as possible."""
        with suppress(OSError):
            self._remove(attempt(lambda: self._fs.find(self._path(folder))))

    @contextmanager
    def as_file(self, name: str) -> Iterator[Path]:
        """The object in a local file, for the duration of the block."""
        with _scratch() as (_, path):
            attempt(lambda: self._fs.get_file(self._path(name), str(path)))
            yield path

    @contextmanager
    def as_folder(self, folder: str) -> Iterator[Path]:
        """The objects directly in ``folder`` as local files, for the duration of the block."""
        with tempfile.TemporaryDirectory(prefix="imgprep-") as made:
            for name in self.names(folder):
                source, target = self._path(f"{folder}/{name}"), str(Path(made) / name)
                attempt(partial(self._fs.get_file, source, target))
            yield Path(made)

    @contextmanager
    def new_folder(self, folder: str) -> Iterator[Path]:
        """A local folder whose files are uploaded when the block ends without an error."""
        with tempfile.TemporaryDirectory(prefix="imgprep-") as made:
            yield Path(made)
            for path in sorted(Path(made).iterdir()):
                self.upload(f"{folder}/{path.name}", path)

    def sweep(self, folder: str = "") -> None:
        """Abort multipart uploads into the store that were never completed (S3).

        Their parts are invisible but cost money. They stay if the store does not allow this. An
        upload into another folder beneath the store is someone else's.
        """
        if not folder:
            with suppress(OSError):
                attempt(lambda: self._uploader.abort_unfinished(f"{self._root}/", _is_ours))

    def free_bytes(self) -> None:
        """None: an object store states no limit."""

    @contextmanager
    def hold(self, name: str) -> Iterator[str]:
        """Hold the store by a lease; see ``imgprep.storage.lease``."""
        with Lease(self, name) as lease:
            yield lease.token

    def check_hold(self, name: str, token: str) -> None:
        """Raise ``BusyError`` if the lease is no longer the one of ``token``."""
        Lease(self, name, token=token).check()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _remove(self, paths: Iterable[str]) -> None:
        def one(path: str) -> None:
            with suppress(FileNotFoundError):
                attempt(lambda: self._fs.rm_file(path))

        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as threads:
            list(threads.map(one, paths))


def _is_ours(name: str) -> bool:
    """Whether a store may hold an object of this name: directly, or in a hidden folder."""
    return "/" not in name or name.startswith(".")


def _is_plain(path: str) -> bool:
    """Whether the last part of a path can name a local file.

    Some tools create an empty object whose name ends in a slash for a folder.
    """
    return path.rpartition("/")[2] not in ("", ".", "..") and "\0" not in path


@contextmanager
def _scratch() -> Iterator[tuple[IO[bytes], Path]]:
    """A file on the local disk that disappears with this process, however it ends."""
    file: IO[bytes]
    with tempfile.TemporaryFile(prefix="imgprep-") as file:
        path = Path(f"/proc/self/fd/{file.fileno()}")
        if path.exists():
            yield file, path
            return
    with tempfile.NamedTemporaryFile(prefix="imgprep-") as named:
        yield named, Path(named.name)


class RemotePartial:
    """A file on the local disk, uploaded by ``commit``."""

    def __init__(self, store: RemoteStore, name: str) -> None:
        self._store, self._name = store, name
        self._scratch = _scratch()
        self.file, self._path = self._scratch.__enter__()

    def commit(self) -> None:
        """Upload the file and verify it, then remove the local one."""
        try:
            self.file.flush()
            self._store.upload(self._name, self._path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove the local file; an object in the store stays as it was."""
        with suppress(OSError):
            self._scratch.__exit__(None, None, None)
