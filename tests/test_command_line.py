"""The command line: help, exit codes, streams, start-up."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imgprep.errors import EXIT_CODES
from tests.conftest import command, imgprep
from tests.documents import PAGES, text_of
from tests.training import train

COMMANDS = ("scan", "build-shards", "stats", "verify")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_command_has_help(name: str, flag: str) -> None:
    ran = imgprep(*[word for word in (name, flag) if word])
    assert ran.code == 0
    assert ran.out.startswith("Usage: imgprep")
    assert len(ran.out.splitlines()) > 5


def test_help_lists_every_exit_code() -> None:
    text = " ".join(imgprep("--help").out.split())
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in text


def test_version() -> None:
    assert re.fullmatch(r"imgprep, version \d+\.\d+\.\d+\n", imgprep("--version").out)


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("build-shards",),
        ("build-shards", "SOURCE", "DEST", "--quality", 101),
        ("build-shards", "SOURCE", "DEST", "--size", 3),
        ("build-shards", "SOURCE", "DEST", "--shard-images", 0),
        ("build-shards", "SOURCE", "DEST", "--limit", 0),
        ("build-shards", "SOURCE", "DEST", "--jobs", 0),
        ("build-shards", "SOURCE", "DEST", "--seed", -1),
        ("build-shards", "SOURCE", "DEST", "--filter", "nearest"),
        ("build-shards", "SOURCE", "DEST", "--max-errors", 0),
        ("scan", "SOURCE", "--layout", "zip"),
        ("stats", "DEST", "--solver", "magic"),
    ],
)
def test_usage_errors_exit_with_two(arguments: tuple[object, ...], tmp_path: Path) -> None:
    ran = imgprep(*arguments, cwd=tmp_path)
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("scan", ""), "SOURCE"),
        (("build-shards", "", "out"), "SOURCE"),
        (("build-shards", "source", ""), "DEST"),
        (("stats", ""), "DEST"),
        (("stats", ".", "--html", ""), "--html"),
        (("verify", ""), "DEST"),
        (("preview", ".", "-o", ""), "--out"),
        (("doctor", "--dest="), "--dest"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(
    arguments: tuple[str, ...], name: str, mini: Path, tmp_path: Path
) -> None:
    (tmp_path / "n01440764").symlink_to(mini)  # the current folder is neither empty nor a source
    ran = imgprep(*arguments, cwd=tmp_path)
    assert ran.code == 2
    assert f"'{name}'" in ran.err.replace("'-o' / '--out'", "'--out'")
    assert "it is empty; is a variable not set?" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["n01440764"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "", "--out", "RUN"),
        ("fit", "DATASET", "--out", ""),
        ("evaluate", "", "DATASET"),
        ("evaluate", "best.pt", ""),
        ("export", "", "--out", "x.pt"),
        ("figures", "RUN", ""),
        ("report", "", "--html", "x.html"),
        ("preview", "", "-o", "x.png"),
    ],
)
def test_an_empty_argument_of_the_training_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    ran = train(*arguments)
    assert ran.code == 2
    assert "it is empty; is a variable not set?" in ran.err


def test_an_unknown_source_is_a_usage_error_with_the_evidence(tmp_path: Path) -> None:
    (tmp_path / "stuff").mkdir()
    (tmp_path / "stuff" / "notes.txt").write_text("hello")
    ran = imgprep("build-shards", tmp_path / "stuff", tmp_path / "out")
    assert ran.code == 2
    assert "--layout" in ran.err
    assert not (tmp_path / "out").exists()
    assert imgprep("scan", tmp_path / "nowhere").code in (1, 2)


def test_a_closed_pipe_is_quiet(mini: Path) -> None:
    """``imgprep scan SOURCE | head -1``: no traceback."""
    first = subprocess.Popen(command("scan", mini), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.close()
    assert first.stderr is not None
    err = first.stderr.read().decode()
    first.stderr.close()
    first.wait()
    assert "Traceback" not in err


def test_a_terminal_gets_a_bar(mini: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = command("build-shards", mini, tmp_path / "out", "--jobs", 1)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    output, _ = process.communicate()
    screen = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        screen += chunk
    os.close(ours)
    assert process.returncode == 0
    assert "█" in screen.decode()
    assert b"next: imgprep verify" in output


def test_quiet_prints_nothing_on_stderr(mini: Path, tmp_path: Path) -> None:
    ran = imgprep("build-shards", mini, tmp_path / "out", "-q", "--limit", 4)
    assert (ran.code, ran.err) == (0, "")
    assert "nothing to build" not in ran.out


def test_stats_by_both_solvers(built: Path) -> None:
    exact = imgprep("stats", built, "--json").json
    climbed = imgprep("stats", built, "--solver", "gradient-ascent", "--json").json
    assert max(climbed["angle_to_scikit_learn_degrees"]) < 1e-6
    for one, other in zip(exact["eigenvalues_255"], climbed["eigenvalues_255"], strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    shown = imgprep("stats", built).out
    assert "author-2014" in shown
    assert "lighting" in shown


def test_module_and_script_are_the_same() -> None:
    script = Path(sys.executable).with_name("imgprep")
    as_script = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert as_script.stdout == imgprep("--help").out


def test_the_pages_document_commands_options_and_exit_codes() -> None:
    text = "".join(text_of(page) for page in PAGES)
    for name in COMMANDS:
        assert f"imgprep {name}" in text
    for code, meaning in EXIT_CODES.items():
        assert re.search(rf"\| `?{code}`? \| {re.escape(meaning)}", text), code
    options = set(re.findall(r"--[a-z][a-z-]+", imgprep("build-shards", "--help").out))
    missing = {option for option in options - {"--help"} if f"`{option}" not in text}
    assert not missing
