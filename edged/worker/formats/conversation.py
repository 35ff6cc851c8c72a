"""Messages as a model's template wants them: what it does not show by itself is written into what it shows."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Sequence
from typing import Any

from edged.worker.formats.family import Family
from edged.worker.formats.habits import CallStyle, Habits, Messages

_INSTRUCTIONS = """You can call functions. Each line is one, as JSON:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments like this, once for each call:
{example}
The results come back to you."""


def instructions(functions: Sequence[dict[str, Any]], family: Family) -> str:
    """For models whose template shows no tools. family: in whose format the calls are to be written."""
    return _INSTRUCTIONS.format(
        tools="\n".join(json.dumps(function, ensure_ascii=False) for function in functions),
        example=family.write("NAME", '{"ARGUMENT": "VALUE"}'),
    )


def fitted(messages: Messages, habits: Habits, family: Family) -> Messages:
    """family: in whose format calls are written where the template shows none."""
    fit: Messages = []
    queue = list(messages)
    while queue:
        message = queue.pop(0)
        calls = message.get("tool_calls")
        if message["role"] == "assistant" and calls:
            if habits.calls is None:
                fit.append(_flattened(message, family))
                continue
            if len(calls) > 1 and not habits.several:
                results = []
                while queue and queue[0]["role"] == "tool":
                    results.append(queue.pop(0))
                fit.extend(_one_by_one(message, results, habits))
                continue
            fit.append(_styled(message, habits.calls))
        elif message["role"] == "tool":
            fit.extend(_result(message, habits, fit))
        else:
            fit.append(message)
    return fit


def with_instructions(messages: Messages, text: str, habits: Habits) -> Messages:
    """In front: in the system message, or in the first of the user's where the template shows none."""
    role = "system" if habits.system else "user"
    if messages and messages[0]["role"] == role:
        first = messages[0]
        joined = f"{first['content']}\n\n{text}" if role == "system" else f"{text}\n\n{first['content']}"
        return [{**first, "content": joined}, *messages[1:]]
    return [{"role": role, "content": text}, *messages]


def _result(message: dict[str, Any], habits: Habits, before: Messages) -> Messages:
    if habits.results:
        short = habits.calls is not None and habits.calls.short_ids
        return [{**message, "tool_call_id": short_id(message["tool_call_id"])} if short else message]
    text = f"<tool_response>\n{message['content']}\n</tool_response>"
    if before and before[-1].get("results"):
        before[-1]["content"] += f"\n{text}"
        return []
    return [{"role": "user", "content": text, "results": True}]


def _flattened(message: dict[str, Any], family: Family) -> dict[str, Any]:
    written = [
        family.write(call["function"]["name"], _json(call["function"]["arguments"])) for call in message["tool_calls"]
    ]
    content = [text for text in (message.get("content"), *written) if text]
    return {key: value for key, value in message.items() if key != "tool_calls"} | {"content": "\n".join(content)}


def _one_by_one(message: dict[str, Any], results: Messages, habits: Habits) -> Messages:
    """Each call with its result, for templates that know one call in a message."""
    assert habits.calls is not None
    split: Messages = []
    for number, call in enumerate(message["tool_calls"]):
        alone = {**message, "tool_calls": [call]}
        if number:
            alone["content"] = ""
            alone.pop("reasoning_content", None)
        split.append(_styled(alone, habits.calls))
        for result in [one for one in results if one["tool_call_id"] == call["id"]]:
            results.remove(result)
            split.extend(_result(result, habits, split))
    for result in results:
        split.extend(_result(result, habits, split))
    return split


def _styled(message: dict[str, Any], style: CallStyle) -> dict[str, Any]:
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        if style.text_arguments:
            function = {**function, "arguments": _json(function["arguments"])}
        calls.append({
            **call, "function": function, "id": short_id(call["id"]) if style.short_ids else call["id"]})
    return {**message, "tool_calls": calls}


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def short_id(identity: str) -> str:
    """9 letters and digits, the same for the same id; one that has that form already stays."""
    if len(identity) == 9 and identity.isascii() and identity.isalnum():
        return identity
    number = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8])
    letters = string.ascii_letters + string.digits
    return "".join(letters[number // len(letters)**place % len(letters)] for place in range(9))
