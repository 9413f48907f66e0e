"""A Ray cluster of two nodes on this machine, by two ``ray start``: what the user starts, too."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.processes import free_port

START_SECONDS = 120
_RAY = str(Path(sys.executable).with_name("ray"))


class RayCluster:
    """One processor a node. Its processes are in two sessions of their own: one a node."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """Nothing runs yet; ``variables`` are for nodes and drivers alike."""
        self._folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))  # sockets: short paths only
        self._ports = [free_port(), free_port()]
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            **variables,
            "PYTHONPATH": str(REPOSITORY),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Some of the head's processes for Ray Clients die as they are forked (ray issue 63202).
            "GRPC_ENABLE_FORK_SUPPORT": "0",
        }

    @property
    def address(self) -> str:
        """What RAY_ADDRESS is to be."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def client_url(self) -> str:
        """The value of --runner for the Ray client."""
        return f"ray://127.0.0.1:{self._ports[1]}"

    def start(self) -> None:
        """Start the nodes that are missing."""
        if not self._nodes:
            port, client_port = self._ports
            self._start("--head", f"--port={port}", f"--ray-client-server-port={client_port}",
                        "--include-dashboard=false", f"--temp-dir={self._folder}")  # fmt: skip
        if len(self._nodes) < 2:
            self._start(f"--address={self.address}")

    def stop(self) -> None:
        """Leave nothing behind."""
        while self._nodes:
            self.kill_node()
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill_node(self) -> None:
        """Kill all processes of the node that was started last, at once."""
        node = self._nodes.pop()
        for _ in range(3):  # one may have been starting another
            for pid in self._processes(node):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        node.wait()

    def kill_in_mid_shard(self, folder: Path) -> bool:
        """Kill the node that was started last if it is writing a shard in the folder.

        It is stopped first, so that it cannot finish the shard before it is killed.
        """
        last = len(self._nodes) - 1
        if not self.works_on(last, folder):
            return False
        for pid in self._processes(self._nodes[last]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        writes = self.works_on(last, folder)
        if writes:
            self.kill_node()
        else:
            for pid in self._processes(self._nodes[last]):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        return writes

    def works_on(self, node: int, folder: Path) -> bool:
        """Whether a process of a node is writing a shard in the folder."""
        writers = writers_in(folder)
        return bool(writers) and not writers.isdisjoint(self._processes(self._nodes[node]))

    def _start(self, *arguments: str) -> None:
        log_path = self._folder / f"node-{len(self._nodes)}.log"
        with log_path.open("wb") as log:
            node = subprocess.Popen(
                [_RAY, "start", *arguments, "--num-cpus=1", "--object-store-memory=80000000",
                 "--disable-usage-stats", "--block"],
                stdout=log, stderr=log, env=self.environment, start_new_session=True,
            )  # fmt: skip
        self._nodes.append(node)
        deadline = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in log_path.read_bytes():
            assert node.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, "no node in two minutes"
            time.sleep(0.05)

    def _processes(self, node: subprocess.Popen[bytes]) -> list[int]:
        """The processes of a node: its session, and what descends from it."""
        parents: dict[int, int] = {}
        found = {node.pid}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields: list[Any] = stat.read_text().rpartition(")")[2].split()
                parents[int(stat.parent.name)] = int(fields[1])
                if int(fields[3]) == node.pid:
                    found.add(int(stat.parent.name))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)


def writers_in(folder: Path, what: str = "*.tar") -> set[int]:
    """Living processes that have such a file half written in a folder: temporary names tell."""
    pids = {int(path.name.split(".")[-3]) for path in folder.rglob(f".{what}.*.partial")}
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}
