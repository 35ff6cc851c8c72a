"""Messages as text, by the chat template of a tokenizer of transformers: what the model reads, and what it has to say.

Refuses a template that would train what is not served: one whose prompt is not the beginning of the conversation, or
that drops words without telling.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from edged.errors import InvalidRequest
from training.examples import Example, Message


class OtherPrompt(InvalidRequest):
    """The prompt is not the beginning of the conversation with its answer."""


#: Stands for an answer, where only what surrounds one is looked at.
_MARK = "An answer, 7."


def prompt_text(tokenizer: Any, example: Example) -> str:
    """To where the model answers. Raises InvalidRequest where the template refuses the messages or drops words."""
    text = rendered(tokenizer, example, example.prompt, answers=True)
    require_words(example, text)
    return text


def require_words(example: Example, text: str) -> None:
    """The prompt holds what its messages say. Not looked for are results of tools, which templates may write as JSON,
    and words beside calls, which some families have no room for. Raises InvalidRequest."""
    for message in example.prompt:
        if message.role != "tool" and not message.tool_calls and _words(message) not in text:
            raise _unwritten(example, message)


def answer_text(tokenizer: Any, example: Example, said: Message, prompt: str) -> str:
    """What the conversation with `said` has after the prompt, to its very end. Raises OtherPrompt, InvalidRequest."""
    whole = rendered(tokenizer, example, (*example.prompt, said), answers=False)
    if not whole.startswith(prompt):
        raise OtherPrompt(
            f"example {example.id}: with the chat template of this base the prompt is not the beginning of the "
            f"conversation ({_parting(prompt, whole)}), so the model would be trained on another prompt than it is "
            "served; take another base, or mend its chat_template.jinja")
    if _words(said) not in whole[len(prompt):]:
        raise _unwritten(example, said)
    return whole[len(prompt):]


def end_of_turn(tokenizer: Any, example: Example) -> str:
    """What the template writes behind an answer."""
    plain = (Message("user", "A question?"), Message("assistant", _MARK))
    return rendered(tokenizer, example, plain, answers=False, tools=False).rpartition(_MARK)[2]


def rendered(
    tokenizer: Any, example: Example, messages: Iterable[Message], *, answers: bool, tools: bool = True,
) -> str:
    """answers: it ends where the model begins to. tools: the example's are shown."""
    require_template(tokenizer)
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [as_chat(message) for message in messages], tools=list(example.tools) or None if tools else None,
            add_generation_prompt=answers, tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidRequest(f"example {example.id}: the chat template of this base refuses the messages: "
                             f"{str(error)[:300]}") from error
    assert isinstance(text, str)
    return text


def require_template(tokenizer: Any) -> None:
    """Raises InvalidRequest."""
    if tokenizer.chat_template is None:
        raise InvalidRequest(
            "the base has no chat template, so nobody knows how it is asked; take the instruct or chat model of its "
            "family, or put a chat_template.jinja into its folder")


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


def _words(message: Message) -> str:
    """Templates take thoughts apart that stand before an answer."""
    said = message.content
    return (said.rpartition("</think>")[2] if message.role == "assistant" else said).strip()


def _unwritten(example: Example, message: Message) -> InvalidRequest:
    return InvalidRequest(
        f"example {example.id}: the chat template of this base does not write what the {message.role} says "
        f"({message.content.strip()[:40]!r}); it is for other messages than texts, or changes them: take another base, "
        "or mend its chat_template.jinja")


def _parting(prompt: str, whole: str) -> str:
    same = next((index for index, (one, other) in enumerate(zip(prompt, whole, strict=False)) if one != other),
                min(len(prompt), len(whole)))
    return (f"after {prompt[max(0, same - 20):same]!r} the one has {prompt[same:same + 20]!r}, the other "
            f"{whole[same:same + 20]!r}")
