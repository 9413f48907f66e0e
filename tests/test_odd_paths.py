"""Paths that do not exist, lead in circles, may not be read, or lead out of a dataset."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgprep.dataset.index import load_index
from imgprep.errors import FormatError, UsageError
from imgprep.sources.open_tree import open_tree
from imgprep.storage.atomic import read_regular
from imgprep.storage.local import LocalStore
from imgprep.storage.remote import RemoteStore
from tests.conftest import REPOSITORY, command, imgprep

NOBODY = 65534


@contextmanager
def without_privileges() -> Iterator[None]:
    """Run the block as a user who may not read the files of root."""
    before = os.geteuid()
    os.seteuid(NOBODY if before == 0 else before)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A folder with a file, and with two links that lead to each other."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("back")
    (tmp_path / "back").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("name", ["stats", "verify", "preview"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("file", "file is a file; give the folder of a dataset"),
        ("file/x", "file/x does not exist"),
        ("loop", "loop cannot be read: Too many levels of symbolic links"),
    ],
)
def test_a_dataset_that_is_not_a_folder(places: Path, name: str, place: str, message: str) -> None:
    more = ("-o", places / "sheet.png") if name == "preview" else ()
    ran = imgprep(name, places / place, *more)
    assert ran.code == 1
    assert f"{places}/{message}" in ran.err
    assert "Traceback" not in ran.err


def test_a_source_or_dest_that_is_a_loop_of_links(mini: Path, places: Path) -> None:
    for dest in ("loop", "loop/x"):
        ran = imgprep("build-shards", mini, places / dest)
        assert ran.code == 1
        assert f"{places / dest}: Too many levels of symbolic links" in ran.err
    ran = imgprep("build-shards", places / "loop", places / "out")
    assert ran.code == 2
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("words", ["build-shards a b", "doctor --quick", "verify a", "scan a"])
def test_a_current_folder_that_was_deleted(tmp_path: Path, words: str) -> None:
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    folder = tmp_path / "gone"
    folder.mkdir()
    ran = subprocess.run(
        ["bash", "-c", script, str(folder), *command(*words.split())],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "the current folder was deleted: change to another folder" in ran.stderr


def test_folders_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "secret" / "x").mkdir(parents=True)
    (tmp_path / "secret").chmod(0)
    try:
        with without_privileges():
            with pytest.raises(FormatError, match="x cannot be read: Permission denied"):
                load_index(tmp_path / "secret" / "x")
            with pytest.raises(UsageError, match="x cannot be read: Permission denied"):
                open_tree(tmp_path / "secret" / "x").check_folder()
            assert LocalStore(tmp_path / "secret" / "x").free_bytes() > 0
    finally:
        (tmp_path / "secret").chmod(0o700)


CHANGES: dict[str, Callable[[LocalStore], object]] = {
    "write": lambda store: store.write("state/precious", b"ours"),
    "create": lambda store: store.create("state/new", b"ours"),
    "partial": lambda store: store.partial("state/precious"),
    "remove": lambda store: store.remove("state/precious"),
    "remove a folder": lambda store: store.remove_folder("state/folder"),
    "sweep": lambda store: store.sweep("state"),
    "new folder": lambda store: store.new_folder("state").__enter__(),
    "hold": lambda store: store.hold("state/lock").__enter__(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_is_changed_through_a_link_in_a_dataset(tmp_path: Path, name: str) -> None:
    outside, dataset = tmp_path / "outside", tmp_path / "dataset"
    (outside / "folder").mkdir(parents=True)
    for path in ("precious", ".x.host.1.0a1b2c3d.partial", "folder/precious"):
        (outside / path).write_text("years of work")
    dataset.mkdir()
    (dataset / "state").symlink_to(outside)
    before = sorted(outside.rglob("*"))
    if name == "remove a folder":  # which removes what it can, and never fails
        CHANGES[name](LocalStore(dataset))
    else:
        with pytest.raises(OSError, match="state is a symbolic link"):
            CHANGES[name](LocalStore(dataset))
    assert sorted(outside.rglob("*")) == before
    assert (outside / "precious").read_text() == "years of work"


def test_a_build_does_not_follow_a_link_to_its_state(
    mini: Path, built: Path, tmp_path: Path
) -> None:
    outside, dest = tmp_path / "outside", tmp_path / "dest"
    shutil.copytree(built / ".imgprep", outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    dest.mkdir()
    (dest / ".imgprep").symlink_to(outside)
    for force in ((), ("--force",)):
        ran = imgprep("build-shards", mini, dest, "--limit", 4, *force)
        assert ran.code == 1
        assert "is a symbolic link" in ran.err
    assert before == {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}


def test_a_dataset_may_itself_be_a_link(mini: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    ran = imgprep("build-shards", mini, tmp_path / "link", "--limit", 4, "--size", 32)
    assert ran.code == 0, ran.err
    assert imgprep("verify", tmp_path / "link").code == 0


def test_a_sparse_file_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "dataset_info.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="larger than 4 GiB"):
        read_regular(tmp_path / "dataset_info.json")
    with pytest.raises(FormatError, match="cannot read dataset index: larger than 4 GiB"):
        load_index(tmp_path)


def test_objects_that_cannot_be_files_are_not_listed() -> None:
    store = RemoteStore("memory://odd-names/x")
    store.write("a", b"1")
    store.write("b\0c", b"2")
    assert store.names() == ["a"]
