"""Rows of the forms that data sets come in, as examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import ConfigError
from edged.toml_file import TomlFile, read_toml
from training.data.forms import detect, example_of, of_other_tables
from training.data.mistakes import WrongRow
from training.data.templates import Templates, templates
from training.examples import Example, Message
from training.recipe import Data

pytestmark = pytest.mark.unit

NOWHERE = TomlFile(Path("recipe.toml"), "", {})


def own(**texts: str) -> Templates:
    return templates(Data(train=("t.jsonl",), **texts), NOWHERE)  # type: ignore[arg-type]


def read(values: dict[str, Any], made: Templates = Templates()) -> Example:  # noqa: B008
    form = detect(values, [values], made)
    assert form is not None
    return example_of(values, form, made)


def said(example: Example) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.prompt]


def test_openai_messages() -> None:
    example = read({"messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "Hi"}]})
    assert said(example) == [("system", "Be brief."), ("user", "Hello\nthere")]
    assert example.answer == Message("assistant", "Hi")


def test_sharegpt_conversations() -> None:
    example = read({"system": "Be brief.", "conversations": [
        {"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}, {"from": "human", "value": "Bye"},
        {"from": "gpt", "value": "See you"}]})
    assert said(example) == [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Bye")]
    assert example.answer == Message("assistant", "See you")


@pytest.mark.parametrize("names", [
    ("prompt", "answer"), ("question", "answer"), ("instruction", "output"), ("input", "output"),
    ("prompt", "completion"), ("query", "response")])
def test_pairs_by_their_columns(names: tuple[str, str]) -> None:
    example = read({names[0]: "2 + 2?", names[1]: "4", "more": None})
    assert (said(example), example.answer) == ([("user", "2 + 2?")], Message("assistant", "4"))


def test_an_instruction_may_have_an_input() -> None:
    example = read({"instruction": "Translate.", "input": "cat", "output": "chat"})
    assert said(example) == [("user", "Translate.\n\ncat")]
    assert said(read({"instruction": "Hello.", "input": "", "output": "Hi."})) == [("user", "Hello.")]


def test_an_answer_that_is_an_object_is_its_json() -> None:
    example = read({"prompt": "Licht an!", "answer": {"device": "Licht", "on": True, "zone": "Küche"}})
    assert example.answer == Message("assistant", '{"device": "Licht", "on": true, "zone": "Küche"}')


@pytest.mark.parametrize("row", [
    {"prompt": "x", "chosen": "good", "rejected": "bad"},
    {"prompt": [{"role": "user", "content": "x"}], "chosen": [{"role": "assistant", "content": "good"}],
     "rejected": [{"role": "assistant", "content": "bad"}]},
    {"chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "good"}],
     "rejected": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "bad"}]},
])
def test_preferences(row: dict[str, Any]) -> None:
    example = read(row)
    assert said(example) == [("user", "x")]
    assert (example.answer, example.rejected) == (Message("assistant", "good"), Message("assistant", "bad"))


@pytest.mark.parametrize("row", [{"prompt": "x"}, {"messages": [{"role": "user", "content": "x"}]}])
def test_prompts_alone_have_no_answer(row: dict[str, Any]) -> None:
    example = read(row)
    assert (said(example), example.answer) == ([("user", "x")], None)


def test_calls_and_tools_are_kept_as_openai_writes_them() -> None:
    function = {"name": "light", "description": None, "parameters": {"type": "object", "properties": {"on": None}}}
    example = read({"tools": json.dumps([function]), "messages": [
        {"role": "user", "content": "Light!", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [
            {"function": {"name": "light", "arguments": {"room": "hall"}}, "id": None}]}]})
    assert example.tools == ({"type": "function", "function": {
        "name": "light", "parameters": {"type": "object", "properties": {}}}},)
    assert example.answer == Message("assistant", tool_calls=({
        "id": "call_0", "type": "function", "function": {"name": "light", "arguments": '{"room": "hall"}'}},))


HALF = r'"\ud83d"'


@pytest.mark.parametrize("values", [
    {"messages": f'[{{"role": "user", "content": {HALF}}}, {{"role": "assistant", "content": "y"}}]'},
    {"messages": f'[{{"role": "user", "content": "x"}}, {{"role": "assistant", "content": {HALF}}}]'},
    {"prompt": "x", "chosen": "y", "rejected": [{"role": "assistant", "tool_calls": f'[{{"name": {HALF}}}]'}]},
    {"prompt": "x", "answer": "y", "tools": f'[{{"name": {HALF}}}]'},
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [
        {"function": {"name": "light", "arguments": f'{{"room": {HALF}}}'}}]}]},
])
def test_half_a_character_in_json_within_a_text_is_told(values: dict[str, Any]) -> None:
    with pytest.raises(WrongRow, match=r"holds half a character, '\\ud83d'"):
        read(values)


def test_templates_make_prompt_and_answer_of_any_columns() -> None:
    made = own(prompt="{{ title }}: {{ row['the body'] }}", answer="{{ {'label': label} | tojson }}",
               system="Sort it.", stratum="{{ label }}/{{ lang }}")
    example = read({"title": "T", "the body": "B", "label": "spam", "lang": "de"}, made)
    assert said(example) == [("system", "Sort it."), ("user", "T: B")]
    assert (example.answer, example.stratum) == (Message("assistant", '{"label": "spam"}'), "spam/de")


def test_a_template_for_the_system_message_goes_before_the_rows_own() -> None:
    row = {"messages": [{"role": "system", "content": "old"}, {"role": "user", "content": "x"},
                        {"role": "assistant", "content": "y"}]}
    assert said(read(row, own(system="new"))) == [("system", "new"), ("user", "x")]


def test_a_stratum_may_be_a_columns_name() -> None:
    assert read({"prompt": "x", "answer": "y", "kind": 3}, own(stratum="kind")).stratum == "3"
    with pytest.raises(WrongRow, match=r"data\.stratum is 'kind'"):
        read({"prompt": "x", "answer": "y"}, own(stratum="kind"))


@pytest.mark.parametrize(("row", "told"), [
    ({"prompt": "x", "answer": " "}, "`answer` is empty"),
    ({"prompt": "", "answer": "x"}, "`prompt` is empty"),
    ({"messages": []}, "list of messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "role 'robot'"),
    ({"messages": [{"role": "user", "content": ""}]}, "says nothing"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "else than text"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "no answer"),
    ({"messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}]}, "ends with the role"),
    ({"prompt": "x", "chosen": "same", "rejected": "same"}, "are the same"),
    ({"tools": "[{}]", "prompt": "x", "answer": "y"}, "no function"),
])
def test_what_is_wrong_with_a_row_is_said(row: dict[str, Any], told: str) -> None:
    with pytest.raises(WrongRow, match=told):
        read(row)


@pytest.mark.parametrize("row", [{"text": "x"}, {"answer": "y"}, {"chosen": "a"}, {}])
def test_columns_that_tell_nothing_are_no_form(row: dict[str, Any]) -> None:
    assert detect(row, [row], Templates()) is None


def test_a_template_tells_what_the_row_lacks() -> None:
    with pytest.raises(WrongRow, match=r"'city' is undefined.*the columns town"):
        read({"town": "Ulm"}, own(prompt="{{ city }}", answer="x"))


COMMAND = {"prompt": "{{ command }}", "answer": "{{ json }}", "rejected": "{{ worse }}", "stratum": "kind"}


@pytest.mark.parametrize(("row", "found"), [
    ({"prompt": "p", "chosen": "c", "rejected": "r"}, ("p", "c", "r", None)),
    ({"prompt": "p", "chosen": "c", "rejected": "r", "json": "{}", "worse": "[]", "kind": "k"}, ("p", "c", "r", "k")),
    ({"command": "do", "prompt": "p", "chosen": "c", "rejected": "r"}, ("do", "c", "r", None)),
    ({"command": "do", "json": "{}", "worse": "[]", "output": "o"}, ("do", "{}", "[]", None)),
    ({"command": "do", "answer": "a", "chosen": None, "worse": "[]"}, ("do", "a", "[]", None)),
    ({"chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}],
      "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]}, ("p", "c", "r", None)),
])
def test_templates_are_for_preferences_of_other_tables_where_they_have_no_columns_of_their_own(
    row: dict[str, Any], found: tuple[str | None, ...],
) -> None:
    example = example_of(row, "preferences", of_other_tables(own(**COMMAND), row))
    assert example.answer is not None
    assert example.rejected is not None
    assert (example.prompt[-1].content, example.answer.content, example.rejected.content, example.stratum) == found


def test_templates_that_name_chosen_and_rejected_shape_them() -> None:
    made = own(answer="{{ chosen | upper }}", rejected="{{ rejected | upper }}")
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    example = example_of(row, "preferences", of_other_tables(made, row))
    assert (example.answer, example.rejected) == (Message("assistant", "C"), Message("assistant", "R"))


@pytest.mark.parametrize(("template", "row", "asked"), [
    ("{{ command }}", {"prompt": "p"}, "p"), ("{{ row['the command'] }}", {"question": "q"}, "q"),
    ("{{ command }}", {"prompt": "p", "command": "do"}, "do"),
    ("{{ command }}{{ more | default('!') }}", {"prompt": "p", "command": "do"}, "do!"),
    ("{{ command }}", {"messages": [{"role": "user", "content": "m"}]}, "m"),
])
def test_a_template_for_prompts_is_for_those_of_other_tables_that_have_its_columns(
    template: str, row: dict[str, Any], asked: str,
) -> None:
    example = example_of(row, "prompts", of_other_tables(own(prompt=template, stratum="{{ kind }}"), row))
    assert (example.prompt[-1].content, example.stratum) == (asked, None)


@pytest.mark.parametrize("row", [{"text": "x"}, {"prompt": "", "text": "x"}])
def test_what_a_template_lacks_is_told_where_nothing_stands_in_for_it(row: dict[str, Any]) -> None:
    with pytest.raises(WrongRow, match=r"data\.prompt fails on it \('command' is undefined"):
        example_of(row, "prompts", of_other_tables(own(prompt="{{ command }}"), row))
    with pytest.raises(WrongRow, match=r"data\.system fails on it \('who' is undefined"):
        example_of({"prompt": "p"}, "prompts", of_other_tables(own(system="{{ who }}"), {"prompt": "p"}))


@pytest.mark.parametrize("text", ["{{ ''.__class__.__mro__ }}", "{{ row.clear() }}"])
def test_a_template_reaches_nothing_but_the_row(text: str) -> None:
    with pytest.raises(WrongRow, match=r"data\.prompt fails"):
        read({"a": 1}, own(prompt=text, answer="x"))


def test_a_template_that_is_none_is_told_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[data]\ntrain = []\nprompt = "{{ x"\n')
    with pytest.raises(ConfigError, match=r"recipe\.toml:3:1: data\.prompt: is no Jinja template"):
        templates(Data(train=("x",), prompt="{{ x"), read_toml(tmp_path / "recipe.toml"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "name", "function", "tool_calls", "arguments"]), inner,
        max_size=4), max_leaves=12)
NAMES = st.sampled_from(["messages", "conversations", "prompt", "answer", "instruction", "input", "output", "chosen",
                         "rejected", "tools", "system"])


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.sampled_from(["chat", "pairs", "preferences", "prompts"]))
def test_any_row_is_an_example_or_says_what_is_wrong(values: dict[str, Any], form: Any) -> None:
    detect(values, [values], Templates())
    try:
        example = example_of(values, form, Templates())
    except WrongRow:
        return
    assert example.prompt[-1].role in ("user", "tool")
    assert (example.answer is None) == (form == "prompts")
