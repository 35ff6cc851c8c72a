"""`tools`, `tool_choice` and `parallel_tool_calls` of chat, and how much the model is to think."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, cast

import msgspec

from edged.api.fields import (
    MAX_TOKENS,
    Table,
    accept,
    boolean,
    choice,
    integer,
    items,
    mapping,
    object_schema,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.errors import InvalidRequest, UnsupportedParameter
from edged.types import Reasoning, ToolFunction, ToolUse

#: As OpenAI has it.
MAX_FUNCTIONS = 128
MAX_SCHEMA_BYTES = 128 << 10
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@takes({"type": "string", "pattern": f"^{_NAME.pattern}$"})
def function_name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise wrong(path, "1 to 64 letters, digits, _ or -")
    return value


@takes({"type": "object", "description": "A JSON Schema of an object."})
def parameters(value: Any, path: str) -> str:
    """A JSON Schema of an object, as JSON text with its members in their order."""
    schema = mapping(100_000)(value, path)
    if schema.get("type", "object") != "object":
        raise wrong(path, 'a JSON Schema of "type": "object"')
    if any(not reference.startswith("#") for reference in _references(schema)):
        raise wrong(path, 'a JSON Schema whose every `$ref` is of the form "#/…": nothing is fetched')
    written = msgspec.json.encode(schema).decode()
    if len(written.encode()) > MAX_SCHEMA_BYTES:
        raise wrong(path, f"at most {MAX_SCHEMA_BYTES >> 10} KiB of JSON")
    return written


def _references(schema: Any) -> Iterator[str]:
    left = [schema]
    while left:
        match left.pop():
            case dict() as members:
                if isinstance(reference := members.get("$ref"), str):
                    yield reference
                left.extend(members.values())
            case list() as entries:
                left.extend(entries)


_FUNCTION: Table = {
    "name": served(function_name, required=True),
    "description": served(text()),
    "parameters": served(parameters),
    "strict": served(boolean),
}


@takes(lambda: object_schema(_FUNCTION))
def _function(value: Any, path: str) -> ToolFunction:
    if not isinstance(value, dict):
        raise wrong(path, "an object with a name, and mostly a description and parameters")
    return ToolFunction(**accept(_FUNCTION, value, unknown="refuse", path=path).values)


_TOOL: Table = {"type": served(choice("function"), required=True), "function": served(_function, required=True)}


@takes(lambda: object_schema(_TOOL))
def _tool(value: Any, path: str) -> ToolFunction:
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"type": "function", "function": {…}}')
    if value.get("type") == "custom":
        raise UnsupportedParameter(
            f'`{path}.type` is "custom"; the models here call functions with JSON arguments. Send a function with one '
            "argument of type string.", param=f"{path}.type")
    function: ToolFunction = accept(_TOOL, value, unknown="refuse", path=path).values["function"]
    return function


@takes(lambda: {"type": "array", "items": schema_of(_tool), "maxItems": MAX_FUNCTIONS})
def tools(value: Any, path: str) -> list[ToolFunction]:
    found: list[ToolFunction] = items(
        value, path, _tool, f"a list of at most {MAX_FUNCTIONS} tools", range(MAX_FUNCTIONS + 1))
    names: set[str] = set()
    for index, function in enumerate(found):
        if function.name in names:
            at = f"{path}[{index}].function.name"
            raise InvalidRequest(f"`{at}`: there are two functions named {function.name}; rename one.", param=at)
        names.add(function.name)
    return found


class Choice(NamedTuple):
    """names: of the functions that may be called, empty for all; at: where the request names them."""

    choice: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] = ()
    at: str = "tool_choice"


_NAMED: Table = {"name": served(function_name, required=True)}


@takes(lambda: object_schema(_NAMED))
def _named(value: Any, path: str) -> str:
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"name": "…"}')
    return str(accept(_NAMED, value, unknown="refuse", path=path).values["name"])


_NAMED_TOOL: Table = {"type": served(choice("function"), required=True), "function": served(_named, required=True)}


@takes(lambda: object_schema(_NAMED_TOOL))
def _named_tool(value: Any, path: str) -> str:
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"type": "function", "function": {"name": "…"}}')
    return str(accept(_NAMED_TOOL, value, unknown="refuse", path=path).values["function"])


@takes(lambda: {"type": "array", "items": schema_of(_named_tool), "minItems": 1, "maxItems": MAX_FUNCTIONS})
def _named_tools(value: Any, path: str) -> list[str]:
    return items(
        value, path, _named_tool, f"a list of 1 to {MAX_FUNCTIONS} tools", range(1, MAX_FUNCTIONS + 1))


@takes(lambda: object_schema(_ALLOWED))
def _allowed(value: Any, path: str) -> Choice:
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"mode": "auto", "tools": […]}')
    said = accept(_ALLOWED, value, unknown="refuse", path=path).values
    return Choice(said["mode"], tuple(said["tools"]), f"{path}.tools")


_ALLOWED: Table = {
    "mode": served(choice("auto", "required"), required=True),
    "tools": served(_named_tools, required=True),
}
_ALLOWED_CHOICE: Table = {
    "type": served(choice("allowed_tools"), required=True), "allowed_tools": served(_allowed, required=True),
}
_EXPECTED = '"none", "auto", "required", {"type": "function", …} or {"type": "allowed_tools", …}'


@takes(lambda: {"anyOf": [
    {"enum": ["none", "auto", "required"]}, schema_of(_named_tool), object_schema(_ALLOWED_CHOICE)]})
def tool_choice(value: Any, path: str) -> Choice:
    if value in ("none", "auto", "required"):
        return Choice(value)
    if not isinstance(value, dict):
        raise wrong(path, _EXPECTED)
    match value.get("type"):
        case "function":
            return Choice("required", (_named_tool(value, path),), f"{path}.function.name")
        case "allowed_tools":
            allowed: Choice = accept(_ALLOWED_CHOICE, value, unknown="refuse", path=path).values["allowed_tools"]
            return allowed
        case _:
            raise wrong(path, _EXPECTED)


TOOL_FIELDS: Table = {
    "tools": served(tools),
    "tool_choice": served(tool_choice),
    "parallel_tool_calls": served(boolean),
    "reasoning_effort": served(choice("none", "minimal", "low", "medium", "high")),
    "reasoning_budget": served(integer(0, MAX_TOKENS)),
}


def tool_use(said: dict[str, Any]) -> ToolUse | None:
    """None without functions, where no choice says anything. Raises InvalidRequest where the choice asks for a function
    that is not there."""
    functions: list[ToolFunction] = said.get("tools", [])
    wish: Choice = said.get("tool_choice", Choice())
    missing = [name for name in wish.names if name not in {function.name for function in functions}]
    if missing:
        raise InvalidRequest(
            f"`{wish.at}` names {missing[0]}, and `tools` has no function of that name.", param=wish.at)
    if not functions:
        if wish.choice == "required":
            raise InvalidRequest('`tool_choice` is "required" and there are no `tools`; send at least one.',
                                 param="tool_choice")
        return None
    return ToolUse(functions=functions, choice=wish.choice, allowed=wish.names,
                   parallel=said.get("parallel_tool_calls", True))


def reasoning(said: dict[str, Any]) -> Reasoning | None:
    effort, budget = said.get("reasoning_effort"), said.get("reasoning_budget")
    if effort is None and budget is None:
        return None
    return Reasoning(effort=cast(Any, effort), budget=budget)
