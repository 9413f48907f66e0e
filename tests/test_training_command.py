"""The training that starts is ours, whatever the working folder contains, and help names it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.training import SMALL

IMGPREP_TRAIN = Path(sys.executable).with_name("imgprep-train")
THEIRS = "import pathlib; pathlib.Path('theirs-ran').touch(); raise SystemExit('theirs')\n"


@pytest.fixture(params=["train.py", "train/__init__.py", "torch.py"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A working folder with a module of the user's that has the name of one that we import."""
    path = tmp_path / "mine" / request.param
    path.parent.mkdir(parents=True)
    path.write_text(THEIRS)
    if request.param == "train/__init__.py":
        path.with_name("__main__.py").write_text(THEIRS)
    return tmp_path / "mine"


def run_in(folder: Path, *command: object) -> str:
    """Run a command in a folder; it must succeed and run nothing of the user's."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    ran = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert not list(folder.rglob("theirs-ran"))
    return ran.stdout


def wrapper(place: Path) -> Path:
    """Our tools/train, beside a set-up that has nothing to do."""
    (place / "tools").mkdir()
    shutil.copy(REPOSITORY / "tools" / "train", place / "tools")
    setup = place / "tools" / "setup"
    setup.write_text("#!/bin/sh\n")
    setup.chmod(0o755)
    (place / ".venv").symlink_to(Path(sys.prefix))
    return place / "tools" / "train"


@pytest.mark.parametrize(
    "how", [("--parallel", "none"), ("--parallel", "data", "--processes", 2)], ids=["none", "data"]
)
def test_a_run_trains_with_our_modules(
    folder: Path, built: Path, tmp_path: Path, how: tuple[object, ...]
) -> None:
    out = tmp_path / "run"
    run_in(folder, IMGPREP_TRAIN, "fit", built, "--out", out, *SMALL, "--steps", 1, *how)
    assert (out / "last.pt").is_file()


def test_torchrun_starts_the_installed_command(folder: Path, built: Path, tmp_path: Path) -> None:
    launcher = IMGPREP_TRAIN.with_name("torchrun")
    options = ("--standalone", "--nproc-per-node", 2, "--no-python", IMGPREP_TRAIN)
    run = ("fit", built, "--out", tmp_path / "run", *SMALL, "--steps", 1, "--parallel", "data")
    run_in(folder, launcher, *options, *run)
    assert (tmp_path / "run" / "last.pt").is_file()


def test_the_wrapper_runs_our_training_and_help_names_the_wrapper(
    folder: Path, tmp_path: Path
) -> None:
    program = wrapper(tmp_path)
    assert f"  {program} fit DATASET --out RUN" in run_in(folder, program, "--help")


def test_help_names_the_installed_command(folder: Path) -> None:
    shown = run_in(folder, IMGPREP_TRAIN, "--help") + run_in(folder, IMGPREP_TRAIN, "fit", "--help")
    assert "  imgprep-train fit DATASET --out RUN" in shown
    assert "Usage: imgprep-train fit" in shown
    assert "tools/train" not in shown
    shown = run_in(REPOSITORY, sys.executable, "-m", "train", "--help")
    assert "  python -m train fit DATASET --out RUN" in shown
