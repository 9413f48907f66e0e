"""Commands whose standard streams are closed, or on a full disk: ``/dev/full``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import command, files_of, imgprep
from tests.training import SMALL, train_command

VAL = ("--split", "val", "--jobs", 2, "--shard-images", 6, "--size", 64)


@pytest.fixture(scope="module")
def plain(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that was built with open streams."""
    dest = tmp_path_factory.mktemp("plain") / "dataset"
    assert imgprep("build-shards", mini, dest, *VAL).code == 0
    return dest


def in_shell(words: list[str], redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a command with streams as only a shell can give them."""
    script = f'exec "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "redirection",
    ["2>&-", ">&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full", ">/dev/full 2>&1", "2</dev/null"],
)
def test_a_build_and_its_check_do_not_depend_on_their_streams(
    mini: Path, tmp_path: Path, plain: Path, redirection: str
) -> None:
    dest = tmp_path / "dataset"
    for words in (("build-shards", mini, dest, *VAL), ("verify", dest, "--decode", "--jobs", 2)):
        ran = in_shell(command(*words), redirection)
        assert ran.returncode == 0, ran.stderr
        assert "Traceback" not in ran.stderr
        if redirection == ">/dev/full":
            message = "imgprep: cannot write the summary to stdout: No space left on device"
            assert message in ran.stderr
    assert files_of(dest) == files_of(plain)  # no message is in a shard


def test_damage_keeps_its_exit_code_without_streams(plain: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    subprocess.run(["cp", "-r", plain, damaged], check=True)
    (damaged / "labels.json").unlink()
    for redirection in ("2>&-", ">/dev/full", ">&- 2>&-"):
        assert in_shell(command("verify", damaged), redirection).returncode == 4


@pytest.mark.parametrize("words", [("scan", "SOURCE"), ("--help",), ("scan", "--help")])
def test_a_result_that_cannot_be_written_is_an_error(mini: Path, words: tuple[str, ...]) -> None:
    ran = in_shell(command(*(mini if word == "SOURCE" else word for word in words)), ">/dev/full")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "imgprep: cannot write to stdout: No space left on device"
    )
    assert "Traceback" not in ran.stderr


def test_a_scan_needs_no_stderr(mini: Path) -> None:
    expected = imgprep("scan", mini).out
    for redirection in ("2>&-", "2>/dev/full"):
        ran = in_shell(command("scan", mini), redirection)
        assert (ran.returncode, ran.stdout) == (0, expected)


def test_a_training_runs_to_its_end_without_streams(built: Path, tmp_path: Path) -> None:
    for number, redirection in enumerate(("2>/dev/full", ">/dev/full 2>&-")):
        out = tmp_path / f"run{number}"
        words = train_command("fit", built, "--out", out, *SMALL, "--steps", 2)
        ran = in_shell(words, redirection)
        assert ran.returncode == 0, ran.stderr
        assert (out / "last.pt").exists()
