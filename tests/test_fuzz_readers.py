"""Hostile files: every reader returns, or raises one of our errors that names the file."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgprep.errors import ImgprepError
from tests import fuzzing

TARGETS = fuzzing.load_all()
SEEDS = st.integers(0, 2**64 - 1)
"""The changes to a file are drawn from a seed, so that a failure can be replayed by its seed."""


@pytest.mark.parametrize("name", TARGETS)
def test_valid_files_pass(name: str) -> None:
    for valid in TARGETS[name].seeds():
        TARGETS[name].run(valid)


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_files_give_a_result_or_one_of_our_errors(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=100)
    @given(seed=SEEDS)
    def check(seed: int) -> None:
        target.run(target.hostile(Random(seed)))

    check()


@pytest.mark.parametrize("wrong", [ValueError("x"), ImgprepError("no file is mentioned")])
def test_a_reader_that_raises_another_error_is_detected(wrong: Exception) -> None:
    with pytest.raises((ValueError, AssertionError)), fuzzing.ours("file.json"):
        raise wrong


def test_a_reader_that_writes_runs_or_unpickles_is_detected() -> None:
    deeds = (
        lambda: pickle.loads(pickle.dumps(Random)),
        lambda: subprocess.run(["true"], check=True),
        lambda: os.open("/tmp/../var/tmp/x", os.O_WRONLY | os.O_CREAT),
        lambda: Path("a").rename("/etc/b"),
        lambda: os.system("true"),
    )
    for deed in deeds:
        with pytest.raises(AssertionError, match="a reader"), fuzzing.watching():
            deed()
