"""Conversations as data sets write them, in the one form of `training.examples`: OpenAI's `messages` and ShareGPT's
`conversations`, read leniently where they differ in spelling, strictly where something would be lost."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from training.data.mistakes import WrongRow
from training.examples import Message, Role

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}


def conversation(value: object, column: str) -> tuple[Message, ...]:
    """A list of messages, or the JSON of one (tables keep it so). Raises WrongRow."""
    said = _decoded(value)
    if not isinstance(said, list) or not said:
        raise WrongRow(f"`{column}` has to be a list of messages, such as [{{\"role\": \"user\", \"content\": \"…\"}}, "
                       "{\"role\": \"assistant\", \"content\": \"…\"}]")
    return tuple(_message(each, f"{column}[{index}]") for index, each in enumerate(said))


def tools(value: object) -> tuple[dict[str, Any], ...]:
    """As OpenAI describes them; bare functions are wrapped. Raises WrongRow."""
    said = _without_none(_decoded(value))
    if said in (None, "", [], {}):
        return ()
    if not isinstance(said, list):
        raise WrongRow("`tools` has to be a list of functions as OpenAI describes them, or its JSON")
    found = []
    for index, tool in enumerate(said):
        described = {"type": "function", "function": tool} if isinstance(tool, dict) and "name" in tool else tool
        function = described.get("function") if isinstance(described, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise WrongRow(f"tools[{index}] is no function: it needs {{\"type\": \"function\", \"function\": "
                           "{\"name\": …, \"parameters\": …}}")
        found.append(described)
    return tuple(found)


def has_thoughts(values: dict[str, Any]) -> bool:
    """The last message of its conversation has thoughts beside what it says, as thinking models are captured."""
    said = values.get("messages")
    last = said[-1] if isinstance(said, list) and said else None
    return isinstance(last, dict) and any(last.get(name) for name in ("reasoning_content", "reasoning", "thinking"))


def text(value: object, column: str) -> str:
    """Of a cell: a number as it is written, an object or a list as compact JSON. Raises WrongRow where it is empty."""
    if isinstance(value, str):
        said = value
    elif value is None:
        said = ""
    else:
        said = compact(value)
    if not said.strip():
        raise WrongRow(f"`{column}` is empty")
    return said


def compact(value: object) -> str:
    """JSON on one line, with the keys in their order, as models write it."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)


def require_whole(value: object) -> None:
    """Raises WrongRow of half a character, which JSON within a text may hold (`"\\ud83d"`) and no file can."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise WrongRow(f"holds half a character, {error.object[error.start]!r}: whoever wrote it cut a text within a "
                       "character") from None


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise WrongRow(f"{where} is no message, which is {{\"role\": …, \"content\": …}}")
    named = value.get("role", value.get("from"))
    role = _ROLES.get(named.lower()) if isinstance(named, str) else None
    if role is None:
        raise WrongRow(f"{where} has the role {str(named)[:40]!r}; roles are system, user, assistant and tool")
    content = value.get("content", value.get("value"))
    if named == "function_call":
        return Message("assistant", tool_calls=(_call(_decoded(content), where, 0),))
    calls = _decoded(value.get("tool_calls")) or []
    if not isinstance(calls, list):
        raise WrongRow(f"{where}.tool_calls has to be a list")
    message = Message(
        role, _content(content, where),
        tool_calls=tuple(_call(call, where, index) for index, call in enumerate(calls)),
        tool_call_id=_string(value, "tool_call_id"), name=_string(value, "name"))
    if role in ("user", "assistant") and not message.content.strip() and not message.tool_calls:
        raise WrongRow(f"{where} ({role}) says nothing")
    return message


def _content(value: object, where: str) -> str:
    """A text, or text parts, one below another as edged serves them."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = []
        for part in value:
            said = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
            if not isinstance(said, str):
                raise WrongRow(f"{where} holds something else than text, and models of text are trained here")
            parts.append(said)
        return "\n".join(parts)
    raise WrongRow(f"the content of {where} has to be a text")


def _call(value: object, where: str, index: int) -> dict[str, Any]:
    call = _without_none(value)
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise WrongRow(f"{where}.tool_calls[{index}] has no name of a function")
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = compact(arguments)
    require_whole(_decoded(arguments))
    return {"id": str(call.get("id") or f"call_{index}"), "type": "function",
            "function": {"name": name, "arguments": arguments}}


def _decoded(value: object) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _without_none(value: Any) -> Any:
    """Tables give every struct the keys of all rows, and None where a row has none."""
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_none(each) for each in value]
    return value


def _string(value: dict[str, Any], key: str) -> str | None:
    said = value.get(key)
    return said if isinstance(said, str) else None
