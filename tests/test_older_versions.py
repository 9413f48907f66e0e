"""Datasets and builds of schema versions 1 and 2 are read, verified, resumed and repaired."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imgprep.build.identity import BuildIdentity, stored_identity
from imgprep.build.state import StatePaths, upgrade
from imgprep.dataset.format import DONE_FOLDER, IDENTITY
from imgprep.dataset.index import load_index
from imgprep.dataset.markers import Marker, done_markers
from imgprep.dataset.older_versions import IDENTITY_V1
from imgprep.storage.local import LocalStore
from tests.conftest import files_of, imgprep
from tests.schemas import as_version_1, as_version_2
from train.feed.dataset import open_dataset

SHARDED = ("--shard-images", 20, "--jobs", 2)
SKIP = ("--on-error", "skip")
both_versions = pytest.mark.parametrize("older", [as_version_1, as_version_2])


@pytest.fixture(params=[as_version_1, as_version_2])
def finished(built: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A finished dataset of an older version."""
    dest: Path = request.param(shutil.copytree(built, tmp_path / "finished"))
    return dest


@pytest.fixture(scope="module")
def flawed(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with one bad image."""
    source = shutil.copytree(mini, tmp_path_factory.mktemp("flawed") / "source")
    next((source / "train").rglob("*.JPEG")).write_bytes(b"not an image")
    return source


@pytest.fixture(scope="module")
def unfinished(flawed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that stopped at its bad image: all other shards are done."""
    dest = tmp_path_factory.mktemp("unfinished") / "out"
    assert imgprep("build-shards", flawed, dest, *SHARDED).code == 1
    assert 4 <= len(list((dest / DONE_FOLDER).iterdir())) < 7
    return dest


@pytest.fixture(scope="module")
def undisturbed(flawed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset as an uninterrupted build of the current version makes it."""
    dest = tmp_path_factory.mktemp("undisturbed") / "out"
    assert imgprep("build-shards", flawed, dest, *SHARDED, *SKIP).code == 3
    return dest


def without_kept_markers(dest: Path, *, beside: Path | None = None) -> dict[str, bytes]:
    """The files of a dataset, except the markers of version 2, which stay as they are.

    With ``beside``, the markers of version 2 are those of another dataset.
    """
    kept = {
        f"{DONE_FOLDER}/{path.name}"
        for path in ((beside or dest) / DONE_FOLDER).glob("*.json")
        if json.loads(path.read_bytes())["schema_version"] == 2
    }
    return {name: data for name, data in files_of(dest).items() if name not in kept}


def everything(dest: Path) -> dict[str, bytes]:
    """All files except the lock, which names its last holder."""
    return {
        str(path.relative_to(dest)): path.read_bytes()
        for path in dest.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_a_finished_dataset_is_read_by_every_command(
    mini: Path, built: Path, finished: Path, tmp_path: Path
) -> None:
    before = everything(finished)
    assert load_index(finished).fingerprint == load_index(built).fingerprint
    assert open_dataset(finished).fingerprint == open_dataset(built).fingerprint
    verified = imgprep("verify", finished, "--decode")
    assert verified.code == 0, verified.out
    assert imgprep("stats", finished).out == imgprep("stats", built).out
    assert imgprep("preview", finished, "-o", tmp_path / "sheet.png").code == 0
    again = imgprep("build-shards", mini, finished, *SHARDED)
    assert (again.code, "nothing to build" in again.out) == (0, True), again.err
    assert everything(finished) == before


def test_a_lost_shard_of_a_finished_dataset_is_rebuilt(
    mini: Path, built: Path, finished: Path
) -> None:
    (finished / "train-000001.tar").unlink()
    ran = imgprep("build-shards", mini, finished, *SHARDED)
    assert ran.code == 0, ran.err
    rebuilt = without_kept_markers(finished)
    original = without_kept_markers(built, beside=finished)
    assert rebuilt.pop("dataset_info.json") != original.pop("dataset_info.json")
    assert rebuilt == original
    assert load_index(finished).fingerprint == load_index(built).fingerprint
    assert imgprep("verify", finished, "--decode").code == 0
    assert "nothing to build" in imgprep("build-shards", mini, finished, *SHARDED).out


@both_versions
def test_an_unfinished_build_is_resumed_and_becomes_version_3(
    older: Callable[[Path], Path],
    flawed: Path,
    unfinished: Path,
    undisturbed: Path,
    tmp_path: Path,
) -> None:
    dest = older(shutil.copytree(unfinished, tmp_path / "out"))
    done = len([*dest.glob("*-[0-9]*.json"), *(dest / DONE_FOLDER).glob("*.json")])
    ran = imgprep("build-shards", flawed, dest, *SHARDED, *SKIP)
    assert ran.code == 3, ran.err
    assert f"already done: {done} of 7 shards" in ran.err
    assert without_kept_markers(dest) == without_kept_markers(undisturbed, beside=dest)
    assert (dest / IDENTITY).read_bytes().count(b'"schema_version": 3') == 1
    assert sorted(path.name for path in (dest / ".imgprep").iterdir()) == [
        "done",
        "identity.json",
        "lock",
    ]
    assert json.loads((dest / "dataset_info.json").read_bytes())["schema_version"] == 3
    assert imgprep("verify", dest, "--decode").code == 0


def test_changes_of_an_unfinished_build_are_refused_by_name(
    flawed: Path, unfinished: Path, tmp_path: Path
) -> None:
    dest = as_version_1(shutil.copytree(unfinished, tmp_path / "out"))
    plan = json.loads((dest / IDENTITY_V1).read_bytes())
    plan["engine"]["numpy"] = "1.0"
    (dest / IDENTITY_V1).write_text(json.dumps(plan))
    before = everything(dest)
    ran = imgprep("build-shards", flawed, dest, *SHARDED, *SKIP)
    assert ran.code == 1
    assert "codecs.numpy: was 1.0, is " in ran.err
    assert everything(dest) == before
    ran = imgprep("build-shards", flawed, dest, *SHARDED, *SKIP, "--force")
    assert ran.code == 3, ran.err
    assert not (dest / IDENTITY_V1).exists()
    assert not list(dest.glob("*-[0-9]*.json"))


class InterruptedStore(LocalStore):
    """A folder whose user is interrupted after a number of changes."""

    def __init__(self, folder: Path, changes: int) -> None:
        super().__init__(folder)
        self.changes = changes

    def write(self, name: str, data: bytes) -> None:
        self._count()
        super().write(name, data)

    def remove(self, *names: str) -> None:
        for name in names:
            self._count()
            super().remove(name)

    def _count(self) -> None:
        if not self.changes:
            raise KeyboardInterrupt
        self.changes -= 1


def known(dest: Path) -> tuple[BuildIdentity, dict[tuple[str, int], Marker]]:
    """What a build finds in DEST: its identity and the done shards."""
    store = LocalStore(dest)
    identity = stored_identity(store)
    assert identity is not None
    shards = [("train", number) for number in range(5)] + [("val", number) for number in range(2)]
    return identity, done_markers(store, shards, identity.sha256)


def test_the_upgrade_may_be_interrupted_anywhere(unfinished: Path, tmp_path: Path) -> None:
    expected = everything(unfinished)
    identity, markers = known(unfinished)
    for changes in range(100):
        dest = as_version_1(shutil.copytree(unfinished, tmp_path / str(changes)))
        assert known(dest) == (identity, markers)
        try:
            upgrade(StatePaths(InterruptedStore(dest, changes)), identity, known(dest)[1].values())
        except KeyboardInterrupt:
            assert known(dest) == (identity, markers)
            upgrade(StatePaths(LocalStore(dest)), identity, known(dest)[1].values())
            interrupted = True
        else:
            interrupted = False
        found = {
            name.replace(str(dest), str(unfinished)): d for name, d in everything(dest).items()
        }
        assert found == expected
        if not interrupted:
            break
    assert changes == 2 * len(markers) + 2
    assert (dest / IDENTITY).exists()
