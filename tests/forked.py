"""Commands of the training in processes of their own that have torch imported already.

Every ``python -m train`` takes two seconds of a processor to import torch. Here a server of
``multiprocessing`` imports it once; each command is a fork of it, with its own files for output.
Tests that send signals start commands the usual way, and so do all processes that a command starts.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

IMPORTED = ("tests.forked", "torch", "train.cli", "train.fit", "train.measure", "train.report")

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(IMPORTED))


def run_module(
    name: str, arguments: list[str], *, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """``python -m name`` with the environment of this moment.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _forks.Process(
            target=_be, args=(name, arguments, dict(os.environ), Path.cwd(), (out, err))
        )
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([name, *arguments], timeout_s)
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(
            arguments, code, out.read_text("utf-8"), err.read_text("utf-8")
        )


def _be(
    name: str,
    arguments: list[str],
    environment: dict[str, str],
    cwd: Path,
    files: tuple[Path, Path],
) -> None:
    """Be that command, to the end of this process."""
    for descriptor, path in enumerate(files, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
    sys.argv = [name, *arguments]
    sys.modules["__main__"] = types.ModuleType("__main__")  # what processes of ours would import
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
