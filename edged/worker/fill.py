"""The prompt of a model that is to fill the gap between two texts."""

from __future__ import annotations

from edged.engines.base import Fill, Vocab

#: A character that no vocabulary joins with what follows it.
_MARK = "☺"


def gap_tokens(vocab: Vocab, fill: Fill, before: str, after: str, *, bos: bool) -> list[int]:
    """Prefix, suffix, middle: the order in which all models that edged knows were trained (arXiv:2207.14255)."""
    return [
        *vocab.tokenize("", special=True, bos=bos),
        fill.prefix, *vocab.tokenize(before, special=True, bos=False),
        fill.suffix, *_inside(vocab, after),
        fill.middle,
    ]


def _inside(vocab: Vocab, text: str) -> list[int]:
    """Of a text that does not begin one: without the space that some tokenizers put before it."""
    if not vocab.strips_first_space():
        return vocab.tokenize(text, special=True, bos=False)
    mark = vocab.tokenize(_MARK, special=False, bos=False)
    marked = vocab.tokenize(_MARK + text, special=True, bos=False)
    return marked[len(mark):]
