from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.worker.detokenize import Detokenizer
from tests.unit.worker.vocabs import ByteVocab

pytestmark = pytest.mark.unit


def pieces_of(data: bytes, at: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[start:end] for start, end in pairwise(borders)]


def texts(pieces: list[bytes], *, strips: bool = False, first: bool = True) -> list[str]:
    detokenizer = Detokenizer(ByteVocab(pieces, strips=strips), first=first)
    return [*(detokenizer.push(token) for token in range(len(pieces))), detokenizer.flush()]


cuts = st.lists(st.integers(min_value=0), max_size=40)


@given(st.text(max_size=30), cuts)
def test_any_cut_of_text_gives_the_text_and_never_half_a_character(text: str, at: list[int]) -> None:
    out = texts(pieces_of(text.encode("utf-8", "replace"), at))
    assert "".join(out) == text.encode("utf-8", "replace").decode()
    assert out[-1] == ""


@given(st.binary(max_size=30), cuts)
def test_bytes_that_are_no_text_become_replacement_characters(data: bytes, at: list[int]) -> None:
    assert "".join(texts(pieces_of(data, at))) == data.decode("utf-8", "replace")


def test_a_character_is_shown_with_its_last_byte() -> None:
    assert texts([bytes([byte]) for byte in "🦆".encode()]) == ["", "", "", "🦆", ""]


def test_an_unfinished_character_is_a_replacement_at_the_end() -> None:
    assert texts([b"a\xe2", b"\x82"]) == ["a", "", "\ufffd"]


@pytest.mark.parametrize(
    ("strips", "first", "shown"),
    [(True, True, "Hi there"), (True, False, " Hi there"), (False, True, " Hi there")],
)
def test_only_a_space_that_the_tokenizer_added_is_taken_away(strips: bool, first: bool, shown: str) -> None:
    assert "".join(texts([b"", b" Hi", b" there"], strips=strips, first=first)) == shown


def test_one_space_is_taken_away_not_more() -> None:
    assert "".join(texts([b" ", b" x"], strips=True)) == " x"
