"""`input` of /v1/responses: a text, or items, each checked under its own path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from edged.api.fields import (
    Schema,
    Table,
    Unknown,
    accept,
    choice,
    inert,
    items,
    kind_schema,
    later,
    list_schema,
    mapping,
    object_schema,
    served,
    takes,
    text,
    wrong,
)
from edged.api.messages import MAX_MESSAGES
from edged.api.responses.items import (
    FunctionCall,
    FunctionOutput,
    InputText,
    Item,
    Message,
    OutputText,
    Part,
    ReasoningText,
    Reference,
    Refusal,
    SummaryText,
    Thoughts,
    item_id,
)
from edged.errors import UnsupportedParameter

_OTHER_PARTS = ("input_image", "input_file", "input_audio", "image_url", "output_audio", "computer_screenshot")
_OTHER_ITEMS = (
    "additional_tools", "apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "compaction",
    "compaction_trigger", "computer_call", "computer_call_output", "configuration_update", "custom_tool_call",
    "custom_tool_call_output", "file_search_call", "image_generation_call", "local_shell_call",
    "local_shell_call_output", "mcp_approval_request", "mcp_approval_response", "mcp_call", "mcp_list_tools", "program",
    "program_output", "shell_call", "shell_call_output", "tool_search_call", "tool_search_output", "web_search_call",
)


def _anything(value: Any, path: str) -> Any:
    return value


_SOME_PARTS = range(1, 1001)
_SOME_TEXTS = range(1001)


@takes(lambda: {"anyOf": [{"type": "string"}, list_schema(_parts_schema(), _SOME_PARTS)]})
def _unread_parts(value: Any, path: str) -> Any:
    return value


@takes(lambda: list_schema(object_schema(_THOUGHT), _SOME_TEXTS))
def _unread_texts(value: Any, path: str) -> Any:
    return value


_ID = text(256, min_length=1)
_STATUS = choice("in_progress", "completed", "incomplete")
_KIND: Table = {"type": served(text())}
_PARTS: Mapping[str, Table] = {
    "input_text": _KIND | {"text": served(text(), required=True), "prompt_cache_breakpoint": inert(mapping(2))},
    "output_text": _KIND | {
        "text": served(text(), required=True), "annotations": inert(_anything), "logprobs": inert(_anything),
    },
    "refusal": _KIND | {"refusal": served(text(), required=True)},
}


def _parts_schema() -> Schema:
    return {"anyOf": [kind_schema(table, kind, said=True) for kind, table in _PARTS.items()]}


_THOUGHT: Table = _KIND | {"text": served(text(), required=True)}


class _Reader:
    """unknown, ignored: as for `fields.accept`. Items without an id get one that names this response."""

    def __init__(self, response_id: str, unknown: Unknown, ignored: list[str]) -> None:
        self._response_id = response_id
        self._unknown, self._ignored = unknown, ignored
        self._count = 0

    def item(self, value: Any, path: str) -> Item | Reference:
        if not isinstance(value, dict):
            raise wrong(path, "an object like {\"role\": \"user\", \"content\": \"…\"}")
        kind = value.get("type") or ("message" if "role" in value else "item_reference" if "id" in value else "message")
        if kind in _OTHER_ITEMS:
            raise UnsupportedParameter(
                f"`{path}` is of type \"{kind}\"; edged runs no tools of its own, and reads messages, reasoning, "
                "function calls and their outputs. Leave it out.", param=path)
        read = self._readers.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise wrong(f"{path}.type", " or ".join(f'"{one}"' for one in self._readers))
        return read(self, value, path)

    def _accept(self, table: Table, value: dict[str, Any], path: str) -> dict[str, Any]:
        accepted = accept(table, value, unknown=self._unknown, path=path)
        self._ignored.extend(accepted.ignored)
        return accepted.values

    def _id(self, said: dict[str, Any], prefix: str) -> str:
        number, self._count = self._count, self._count + 1
        found: str = said.get("id") or item_id(prefix, self._response_id, number, of_input=True)
        return found

    def _message(self, value: dict[str, Any], path: str) -> Message:
        said = self._accept(_MESSAGE, value, path)
        role = said["role"]
        return Message(self._id(said, "msg"), role, self._content(said["content"], f"{path}.content", role),
                       said.get("status", "completed"))

    def _content(self, value: Any, path: str, role: str) -> list[Part]:
        if isinstance(value, str):
            return [OutputText(value) if role == "assistant" else InputText(value)]
        found: list[Part] = items(value, path, self._part, "a string or a list of 1 to 1000 parts", _SOME_PARTS)
        if role == "assistant":
            return [OutputText(part.text) if isinstance(part, InputText) else part for part in found]
        for index, part in enumerate(found):
            if isinstance(part, Refusal):
                raise wrong(f"{path}[{index}].type", f'"input_text" in a message of role "{role}"')
        return [InputText(part.text) if isinstance(part, OutputText) else part for part in found]

    def _part(self, value: Any, path: str) -> Part:
        if not isinstance(value, dict):
            raise wrong(path, 'an object like {"type": "input_text", "text": "…"}')
        kind = value.get("type")
        if kind in _OTHER_PARTS:
            raise UnsupportedParameter(
                f"`{path}` is of type \"{kind}\"; the models here read text only. Send parts of type \"input_text\".",
                param=path)
        if not isinstance(kind, str) or kind not in _PARTS:
            raise wrong(f"{path}.type", '"input_text", "output_text" or "refusal"')
        said = self._accept(_PARTS[kind], value, path)
        if kind == "refusal":
            return Refusal(said["refusal"])
        return InputText(said["text"]) if kind == "input_text" else OutputText(said["text"])

    def _call(self, value: dict[str, Any], path: str) -> FunctionCall:
        said = self._accept(_CALL, value, path)
        return FunctionCall(self._id(said, "fc"), said["call_id"], said["name"], said["arguments"],
                            said.get("status", "completed"))

    def _output(self, value: dict[str, Any], path: str) -> FunctionOutput:
        said = self._accept(_OUTPUT, value, path)
        output = said["output"]
        if not isinstance(output, str):
            parts = self._content(output, f"{path}.output", "tool")
            output = [part for part in parts if isinstance(part, InputText)]
        return FunctionOutput(self._id(said, "fco"), said["call_id"], output, said.get("status", "completed"))

    def _thoughts(self, value: dict[str, Any], path: str) -> Thoughts:
        said = self._accept(_REASONING, value, path)
        content = [ReasoningText(one) for one in self._texts(said.get("content", []), f"{path}.content")]
        summary = [SummaryText(one) for one in self._texts(said["summary"], f"{path}.summary")]
        if "encrypted_content" in said and not (content or summary):
            raise UnsupportedParameter(
                f"`{path}.encrypted_content` was encrypted by another server and cannot be read here. Leave the "
                "item out, or send its content.", param=f"{path}.encrypted_content")
        made = Thoughts(self._id(said, "rs"), summary, status=said.get("status", "completed"))
        return Thoughts(made.id, summary, content, made.status) if content else made

    def _texts(self, value: Any, path: str) -> list[str]:
        def one(value: Any, path: str) -> str:
            if not isinstance(value, dict):
                raise wrong(path, "an object with type and text")
            return str(self._accept(_THOUGHT, value, path)["text"])

        return items(value, path, one, "a list of up to 1000 texts", _SOME_TEXTS)

    def _reference(self, value: dict[str, Any], path: str) -> Reference:
        return Reference(self._accept(_REFERENCE, value, path)["id"], f"{path}.id")

    _readers: ClassVar[dict[str, Callable[[_Reader, dict[str, Any], str], Item | Reference]]] = {
        "message": _message, "function_call": _call, "function_call_output": _output, "reasoning": _thoughts,
        "item_reference": _reference,
    }


_MESSAGE: Table = _KIND | {
    "id": served(_ID), "status": served(_STATUS),
    "role": served(choice("user", "assistant", "system", "developer"), required=True),
    "content": served(_unread_parts, required=True), "phase": inert(choice("commentary", "final_answer")),
}
_CALL: Table = _KIND | {
    "id": served(_ID), "status": served(_STATUS), "call_id": served(_ID, required=True),
    "name": served(_ID, required=True), "arguments": served(text(), required=True),
    "async": later(False), "caller": later({"type": "direct"}), "namespace": later(),
}
_OUTPUT: Table = _KIND | {
    "id": served(_ID), "status": served(_STATUS), "call_id": served(_ID, required=True),
    "output": served(_unread_parts, required=True), "name": inert(text(256)), "caller": later({"type": "direct"}),
    "namespace": later(),
}
_REASONING: Table = _KIND | {
    "id": served(_ID), "status": served(_STATUS), "summary": served(_unread_texts, required=True),
    "content": served(_unread_texts), "encrypted_content": served(text()),
}
_REFERENCE: Table = _KIND | {"id": served(_ID, required=True)}


_SOME_ITEMS = range(MAX_MESSAGES + 1)


def input_schema() -> Schema:
    """Of what `read_input` takes. Only a message, and a reference, may leave out their type."""
    called = [kind_schema(table, kind, said=True) for kind, table in (
        ("function_call", _CALL), ("function_call_output", _OUTPUT), ("reasoning", _REASONING))]
    read = [kind_schema(_MESSAGE, "message"), kind_schema(_REFERENCE, "item_reference"), *called]
    return {"anyOf": [{"type": "string"}, list_schema({"anyOf": read}, _SOME_ITEMS)]}


def read_input(value: Any, path: str, response_id: str, unknown: Unknown, ignored: list[str]) -> list[Item | Reference]:
    """Raises InvalidRequest and its kin. Names of unknown fields that are only reported go to `ignored`."""
    if isinstance(value, str):
        return [Message(item_id("msg", response_id, 0, of_input=True), "user", [InputText(value)])]
    return items(value, path, _Reader(response_id, unknown, ignored).item, "a string or a list of items", _SOME_ITEMS)
