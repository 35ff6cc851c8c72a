"""The tokens with which models fill a gap in a text, by the names that they have in published vocabularies.

Sources: the tokenizers of Qwen2.5-Coder and CodeGemma; StarCoder and Granite; SantaCoder; DeepSeek-Coder; CodeLlama
(arXiv:2308.12950, section 2.3); GLM-4.5; Falcon-H1-Coder. They are the ones that llama.cpp knows.
"""

from __future__ import annotations

from collections.abc import Callable

from edged.engines.base import Fill

_NAMES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<PRE>", "<SUF>", "<MID>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("<|prefix|>", "<|suffix|>", "<|middle|>"),
)
#: What such models write after the middle, beside the end of a text. None of them has a place in an answer.
_ENDS = (
    "<|fim_pad|>", "<fim_pad>", "<fim-pad>", "<|file_sep|>", "<|file_separator|>", "<|repo_name|>", "<reponame>",
    "▁<EOT>", "<EOT>", "<|EOT|>",
)


def fill_of(id_of: Callable[[str], int | None]) -> tuple[Fill | None, frozenset[int]]:
    """The tokens of a vocabulary, and those that end its answers because of them; None and nothing where it has not all
    three. id_of: the token of a text."""
    for names in _NAMES:
        prefix, suffix, middle = map(id_of, names)
        if prefix is not None and suffix is not None and middle is not None:
            return Fill(prefix, suffix, middle), frozenset(
                token for name in _ENDS if (token := id_of(name)) is not None)
    return None, frozenset()
