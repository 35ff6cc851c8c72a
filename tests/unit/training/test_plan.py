"""What a run would do, and what is told of its needs before anything of it was done."""

from __future__ import annotations

import pytest

from training import chain, plan
from training.run import Run

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("state", ["new", "changed", "unknown"])
def test_needs_are_told_by_stages_that_have_ended_with_what_the_recipe_says_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, state: chain.State,
) -> None:
    """What an earlier recipe left is not taken for this one's."""
    monkeypatch.setattr("training.estimate.check", lambda *ignored: pytest.fail("estimated by older stages"))
    run: Run = object()  # type: ignore[assignment]
    assert plan._needs(run, {"data": state, "finetune": "unknown"}) == (
        "what it needs of memory and time can be told once stage data has ended")
    assert plan._needs(run, {"data": "done", "answers": state, "student": "unknown"}) == (
        "what it needs of memory and time can be told once stage answers has ended")
