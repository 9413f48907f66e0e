"""Untrusted texts are safe to print."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from imgprep.wording import plain, printable

ANY = st.text(st.characters(codec=None))  # halves of characters, too


@given(text=ANY)
def test_terminal_control_characters_are_escaped(text: str) -> None:
    assert printable(text).isprintable()
    assert plain(text).replace("\n", "").isprintable()


@given(text=st.text().filter(str.isprintable))
def test_printable_text_is_unchanged(text: str) -> None:
    assert printable(text) == plain(text) == text


@given(name=st.binary())
def test_different_file_names_stay_different(name: bytes) -> None:
    other = name + b"\xff"
    assert printable(os.fsdecode(name)) + "\\xff" == printable(os.fsdecode(other))
