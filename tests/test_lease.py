"""One build at a time under a URL: the lease is taken, renewed, refused, lost and taken over."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from imgprep.errors import BusyError
from imgprep.storage.lease import Lease
from imgprep.storage.remote import RemoteStore

NAME = ".imgprep/lock"
_NUMBERS = itertools.count()


@pytest.fixture
def store() -> RemoteStore:
    return RemoteStore(f"memory://lease-{next(_NUMBERS)}/x")


def leave(store: RemoteStore, **fields: object) -> None:
    """A lease as another build wrote it, on another machine, unless told otherwise."""
    value = {
        "token": "theirs",
        "host": "far-away",
        "pid": 4711,
        "machine": "another",
        "began": time.time() - 3600,
        "renewed": time.time(),
        **fields,
    }
    store.write(NAME, json.dumps(value).encode())


def test_a_lease_is_taken_and_released(store: RemoteStore) -> None:
    with Lease(store, NAME) as lease:
        lease.check()
        said = json.loads(store.read(NAME))
        assert (said["token"], said["pid"]) == (lease.token, os.getpid())
        assert said["host"] == socket.gethostname()
    assert store.names(".imgprep") == []


def test_a_lease_that_is_renewed_refuses_another_build(store: RemoteStore) -> None:
    leave(store, renewed=time.time() - 30)
    with pytest.raises(BusyError) as caught, Lease(store, NAME):
        pass
    words = str(caught.value)
    assert words.startswith(f"{store}: another build is writing here ('far-away', process 4711, ")
    assert "if it was killed, run the same command again in 60 s" in words
    assert json.loads(store.read(NAME))["token"] == "theirs"


def test_a_lease_without_renewal_is_taken_over(store: RemoteStore) -> None:
    leave(store, renewed=time.time() - 91)
    with Lease(store, NAME) as lease:
        assert json.loads(store.read(NAME))["token"] == lease.token


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"renewed": "x"}', b"[" * 100_000])
def test_a_damaged_lease_is_taken_over(store: RemoteStore, content: bytes) -> None:
    store.write(NAME, content)
    with Lease(store, NAME) as lease:
        lease.check()


def test_a_lease_of_a_dead_process_on_this_machine_is_taken_over_at_once(
    store: RemoteStore,
) -> None:
    with Lease(store, NAME):
        said = json.loads(store.read(NAME))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leave(store, machine=said["machine"], pid=dead.pid)
    with Lease(store, NAME) as lease:
        lease.check()
    leave(store, machine=said["machine"], pid=os.getppid())
    with pytest.raises(BusyError), Lease(store, NAME):
        pass


def test_a_lease_is_renewed_until_the_block_ends(store: RemoteStore) -> None:
    with Lease(store, NAME, renew_seconds=0.01) as lease:
        first = json.loads(store.read(NAME))["renewed"]
        deadline = time.monotonic() + 10
        while json.loads(store.read(NAME))["renewed"] <= first + 0.05:
            assert time.monotonic() < deadline, "it was not renewed"
            time.sleep(0.01)
        lease.check()


@pytest.mark.parametrize("ahead_seconds", [3600, 2**39])
def test_a_lease_from_the_future_is_taken_over_unless_it_is_renewed(
    store: RemoteStore, ahead_seconds: int
) -> None:
    leave(store, renewed=time.time() + ahead_seconds)
    with Lease(store, NAME, renew_seconds=0.05) as lease:
        assert json.loads(store.read(NAME))["token"] == lease.token
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.01):
            leave(store, renewed=time.time() + ahead_seconds)

    leave(store, renewed=time.time() + ahead_seconds)
    holder = threading.Thread(target=renew)
    holder.start()
    try:
        with (
            pytest.raises(BusyError, match="run the same command again in 90 s"),
            Lease(store, NAME, renew_seconds=1),
        ):
            pass
    finally:
        ended.set()
        holder.join()


def test_a_lost_lease_is_reported_and_the_new_one_is_kept(store: RemoteStore) -> None:
    with Lease(store, NAME, renew_seconds=0.01) as lease:
        leave(store)
        with pytest.raises(BusyError, match=r"took over .*far-away"):
            lease.check()
        time.sleep(0.05)  # some renewals
    assert json.loads(store.read(NAME))["token"] == "theirs"
    store.remove(NAME)
    with pytest.raises(BusyError, match="took over"):
        store.check_hold(NAME, lease.token)


def test_of_two_builds_that_start_together_one_is_refused(store: RemoteStore) -> None:
    """The second looked before the first wrote: the store refuses to make the object twice."""

    class Late(RemoteStore):
        asked = 0

        def read(self, name: str) -> bytes:
            self.asked += 1
            if self.asked == 1:
                leave(store)
                raise FileNotFoundError
            return super().read(name)

    with (
        pytest.raises(BusyError, match="another build is writing here"),
        Lease(Late(store.location), NAME),
    ):
        pass
