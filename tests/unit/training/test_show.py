from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Conflict
from training.run import Moment
from training.show import Bars, JsonLines, Lines, curve, figures_in_words, of_member

pytestmark = pytest.mark.unit


def test_a_curve_goes_from_the_greatest_to_the_least_loss() -> None:
    assert curve([4.0, 3.0, 2.0, 1.0]) == "█▆▃▁"


@given(st.lists(st.floats(), max_size=300), st.integers(1, 40))
def test_a_curve_takes_any_losses_and_keeps_its_width(values: list[float], width: int) -> None:
    drawn = curve(values, width)
    known = [value for value in values if not math.isnan(value)]
    assert len(drawn) == (min(width, len(known)) if len(known) > 1 else 0)


def test_without_a_terminal_there_is_a_line_for_each_thing_done_and_one_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    show = Lines(interval_s=5, clock=lambda: now)
    for number in range(21):
        now = number * 0.5
        show(Moment(stage="finetune", what="training", fraction=number / 20, figures={"loss": 2.0}))
    show(Moment(stage="finetune", note="bf16 is slow here"))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "finetune training, loss 2", "finetune training: 50%, loss 2", "finetune training: 100%, loss 2",
        "finetune: note: bf16 is slow here"]


def test_counts_are_told_whole_and_losses_in_four_digits() -> None:
    assert figures_in_words({"answers": 11_843.0, "tokens_per_second": 208.5512, "loss": 0.00182333}) == (
        "answers 11843, tokens/s 208.6, loss 0.001823")


def test_for_scripts_every_moment_is_a_line_and_the_last_one_is_the_error(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    show = JsonLines()
    of_member("lights", show)(Moment(stage="data", fraction=0.5))
    show.failed(Conflict("another process works there"))
    first, last = map(json.loads, capsysbinary.readouterr().out.splitlines())
    assert first == {"progress": {"stage": "lights/data", "fraction": 0.5}}
    assert last["error"]["message"] == "another process works there"
    assert last["error"]["retry"] is False


def test_in_a_terminal_each_stage_keeps_a_bar_with_its_loss_as_a_curve(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with Bars() as show:
        show(Moment(stage="data", what="done before", fraction=1.0))
        for number in range(9):
            show(Moment(stage="finetune", what="[training]", fraction=number / 8, figures={
                "loss": 8.0 - number, "tokens_per_second": 812.3}))
        show(Moment(stage="finetune", note="[the base] was quantized"))
    note, data, finetune = capsys.readouterr().err.splitlines()
    assert note == "finetune: note: [the base] was quantized"
    assert data.startswith("data done before")
    assert "finetune [training]" in finetune
    assert "100%" in finetune
    assert "█▇▆▅▅▄▃▂▁ loss 0" in finetune
