"""The judge tells a valid answer from one that only looks like it, and a refusal from a failure."""

from __future__ import annotations

from random import Random
from typing import Any

import jsonschema
import pytest

from bench.schemas.cases import Generator
from bench.schemas.judging import Answer, Verdict, judge, refused

pytestmark = pytest.mark.unit

SCHEMA: dict[str, Any] = {
    "type": "object", "properties": {"on": {"type": "string", "format": "date"}, "n": {"type": "integer", "not": {}}},
    "required": ["on"], "additionalProperties": False}


@pytest.mark.parametrize(("answer", "verdict"), [
    (Answer(200, '{"on": "2026-02-03"}', "stop"), Verdict.VALID),
    (Answer(200, '{"on": "2026-02-31"}', "stop"), Verdict.INVALID),
    (Answer(200, '{"on": 3}', "stop"), Verdict.INVALID),
    (Answer(200, '{"on": "2026-02-03", "else": 1}', "stop"), Verdict.INVALID),
    (Answer(200, '```json\n{"on": "2026-02-03"}\n```', "stop"), Verdict.INVALID),
    (Answer(200, "", "stop"), Verdict.INVALID),
    (Answer(200, '{"on": "2026-02-03"}', "tool_calls"), Verdict.INVALID),
    (Answer(200, '{"on": "20', "length"), Verdict.CUT),
    (Answer(200, '{"on": "20', "stop"), Verdict.INVALID),
    (Answer(400, "The schema's keyword `not` is not enforced"), Verdict.REFUSED),
    (Answer(400, "not supported"), Verdict.VAGUE),
    (Answer(500, "`not`"), Verdict.ERROR),
    (Answer(0, "ReadTimeout"), Verdict.ERROR),
])
def test_what_an_answer_is_worth(answer: Answer, verdict: Verdict) -> None:
    assert judge(SCHEMA, answer)[0] is verdict


def test_no_number_of_javascript_is_json() -> None:
    assert judge({"type": "number"}, Answer(200, "NaN", "stop"))[0] is Verdict.INVALID


def test_a_schema_that_the_judge_cannot_follow_is_not_held_against_the_server() -> None:
    assert judge({"$ref": "#/$defs/none"}, Answer(200, "1", "stop"))[0] is Verdict.UNJUDGED


def test_the_keyword_that_stands_first_in_a_refusal_is_told() -> None:
    assert refused(SCHEMA, 'Unimplemented keys: ["not"] in "properties"') == "not"


def test_an_answer_is_judged_by_the_dialect_of_its_schema() -> None:
    pair = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]}
    assert judge(pair, Answer(200, '["x"]', "stop"))[0] is Verdict.INVALID


def test_generated_schemas_are_schemas_and_the_same_every_time() -> None:
    made = [Generator(Random(number)).document() for number in range(200)]
    for schema in made:
        jsonschema.Draft202012Validator.check_schema(schema)
    assert made == [Generator(Random(number)).document() for number in range(200)]
    keywords = ("anyOf", "$ref", "pattern", "format", "prefixItems", "minItems", "multipleOf", "patternProperties")
    assert all(repr(keyword) in repr(made) for keyword in keywords)
