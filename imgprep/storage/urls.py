"""URLs of object stores: what is one, the file system behind it (fsspec), its errors, retries."""

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
"""Times that something is tried which may work the next time; ``IMGPREP_ATTEMPTS`` says another."""
FIRST_PAUSE_SECONDS = 0.5
"""Pause after the first failure; each one after it is twice as long."""
GIVE_UP_SECONDS = 180.0
"""After so long nothing is tried once more, be it ever so few attempts."""
S3_REQUESTS = {
    "connect_timeout": 10,
    "read_timeout": 20,
    "retries": {"mode": "standard", "total_max_attempts": 2},
    "max_pool_connections": 64,
}
"""botocore's own part: a server that says nothing for 20 s is asked again, once, at once.

With s3fs (``S3_LOOPS``) and ``attempt`` around it: a server that is silent for good costs at most
some five minutes, one that answers 503 for good less than one. ``config_kwargs`` in fsspec's own
configuration (``FSSPEC_S3``) come over these.
"""
S3_LOOPS = 3
"""Times that s3fs itself tries a request, and goes on with a download that broke off."""
PROCESS_LOCAL = frozenset({"memory"})
"""Kinds of URL whose files only the process that wrote them can read."""
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError,
              NotADirectoryError)  # fmt: skip
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# botocore's names; the package is not imported to ask.
_PERMANENT_NAMES = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "ProfileNotFound"}
)


def is_url(text: str) -> bool:
    """Whether ``text`` begins like ``s3://``."""
    return _URL.match(text) is not None


def scheme_of(url: str) -> str:
    """``s3`` of ``s3://bucket/folder``, in small letters."""
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


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it, without a slash at its end.

    Credentials and endpoints are those of the environment (``AWS_PROFILE``, ``AWS_ENDPOINT_URL``,
    ``~/.aws``, fsspec's own configuration). Instances are kept by fsspec: asking again is cheap,
    and right after a fork.

    Raises:
        UsageError: no such kind of URL, or what it needs is not installed.
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
        raise UsageError(f"{url}: {scheme}:// is not a kind of URL that is known here") from exc
    if _EXTRAS.get(scheme) == "s3":
        fs.retries = S3_LOOPS
    return fs, str(path).rstrip("/")


def _options(scheme: str) -> dict[str, Any]:
    """What we ask of a file system, beneath what fsspec's own configuration says."""
    if scheme not in _EXTRAS:
        return {}
    options: dict[str, Any] = {"use_listings_cache": False}  # others write there, too
    if _EXTRAS[scheme] == "s3":
        from fsspec.config import conf

        options["config_kwargs"] = {**S3_REQUESTS, **conf.get("s3", {}).get("config_kwargs", {})}
    return options


def attempts_allowed() -> int:
    """``ATTEMPTS``, or what the environment says."""
    text = os.environ.get("IMGPREP_ATTEMPTS", "")
    return max(1, int(text)) if text.isdecimal() else ATTEMPTS


def attempt(action: Callable[[], T]) -> T:
    """Do something with an object store; what may pass is tried again, with growing pauses.

    Raises:
        OSError: it failed; ``strerror`` says why in words. ``FileNotFoundError`` and
            ``PermissionError`` (also: no, wrong or expired credentials) come at once.
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
    """Whether to try again is of no use."""
    return isinstance(error, _PERMANENT) or error.errno in _DISK_FULL


def as_os_error(exc: Exception) -> OSError | None:
    """The ``OSError`` that stands for what an object store's library raised; None for a defect."""
    if isinstance(exc, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, _words(exc) or "there is no such object")
    if isinstance(exc, PermissionError) or type(exc).__name__ in _PERMANENT_NAMES:
        why = _words(exc) or "access denied"
        return PermissionError(errno.EACCES, f"{why} (are the credentials right and in force?)")
    if isinstance(exc, TimeoutError):
        return TimeoutError(errno.ETIMEDOUT, _words(exc) or "no answer in time")
    if isinstance(exc, _PERMANENT):
        return exc
    if isinstance(exc, OSError) and exc.errno in _DISK_FULL:
        return exc
    if isinstance(exc, OSError) and str(exc.strerror) == "Bad Request":  # an answer without text
        why = "Bad Request: most often the credentials have expired"
        return PermissionError(errno.EACCES, why)
    if isinstance(exc, OSError) or type(exc).__module__.partition(".")[0] in _LIBRARIES:
        return OSError(errno.EIO, _words(exc) or type(exc).__name__)
    return None


_LIBRARIES = frozenset({"botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "fsspec", "urllib3"})


def _words(exc: Exception) -> str:
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return " ".join(str(text).split())
