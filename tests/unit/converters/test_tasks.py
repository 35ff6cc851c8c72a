from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters.tasks import Task, matches, read
from edged.errors import ConfigError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("answer", "said", "right"), [
    ("Paris", "The capital of France is Paris.", True),
    ("paris", "PARIS", True),
    ("4", "It is 14.", False),
    ("4", "2 + 2 = 4", True),
    ("New York", "in new\n  york, of course", True),
    ("北京", "中国的首都是北京。", True),
    ("C++", "Use C++ here", True),
    ("cat", "a concatenation", False),
    ("yes", "", False),
])
def test_an_answer_is_right_where_it_stands_in_what_is_said_as_words_of_its_own(
    answer: str, said: str, right: bool
) -> None:
    assert matches(said, Task(answer=answer, prompt="?")) is right


@pytest.mark.parametrize(("said", "right"), [(" {\"a\": 1}\n", True), ("{\"A\": 1}", False), ("so: {\"a\": 1}", False)])
def test_an_exact_answer_is_the_whole_of_what_is_said(said: str, right: bool) -> None:
    assert matches(said, Task(answer='{"a": 1}', prompt="?", match="exact")) is right


def test_tasks_come_with_their_lines_and_other_keys_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    rows = [{"prompt": "2 + 2 =", "answer": "4", "topic": "sums"},
            {"messages": [{"role": "user", "content": "Red?"}], "answer": "no", "choices": ["yes", "no"]}]
    file.write_text("\n\n".join(map(json.dumps, rows)))
    (first, one), (third, two) = read(file)
    assert (first, third) == (1, 3)
    assert one == Task(answer="4", prompt="2 + 2 =")
    assert two.choices == ["yes", "no"]


@pytest.mark.parametrize(("row", "what"), [
    ("nonsense", "is not JSON"),
    ('{"prompt": "x"}', "missing required field `answer`"),
    ('{"prompt": "x", "answer": 4}', "Expected `str`"),
    ('{"answer": "x"}', "either `prompt` or `messages`"),
    ('{"prompt": "", "answer": "x"}', "`prompt` is empty"),
    ('{"prompt": "x", "answer": " "}', "`answer` is empty"),
    ('{"prompt": "x", "answer": "a", "choices": ["a"]}', "two different ones"),
    ('{"prompt": "x", "answer": "a", "choices": ["b", "c"]}', "none of the `choices`"),
    ('{"prompt": "x", "answer": "a", "choices": ["a", ""]}', "is empty"),
    ('{"prompt": "x", "answer": "a", "match": "fuzzy"}', "Invalid enum value"),
    ('{"messages": [{"role": 3}], "answer": "a"}', "has no `role`"),
])
def test_a_mistake_names_file_and_line(tmp_path: Path, row: str, what: str) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"prompt": "fine", "answer": "yes"}\n' + row)
    with pytest.raises(ConfigError) as told:
        read(file)
    assert str(told.value).startswith(f"{file}:2: ")
    assert what in str(told.value)


def test_a_file_without_tasks_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="holds no task"):
        read(tmp_path / "tasks.jsonl")
