"""Join a Ray cluster, or start one on this machine; explain a failure in one sentence."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any
from urllib.parse import urlsplit

from imgprep.errors import BuildError, UsageError
from imgprep.runners.runner import RAY

JOIN_ATTEMPTS = 3
"""The head starts a process for each Ray client, which sometimes dies at once: join again."""
REACH_SECONDS = 5.0
_INSTALL = "--runner ray needs Ray: pip install 'imgprep[ray]'"
# Unless the user sets them: no usage reports, and a small object store for a cluster that we start
# (Ray would reserve a third of the memory, and our objects are small).
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(100 * 2**20),
}


def check_cluster(name: str) -> None:
    """Find a missing package or a wrong address before any work is done.

    Raises:
        UsageError: Ray is not installed.
        BuildError: nothing listens at the address.
    """
    _import_ray()
    if name == RAY:
        return
    try:
        parts = urlsplit(name)
        with socket.create_connection((parts.hostname, parts.port or 0), REACH_SECONDS):
            pass
    except (OSError, ValueError, OverflowError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise BuildError(
            f"{name}: nothing answers there ({why}): is the head up (ray start --head), and is "
            "this its Ray Client port (10001 by default)?"
        ) from exc


@contextmanager
def joined(name: str) -> Iterator[Any]:
    """The ``ray`` module, joined to the cluster within the block.

    The name ``ray`` joins the cluster of ``RAY_ADDRESS``, or the one that runs on this machine; if
    there is none, it starts one that ends with the block.

    Raises:
        UsageError: Ray is not installed.
        BuildError: the cluster cannot be joined.
    """
    ray = _import_ray()
    # Ray prints its messages about nodes to stdout, which is for results.
    with redirect_stdout(sys.stderr):
        with _signals_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray's own code
            _join(ray, name)
        try:
            yield ray
        finally:
            with suppress(Exception):  # the cluster may be gone
                ray.shutdown()


def _import_ray() -> Any:
    for variable, value in _DEFAULTS.items():
        os.environ.setdefault(variable, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
    except ImportError as exc:
        raise UsageError(_INSTALL) from exc
    if importlib.util.find_spec("grpc") is None:  # the package ray alone has no client
        raise UsageError(_INSTALL)
    return ray


def _join(ray: Any, name: str) -> None:
    for left in reversed(range(JOIN_ATTEMPTS)):
        try:
            ray.init(
                address=None if name == RAY else name,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
            return
        except ConnectionAbortedError as exc:
            if not left:
                raise BuildError(_why(name, exc)) from exc
            time.sleep(1.0)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as exc:
            raise BuildError(_why(name, exc)) from exc


def _why(name: str, exc: BaseException) -> str:
    where = os.environ.get("RAY_ADDRESS") or "this machine" if name == RAY else name
    text, link = "", exc.__cause__
    while link is not None:
        text, link = f"{text} {link}", link.__cause__
    if "token" in f"{exc} {text}".lower():
        why = "it asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN as on the head"
    else:
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        why = lines[-1] if lines else type(exc).__name__
    return f"cannot join the Ray cluster at {where}: {why}"


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep our handler of SIGTERM, which Ray replaces: SIGTERM stops a build as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
