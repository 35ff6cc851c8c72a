"""Texts and chats as the tokens that a served model would get: the same template process, the same calls of the
tokenizer as in the worker. And the proof that a token is the same to both models that are compared."""

from __future__ import annotations

from typing import Any

from converters.calibration import paragraphs
from edged.engines.base import Vocab
from edged.errors import Conflict
from edged.worker.template import Template


class Encoder:
    """Close it: the template renders in a process of its own. vocab, chat_template: of the result; chat_template None
    takes the model's. other: vocabulary of the reference, which has to give the same tokens for every text. Raises
    Conflict where the vocabularies differ in size, and LoadFailed for a template that is none."""

    def __init__(self, vocab: Vocab, other: Vocab, chat_template: str | None) -> None:
        if vocab.size != other.size:
            raise Conflict(f"the result has a vocabulary of {vocab.size} tokens and the reference of {other.size}, so "
                           "their distributions cannot be compared; take a reference made from the same source")
        self._vocab = vocab
        self._other = other
        source = chat_template or vocab.chat_template
        self._template = Template(source, vocab.special) if source else None

    def text(self, text: str) -> list[int]:
        """Raises Conflict, as does `chat`, where the two vocabularies give different tokens."""
        return self._tokens(text, bos=True)

    def chat(self, messages: list[dict[str, Any]], *, answers: bool, more: str = "") -> list[int]:
        """answers: it is the model's turn to speak; more: what it then says. A model without a template gets the
        messages as paragraphs. Raises InvalidRequest where the template refuses the messages."""
        if self._template is None:
            return self.text(paragraphs(messages) + ("\n\nassistant:" if answers else "") + more)
        text = self._template.render(messages, None, {}, add_generation_prompt=answers)
        return self._tokens(text + more, bos=False)

    def close(self) -> None:
        if self._template is not None:
            self._template.close()

    def _tokens(self, text: str, *, bos: bool) -> list[int]:
        tokens, others = (vocab.tokenize(text, special=True, bos=bos) for vocab in (self._vocab, self._other))
        if tokens != others:
            same = next((index for index, pair in enumerate(zip(tokens, others, strict=False)) if pair[0] != pair[1]),
                        min(len(tokens), len(others)))
            before, mine, theirs = (b"".join(map(self._vocab.piece, part)).decode(errors="replace") for part in (
                tokens[max(0, same - 4):same], tokens[same:same + 1], others[same:same + 1]))
            raise Conflict(f"reference and result tokenize differently: after {before!r} the one takes {theirs!r}, the "
                           f"other {mine!r}; measure against a reference that has the tokenizer of the result")
        return tokens
