"""One request's answer as it comes, and the lines that are captured of it: no I/O, and little work a token.

Ownership: the event loop adds events; once the last has come, the recording is handed to the thread that writes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edged.daemon.status import Served
from edged.store.captured import Answer
from edged.types import CallPiece, ChatPrompt, ChoiceEnd, Delta, Event, Finished, GenerateRequest, ToolFunction

#: `Caller.client` begins so where a key was shown; elsewhere it is an address, which is nobody's to keep.
_KEY_HASH = "sha256:"


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[CallPiece] = field(default_factory=list)
    tokens: int = 0
    reason: str | None = None


class Recording:
    """epoch: of the purges, when it began; an answer that began before one is not kept after it."""

    def __init__(self, request: GenerateRequest, epoch: int) -> None:
        assert isinstance(request.prompt, ChatPrompt)
        self.epoch = epoch
        self._request, self._prompt = request, request.prompt
        self._choices = [_Choice() for _ in range(request.n)]
        self._prompt_tokens = 0

    def add(self, event: Event) -> None:
        if type(event) is Delta:
            choice = self._choices[event.index]
            choice.tokens += event.tokens
            if event.text:
                choice.text.append(event.text)
            if event.reasoning:
                choice.reasoning.append(event.reasoning)
            if event.calls:
                choice.calls.extend(event.calls)
        elif type(event) is ChoiceEnd:
            self._choices[event.index].reason = event.reason
        elif type(event) is Finished:
            self._prompt_tokens = event.usage.prompt_tokens

    def size_bytes(self) -> int:
        """About what it takes in memory."""
        asked = sum(_text_size(message) for message in self._prompt.messages)
        said = sum(map(len, _texts(self._choices)))
        return asked + said

    def answers(self, served: Served) -> Iterator[Answer]:
        """Of the choices that ended well. Called once the request has ended."""
        request, client = self._request, self._request.client
        asked = [openai_message(message) for message in self._prompt.messages]
        begun = str(asked.pop()["content"]) if self._prompt.continued else ""
        tools = [openai_tool(function) for function in request.tools.functions] if request.tools is not None else []
        at = round(time.time(), 3)
        for number, choice in enumerate(self._choices):
            if choice.reason not in ("stop", "tool_calls"):
                continue
            yield Answer(
                id=request.id if request.n == 1 else f"{request.id}.{number}", at=at, model=served.name,
                version=served.version, adapter=request.adapter, messages=[*asked, _answer(choice, begun)], tools=tools,
                finish_reason="stop" if choice.reason == "stop" else "tool_calls",
                prompt_tokens=self._prompt_tokens, completion_tokens=choice.tokens,
                client=client if client.startswith(_KEY_HASH) else None)


def _texts(choices: list[_Choice]) -> Iterator[str]:
    for choice in choices:
        yield from choice.text
        yield from choice.reasoning
        yield from (piece.arguments for piece in choice.calls)


def _text_size(message: dict[str, Any]) -> int:
    return sum(len(value) if isinstance(value, str) else 64 for value in message.values())


def _answer(choice: _Choice, begun: str) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": begun + "".join(choice.text)}
    if choice.reasoning:
        said["reasoning_content"] = "".join(choice.reasoning)
    calls: dict[int, dict[str, Any]] = {}
    for piece in choice.calls:
        call = calls.setdefault(
            piece.call, {"id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": ""}})
        call["function"]["arguments"] += piece.arguments
    if calls:
        said["tool_calls"] = list(calls.values())
    return said


def openai_message(message: dict[str, Any]) -> dict[str, Any]:
    """A message of a ChatPrompt, whose calls have their arguments as an object, as OpenAI has it: as JSON text."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        arguments = call["function"]["arguments"]
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls}


def openai_tool(function: ToolFunction) -> dict[str, Any]:
    said: dict[str, Any] = {"name": function.name}
    if function.description:
        said["description"] = function.description
    if function.parameters is not None:
        said["parameters"] = msgspec.json.decode(function.parameters)
    if function.strict:
        said["strict"] = True
    return {"type": "function", "function": said}
