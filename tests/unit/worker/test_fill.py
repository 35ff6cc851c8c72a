"""The text below a gap begins in the middle of a text, whatever the tokenizer does to beginnings."""

from __future__ import annotations

import pytest

from edged.engines.base import Fill
from edged.worker.fill import gap_tokens
from tests.unit.worker.vocabs import ByteVocab

pytestmark = pytest.mark.unit

FILL = Fill(prefix=1, suffix=2, middle=3)


class Spaced(ByteVocab):
    """Puts a space before every text, as SentencePiece does."""

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        return super().tokenize(f" {text}" if text else "", special=special, bos=bos)

    def strips_first_space(self) -> bool:
        return True


def test_the_text_above_keeps_the_space_of_its_beginning_and_the_one_below_gets_none() -> None:
    assert gap_tokens(Spaced(), FILL, "ab", "yz", bos=True) == [1, *b" ab", 2, *b"yz", 3]
    assert gap_tokens(Spaced(), FILL, "", "", bos=True) == [1, 2, 3]


def test_texts_are_taken_as_they_are_where_the_tokenizer_adds_nothing() -> None:
    assert gap_tokens(ByteVocab(), FILL, "ab", " yz", bos=True) == [1, *b"ab", 2, *b" yz", 3]
