"""`tools`, `tool_choice` and `text.format` of /v1/responses: what chat has, written flat. Tools that OpenAI runs itself
are refused by their names."""

from __future__ import annotations

from typing import Any

import msgspec

from edged.api.fields import (
    Table,
    accept,
    boolean,
    choice,
    inert,
    items,
    kind_schema,
    later,
    list_schema,
    object_schema,
    served,
    takes,
    text,
    wrong,
)
from edged.api.formats import Format, json_schema
from edged.api.tools import MAX_FUNCTIONS, Choice, function_name, parameters
from edged.errors import InvalidRequest, UnsupportedParameter
from edged.types import JsonObject, ToolFunction

_FUNCTION: Table = {
    "type": served(choice("function"), required=True),
    "name": served(function_name, required=True),
    "description": served(text()),
    "parameters": served(parameters),
    "strict": served(boolean),
    # What the output looks like, in OpenAI's code mode; the model is never shown it.
    "output_schema": inert(lambda value, path: value),
    "async": later(False),
    "defer_loading": later(False, instead="Every function is shown to the model from the beginning."),
    "allowed_callers": later(["direct"], instead="Only the model itself calls functions here."),
}


_SOME_TOOLS = range(MAX_FUNCTIONS + 1)
_SOME_NAMES = range(1, MAX_FUNCTIONS + 1)


def _tool(value: Any, path: str) -> ToolFunction:
    """strict unless the request says otherwise, as OpenAI has it here."""
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"type": "function", "name": "…", "parameters": {…}}')
    kind = value.get("type")
    if isinstance(kind, str) and kind != "function":
        raise UnsupportedParameter(
            f'`{path}.type` is "{kind[:64]}"; edged runs no tools of its own. Send a function that does it, and run it '
            "in your program.", param=f"{path}.type")
    said = accept(_FUNCTION, value, unknown="refuse", path=path).values
    return ToolFunction(name=said["name"], description=said.get("description", ""), parameters=said.get("parameters"),
                        strict=said.get("strict", True))


@takes(list_schema(object_schema(_FUNCTION), _SOME_TOOLS))
def tools(value: Any, path: str) -> list[ToolFunction]:
    found: list[ToolFunction] = items(value, path, _tool, f"a list of at most {MAX_FUNCTIONS} tools", _SOME_TOOLS)
    names: set[str] = set()
    for index, function in enumerate(found):
        if function.name in names:
            at = f"{path}[{index}].name"
            raise InvalidRequest(f"`{at}`: there are two functions named {function.name}; rename one.", param=at)
        names.add(function.name)
    return found


def shown(function: ToolFunction) -> dict[str, Any]:
    """In the response, what was left out filled in."""
    parameters = None if function.parameters is None else msgspec.json.decode(function.parameters)
    return {"type": "function", "name": function.name, "description": function.description or None,
            "parameters": parameters, "strict": function.strict}


_NAMED: Table = {"type": served(choice("function"), required=True), "name": served(function_name, required=True)}


def _named(value: Any, path: str) -> str:
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"type": "function", "name": "…"}')
    return str(accept(_NAMED, value, unknown="refuse", path=path).values["name"])


@takes(list_schema(object_schema(_NAMED), _SOME_NAMES))
def _names(value: Any, path: str) -> list[str]:
    return items(value, path, _named, f"a list of 1 to {MAX_FUNCTIONS} tools", _SOME_NAMES)


_ALLOWED: Table = {
    "type": served(choice("allowed_tools"), required=True), "mode": served(choice("auto", "required"), required=True),
    "tools": served(_names, required=True),
}
_EXPECTED = '"none", "auto", "required", {"type": "function", …} or {"type": "allowed_tools", …}'


@takes({"anyOf": [{"enum": ["none", "auto", "required"]}, object_schema(_NAMED), object_schema(_ALLOWED)]})
def tool_choice(value: Any, path: str) -> Choice:
    if value in ("none", "auto", "required"):
        return Choice(value)
    if not isinstance(value, dict):
        raise wrong(path, _EXPECTED)
    kind = value.get("type")
    if kind == "function":
        return Choice("required", (_named(value, path),), f"{path}.name")
    if kind == "allowed_tools":
        said = accept(_ALLOWED, value, unknown="refuse", path=path).values
        return Choice(said["mode"], tuple(said["tools"]), f"{path}.tools")
    if isinstance(kind, str):
        raise UnsupportedParameter(f'`{path}.type` is "{kind[:64]}"; there are only functions to choose here.',
                                   param=f"{path}.type")
    raise wrong(path, _EXPECTED)


_FORMATS: dict[str, Table] = {
    "text": {}, "json_object": {},
    "json_schema": {
        # For the model's eyes in OpenAI's service; no template here shows them.
        "name": inert(text(64, min_length=1)), "description": inert(text()), "strict": served(boolean),
        "schema": served(json_schema, required=True),
    },
}


def _table(kind: str) -> Table:
    return {"type": served(text(), required=True)} | _FORMATS[kind]


@takes({"anyOf": [kind_schema(_table(kind), kind) for kind in _FORMATS]})
def text_format(value: Any, path: str) -> Format:
    """A schema is enforced whether `strict` or not."""
    if not isinstance(value, dict):
        raise wrong(path, 'an object like {"type": "text"}')
    kind = choice(*_FORMATS)(value.get("type"), f"{path}.type")
    said, ignored = accept(_table(kind), value, unknown="refuse", path=path)
    match kind:
        case "json_schema":
            return Format(said["schema"], f"{path}.schema", ignored)
        case "json_object":
            return Format(JsonObject(), path, [])
        case _:
            return Format(None, path, [])
