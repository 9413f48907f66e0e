"""URLs of object stores: how to recognise one, its file system (fsspec), its errors, retries."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from imgprep.errors import UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

ATTEMPTS = 6
"""Times that a request is tried; the environment variable ``IMGPREP_ATTEMPTS`` overrides it."""
FIRST_PAUSE_SECONDS = 0.5
"""Pause after the first failure; each later one is twice as long."""
GIVE_UP_SECONDS = 180.0
"""No attempt starts after this many seconds, even if attempts remain."""
S3_REQUESTS = {
    "connect_timeout": 10,
    "read_timeout": 20,
    "retries": {"mode": "standard", "total_max_attempts": 2},
    "max_pool_connections": 64,
}
"""botocore's own retries: a server that is silent for 20 s gets the request once more, at once.

Together with s3fs (``S3_LOOPS``) and ``attempt``, a server that never answers costs at most about
five minutes, and one that always answers 503 less than one. ``config_kwargs`` in fsspec's own
configuration (``FSSPEC_S3``) override these.
"""
S3_LOOPS = 3
"""Times that s3fs itself tries a request, and continues a download that broke off."""
PROCESS_LOCAL = frozenset({"memory"})
"""Schemes whose files only the process that wrote them can read."""
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError,
              NotADirectoryError)  # fmt: skip
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Error names of botocore, which is not imported here.
_PERMANENT_NAMES = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "ProfileNotFound"}
)


def is_url(text: str) -> bool:
    """Whether ``text`` begins with a scheme, such as ``s3://``."""
    return _URL.match(text) is not None


def scheme_of(url: str) -> str:
    """``s3`` of ``s3://bucket/folder``, in lower case."""
    match = _URL.match(url)
    return match[1].lower() if match else ""


def local_path(url: str) -> Path | None:
    """The path that a ``file://`` URL means; None for other URLs.

    Raises:
        UsageError: it names another host.
    """
    if scheme_of(url) != "file":
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{url}: a file:// URL has three slashes: file:///folder")
    return Path(unquote(parts.path))


def path_of(location: str | Path) -> Path | None:
    """The path that a path or a ``file://`` URL means; None for the URL of an object store.

    Raises:
        UsageError: a ``file://`` URL names another host.
    """
    text = str(location)
    return local_path(text) if is_url(text) else Path(location)


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it, without a slash at the end.

    Credentials and endpoints come from the environment (``AWS_PROFILE``, ``AWS_ENDPOINT_URL``,
    ``~/.aws``, fsspec's own configuration). fsspec caches instances: another call is cheap, and
    gives a new one after a fork.

    Raises:
        UsageError: an unknown kind of URL, or the package that it needs is not installed.
    """
    from fsspec.core import url_to_fs

    scheme = scheme_of(url)
    try:
        fs, path = url_to_fs(
            url.rstrip("/") if not url.endswith("://") else url, **_options(scheme)
        )
    except ImportError as exc:
        extra = _EXTRAS.get(scheme)
        how = f"pip install 'imgprep[{extra}]'" if extra else str(exc)
        raise UsageError(f"{url}: {scheme}:// URLs need another package: {how}") from exc
    except ValueError as exc:
        known = "s3://, gs:// or another scheme of fsspec"
        raise UsageError(f"{url}: unknown kind of URL: use {known}") from exc
    if _EXTRAS.get(scheme) == "s3":
        fs.retries = S3_LOOPS
    return fs, str(path).rstrip("/")


def _options(scheme: str) -> dict[str, Any]:
    """Our options of a file system; fsspec's own configuration overrides them."""
    if scheme not in _EXTRAS:
        return {}
    options: dict[str, Any] = {"use_listings_cache": False}  # other processes write there, too
    if _EXTRAS[scheme] == "s3":
        from fsspec.config import conf

        options["config_kwargs"] = {**S3_REQUESTS, **conf.get("s3", {}).get("config_kwargs", {})}
    return options


def attempts_allowed() -> int:
    """``IMGPREP_ATTEMPTS`` from the environment, or ``ATTEMPTS``."""
    text = os.environ.get("IMGPREP_ATTEMPTS", "")
    return max(1, int(text)) if text.isdecimal() else ATTEMPTS


def attempt(action: Callable[[], T]) -> T:
    """Run an action on an object store; temporary failures are retried, with growing pauses.

    Raises:
        OSError: it failed; ``strerror`` says why. ``FileNotFoundError`` and ``PermissionError``
            (also for missing, wrong or expired credentials) are raised at once.
    """
    pause_seconds = FIRST_PAUSE_SECONDS
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    for left in reversed(range(attempts_allowed())):
        try:
            return action()
        except Exception as exc:
            error = as_os_error(exc)
            if error is None:
                raise
            if left == 0 or time.monotonic() > give_up_at or is_permanent(error):
                raise error from exc
        time.sleep(pause_seconds)
        pause_seconds *= 2
    raise AssertionError("there is at least one attempt")


def is_permanent(error: OSError) -> bool:
    """Whether a retry is pointless."""
    return isinstance(error, _PERMANENT) or error.errno in _DISK_FULL


def as_os_error(exc: Exception) -> OSError | None:
    """What an object store's library raised, as an ``OSError``; None for a bug."""
    if isinstance(exc, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, _words(exc) or "no such object")
    if isinstance(exc, PermissionError) or type(exc).__name__ in _PERMANENT_NAMES:
        why = _words(exc) or "access denied"
        return PermissionError(errno.EACCES, f"{why} (are the credentials right, and not expired?)")
    if isinstance(exc, TimeoutError):
        return TimeoutError(errno.ETIMEDOUT, _words(exc) or "no answer in time")
    if isinstance(exc, _PERMANENT):
        return exc
    if isinstance(exc, OSError) and exc.errno in _DISK_FULL:
        return exc
    if isinstance(exc, OSError) and str(exc.strerror) == "Bad Request":  # S3 gave no reason
        why = "Bad Request: most often the credentials have expired"
        return PermissionError(errno.EACCES, why)
    if isinstance(exc, OSError) or type(exc).__module__.partition(".")[0] in _LIBRARIES:
        return OSError(errno.EIO, _words(exc) or type(exc).__name__)
    return None


_LIBRARIES = frozenset({"botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "fsspec", "urllib3"})


def _words(exc: Exception) -> str:
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return " ".join(str(text).split())
