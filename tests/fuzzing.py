"""Fuzz targets: what they pass to our readers, and which results they accept.

A target takes bytes, writes them where an untrusted file would be, and reads them as the program
does. It returns if the reader returns or raises one of our errors that names the file. Everything
else fails: another exception, a write outside, a loaded pickle. ``TARGETS`` lists them for
``tests/test_fuzz_readers.py`` and for ``tools/fuzz.py``.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from imgprep.errors import ImageError, ImgprepError
from tests.mutations import Mutation, mutate_bytes

MESSAGE_MAX = 20_000
"""Limit for the length of a message, so that it cannot repeat a hostile file."""

CAUSE_MAX = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A reader that is fed with bytes."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    mutate: Mutation
    tokens: tuple[bytes, ...]
    needs: tuple[str, ...]
    """Compiled modules that it tests."""
    text: str
    """Description in one line."""

    def hostile(self, random: Random) -> bytes:
        """Return a mutated seed."""
        return self.mutate(random.choice(self.seeds()), random)


TARGETS: dict[str, Target] = {}


def target(
    name: str,
    seeds: Callable[[], list[bytes]],
    *,
    mutate: Mutation | None = None,
    tokens: tuple[bytes, ...] = (),
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register a function in ``TARGETS``."""

    def enter(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def guarded_run(data: bytes) -> None:
            with watching():
                run(data)

        change = mutate or (lambda data, random: mutate_bytes(data, random, tokens))
        TARGETS[name] = Target(
            run=guarded_run,
            seeds=cache(seeds),
            mutate=change,
            tokens=tokens,
            needs=needs,
            text=" ".join((run.__doc__ or "").split()),
        )
        return run

    return enter


@contextmanager
def ours(*names: str) -> Iterator[None]:
    """Accept our errors if their message contains all of ``names`` and is not too long."""
    try:
        yield
    except ImgprepError as exc:
        text = str(exc)
        missing = [name for name in names if name not in text]
        if missing:
            raise AssertionError(f"the message does not contain {missing}: {text[:400]!r}") from exc
        if len(text) > MESSAGE_MAX:
            raise AssertionError(f"a message of {len(text)} characters: {text[:200]!r}") from exc


def cause(exc: ImageError) -> str:
    """Return the message of an ImageError, which is only the cause: the caller knows the file."""
    text = str(exc)
    if not 0 < len(text) < CAUSE_MAX:
        raise AssertionError(f"a cause of {len(text)} characters: {text[:200]!r}")
    return text


class _Guard:
    """Detects what a reader must never do. An audit hook cannot be removed, only deactivated."""

    active = False
    installed = False
    scratch = ""
    """Folder for unnamed temporary files."""
    FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "socket.connect", "os.exec")
    CHANGING = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link")
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    @classmethod
    def inside(cls, path: object) -> bool:
        """Whether a path is in the workspace or is an unnamed temporary file."""
        if isinstance(path, int):
            return True
        name = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        unnamed = name == cls.scratch or name.startswith(f"{cls.scratch}/tmp")
        return unnamed or name.startswith(str(workspace()))

    @classmethod
    def hear(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if not cls.active:
            return
        if event in cls.FORBIDDEN:
            raise AssertionError(f"a reader did {event} {arguments!r:.200}")
        changed = arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]
        if event in cls.CHANGING and arguments[-1] not in (-1, None):
            return  # relative to an open folder, as in rmtree
        if event in cls.CHANGING or (event == "open" and arguments[2] & cls.WRITING):
            outside = [path for path in changed if not cls.inside(path)]
            if outside:
                raise AssertionError(f"a reader did {event} of {outside!r:.200}, which is outside")


@contextmanager
def watching() -> Iterator[None]:
    """Within the block, raise AssertionError for what a reader must never do."""
    if not _Guard.installed:
        _Guard.scratch = os.path.realpath(tempfile.gettempdir())
        workspace()
        sys.addaudithook(_Guard.hear)
        _Guard.installed = True
    _Guard.active = True
    compiled, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        _Guard.active = False
        sys.dont_write_bytecode = compiled


@cache
def workspace() -> Path:
    """Return a folder, in memory if possible, that is removed when the process ends."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="imgprep-fuzz-", dir=place))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def put(folder: str, name: str, data: bytes) -> Path:
    """Write a file into a folder of the workspace, over an older one of that name."""
    path = workspace() / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@cache
def dataset() -> Path:
    """Return a small finished dataset: 9 train and 6 val records of 16 pixels."""
    from tests.trees import Shape, make_class_folders

    source = make_class_folders(workspace() / "source", Shape(val_images=6))
    dest = workspace() / "dataset"
    command = [sys.executable, "-m", "imgprep", "build-shards", str(source), str(dest)]
    options = ["--size", "16", "--shard-images", "5", "--jobs", "1", "--quiet", "--json"]
    active, _Guard.active = _Guard.active, False
    try:
        subprocess.run([*command, *options], check=True, capture_output=True)
    finally:
        _Guard.active = active
    return dest


@contextmanager
def changed_dataset(name: str, data: bytes, *, forged: bool) -> Iterator[Path]:
    """Yield the dataset with other bytes in the file ``name``; ``forged`` also fixes the hashes."""
    folder = workspace() / "changed"
    if not folder.exists():
        shutil.copytree(dataset(), folder)
    files = [name, "dataset_info.json"]
    try:
        (folder / name).write_bytes(data)
        if forged:
            forge(folder)
        yield folder
    finally:
        for each in files:
            shutil.copyfile(dataset() / each, folder / each)


def forge(folder: Path) -> None:
    """Correct all hashes of a dataset's index, as the author of a hostile dataset would."""
    import hashlib
    import json

    from imgprep.dataset.index import fingerprint_of

    path = folder / "dataset_info.json"
    try:
        info = json.loads(path.read_bytes())
        for name in info["files"]:
            if (folder / name).is_file():
                info["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for split in info["splits"].values():
            for shard in split["shards"]:
                content = (folder / shard["name"]).read_bytes()
                shard["sha256"] = hashlib.sha256(content).hexdigest()
        info["fingerprint"] = fingerprint_of(info)
        path.write_text(json.dumps(info))
    except Exception:  # too damaged to be forged: the reader gets it as it is
        return


def original(name: str) -> bytes:
    """Return a file of the dataset."""
    return (dataset() / name).read_bytes()


def load_all() -> dict[str, Target]:
    """Return all targets; imports the readers."""
    from tests import fuzz_pixels, fuzz_prepared, fuzz_sources, fuzz_training

    assert all((fuzz_pixels, fuzz_prepared, fuzz_sources, fuzz_training))
    return TARGETS
