"""Chats with tools, as the daemon puts them to a model: in its own format of calls, or in one that it is taught in the
system message where its template shows no tools; and chats with models whose prompts begin a thought. An answer is
learned only in a form that the daemon's parser reads back as what it was."""

from __future__ import annotations

import atexit
import contextlib
import json
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from edged.errors import InvalidRequest, LoadFailed
from training.examples import Example, Message
from training.rendering import answer_text, as_chat, end_of_turn, require_template, require_words

if TYPE_CHECKING:
    from converters.speaker import Speaker
    from converters.spoken import Listener


def has_tools(example: Example, said: Message | None = None) -> bool:
    messages = (*example.prompt, said) if said is not None else example.prompt
    return bool(example.tools) or any(message.tool_calls or message.role == "tool" for message in messages)


def prompt_text(tokenizer: Any, example: Example) -> str:
    """As a request with these messages and tools is rendered. Raises InvalidRequest where the template refuses the
    messages or drops words."""
    speaker, _ = _speaker(tokenizer)
    messages = [as_chat(message) for message in example.prompt]
    for message in messages:
        if message["role"] == "tool":
            message.setdefault("tool_call_id", "call_0")
    try:
        text = speaker.prompt(messages, example.tools)
    except (InvalidRequest, LoadFailed) as error:
        raise InvalidRequest(f"example {example.id}: {error.message}") from error
    require_words(example, text)
    return text


def answer_texts(tokenizer: Any, example: Example, said: Message, prompt: str) -> Iterator[str]:
    """Ways to write the answer, with the end of the turn: the template's own, where the prompt is its own too; then the
    one that the model is asked for."""
    speaker, _ = _speaker(tokenizer)
    with contextlib.suppress(InvalidRequest):
        yield answer_text(tokenizer, example, said, prompt)
    if (text := speaker.answer(as_chat(said), prompt)) is not None:
        yield text + end_of_turn(tokenizer, example)


def begins_thought(tokenizer: Any, prompt: str) -> bool:
    """The template has the model think before each answer: an example, which has no thoughts, ends it at once."""
    return _speaker(tokenizer)[0].begins_thought(prompt)


def reads_back(tokenizer: Any, example: Example, said: Message, prompt: str, text: str) -> bool:
    """text: an answer without the token that ends it."""
    _, listener = _speaker(tokenizer)
    calls = [call["function"] for call in said.tool_calls]
    names = {tool["function"]["name"] for tool in example.tools} | {call["name"] for call in calls}
    heard = listener.read(text, prompt=prompt, functions=names)
    return heard.content.strip() == said.content.strip() and [
        (name, _value(arguments)) for name, arguments in heard.calls] == [
        (call["name"], _value(call["arguments"])) for call in calls]


def unheard(example: Example) -> InvalidRequest:
    return InvalidRequest(
        f"example {example.id}: with the chat template of this base no way to write this answer is read back as what "
        "it is; take another base, or write calls as text into the answer")


def _speaker(tokenizer: Any) -> tuple[Speaker, Listener]:
    require_template(tokenizer)
    template = tokenizer.chat_template
    if not isinstance(template, str):
        template = tokenizer.get_chat_template(tools=[{}])
    special = tuple(sorted((name, str(text)) for name, text in tokenizer.special_tokens_map.items()
                           if not isinstance(text, list)))
    return _made(template, special)


@cache
def _made(template: str, special: tuple[tuple[str, str], ...]) -> tuple[Speaker, Listener]:
    """Its renderer lives as long as this process: a training has one template, or a few."""
    from converters.speaker import Speaker
    from converters.spoken import Listener

    speaker = Speaker(template, dict(special))
    atexit.register(speaker.close)
    return speaker, Listener(template)


def _value(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments
