"""Every answer that ends is what its schema says, as another library reads the schema, for schemas of all keywords that
are enforced and a model that draws at random among what is allowed."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edged.engines.fake import FakeVocab
from edged.errors import InvalidRequest
from edged.types import JsonSchema
from edged.worker.constraint import Constraints

pytestmark = pytest.mark.unit

VOCAB = FakeVocab()
CONSTRAINTS = Constraints(VOCAB)
#: Else random strings and numbers hardly ever end.
WEIGHTS = np.ones(VOCAB.size)
WEIGHTS[list(b'"}]')] = 40
WEIGHTS[list(VOCAB.end)] = 100
LIMIT = 1500

numbers = st.one_of(st.integers(-1000, 1000), st.floats(-50, 50).map(lambda value: round(value, 2)))


@st.composite
def bounded(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "number"]))
    schema: dict[str, Any] = {"type": kind}
    low = draw(st.integers(-200, 200))
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + draw(st.integers(2, 300))
    if kind == "integer" and draw(st.booleans()):
        schema["multipleOf"] = draw(st.sampled_from([1, 2, 5, 7, 12]))
    return schema


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    match draw(st.integers(0, 3)):
        case 0:
            least = draw(st.integers(0, 3))
            schema |= {"minLength": least, "maxLength": least + draw(st.integers(0, 20))}
        case 1:
            schema["pattern"] = draw(st.sampled_from(
                ["^[a-c]{1,5}$", "x", r"^\d{3}-\d{2}$", "^(red|blue)", r"\w+@\w+", "^é?🙂$", r"^[^\s\\\"]+$"]))
        case 2:
            schema["format"] = draw(st.sampled_from(
                ["date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "hostname", "duration", "uri"]))
    return schema


values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text('ab "\\\n/é🙂', max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3),
                            st.dictionaries(st.text("ab\"é", max_size=3), inner, max_size=3)),
    max_leaves=4)
leaves = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"], "maxLength": 4}, {}]),
    bounded(), strings(), values.map(lambda value: {"const": value}),
    st.lists(values, min_size=1, max_size=4, unique_by=repr).map(lambda found: {"enum": found}))
names = st.sampled_from(["a", "b", "name", "é", 'quo"te', "x y", "title"])


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": draw(inner)}
        if draw(st.booleans()):
            schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
        least = draw(st.integers(0, 2))
        return schema | {"minItems": least, "maxItems": least + draw(st.integers(0, 3))}

    return build()


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(names, inner, max_size=4))
        required = [name for name in properties if draw(st.booleans())]
        schema = {"type": "object", "properties": properties, "required": required, "title": "T", "default": 5}
        match draw(st.integers(0, 4)):
            case 0:
                schema["additionalProperties"] = draw(inner)
            case 1:
                schema |= {"patternProperties": {"^z[0-9]$": draw(inner)}, "additionalProperties": False}
            case 2:
                schema["minProperties"] = 1
            case _:
                schema["additionalProperties"] = False
        return schema

    return build()


def unions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        several.map(lambda found: {"anyOf": found}), several.map(lambda found: {"allOf": found}),
        several.map(lambda found: {"oneOf": found}),
        st.sampled_from(["#/$defs/tree", "#/$defs/leaf"]).map(lambda ref: {"$ref": ref}))


shapes = st.recursive(
    leaves, lambda inner: st.one_of(objects(inner), arrays(inner), unions(inner), objects(inner)), max_leaves=8)


def random_answer(schema: dict[str, Any], seed: int) -> str | None:
    """None where it did not end in time."""
    matcher = CONSTRAINTS.compile(JsonSchema(json.dumps(schema))).matcher()
    draw = np.random.default_rng(seed)
    tokens: list[int] = []
    while len(tokens) < LIMIT:
        chosen = matcher.forced()
        if not chosen:
            allowed = matcher.mask()
            assert allowed is not None
            weights = WEIGHTS * allowed
            chosen = [int(draw.choice(VOCAB.size, p=weights / weights.sum()))]
        if chosen[0] in VOCAB.end:
            return b"".join(map(VOCAB.piece, tokens)).decode()
        matcher.accept(chosen)
        tokens += chosen
        if matcher.finished:
            return b"".join(map(VOCAB.piece, tokens)).decode()
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(shapes, st.integers(0, 1000))
def test_what_ends_is_valid(shape: dict[str, Any], seed: int) -> None:
    schema = shape | {"$defs": {
        "tree": {"type": "object", "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
                 "required": ["of"], "additionalProperties": False},
        "leaf": {"type": "integer", "minimum": 0, "maximum": 9},
    }}
    try:
        text = random_answer(schema, seed)
    except InvalidRequest as refused:
        assert refused.message  # noqa: PT017
        assume(False)
    if text is not None:
        Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(json.loads(text))


@pytest.mark.parametrize(("name", "read"), [
    ("date", datetime.date.fromisoformat), ("time", datetime.time.fromisoformat),
    ("date-time", datetime.datetime.fromisoformat),
])
@pytest.mark.parametrize("seed", range(40))
def test_times_are_such_as_programs_read(name: str, read: Callable[[str], object], seed: int) -> None:
    text = random_answer({"type": ["string", "null"], "format": name}, seed)
    assert text is not None
    value = json.loads(text)
    if value is not None:
        read(value)
