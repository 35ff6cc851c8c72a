"""Models that do not think, asked to."""

from __future__ import annotations

import pytest

from edged.errors import UnsupportedParameter
from edged.types import Reasoning
from edged.worker.formats.habits import Habits
from edged.worker.formats.thoughts import wanted

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("asked", "param"), [
    (Reasoning(effort="low"), "reasoning_effort"), (Reasoning(budget=9), "reasoning_budget"),
])
def test_a_model_that_does_not_think_refuses_to_and_answers_where_thinking_is_optional(
    asked: Reasoning, param: str
) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        wanted(asked, None, Habits(), {"a": 1})
    assert caught.value.param == param
    optional = Reasoning(effort=asked.effort, budget=asked.budget, optional=True)
    assert wanted(optional, None, Habits(), {"a": 1}).kwargs == {"a": 1}


def test_not_to_think_is_nothing_that_it_refuses() -> None:
    assert not wanted(Reasoning(effort="none"), None, Habits(), {}).asked
