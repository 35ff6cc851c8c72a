"""POST /api/embed, and /api/embeddings as older programs ask it.

Ollama cuts an input that is too long unless `truncate` is false; here none is ever cut, and one that does not fit is a
400, whatever `truncate` says. Vectors of /api/embed have length 1, as Ollama promises; /api/embeddings gives them as
the model's configuration makes them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from edged.api import sse
from edged.api.answering import Call
from edged.api.embeddings import MAX_INPUTS
from edged.api.exchange import Exchange, generation_id
from edged.api.fields import (
    Table,
    Unknown,
    accept,
    boolean,
    integer,
    items,
    keep_alive,
    list_schema,
    schema_of,
    served,
    takes,
    text,
    wrong,
)
from edged.api.ollama.answer import nanoseconds
from edged.api.ollama.options import Options, embedding_options
from edged.api.ollama.request import Presence
from edged.api.vectors import as_numbers, numbers, vectors_of
from edged.types import Embedded, EmbedRequest, Event, Finished, Usage

if TYPE_CHECKING:
    from edged.daemon.status import Served

_encoder = msgspec.json.Encoder()
_some_text = text(min_length=1)
#: float32 of a vector that a model has normalised is off by no more.
_TOLERANCE = 1e-5


_MANY = range(MAX_INPUTS + 1)


@takes({"anyOf": [{"type": "string"}, list_schema(schema_of(_some_text), _MANY)]})
def _inputs(value: Any, path: str) -> list[str | list[int]]:
    """Empty for a request that only loads."""
    if isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list):
        raise wrong(path, "a string or a list of strings")
    return items(value, path, _some_text, f"a list of up to {MAX_INPUTS} strings that are not empty", _MANY)


def _common(unknown: Unknown) -> Table:
    return {
        "model": served(text(512, min_length=1), required=True),
        "keep_alive": served(keep_alive),
        "options": served(embedding_options(unknown)),
    }


class EmbedBody(Struct, frozen=True):
    """Durations in ns, as those of `ollama_answer.Ending`."""

    model: str
    embeddings: list[Raw]
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET


class EmbeddingBody(Struct, frozen=True):
    embedding: Raw


def unit(vector: bytes) -> Raw:
    """Of length 1; one that has it stays bit for bit what it is."""
    values = numbers(vector)
    length = math.hypot(*values)
    if length == 0 or abs(length - 1) <= _TOLERANCE:
        return as_numbers(vector)
    return Raw(_encoder.encode([value / length for value in values]))


class EmbedAnswer:
    def __init__(self, model: str, count: int, received_at: float, asked_at: float, served: Served) -> None:
        self._model, self._received_at = model, received_at
        self._load_s = time.monotonic() - asked_at
        self._vectors = [Raw()] * count
        self._usage = Usage(0, 0)

    def add(self, prompt: int, event: Event) -> None:
        match event:
            case Embedded():
                for index, vector in vectors_of(event):
                    self._vectors[index] = unit(vector)
            case Finished(usage=usage):
                self._usage = usage
            case _:
                pass

    def answer(self) -> EmbedBody:
        total_s = time.monotonic() - self._received_at
        return EmbedBody(self._model, self._vectors, nanoseconds(total_s), nanoseconds(self._load_s),
                         self._usage.prompt_tokens)


class EmbeddingAnswer:
    def __init__(self, served: Served) -> None:
        self._vector = Raw(b"[]")

    def add(self, prompt: int, event: Event) -> None:
        if isinstance(event, Embedded):
            for _, vector in vectors_of(event):
                self._vector = as_numbers(vector)

    def answer(self) -> EmbeddingBody:
        return EmbeddingBody(self._vector)


def fields(unknown: Unknown = "refuse") -> Table:
    return _common(unknown) | {
        "input": served(_inputs), "truncate": served(boolean), "dimensions": served(integer(1, 2**16)),
    }


def old_fields(unknown: Unknown = "refuse") -> Table:
    return _common(unknown) | {"prompt": served(text())}


def parse(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call | Presence:
    """/api/embed. Raises InvalidRequest and its kin, with the path of the field in `param`."""
    said, ignored = accept(fields(unknown), body, unknown=unknown)
    inputs = said.get("input", [])
    if not inputs:
        return _presence(said, ignored)
    collected = partial(EmbedAnswer, said["model"], len(inputs), exchange.received_at, time.monotonic())
    return _call(said, ignored, exchange, inputs, collected)


def parse_old(body: dict[str, Any], exchange: Exchange, unknown: Unknown) -> Call | Presence:
    """/api/embeddings."""
    said, ignored = accept(old_fields(unknown), body, unknown=unknown)
    if not said.get("prompt"):
        return _presence(said, ignored)
    return _call(said, ignored, exchange, [said["prompt"]], EmbeddingAnswer)


def present(model: str, reason: str) -> EmbedBody:
    """Loaded or unloaded."""
    return EmbedBody(model, [])


def present_old(model: str, reason: str) -> EmbeddingBody:
    return EmbeddingBody(Raw(b"[]"))


def _options(said: dict[str, Any]) -> Options:
    found: Options = said.get("options", Options())
    return found


def _presence(said: dict[str, Any], ignored: list[str]) -> Presence:
    return Presence(said["model"], False, said.get("keep_alive"), (*ignored, *_options(said).ignored))


def _call(said: dict[str, Any], ignored: list[str], exchange: Exchange, inputs: list[str | list[int]],
          collected: Callable[[Served], sse.Collected]) -> Call:
    options = _options(said)
    request = EmbedRequest(
        id=generation_id(exchange), inputs=inputs, dimensions=said.get("dimensions"), context=options.context,
        client=exchange.caller.client,
    )
    return Call(
        model=said["model"], requests=[request], stream=False, streamed=None, collected=collected,
        keep_alive_s=said.get("keep_alive"), ignored=(*ignored, *options.ignored),
    )
