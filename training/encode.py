"""Examples as tokens, by the chat template of the model that is trained: the same prompt that a served model gets.

The prompt is rendered as it is when a model is to answer, and the whole conversation once more with the answer
(`training.rendering`; chats with tools `training.tool_chats`); what the second has more is what the model has to say.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from msgspec import Struct

from edged.errors import InvalidRequest
from training import tool_chats
from training.examples import Example, Message
from training.rendering import OtherPrompt, answer_text, prompt_text

#: What torch's cross entropy passes over.
NO_LOSS = -100


class Encoded(Struct, frozen=True):
    """One sequence. labels: as long as input_ids, and the same tokens where there is loss, NO_LOSS elsewhere."""

    input_ids: list[int]
    labels: list[int]


def prompt_ids(tokenizer: Any, example: Example) -> list[int]:
    """What the model reads before it answers. Raises InvalidRequest where the template refuses the messages, or drops
    words, tools or calls."""
    return _tokens(tokenizer, _prompt(tokenizer, example))


def encoded(
    tokenizer: Any, example: Example, *, completion_only: bool, answer: Message | None = None,
) -> Encoded:
    """The prompt and the answer, to the template's end of turn; what the template writes behind that (a line break) no
    model ever says. completion_only: loss of the answer alone. answer: another than the example's (its rejected one).

    Raises InvalidRequest where there is no answer, the prompt is not the beginning of the whole, and as `prompt_ids`.
    """
    said = answer or example.answer
    if said is None:
        raise InvalidRequest(f"example {example.id} has no answer to learn; let a teacher answer it ([distil.answers])")
    prompt = _prompt(tokenizer, example)
    before = _tokens(tokenizer, prompt)
    completion = _completion(tokenizer, example, said, prompt, before)
    hidden = [NO_LOSS] * len(before) if completion_only else before
    return Encoded([*before, *completion], [*hidden, *completion])


def token_counts(tokenizer: Any, example: Example) -> tuple[int, int]:
    """Of prompt and answer (of the longer one, where there is a rejected one too; 0 where there is none)."""
    answers = [answer for answer in (example.answer, example.rejected) if answer is not None]
    prompt = len(prompt_ids(tokenizer, example))
    return prompt, max((len(encoded(tokenizer, example, completion_only=True, answer=answer).input_ids) - prompt
                        for answer in answers), default=0)


def _prompt(tokenizer: Any, example: Example) -> str:
    return tool_chats.prompt_text(tokenizer, example) if tool_chats.has_tools(example) \
        else prompt_text(tokenizer, example)


def _completion(tokenizer: Any, example: Example, said: Message, prompt: str, before: list[int]) -> list[int]:
    """The tokens of the answer, with the one that ends it."""
    def tokens(text: str) -> list[int]:
        return _to_end_of_turn(tokenizer, _continued(tokenizer, before, prompt, prompt + text, example))

    if not tool_chats.has_tools(example, said):
        try:
            return tokens(answer_text(tokenizer, example, said, prompt))
        except OtherPrompt:
            if not tool_chats.begins_thought(tokenizer, prompt):
                raise
    for text in tool_chats.answer_texts(tokenizer, example, said, prompt):
        found = tokens(text)
        if tool_chats.reads_back(tokenizer, example, said, prompt, tokenizer.decode(found[:-1])):
            return found
    raise tool_chats.unheard(example)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _continued(tokenizer: Any, before: list[int], prompt: str, whole: str, example: Example) -> list[int]:
    """The tokens that `whole` has after those of the prompt. Where a merge crosses the border between the two, what
    follows is tokenized alone, as a model that was given the prompt has to say it."""
    together = _tokens(tokenizer, whole)
    if together[:len(before)] == before:
        return together[len(before):]
    after = _tokens(tokenizer, whole[len(prompt):])
    if tokenizer.decode([*before, *after]) != tokenizer.decode(together):
        raise InvalidRequest(
            f"example {example.id}: the tokens of the prompt are not the first tokens of the whole, and the answer "
            "alone has others; begin the answer with a letter or a digit")
    return after


def _to_end_of_turn(tokenizer: Any, completion: list[int]) -> list[int]:
    """Up to the special token that ends the turn; a template that writes none gets the tokenizer's end, without which
    no model would learn to stop."""
    special = _special(tokenizer)
    last = max((index for index, token in enumerate(completion) if token in special), default=None)
    if last is not None and not tokenizer.decode(completion[last + 1:]).strip():
        return completion[:last + 1]
    end = tokenizer.eos_token_id
    return completion if end is None else [*completion, end]


@lru_cache(maxsize=4)
def _special(tokenizer: Any) -> frozenset[int]:
    """Once for a tokenizer: Gemma's has thousands. Of some families (Phi 3) the token that ends a turn is special, but
    has no name."""
    unnamed = (token for token, added in tokenizer.added_tokens_decoder.items() if added.special)
    return frozenset([*tokenizer.all_special_ids, *unnamed])
