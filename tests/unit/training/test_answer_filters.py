"""What an answer must be to be learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import ConfigError, InvalidRequest
from training.answers.filters import Sieve, check_tools, sieve, text_of
from training.examples import Example, Message
from training.recipe import Filters

pytestmark = pytest.mark.unit

LIGHT = {"type": "function", "function": {"name": "light", "parameters": {
    "type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}}}
PLAIN = Example(id="p", prompt=(Message("user", "Hello"),))
WITH_TOOL = Example(id="t", prompt=(Message("user", "Light!"),), tools=(LIGHT,))


def made(folder: Path = Path("/nowhere"), **said: Any) -> Sieve:
    return sieve(Filters(**said), lambda name: folder / name,
                 lambda key, message: ConfigError(message, key=f"filters.{key}"))


def call(name: str, arguments: Any) -> Message:
    said = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return Message("assistant", "", ({"id": "1", "type": "function", "function": {"name": name, "arguments": said}},))


def reason(sifting: Sieve, answer: Message | str, finish: str | None = "stop", example: Example = PLAIN) -> str | None:
    message = Message("assistant", answer) if isinstance(answer, str) else answer
    objection = sifting.objection(example, message, finish)
    return objection.reason if objection is not None else None


@pytest.mark.parametrize(("said", "good", "bad", "why"), [
    ({"min_characters": 3}, " abc ", " ab ", "too short"),
    ({}, "a", " \n", "too short"),
    ({"max_characters": 3}, "abc", "abcd", "too long"),
    ({"pattern": r"^\d+$"}, "12", "12 apples", "pattern"),
    ({"json": True}, ' {"a": 1} ', '```json\n{"a": 1}\n```', "not json"),
    ({"json": True}, "[1]", "[" * 5000, "not json"),
])
def test_answers_pass_by_what_they_say(said: dict[str, Any], good: str, bad: str, why: str) -> None:
    sifting = made(**said)
    assert reason(sifting, good) is None
    assert reason(sifting, bad) == why


@pytest.mark.parametrize("finish", ["length", "content_filter", None])
def test_an_answer_that_did_not_end_is_not_learned_from_unless_it_may_be(finish: str | None) -> None:
    assert reason(made(), "abc", finish) == "unfinished"
    assert reason(made(finished_only=False), "abc", finish) is None


def test_a_schema_holds_with_its_formats_and_says_where_it_fails(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"day": {"$ref": "#/$defs/day"}}, "required": ["day"],
              "$defs": {"day": {"type": "string", "format": "date"}}}
    (tmp_path / "slots.json").write_text(json.dumps(schema))
    sifting = made(tmp_path, schema="slots.json")
    assert reason(sifting, '{"day": "2026-01-31"}') is None
    assert reason(sifting, "no JSON") == "not json"
    objection = sifting.objection(PLAIN, Message("assistant", '{"day": "2026-02-31"}'), "stop")
    assert objection is not None
    assert objection.reason == "schema"
    assert "$.day" in objection.detail


@pytest.mark.parametrize(("name", "text"), [
    ("gone.json", None), ("broken.json", "{"), ("wrong.json", '{"type": "objekt"}')])
def test_a_schema_that_is_none_is_told_before_anything_is_asked(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"filters\.schema"):
        made(tmp_path, schema=name)


def test_a_schema_never_leads_to_the_network(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"$ref": "http://127.0.0.1:9/other.json"}')
    with pytest.raises(InvalidRequest, match=r"refers to http://127.0.0.1:9/other.json, which is not in it"):
        reason(made(tmp_path, schema="s.json"), "{}")


@pytest.mark.parametrize(("answer", "good"), [
    (call("light", {"on": True}), True), (call("light", {"on": "yes"}), False), (call("light", {}), False),
    (call("lamp", {"on": True}), False), (call("light", "{on"), False), (call("light", "[]"), False),
])
def test_calls_must_be_of_the_prompts_tools_whatever_the_recipe_says(answer: Message, good: bool) -> None:
    assert (reason(made(), answer, "tool_calls", WITH_TOOL) is None) == good
    assert reason(made(), answer, "tool_calls", PLAIN) == "tool call"


def with_parameters(parameters: Any, id: str = "t") -> Example:
    function = {"name": "light", "parameters": parameters}
    return Example(id=id, prompt=WITH_TOOL.prompt, tools=({"type": "function", "function": function},))


@pytest.mark.parametrize("parameters", [
    {"type": "dict", "properties": {"on": {"type": "float"}}}, "none", {"$ref": "#/$defs/gone"}])
def test_a_call_of_a_tool_whose_schema_is_none_is_objected_to(parameters: Any) -> None:
    objection = made().objection(with_parameters(parameters), call("light", {"on": True}), "tool_calls")
    assert objection is not None
    assert objection.reason == "tool call"
    assert objection.detail.startswith("light: what it says of its parameters ")


def test_tools_of_prompts_are_checked_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"type": "object", "title": "only here"}
    asked: list[Any] = []
    monkeypatch.setattr("training.answers.filters.check_of", lambda schema, title: asked.append(schema))
    check_tools([PLAIN, *(with_parameters(parameters, str(number)) for number in range(9))])
    assert asked == [parameters]


def test_of_an_answer_that_only_calls_filters_see_the_calls(tmp_path: Path) -> None:
    assert json.loads(text_of(call("light", {"on": True}))) == [{"name": "light", "arguments": {"on": True}}]
    assert reason(made(pattern='"on": true'), call("light", {"on": True}), "tool_calls", WITH_TOOL) is None
    assert reason(made(pattern='"on": true'), call("light", {"on": False}), "tool_calls", WITH_TOOL) == "pattern"


CHECKS = '''
def good(prompt, answer):
    return None if prompt[-1]["content"] in answer["content"] else "says nothing of it"

def true(prompt, answer):
    return True

def breaks(prompt, answer):
    raise KeyError("slot")
'''


def test_the_recipes_own_function_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text(CHECKS)
    sifting = made(tmp_path, validator="checks.py:good")
    assert reason(sifting, "Hello, you") is None
    objection = sifting.objection(PLAIN, Message("assistant", "Good day"), "stop")
    assert objection is not None
    assert (objection.reason, objection.detail) == ("validator", "says nothing of it")


@pytest.mark.parametrize(("name", "match"), [
    ("true", "returned True; it returns None"), ("breaks", "KeyError: 'slot'; mend it")])
def test_a_function_that_does_not_do_as_it_should_ends_it(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / "checks.py").write_text(CHECKS)
    with pytest.raises(InvalidRequest, match=match):
        reason(made(tmp_path, validator=f"checks.py:{name}"), "Hello")


@pytest.mark.parametrize("validator", ["checks.py", "checks.py:nobody", "gone.py:good", "checks.txt:good"])
def test_a_function_that_is_not_there_is_told_before_anything_is_asked(tmp_path: Path, validator: str) -> None:
    (tmp_path / "checks.py").write_text(CHECKS)
    with pytest.raises(ConfigError, match=r"filters\.validator"):
        made(tmp_path, validator=validator)


@given(st.text(), st.text(), st.text())
def test_whatever_a_teacher_says_is_taken_or_objected_to(content: str, name: str, arguments: str) -> None:
    answer = Message("assistant", content, ({"function": {"name": name, "arguments": arguments}}, {"function": None}))
    assert reason(made(json=True), answer, "stop", WITH_TOOL) is not None
