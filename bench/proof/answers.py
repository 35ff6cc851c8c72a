"""Answers that are partly known before they are written: JSON by schema, calls of tools, and texts of the prompt."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema

from bench.client import BenchError, Whole, whole
from bench.proof.scene import Ask, Found, Scene, chat, forced, prose
from bench.rounds import Side
from bench.workloads import SENTENCES

_TEXT = {"type": "string", "maxLength": 16}


def _choice(*said: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(said)}


def _number(most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": most}


def _record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


#: Kinds of answers, each of a bounded length whatever a model writes, so that none is cut.
SCHEMAS: dict[str, dict[str, Any]] = {
    "flat record": _record(
        customer_name=_TEXT, order_number=_number(9999), delivery_city=_TEXT, is_express_delivery={"type": "boolean"},
        number_of_items=_number(99)),
    "nested": _record(
        sensor=_record(identifier=_TEXT, location=_record(building=_TEXT, floor_number=_number(30))),
        measurements={"type": "array", "minItems": 2, "maxItems": 2, "items": _record(
            quantity=_choice("temperature", "humidity", "pressure"), value=_number(999))}),
    "many choices": _record(
        category=_choice("hardware failure", "software failure", "network failure", "user question"),
        severity=_choice("low", "medium", "high", "critical"),
        assigned_team=_choice("field service", "help desk", "vendor"), requires_site_visit={"type": "boolean"},
        next_step=_choice("wait for customer", "send technician", "close ticket")),
}
TOOL = "set_room_temperature"
TOOL_SCHEMA = _record(room_name=_TEXT, target_temperature_celsius=_number(30), heating_mode=_choice("eco", "comfort"))
_ANSWER_TOKENS = 200
#: One call has 50 to 65; llama-server goes on with further ones, whatever `parallel_tool_calls` says.
_CALL_TOKENS = 80


def _structured(ask: Ask, model: str) -> dict[str, dict[str, Any]]:
    """One body for each kind."""
    bodies = {}
    for place, (kind, schema) in enumerate(SCHEMAS.items()):
        form = {"name": "form", "strict": True, "schema": schema}
        bodies[kind] = _free(model, ask.number + place, "Fill in the form from what is said.") | {
            "response_format": {"type": "json_schema", "json_schema": form}}
    bodies["tool call"] = _free(model, ask.number + len(SCHEMAS), "Call the function.") | {
        "tools": [{"type": "function", "function": {
            "name": TOOL, "description": "Sets what a room is heated to.", "parameters": TOOL_SCHEMA}}],
        "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": _CALL_TOKENS}
    return bodies


def _free(model: str, number: int, system: str) -> dict[str, Any]:
    """A chat whose answer ends where the model or its form ends it."""
    body = chat(model, f"{prose(number, 4)} {system}", prose(number + 100, 48), _ANSWER_TOKENS, stream=False)
    del body["logit_bias"]
    return body


def structured(side: Side, ask: Ask) -> Found:
    """seconds: of all kinds together. schema: of those without the tool. valid: answers that their schema takes, of as
    many as there are kinds."""
    running = side.up()
    figures, notes = {"seconds": 0.0, "schema": 0.0, "tokens": 0.0, "valid": 0.0}, []
    for kind, body in _structured(ask, running.model).items():
        answer = whole(running.url, "chat", body)
        wrong = _wrong(kind, answer)
        if wrong:
            notes.append(f"{side.name}: {kind}: {wrong}")
        figures[kind] = answer.seconds
        figures["seconds"] += answer.seconds
        figures["schema"] += answer.seconds if kind in SCHEMAS else 0.0
        figures["tokens"] += answer.completion_tokens
        figures["valid"] += not wrong
    return Found(figures, tuple(notes))


def _wrong(kind: str, answer: Whole) -> str | None:
    """Why the answer is not what was asked for."""
    message = answer.body["choices"][0]["message"]
    try:
        if kind == "tool call":
            call = message["tool_calls"][0]
            if call["function"]["name"] != TOOL:
                return f"called {call['function']['name']}"
            said, schema = call["function"]["arguments"], TOOL_SCHEMA
        else:
            said, schema = message["content"], SCHEMAS[kind]
        jsonschema.validate(json.loads(said), schema)
    except (LookupError, TypeError, ValueError, jsonschema.ValidationError) as error:
        return f"not valid ({type(error).__name__})"
    return None


def _passages(number: int, *sentences: int) -> list[str]:
    """Texts of so many sentences each, no sentence twice: a model would lose its place."""
    drawn = iter(random.Random(number).sample(SENTENCES, sum(sentences)))
    return [" ".join(next(drawn) for _ in range(count)) for count in sentences]


def _rewriting(number: int) -> tuple[str, str]:
    """A prompt that is to be gone on with by repeating a passage of it, and that passage."""
    *examples, passage = _passages(number, 2, 2, 6)
    shown = "".join(f"<text>{example}</text>\n<same>{example}</same>\n\n" for example in examples)
    return f"{shown}<text>{passage}</text>\n<same>", passage


def _extraction(number: int) -> tuple[str, str]:
    """The same for the second of three passages."""
    passages = _passages(number, *[2] * 9)
    cases = []
    for first in (0, 3, 6):
        named = zip(("first", "second", "third"), passages[first:first + 3], strict=True)
        lines = "".join(f"<{name}>{passage}</{name}>\n" for name, passage in named)
        cases.append(f"{lines}<answer><second>{passages[first + 1]}</second></answer>\n\n")
    return "".join(cases)[:-len(f"{passages[7]}</second></answer>\n\n")], passages[7]


KINDS = {"rewriting": _rewriting, "extraction": _extraction}
#: Of the passage, in the prompt: so small a model finds its place by them.
_GIVEN_WORDS = 5


def begun(kind: str, number: int) -> tuple[str, str]:
    """A prompt with the beginning of the answer, and the rest of the answer."""
    prompt, passage = KINDS[kind](number)
    said = passage.split()
    return f"{prompt}{' '.join(said[:_GIVEN_WORDS])}", " ".join(said[_GIVEN_WORDS:])


def _repeating(ask: Ask, model: str) -> dict[str, dict[str, Any]]:
    """One body for each kind; an answer is as long as what is left of the passage."""
    bodies = {}
    for kind in KINDS:
        prompt, rest = begun(kind, ask.number)
        bodies[kind] = {"model": model, "prompt": prompt, **forced(tokens(rest), stream=False)}
    return bodies


def tokens(passage: str) -> int:
    return len(passage.replace(".", " .").split())


def repeating(side: Side, ask: Ask) -> Found:
    """seconds: of both kinds together. overlap: share of the answers' words, in fours, that the prompt has too; the
    least of the kinds."""
    running = side.up()
    figures = {"seconds": 0.0, "tokens": 0.0, "overlap": 1.0}
    for kind, body in _repeating(ask, running.model).items():
        answer = whole(running.url, "completions", body)
        if answer.completion_tokens != body["max_tokens"]:
            raise BenchError(f"{kind}: {answer.completion_tokens} tokens came instead of {body['max_tokens']}")
        figures[kind] = answer.seconds
        figures["seconds"] += answer.seconds
        figures["tokens"] += answer.completion_tokens
        figures["overlap"] = min(figures["overlap"], overlap(body["prompt"], answer.body["choices"][0]["text"]))
    few = figures["overlap"] < 0.8
    notes = (f"{side.name}: an answer repeats only {figures['overlap']:.0%} of its prompt",) if few else ()
    return Found(figures, notes)


def overlap(prompt: str, answer: str) -> float:
    """Share of the answer's runs of four words that the prompt has."""
    def fours(said: str) -> list[tuple[str, ...]]:
        parts = re.findall(r"\w+", said)
        return [tuple(parts[place:place + 4]) for place in range(len(parts) - 3)]

    known, written = set(fours(prompt)), fours(answer)
    return sum(one in known for one in written) / len(written) if written else 0.0


STRUCTURED = Scene(
    "structured", "a flat record, a nested one, one of many choices, and a call of a tool: whole latency of all four",
    ("edged", "edged-same", "llama-default", "llama-tuned", "llama-reuse"),
    structured, lambda ask: list(_structured(ask, "").values()), rounds=5,
)
REPEATING = Scene(
    "repeating", "a passage copied, and one of three passages taken out: whole latency of both",
    ("edged", "edged-same", "llama-default", "llama-tuned", "llama-ngram"),
    repeating, lambda ask: list(_repeating(ask, "").values()), rounds=5,
)
