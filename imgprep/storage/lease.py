"""A lease that keeps two builds from writing to one DEST, where there are no file locks.

That is the case in object stores, and in a few file systems. The lease is a small object that
names the build that holds the store. The holder renews it. If it has not been renewed for a while,
its holder is taken for dead and another build takes over. A build that lost its lease that way
(its machine slept, its network failed) notices before it sends its next shard.

This is not watertight: ages depend on the clocks of two machines, and another build may write
between a read and a write. The damage is lost time only: builds that may share a DEST have the
same source and spec, and write the same bytes.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import suppress
from typing import Any, Protocol, TypeGuard

from imgprep.errors import BusyError, FormatError
from imgprep.storage.atomic import json_object
from imgprep.storage.locks import in_words, is_dead, this_process

ANOTHER_BUILD = "another build is writing here"
RENEW_SECONDS = 20.0
STALE_SECONDS = 90.0
"""A holder that has not renewed its lease for this long counts as dead."""
RELEASE_SECONDS = 5.0
"""Longest wait at the end of a build for a store that does not answer; the lease then expires."""


class Objects(Protocol):
    """The methods of a store that a lease uses."""

    @property
    def location(self) -> str: ...
    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...
    def create(self, name: str, data: bytes) -> None: ...
    def remove(self, *names: str) -> None: ...


class Lease:
    """Holds a store for the duration of a block, by the object ``name``.

    Raises:
        BusyError: on entering, if another build holds it.
    """

    def __init__(
        self,
        store: Objects,
        name: str,
        *,
        token: str = "",
        busy: str = ANOTHER_BUILD,
        renew_seconds: float = RENEW_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self._store, self._name, self._busy = store, name, busy
        self._renew_seconds, self._stale_seconds = renew_seconds, stale_seconds
        self._holder = this_process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self.token = token or secrets.token_hex(16)

    def __enter__(self) -> Lease:
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(RELEASE_SECONDS)

    def check(self) -> None:
        """Check that it is still ours.

        Raises:
            BusyError: another build took it over, or it was removed.
        """
        found = self._found()
        if found is None or found.get("token") != self.token:
            raise BusyError(
                f"{self._store.location}: another build took over{in_words(found)}, because this "
                "one had not renewed its lease: let the other one finish"
            )

    def _take(self) -> None:
        found = self._found()
        if found is None:
            with suppress(FileExistsError):
                return self._store.create(self._name, self._content())
            found = self._found()
            if found is not None and found.get("token") == self.token:
                return None  # ours: the answer was lost, so the request was repeated
        self._refuse_living(found)
        self._store.write(self._name, self._content())
        return None

    def _refuse_living(self, found: dict[str, Any] | None) -> None:
        if found is None or is_dead(found):
            return
        renewed = found.get("renewed")
        silent = time.time() - renewed if _is_time(renewed) else self._stale_seconds
        if silent >= self._stale_seconds or self._is_forgotten(found, silent):
            return
        wait = min(self._stale_seconds, self._stale_seconds - silent)
        raise BusyError(
            f"{self._store.location}: {self._busy}{in_words(found)}: wait for it to finish; if it "
            f"was killed, run the same command again in {wait:.0f} s"
        )

    def _is_forgotten(self, found: dict[str, Any], silent: float) -> bool:
        """Whether a lease from the future is not renewed any more.

        Its age is unknown: the clocks differ, or the time is forged. So watch for a renewal.
        """
        if silent > -self._renew_seconds:
            return False
        time.sleep(1.5 * self._renew_seconds)
        return self._found() == found

    def _found(self) -> dict[str, Any] | None:
        """The present content of the lease; None if there is none."""
        try:
            return json_object(self._store.read(self._name), self._name, "lease")
        except FileNotFoundError:
            return None
        except FormatError:
            return {}

    def _content(self) -> bytes:
        value = {"token": self.token, **self._holder, "renewed": time.time()}
        return json.dumps(value).encode()

    def _keep(self) -> None:
        """Renew the lease until the block ends, then remove it; stop if another build took over."""
        ended = False
        while not ended:
            ended = self._ended.wait(self._renew_seconds)
            with suppress(OSError):  # the next renewal may get through
                if (self._found() or {}).get("token") != self.token:
                    return
                if ended:
                    self._store.remove(self._name)
                else:
                    self._store.write(self._name, self._content())


def _is_time(value: object) -> TypeGuard[float]:
    """Whether an untrusted value is a time; NaN is not."""
    return isinstance(value, int | float) and 0 <= value < 2**40
