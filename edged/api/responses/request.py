"""The body of POST /v1/responses: every field of the official package's `ResponseCreateParams` is served, inert by its
meaning, or refused by its name."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from edged.api.chat import template_kwargs
from edged.api.exchange import Exchange, generation_id
from edged.api.fields import (
    GENERATION,
    MAX_TOKENS,
    SAMPLING,
    Table,
    Unknown,
    accept,
    boolean,
    choice,
    inert,
    integer,
    items,
    later,
    list_schema,
    mapping,
    record,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.api.formats import GRAMMAR, Format
from edged.api.request import sampling
from edged.api.responses.events import ReasoningBody, ResponseBody, TextBody
from edged.api.responses.input import input_schema, read_input
from edged.api.responses.items import Item, Reference, chat_messages
from edged.api.responses.tools import shown, text_format, tool_choice, tools
from edged.api.tools import tool_use
from edged.errors import InvalidRequest, MissingParameter
from edged.store.responses import new_id
from edged.types import ChatPrompt, GenerateRequest, Reasoning

LOGPROBS = "message.output_text.logprobs"
#: What else may be asked for is of items that do not come up here, or is in them anyway (thoughts, unencrypted).
_INCLUDABLE = (
    LOGPROBS, "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
)
_includable = choice(*_INCLUDABLE)


@takes(list_schema(schema_of(_includable), range(21)))
def include(value: Any, path: str) -> list[str]:
    return items(value, path, _includable, "a list of up to 20 names", range(21))


@takes({"type": "object", "maxProperties": 16, "propertyNames": {"maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512}})
def metadata(value: Any, path: str) -> dict[str, str]:
    for key, item in mapping(16)(value, path).items():
        if len(key) > 64 or not isinstance(item, str) or len(item) > 512:
            raise wrong(path, "an object of up to 16 texts of at most 512 characters, under keys of at most 64")
    return dict(value)


@takes(input_schema)
def _unread(value: Any, path: str) -> Any:
    """What is unknown in it is known to `parse`, which reads it."""
    return value


_REASONING: Table = {
    "effort": served(choice("none", "minimal", "low", "medium", "high")),
    # All of the thoughts are the most detailed summary; nothing here could write a shorter one.
    "summary": served(choice("auto", "detailed")),
    "generate_summary": served(choice("auto", "detailed")),
    "context": later("auto", instead="The model's template decides which thoughts of earlier turns it is shown."),
    "mode": later("standard"),
}
_TEXT: Table = {
    "format": served(text_format),
    "verbosity": later("medium", instead="Ask for it in the instructions."),
}
_CACHE: Table = {
    "mode": inert(choice("implicit", "explicit")), "ttl": inert(choice("30m", "12h")), "prewarm": later(False),
    "comparison_response_id": later(),
}
_STREAM: Table = {"include_obfuscation": inert(boolean)}
_ALIKE = ("model", "stop", "stream", "timeout_s", "keep_alive", "adapter", "user", "safety_identifier",
          "prompt_cache_key", "service_tier")

FIELDS: Table = SAMPLING | GRAMMAR | {name: GENERATION[name] for name in _ALIKE} | {
    "input": served(_unread),
    "instructions": served(text()),
    "previous_response_id": served(text(128, min_length=1)),
    "max_output_tokens": served(integer(1, MAX_TOKENS)),
    "top_logprobs": served(integer(0, 20)),
    "include": served(include),
    "text": served(record(_TEXT)),
    "reasoning": served(record(_REASONING)),
    "reasoning_budget": served(integer(0, MAX_TOKENS)),
    "chat_template_kwargs": served(template_kwargs),
    "tools": served(tools),
    "tool_choice": served(tool_choice),
    "parallel_tool_calls": served(boolean),
    "max_tool_calls": inert(integer(1, MAX_TOKENS)),
    "store": served(boolean),
    "background": served(boolean),
    "metadata": served(metadata),
    "stream_options": served(record(_STREAM)),
    "truncation": later("disabled", instead="Nothing is cut to fit here: shorten the input, or let max_output_tokens "
                        "leave it room."),
    "prompt_cache_options": served(record(_CACHE)),
    "prompt_cache_retention": inert(text()),
    "conversation": later(instead="Continue a response with previous_response_id, or send the whole conversation as "
                          "input."),
    "prompt": later(instead="No prompts are stored here; send the text as instructions and input."),
    "moderation": later(),
    "access_programs": later(),
    "background_options": later({"completion_window": "soonest"}),
    "context_management": later([], instead="Nothing is compacted here."),
    "image": later({"context_compression": "auto"}),
}


class Asked(NamedTuple):
    """What the body says; what it refers to is not looked up yet. begun: the response before anything is made. store:
    None where nothing is said of it."""

    begun: ResponseBody
    items: list[Item | Reference]
    request: GenerateRequest
    template_kwargs: dict[str, Any]
    logprobs: bool
    stream: bool
    store: bool | None
    timeout_s: float | None
    keep_alive_s: float | None
    ignored: tuple[str, ...]

    def with_items(self, history: list[Item]) -> GenerateRequest:
        """history: all that came before and was asked now. Raises InvalidRequest."""
        messages = chat_messages(self.begun.instructions, history)
        if not messages:
            raise InvalidRequest("`input` is empty; send a text or at least one item.", param="input")
        return GenerateRequest(**{
            name: getattr(self.request, name) for name in GenerateRequest.__struct_fields__
        } | {"prompt": ChatPrompt(messages, self.template_kwargs)})


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Asked:
    """Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(FIELDS, body, unknown=unknown)
    for name in ("text", "reasoning", "stream_options", "prompt_cache_options"):
        nested = said.get(name)
        if nested is not None:
            ignored.extend(nested.ignored)
            said[name] = nested.values
    if "input" not in said and "previous_response_id" not in said:
        raise MissingParameter("`input` is missing.", param="input")
    if "stream_options" in said and not said.get("stream"):
        raise InvalidRequest("`stream_options` needs `stream` to be true.", param="stream_options")
    if said.get("background") and said.get("store") is False:
        raise InvalidRequest("`background` needs `store`: the answer is fetched later.", param="background")
    wanted = said.get("include", [])
    ignored.extend(f"include.{name}" for name in wanted if name != LOGPROBS)
    logprobs = LOGPROBS in wanted or said.get("top_logprobs", 0) > 0
    identity = new_id()
    reasoning = said.get("reasoning", {})
    begun = ResponseBody(
        id=identity,
        created_at=int(time.time()),
        background=said.get("background", False),
        instructions=said.get("instructions"),
        max_output_tokens=said.get("max_output_tokens"),
        max_tool_calls=body.get("max_tool_calls"),
        model=said["model"],
        previous_response_id=said.get("previous_response_id"),
        prompt_cache_key=body.get("prompt_cache_key"),
        reasoning=ReasoningBody(reasoning.get("effort"), reasoning.get("summary") or reasoning.get("generate_summary")),
        safety_identifier=body.get("safety_identifier"),
        store=said.get("store", True),
        temperature=said.get("temperature"),
        top_logprobs=said.get("top_logprobs", 0),
        top_p=said.get("top_p"),
        user=body.get("user"),
        metadata=said.get("metadata", {}),
        parallel_tool_calls=said.get("parallel_tool_calls", True),
        text=TextBody({"name": "answer"} | form if (form := _format_said(body))["type"] == "json_schema" else form),
        tool_choice=body.get("tool_choice") or "auto",
        tools=[shown(function) for function in said.get("tools", [])],
    )
    request = GenerateRequest(
        id=generation_id(exchange),
        prompt=ChatPrompt([]),
        sampling=sampling(said),
        max_tokens=said.get("max_output_tokens"),
        stop=said.get("stop", ()),
        logprobs=said.get("top_logprobs", 0) if logprobs else None,
        reasoning=_reasoning(reasoning.get("effort"), said.get("reasoning_budget")),
        tools=tool_use(said),
        adapter=said.get("adapter"),
        **_constraint(said, ignored),
        client=exchange.caller.client,
        capture=said.get("store") is not False,
    )
    return Asked(
        begun=begun,
        items=read_input(said.get("input", []), "input", identity, unknown, ignored),
        request=request,
        template_kwargs=said.get("chat_template_kwargs", {}),
        logprobs=logprobs,
        stream=said.get("stream", False),
        store=said.get("store"),
        timeout_s=said.get("timeout_s"),
        keep_alive_s=said.get("keep_alive"),
        ignored=tuple(ignored),
    )


def _format_said(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (body.get("text") or {}).get("format") or {"type": "text"}
    return found


def _reasoning(effort: Any, budget: int | None) -> Reasoning | None:
    return None if effort is None and budget is None else Reasoning(effort=effort, budget=budget)


def _constraint(said: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Fields of the GenerateRequest. Raises InvalidRequest where two are said at once."""
    said_formats: list[Format] = [one for one in (said.get("text", {}).get("format"), said.get("grammar")) if one]
    for form in said_formats:
        ignored.extend(form.ignored)
    asked = [form for form in said_formats if form.constraint is not None]
    if len(asked) > 1:
        raise InvalidRequest("`text.format` and `grammar` both say what the answer must be; send one of them.",
                             param="grammar")
    return {"constraint": asked[0].constraint, "constraint_field": asked[0].field} if asked else {}
