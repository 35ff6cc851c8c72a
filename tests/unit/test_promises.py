"""PROMISES.md names tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

TESTS = Path(__file__).parents[1]
LINES = [line for line in (TESTS / "PROMISES.md").read_text().splitlines() if re.match(r"\| [RT][0-9]+ ", line)]


def defined_in(file: Path) -> set[str]:
    if not file.exists():
        return set()
    return {node.name for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("line", LINES, ids=[line.split()[1] for line in LINES])
def test_every_test_that_a_promise_names_is_there(line: str) -> None:
    named = [name.split("::") for name in re.findall(r"`([a-z_/]+\.py::test_\w+)`", line)]
    assert named or "soak.py" in line
    assert [name for file, name in named if name not in defined_in(TESTS / file)] == []


def test_each_promise_has_one_line() -> None:
    ids = [line.split()[1] for line in LINES]
    assert len(ids) == len(set(ids)) > 15
