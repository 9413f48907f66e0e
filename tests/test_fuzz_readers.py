"""Hostile files: every reader answers, or raises an error of ours that names the file."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fuzzing

TARGETS = fuzzing.load_all()


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_pass(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_files_end_in_a_result_or_one_of_our_errors(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=60)
    @given(st.randoms(use_true_random=False))
    def check(choice: random.Random) -> None:
        target.run(target.hostile(choice))

    check()
