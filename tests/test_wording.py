"""Texts from elsewhere are safe to show, whatever is in them."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from imgprep.wording import plain, printable

ANY = st.text(st.characters(codec=None))  # halves of characters, too


@given(text=ANY)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert printable(text).isprintable()
    assert plain(text).replace("\n", "").isprintable()


@given(text=st.text().filter(str.isprintable))
def test_what_can_be_shown_stays(text: str) -> None:
    assert printable(text) == plain(text) == text


@given(name=st.binary())
def test_names_of_files_can_be_told_apart(name: bytes) -> None:
    other = name + b"\xff"
    assert printable(os.fsdecode(name)) + "\\xff" == printable(os.fsdecode(other))
