"""Constraints through the real worker process: held, refused, and compiled beside the steps of others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edged.types import (
    ChoiceEnd,
    Constraint,
    Delta,
    Event,
    Failed,
    Finished,
    Gbnf,
    JsonObject,
    JsonSchema,
    Lark,
    Regex,
)
from tests.worker.worker import Worker, chat, gaps, text

pytestmark = pytest.mark.worker

BOX = {"type": "object", "properties": {"size": {"enum": ["small", "large"]}, "count": {"type": "integer", "maximum": 9,
       "minimum": 0}}, "required": ["size", "count"], "additionalProperties": False}


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path, said={"step_ms": 5})
    made.ready()
    yield made
    made.end()


def refusal(worker: Worker, constraint: Constraint) -> Failed:
    worker.submit(text("hello", id="refused", constraint=constraint, constraint_field="grammar.value"))
    seen = worker.until(lambda event: isinstance(event, Failed | Finished) and event.id == "refused")
    [failed] = [event for event in seen if isinstance(event, Failed)]
    return failed


@pytest.mark.parametrize(("constraint", "pattern"), [
    (JsonSchema(json.dumps(BOX)), r'\{"size": "(small|large)", "count": [0-9]\}'),
    (Regex("(one|two) words?"), "(one|two) words?"),
    (Lark('start: "one" | "two"'), "one|two"),
    (Gbnf('root ::= "one" | "two"'), "one|two"),
], ids=["schema", "regex", "lark", "gbnf"])
def test_every_choice_of_every_kind_holds(worker: Worker, constraint: Constraint, pattern: str) -> None:
    worker.submit(text("hello", tokens=60, n=3, constraint=constraint))
    seen = worker.until(lambda event: isinstance(event, Finished | Failed))
    texts = ["".join(event.text for event in seen if isinstance(event, Delta) and event.index == index)
             for index in range(3)]
    assert all(re.fullmatch(pattern, one) for one in texts), texts
    assert [event.reason for event in seen if isinstance(event, ChoiceEnd)] == ["stop"] * 3


def test_a_scripted_json_object_is_said_to_its_end(worker: Worker) -> None:
    said = '{"free": [1, {"form": null}], "é": "🙂"}'
    asked = chat(f"say: {said}", tokens=100)
    worker.submit(msgspec.structs.replace(asked, constraint=JsonObject()))
    assert worker.answer() == said


@pytest.mark.parametrize(("constraint", "named"), [
    (Regex("(" * 60_000 + ")" * 60_000), "nest"),
    (Gbnf("root ::= " + "(" * 60_000), "brackets deeper"),
    (Lark("start: " + "(" * 60_000), "nested"),
    (JsonSchema('{"items":' * 1_000 + "{}" + "}" * 1_000), "schema"),
    (JsonSchema(json.dumps({"enum": [f"value {number} of a long list" for number in range(10_000)]})), "KiB"),
    (JsonSchema('{"$ref": "#"}'), "no text"),
    (JsonSchema(json.dumps({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                            "$ref": "#/$defs/a"})), "no text"),
], ids=["regex", "gbnf", "lark", "schema", "enum", "cycle", "longer cycle"])
def test_a_hostile_constraint_is_a_clear_400_and_the_worker_goes_on(
    worker: Worker, constraint: Constraint, named: str
) -> None:
    failed = refusal(worker, constraint)
    assert (failed.status, failed.code, failed.param) == (400, "invalid_value", "grammar.value")
    assert named in failed.message
    worker.submit(text("hello", id="after"))
    assert worker.answer("after")


def test_others_go_on_while_hostile_constraints_are_compiled(worker: Worker) -> None:
    refusal(worker, Regex("("))  # the tokenizer is made once
    worker.submit(text("hello", id="stream", tokens=300))
    worker.until(lambda event: isinstance(event, Delta))
    worker.submit(*(
        text("hello", id=f"hostile{number}", tokens=20, constraint=JsonSchema(json.dumps({
            "type": "object", "properties": {f"p{number}-{name}": {"type": "string"} for name in range(1_900)}})))
        for number in range(3)))
    moments: list[float] = []
    events: list[Event] = []
    for moment, frame in worker.frames(20.0):
        found = getattr(frame, "events", [])
        events += found
        if any(isinstance(event, Delta) and event.id == "stream" for event in found):
            moments.append(moment)
        if any(isinstance(event, Finished) and event.id == "stream" for event in found):
            break
    else:
        raise AssertionError("the stream did not end")
    assert max(gaps(moments)) < 1.0
    assert len(moments) > 100
