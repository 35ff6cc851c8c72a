"""The example of a house: what its data promise, and the check of a teacher's answers."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.unit

HOME = Path(__file__).parents[3] / "examples" / "home"


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_data = _module(HOME / "make_data.py")
HELD_OUT = [name for kind, count in make_data.HELD_OUT.items() for name in getattr(make_data, kind.upper())[-count:]]


def _commands(seed: str, count: int, **how: bool) -> list[dict[str, Any]]:
    return list(itertools.islice(make_data.commands(make_data.Speech(seed, **how)), count))


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("home")
    (folder / "data").mkdir()
    rows = _commands("training", 600)
    (folder / "data" / "commands.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(HOME / "checks.py", folder)
    return _module(folder / "checks.py").copied


def _wrong(check: Any, command: str, answer: str) -> str | None:
    said = check([{"role": "system", "content": "Turn the command into JSON."}, {"role": "user", "content": command}],
                 {"role": "assistant", "content": answer})
    assert said is None or isinstance(said, str)
    return said


@pytest.mark.parametrize("how", [{}, {"held_out": True}, {"made_up": True}])
def test_right_answers_pass_the_check(check: Any, how: dict[str, bool]) -> None:
    assert [(row["command"], wrong) for row in _commands("others", 2_000, **how)
            if (wrong := _wrong(check, row["command"], row["json"]))] == []


@pytest.mark.parametrize(("command", "answer", "wrong"), [
    ("Will it rain in Sycko on Friday", '{"do": "weather", "city": "Sydney", "day": "friday"}',
     "'Sydney' is not in the command"),
    ("heat the old ivory reef to 20 degrees", '{"do": "heat", "room": "old ivory", "degrees": 20}',
     "'reef' is left out"),
    ("switch the gym lamps on", '{"do": "switch", "device": "lamp", "room": "gym", "on": true}',
     "'lamp' is not in the command"),
    ("add rice to the shopping list", '"rice"', "no object"),
])
def test_an_answer_with_another_word_or_without_one_does_not_pass(
        check: Any, command: str, answer: str, wrong: str) -> None:
    assert _wrong(check, command, answer) == wrong


def test_only_the_test_set_has_the_names_and_things_that_are_held_out() -> None:
    tested = " ".join(row["json"] for row in _commands("test", 2_000, held_out=True))
    assert [name for name in HELD_OUT if name not in tested] == []
    for how in ({}, {"made_up": True}):
        said = " ".join(row["json"] for row in _commands("others", 2_000, **how))
        assert [name for name in HELD_OUT if f'"{name}"' in said or f" {name}\"" in said] == []


def test_words_for_made_up_things_are_in_no_thing_that_is_held_out() -> None:
    assert {word.lower() for name in HELD_OUT for word in name.split()} & set(make_data.WORDS) == set()
