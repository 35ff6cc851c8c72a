"""The study of a search: what is tried, what is pruned, what came of it, and how it goes on after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.stand_in_trials import loss_of
from training.search.found import Searched
from training.search.plots import history, importance
from training.search.space import Parameter
from training.search.stage import words
from training.search.study import Study

pytestmark = pytest.mark.unit

RATE = Parameter(key="finetune.learning_rate", default=1e-5, kind="number", low=1e-6, high=1e-1, log=True)
RANK = Parameter(key="finetune.rank", default=16, kind="whole", low=4, high=32, step=4)
SCHEDULE = Parameter(key="finetune.schedule", default="cosine", kind="choice", choices=("cosine", "linear"))
SPACE = (RATE, RANK, SCHEDULE)


def study(folder: Path, name: str = "one", space: tuple[Parameter, ...] = SPACE, **said: Any) -> Study:
    return Study(folder, name, space, **{"seed": 1, "least": True, "prune": True, **said})


def make(found: Study, trials: int) -> list[dict[str, Any]]:
    """As a worker would, one after the other."""
    tried = []
    for _ in range(trials):
        number, settings = found.next()
        tried.append(settings)
        found.ended(number, loss_of(float(settings["finetune.learning_rate"])), {})
    return tried


def test_the_recipe_as_it_is_written_is_tried_first_and_the_best_is_told_beside_it(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        tried = make(one, 9)
        found = one.found("validation_loss")
    assert tried[0] == {"finetune.learning_rate": 1e-5, "finetune.rank": 16, "finetune.schedule": "cosine"}
    assert all(4 <= each["finetune.rank"] <= 32 and each["finetune.rank"] % 4 == 0 for each in tried)
    assert found is not None
    assert (found.trials, found.default_value, found.better) == (9, loss_of(1e-5), True)
    assert found.best_value == min(loss_of(each["finetune.learning_rate"]) for each in tried)
    assert found.best in tried
    assert max(found.importance, key=lambda key: found.importance[key]) == "finetune.learning_rate"
    assert sum(found.importance.values()) == pytest.approx(1, abs=0.01)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Searched) == found
    assert "with the recipe as it is written" in words(found)


def test_the_same_seed_tries_the_same_also_after_a_kill_in_the_middle(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    with study(tmp_path / "whole") as one:
        whole = make(one, 9)
    with study(tmp_path / "killed") as one:
        tried = make(one, 5)
        _, broken_off = one.next()
    with study(tmp_path / "killed") as one:
        assert one.ended_trials == 5
        tried += make(one, 4)
        assert one.ended_trials == 9
        found = one.found("validation_loss")
    assert tried[5] == broken_off
    assert tried == whole
    assert found is not None
    assert (found.trials, found.failed) == (9, 0)


def test_a_kill_in_the_first_trial_does_not_lose_the_recipe_as_it_is_written(tmp_path: Path) -> None:
    for _ in range(2):
        with study(tmp_path) as one:
            _, settings = one.next()
    with study(tmp_path) as one:
        assert make(one, 1) == [settings]
        found = one.found("validation_loss")
    assert found is not None
    assert found.default_value == found.best_value
    assert not found.better


def test_what_is_worse_than_half_of_the_others_is_pruned_but_never_the_recipe_as_it_is_written(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        default, _ = one.next()
        for value in (1.3, 1.2, 1.1, 1.0):
            number, _ = one.next()
            for evaluation in range(1, 4):
                assert one.report(number, evaluation, value + 1 / evaluation)
            one.ended(number, value, {})
        assert [one.report(default, evaluation, 99.0) for evaluation in range(1, 4)] == [True] * 3
        one.ended(default, 99.0, {})
        bad, _ = one.next()
        assert [one.report(bad, evaluation, 9.0) for evaluation in range(1, 4)] == [True, False, False]
        one.pruned(bad)
        found = one.found("validation_loss")
        rows = one.rows()
    assert found is not None
    assert (found.trials, found.pruned, found.best_value) == (6, 1, 1.0)
    assert [row["state"] for row in rows] == ["complete"] * 5 + ["pruned"]
    assert rows[-1]["evaluations"] == {"1": 9.0, "2": 9.0, "3": 9.0}


def test_nothing_is_pruned_where_the_recipe_does_not_want_it(tmp_path: Path) -> None:
    with study(tmp_path, prune=False) as one:
        make(one, 6)
        number, _ = one.next()
        assert all(one.report(number, evaluation, 99.0) for evaluation in range(1, 5))
        one.failed(number, "over")


def test_a_metric_is_to_be_great(tmp_path: Path) -> None:
    with study(tmp_path, least=False) as one:
        for value in (0.5, 0.9, 0.4):
            one.ended(one.next()[0], value, {})
        found = one.found("exact_match")
    assert found is not None
    assert (found.best_value, found.default_value, found.better) == (0.9, 0.5, True)


def test_equal_is_not_better(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        for _ in range(4):
            one.ended(one.next()[0], 1.0, {})
        found = one.found("validation_loss")
    assert found is not None
    assert not found.better
    assert found.best == {"finetune.learning_rate": 1e-5, "finetune.rank": 16, "finetune.schedule": "cosine"}
    assert found.importance == {}
    assert "none was better" in words(found)


def test_failures_are_counted_and_a_default_that_fails_is_worse_than_anything(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        assert one.found("validation_loss") is None
        one.failed(one.next()[0], "diverged")
        one.ended(one.next()[0], 5.0, {})
        found = one.found("validation_loss")
        assert one.failures() == ["diverged"]
    assert found is not None
    assert (found.failed, found.default_value, found.better, found.trials) == (1, None, True, 2)
    assert "the recipe as it is written failed" in words(found)


def test_another_search_begins_anew_beside_the_first(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        make(one, 3)
    with study(tmp_path, "two", (RATE,)) as other:
        assert other.ended_trials == 0
        assert make(other, 1) == [{"finetune.learning_rate": 1e-5}]
    with study(tmp_path) as one:
        assert one.ended_trials == 3


def test_it_is_drawn_with_pruned_and_failed_trials(tmp_path: Path) -> None:
    with study(tmp_path) as one:
        make(one, 5)
        number, _ = one.next()
        one.report(number, 1, 3.0)
        one.pruned(number)
        one.failed(one.next()[0], "diverged")
        found = one.found("validation_loss")
        rows = one.rows()
    assert found is not None
    history(rows, found, tmp_path / "history.png", least=True)
    importance(found, tmp_path / "importance.png")
    for name in ("history.png", "importance.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
