"""Tokens to text, one token at a time."""

from __future__ import annotations

import codecs

from edged.engines.base import Vocab

_Utf8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The texts of all pushes and of flush, joined, are the UTF-8 decoding of all pieces, joined; bytes that are no
    UTF-8 become U+FFFD as soon as that is certain. No text ends in half a character.

    first: the first token begins a text, so that a space which the tokenizer put there is taken away again.
    """

    def __init__(self, vocab: Vocab, *, first: bool = True) -> None:
        self._vocab = vocab
        self._decoder = _Utf8("replace")
        self._strip = first and vocab.strips_first_space()

    def push(self, token: int) -> str:
        piece = self._vocab.piece(token)
        if self._strip and piece:
            self._strip = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What is left of an unfinished character, as U+FFFD. The last call."""
        return self._decoder.decode(b"", final=True)
