"""Examples as tokens, by the chat template of the model that is trained: the same prompt that a served model gets.

The prompt is rendered as it is when a model is to answer (`add_generation_prompt`), and the whole conversation once
more with the answer; what the second has more is what the model has to say. A template for which the prompt is not the
beginning of the whole would train another prompt than is served, and is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from edged.errors import InvalidRequest
from training.examples import Example, Message

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
    whole = _rendered(tokenizer, example, (*example.prompt, said), answers=False)
    if not whole.startswith(prompt):
        raise InvalidRequest(
            f"example {example.id}: with the chat template of this base the prompt is not the beginning of the "
            f"conversation ({_parting(prompt, whole)}), so the model would be trained on another prompt than it is "
            "served; take another base, or mend its chat_template.jinja")
    # Templates take thoughts apart that stand before the answer.
    if said.content.rpartition("</think>")[2].strip() not in whole[len(prompt):]:
        raise _unwritten(example, said)
    before = _tokens(tokenizer, prompt)
    completion = _to_end_of_turn(tokenizer, _continued(tokenizer, before, prompt, whole, example))
    hidden = [NO_LOSS] * len(before) if completion_only else before
    return Encoded([*before, *completion], [*hidden, *completion])


def token_counts(tokenizer: Any, example: Example) -> tuple[int, int]:
    """Of prompt and answer (of the longer one, where there is a rejected one too; 0 where there is none)."""
    answers = [answer for answer in (example.answer, example.rejected) if answer is not None]
    prompt = len(prompt_ids(tokenizer, example))
    return prompt, max((len(encoded(tokenizer, example, completion_only=True, answer=answer).input_ids) - prompt
                        for answer in answers), default=0)


def as_chat(message: Message) -> dict[str, Any]:
    """For a template: arguments of calls as objects, as templates want them and edged serves them."""
    spoken: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        spoken["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        spoken["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        spoken["name"] = message.name
    return spoken


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def _prompt(tokenizer: Any, example: Example) -> str:
    text = _rendered(tokenizer, example, example.prompt, answers=True)
    for name in _names(example.tools):
        if name not in text:
            raise InvalidRequest(
                f"example {example.id}: the chat template of this base shows no tools ({name} is nowhere in the "
                "prompt); take a base that knows tools, or write them into the system message (data.system)")
    for message in example.prompt:
        if message.role == "user" and message.content.strip() not in text:
            raise _unwritten(example, message)
    return text


def _rendered(tokenizer: Any, example: Example, messages: Iterable[Message], *, answers: bool) -> str:
    """Some templates write calls only where the content is None, others fail on that: both are tried."""
    if tokenizer.chat_template is None:
        raise InvalidRequest(
            "this base has no chat template, so nobody knows how it is asked; take the instruct or chat model of its "
            "family, or put a chat_template.jinja into its folder")
    spoken = [as_chat(message) for message in messages]
    called = Counter(name for message in spoken for name in _names(message.get("tool_calls", ())))
    wanted = called + Counter({name: 1 for name in _names(example.tools) if name in called})
    text = _apply(tokenizer, example, spoken, answers=answers)
    if any(text.count(name) < times for name, times in wanted.items()):
        for message in spoken:
            if message.get("tool_calls") and not message["content"]:
                message["content"] = None
        text = _apply(tokenizer, example, spoken, answers=answers)
    for name, times in wanted.items():
        if text.count(name) < times:
            raise InvalidRequest(
                f"example {example.id}: the chat template of this base drops calls of tools ({name} is not where it "
                "was called); take a base that knows tools, or write the calls as text into the answer")
    return text


def _unwritten(example: Example, message: Message) -> InvalidRequest:
    return InvalidRequest(
        f"example {example.id}: the chat template of this base does not write what the {message.role} says "
        f"({message.content.strip()[:40]!r}); it is for other messages than texts, or changes them: take another base, "
        "or mend its chat_template.jinja")


def _apply(tokenizer: Any, example: Example, messages: list[dict[str, Any]], *, answers: bool) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages, tools=list(example.tools) or None, add_generation_prompt=answers, tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidRequest(f"example {example.id}: the chat template of this base refuses the messages: "
                             f"{str(error)[:300]}") from error
    assert isinstance(text, str)
    return text


def _names(described: Iterable[dict[str, Any]]) -> list[str]:
    """Of functions, as OpenAI describes them, or their calls."""
    functions = (one.get("function", one) for one in described)
    return [str(function["name"]) for function in functions if isinstance(function, dict) and function.get("name")]


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
    special = set(tokenizer.all_special_ids)
    last = max((index for index, token in enumerate(completion) if token in special), default=None)
    if last is not None and not tokenizer.decode(completion[last + 1:]).strip():
        return completion[:last + 1]
    end = tokenizer.eos_token_id
    return completion if end is None else [*completion, end]


def _parting(prompt: str, whole: str) -> str:
    same = next((index for index, (one, other) in enumerate(zip(prompt, whole, strict=False)) if one != other),
                min(len(prompt), len(whole)))
    return f"after {prompt[max(0, same - 20):same]!r} the one has {prompt[same:same + 20]!r}, the other " \
           f"{whole[same:same + 20]!r}"
