"""What `/api/chat` and `/api/generate` have in common: fields, and the way from them to a call."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from msgspec import Struct

from edged.api.answering import Call
from edged.api.exchange import Exchange, generation_id
from edged.api.fields import Table, Unknown, boolean, integer, keep_alive, later, schema_of, served, takes, text, wrong
from edged.api.formats import json_schema
from edged.api.ollama.answer import Line, OllamaAnswer, OllamaStream, Turn
from edged.api.ollama.options import Options, options
from edged.api.request import top_logprobs
from edged.types import Constraint, GenerateRequest, JsonObject, Prompt, Reasoning, ToolUse

IMAGES_INSTEAD = "The models here read text only."
_EFFORTS = ("low", "medium", "high")


@takes({"anyOf": [{"enum": ["", "json"]}, schema_of(json_schema)]})
def _format(value: Any, path: str) -> Constraint | None:
    """Go programs send an empty string for none."""
    if value == "":
        return None
    if value == "json":
        return JsonObject()
    if isinstance(value, dict):
        return json_schema(value, path)
    raise wrong(path, '"json" or a JSON schema')


@takes({"anyOf": [{"type": "boolean"}, {"enum": [*_EFFORTS]}]})
def _think(value: Any, path: str) -> Reasoning:
    if isinstance(value, bool):
        return Reasoning(effort="medium" if value else "none")
    if value not in _EFFORTS:
        raise wrong(path, 'true, false, "low", "medium" or "high"')
    return Reasoning(effort=value)


def common(unknown: Unknown) -> Table:
    return {
        "model": served(text(512, min_length=1), required=True),
        "stream": served(boolean),
        "format": served(_format),
        "options": served(options(unknown)),
        "keep_alive": served(keep_alive),
        "think": served(_think),
        "logprobs": served(boolean),
        "top_logprobs": served(integer(0, 20)),
        # Nothing is ever cut: what does not fit is refused, as `truncate` false asks for.
        "truncate": served(boolean),
        "shift": later(False, instead="An answer ends where the context does; leave it out."),
    }


class Presence(Struct, frozen=True):
    """A request without a prompt: the model is to be loaded, or with a keep_alive of 0 to be unloaded. line: the one
    line of the answer, given the reason it ends with."""

    model: str
    stream: bool
    keep_alive_s: float | None
    ignored: tuple[str, ...]


def presence(said: dict[str, Any], ignored: list[str]) -> Presence:
    ignored = [*ignored, *_options(said).ignored]
    return Presence(said["model"], said.get("stream", True), said.get("keep_alive"), tuple(ignored))


def _options(said: dict[str, Any]) -> Options:
    found: Options = said.get("options", Options())
    return found


def call(said: dict[str, Any], ignored: list[str], exchange: Exchange, prompt: Prompt, line: Line, *,
         tools: ToolUse | None = None) -> Call:
    """said: accepted by `common` and more. line: see `ollama_answer`."""
    chosen = _options(said)
    request = GenerateRequest(
        id=generation_id(exchange), prompt=prompt, sampling=chosen.sampling, max_tokens=chosen.max_tokens,
        # num_predict is a maximum: an answer that the context ends before says so by its reason.
        to_context_end=True, stop=chosen.stop, logprobs=top_logprobs(said), constraint=said.get("format"),
        constraint_field="format", tools=tools,
        reasoning=said.get("think"), context=chosen.context, client=exchange.caller.client,
    )
    made = partial(Turn, received_at=exchange.received_at, asked_at=time.monotonic(),
                   logprobs=request.logprobs is not None)
    return Call(
        model=said["model"], requests=[request], stream=said.get("stream", True),
        streamed=partial(OllamaStream, made, line), collected=partial(OllamaAnswer, made, line),
        keep_alive_s=said.get("keep_alive"), ignored=(*ignored, *chosen.ignored),
    )
