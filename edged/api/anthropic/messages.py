"""Anthropic's messages in, the shape a chat template knows out.

A turn of the user holds texts and results of tools: each result becomes a message of role `tool`, in its place. A turn
of the assistant becomes one message with its text, its thinking and its calls; text after a call stands before it
then, since no template has another place for it. Turns of the same role in a row are one turn, as Anthropic has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edged.api.anthropic.thinking import unsealed
from edged.api.anthropic.tools import CACHE_CONTROL, ToolChange
from edged.api.fields import (
    Schema,
    Table,
    Unknown,
    accept,
    boolean,
    choice,
    inert,
    items,
    kind_schema,
    later,
    list_schema,
    mapping,
    record,
    served,
    takes,
    text,
    wrong,
)
from edged.api.messages import MAX_MESSAGES, arguments_object
from edged.errors import InvalidRequest, MissingParameter, UnsupportedParameter

Block = dict[str, Any]

_KIND: Table = {"type": served(text(), required=True), "cache_control": CACHE_CONTROL}
_TEXT: Table = _KIND | {
    "text": served(text(), required=True),
    "citations": later([], instead="Leave them out; the models here read text only."),
}
_id = text(256, min_length=1)


def _blocks_schema(tables: Mapping[str, Table], *, fewest: int) -> Schema:
    """Of what `Reader._blocks` takes."""
    blocks = [kind_schema(table, kind) for kind, table in tables.items()]
    return {"anyOf": [{"type": "string"}, list_schema({"anyOf": blocks}, range(fewest, _MAX_BLOCKS))]}


@takes(lambda: _blocks_schema(_RESULTS, fewest=0))
def _unread_results(value: Any, path: str) -> Any:
    return value


def _unread(value: Any, path: str) -> Any:
    return value


@takes({"const": {"type": "direct"}})
def _direct(value: Any, path: str) -> None:
    if value != {"type": "direct"}:
        raise wrong(path, '{"type": "direct"}: only the model itself calls tools here')


_TOOL_USE: Table = _KIND | {
    "id": served(_id, required=True),
    "name": served(_id, required=True),
    "input": served(mapping(100_000), required=True),
    "caller": inert(_direct),
    "toolset_name": later(),
}
_TOOL_RESULT: Table = _KIND | {
    "tool_use_id": served(_id, required=True),
    "content": served(_unread_results),
    "is_error": served(boolean),
    "toolset_name": later(),
}
_THINKING: Table = _KIND | {"thinking": served(text(), required=True), "signature": served(text())}
#: Only who encrypted it can read it, so no other model's answer could depend on it.
_REDACTED: Table = _KIND | {"data": served(text(), required=True)}
_REFERENCE: Table = _KIND | {"tool_name": served(_id, required=True)}
_NAMED: Table = {"type": served(choice("tool_reference"), required=True), "name": served(_id, required=True)}
_CHANGE: Table = _KIND | {"tool": served(record(_NAMED), required=True)}

Tables = dict[str, Table]
_TEXTS: Tables = {"text": _TEXT}
_RESULTS: Tables = _TEXTS | {"tool_reference": _REFERENCE}
_BLOCKS: Mapping[str, Tables] = {
    "user": {"text": _TEXT, "tool_result": _TOOL_RESULT},
    "assistant": {"text": _TEXT, "tool_use": _TOOL_USE, "thinking": _THINKING, "redacted_thinking": _REDACTED},
    "system": _TEXTS | {"tool_addition": _CHANGE, "tool_removal": _CHANGE},
}
_EVERY_KIND = frozenset(kind for blocks in _BLOCKS.values() for kind in blocks)
_MAX_BLOCKS = 10_000

_MESSAGE: Table = {
    "role": served(choice("user", "assistant", "system"), required=True),
    "content": served(_unread, required=True),
    "clear_at": later("never"),
    "output_config": later({}),
}


def system_schema() -> Schema:
    return _blocks_schema(_TEXTS, fewest=1)


def messages_schema() -> Schema:
    """Of what `Reader.messages` takes."""
    turns = []
    for role, blocks in _BLOCKS.items():
        turn = kind_schema(_MESSAGE, role, "role")
        turn["properties"]["content"] = _blocks_schema(blocks, fewest=int(role != "assistant"))
        turns.append(turn)
    return list_schema({"anyOf": turns}, range(1, MAX_MESSAGES + 1))


class Reader:
    """Of one request. Names of fields that are only reported go to `ignored`. changes: what the messages say of tools,
    in their order."""

    def __init__(self, unknown: Unknown, ignored: list[str]) -> None:
        self._unknown = unknown
        self._ignored = ignored
        self._called: dict[str, str] = {}
        self.changes: list[ToolChange] = []

    def system(self, value: Any, path: str) -> str:
        return _joined(self._blocks(_TEXTS, value, path, fewest=1))

    def messages(self, value: Any, path: str) -> list[dict[str, Any]]:
        """Raises InvalidRequest and its kin. Where the last turn is the assistant's, it is text that the answer goes on
        from."""
        told: list[dict[str, Any]] = []

        def check(item: Any, at: str) -> None:
            for message in self._message(item, at):
                _add(told, message)

        items(value, path, check, "a list of at least one message", range(1, MAX_MESSAGES + 1))
        if not told:
            raise InvalidRequest(f"`{path}` holds nothing that anybody said; send a message of the user.", param=path)
        if told[-1]["role"] == "assistant" and told[-1].keys() != {"role", "content"}:
            raise UnsupportedParameter(
                f"`{path}` ends with thinking or calls of the assistant; an answer goes on from text only. End with a "
                "message of the user.", param=f"{path}[{len(value) - 1}].content")
        return told

    def _message(self, value: Any, path: str) -> list[dict[str, Any]]:
        if not isinstance(value, dict):
            raise wrong(path, "an object with role and content")
        said = self._accept(_MESSAGE, value, path)
        role = said["role"]
        # An answer may have said nothing.
        blocks = self._blocks(_BLOCKS[role], said["content"], f"{path}.content", fewest=int(role != "assistant"))
        if role == "assistant":
            return [self._assistant(blocks, f"{path}.content")]
        if role == "user":
            return self._user(blocks, f"{path}.content")
        for index, block in enumerate(blocks):
            if block["type"] != "text":
                name = block["tool"].values["name"]
                self.changes.append(ToolChange(
                    name, block["type"] == "tool_addition", f"{path}.content[{index}].tool.name"))
        texts = [block for block in blocks if block["type"] == "text"]
        return [{"role": role, "content": _joined(texts)}] if texts else []

    def _user(self, blocks: list[Block], path: str) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        for index, block in enumerate(blocks):
            if block["type"] == "text":
                _add(told, {"role": "user", "content": block["text"]})
            else:
                told.append(self._result(block, f"{path}[{index}]"))
        return told

    def _result(self, block: Block, path: str) -> dict[str, Any]:
        """Templates know no failed results: the model reads it in the text."""
        id_ = block["tool_use_id"]
        if id_ not in self._called:
            raise InvalidRequest(
                f"`{path}.tool_use_id` is {id_[:64]!r}, and no tool_use block before it has that id.",
                param=f"{path}.tool_use_id")
        said = self._blocks(_RESULTS, block.get("content", ""), f"{path}.content", fewest=0)
        content = _joined([self._referred(part, f"{path}.content[{index}]") for index, part in enumerate(said)])
        if block.get("is_error"):
            content = f"Error: {content}" if content else "Error"
        return {"role": "tool", "tool_call_id": id_, "name": self._called[id_], "content": content}

    def _referred(self, block: Block, path: str) -> Block:
        """A tool that was searched for: the model finds its schema among the tools from now on."""
        if block["type"] == "text":
            return block
        self.changes.append(ToolChange(block["tool_name"], True, f"{path}.tool_name"))
        return {"type": "text", "text": f"The tool {block['tool_name']} can be called now."}

    def _assistant(self, blocks: list[Block], path: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        for index, block in enumerate(blocks):
            _add([message], {"role": "assistant", "content": ""} | self._piece(block, f"{path}[{index}]"))
        return message

    def _piece(self, block: Block, path: str) -> dict[str, Any]:
        match block["type"]:
            case "text":
                return {"content": block["text"]}
            case "tool_use":
                self._called[block["id"]] = block["name"]
                function = {"name": block["name"], "arguments": arguments_object(block["input"])}
                return {"tool_calls": [{"id": block["id"], "type": "function", "function": function}]}
            case "thinking":
                thought = block["thinking"] or unsealed(block.get("signature", ""), f"{path}.signature")
                return {"reasoning_content": thought} if thought else {}
            case _:
                self._ignored.append(path)
                return {}

    def _blocks(self, tables: Tables, value: Any, path: str, *, fewest: int) -> list[Block]:
        if isinstance(value, str):
            return [{"type": "text", "text": value}]
        return items(value, path, self._block(tables), "a string or a list of content blocks",
                     range(fewest, _MAX_BLOCKS))

    def _block(self, tables: Tables) -> Callable[[Any, str], Block]:
        def check(value: Any, path: str) -> Block:
            if not isinstance(value, dict):
                raise wrong(path, 'an object like {"type": "text", "text": "…"}')
            kind = value.get("type")
            if kind is None:
                raise MissingParameter(f"`{path}.type` is missing.", param=f"{path}.type")
            expected = " or ".join(f'"{name}"' for name in tables)
            if not isinstance(kind, str) or kind in _EVERY_KIND - tables.keys():
                raise wrong(f"{path}.type", f"{expected} here")
            if kind not in tables:
                raise UnsupportedParameter(
                    f'`{path}` is of type "{kind[:64]}"; the models here read text only. Send blocks of type '
                    f"{expected}.", param=path)
            return self._accept(tables[kind], value, path)

        return check

    def _accept(self, table: Table, value: dict[str, Any], path: str) -> dict[str, Any]:
        accepted = accept(table, value, unknown=self._unknown, path=path)
        self._ignored.extend(accepted.ignored)
        return accepted.values


def _joined(blocks: list[Block]) -> str:
    return "\n".join(block["text"] for block in blocks)


def _add(told: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Appends it, or makes it a part of the last one where both are the same speaker's."""
    if not told or told[-1]["role"] != message["role"] or message["role"] not in ("user", "assistant"):
        told.append(message)
        return
    last = told[-1]
    for name in ("reasoning_content", "content"):
        if message.get(name):
            last[name] = f"{last[name]}\n{message[name]}" if last.get(name) else message[name]
    if "tool_calls" in message:
        last.setdefault("tool_calls", []).extend(message["tool_calls"])
