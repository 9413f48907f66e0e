"""Commands in processes of their own that need not import everything again.

A command of ours imports for two seconds before it works: scikit-learn to build, torch to train.
The tests run hundreds. So a server imports once, and each command is a fork of it: the module is
run as ``python -m`` runs it, with its own arguments, environment, output and exit. What a command
starts itself (workers, the other ranks of a training) starts as ever.

Such a process differs from a new one in that heavy modules are there already and that the order of
sets is that of the server. Tests of just that, of signals, of limits or of pipes start new ones.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

_SERVE = "from tests.forked import serve; serve()"


class ForkServer:
    """Runs modules one after the other. Starts when it is first used."""

    def __init__(self, *imported: str, **environment: str) -> None:
        """``imported``: what is imported beforehand, where ``environment`` is added."""
        self._imported, self._environment = imported, environment
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, name: str, arguments: list[str], environment: dict[str, str], timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """``python -m name``, in the folder of this moment.

        Raises:
            subprocess.TimeoutExpired: it took longer, and was killed.
        """
        with self._lock, tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            request = {
                "argv": [name, *arguments],
                "environment": environment,
                "cwd": str(Path.cwd()),
                "files": [str(out), str(err)],
            }
            server = self._started()
            assert server.stdin is not None
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            pid = self._answer(server)
            late = not self._readable(server, timeout_s)
            if late:
                os.kill(pid, signal.SIGKILL)
            code = self._answer(server)
            if late:
                raise subprocess.TimeoutExpired([name, *arguments], timeout_s)
            texts = [path.read_bytes().decode(errors="surrogateescape") for path in (out, err)]
        return subprocess.CompletedProcess(arguments, code, *texts)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, *self._imported],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parent.parent,
                env={**os.environ, **self._environment},
            )
            atexit.register(self._end, self._process)
        return self._process

    def _end(self, process: subprocess.Popen[str]) -> None:
        process.communicate()

    @staticmethod
    def _readable(server: subprocess.Popen[str], timeout_s: float) -> bool:
        assert server.stdout is not None
        return bool(select.select([server.stdout], [], [], timeout_s)[0])

    @staticmethod
    def _answer(server: subprocess.Popen[str]) -> int:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line, "the server of tests/forked.py has ended"
        return int(line)


def serve() -> None:
    """Be the server: a request a line on stdin; on stdout the number of its process, its exit."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()
    requests = os.fdopen(os.dup(0), "r")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in requests:
        pid = os.fork()
        if not pid:
            requests.close()
            answers.close()
            _be(**json.loads(line))
            return
        answers.write(f"{pid}\n")
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")


def _be(argv: list[str], environment: dict[str, str], cwd: str, files: list[str]) -> None:
    """Be that command, to the end of this process."""
    for descriptor, path in enumerate([os.devnull, *files]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    _set_warnings(environment.get("PYTHONWARNINGS"))
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


def _set_warnings(asked: str | None) -> None:
    warnings.resetwarnings()
    if asked:
        assert asked == "error", "no other is needed so far"
        sys.warnoptions[:] = [asked]  # for the processes that it starts
        warnings.simplefilter("error")
        return
    quiet: tuple[Any, ...] = (DeprecationWarning, PendingDeprecationWarning, ImportWarning)
    for category in (*quiet, ResourceWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
