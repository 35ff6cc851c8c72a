"""Chats with tools as the daemon puts them to a model, and answers as its parser reads them: what a training learns has
to be what is served. The counterpart of `converters.spoken`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from edged.engines.base import Vocab
from edged.types import ChatPrompt, GenerateRequest, ToolFunction, ToolUse
from edged.worker.chat import Chat
from edged.worker.formats.detect import tags_of
from edged.worker.formats.harmony import HARMONY
from edged.worker.formats.hermes import HERMES


class _Words:
    """As much of a vocabulary as prompts need: no token is one of control, which only decoding asks for."""

    def __init__(self, special: dict[str, str]) -> None:
        self.special = special

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        return []


class Speaker:
    """Close it: the template renders in a process of its own. special: texts of the special tokens by name. Raises
    LoadFailed for a template that is none."""

    def __init__(self, template: str, special: dict[str, str]) -> None:
        self._chat = Chat(template, cast(Vocab, _Words(special)))
        native = self._chat.native
        self._family = native or HERMES
        self._tags = tags_of(template, native)

    def prompt(self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> str:
        """messages, tools: as OpenAI writes them, arguments of calls as objects. Raises InvalidRequest where the
        template refuses them."""
        functions = [_function(tool["function"]) for tool in tools]
        request = GenerateRequest(
            id="training", prompt=ChatPrompt(messages), tools=ToolUse(functions=functions) if functions else None)
        return self._chat(request).text

    def answer(self, message: dict[str, Any], prompt: str) -> str | None:
        """What the model has to say after the prompt, without what ends the turn; calls in the format that this model
        is asked for them. A thought that the prompt begins is ended at once. None of Harmony, whose answers are several
        messages."""
        if self._family is HARMONY:
            return None
        written = [self._family.write(call["function"]["name"], _json(call["function"]["arguments"]))
                   for call in message.get("tool_calls", ())]
        text = "\n".join(filter(None, [message["content"], *written]))
        if self._tags is not None and self.begins_thought(prompt):
            return f"\n{self._tags.closing.strip()}\n\n{text}"
        return text

    def begins_thought(self, prompt: str) -> bool:
        return self._tags is not None and prompt.rstrip().endswith(self._tags.opening.rstrip())

    def close(self) -> None:
        self._chat.close()


def _function(said: dict[str, Any]) -> ToolFunction:
    parameters = said.get("parameters")
    return ToolFunction(
        name=said["name"], description=said.get("description") or "",
        parameters=None if parameters is None else msgspec.json.encode(parameters).decode())


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
