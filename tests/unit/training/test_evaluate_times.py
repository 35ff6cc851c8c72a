"""How fast what is behind an endpoint answers: alone, round by round against others, and several at once."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import msgspec
import pytest

from edged.toml_file import TomlFile
from tests.chat_server import Answer, Body, ChatServer, answer, refusal
from tests.unit.training.served_items import SETTINGS, example, quietly, served
from training.evaluate import evaluation
from training.evaluate import race as racing
from training.evaluate.asking import together_tokens_per_s
from training.evaluate.items import Said
from training.evaluate.measure import measure
from training.evaluate.race import LEAST_ROUNDS, Timed, ratio, speed_of
from training.evaluate.results import Evaluated
from training.evaluate.table import performance_rows
from training.examples import Message, write_examples
from training.recipe import Data, Recipe
from training.run import Moment, Run

pytestmark = pytest.mark.unit


def streamed(text: str) -> Answer:
    chunk = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
    return Answer("".join(f"data: {json.dumps(one)}\n\n" for one in (chunk, last)).encode() + b"data: [DONE]\n\n")


def race_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, notes: list[str], **splits: str) -> Evaluated:
    """An evaluation of one served model, with the splits' prompts by their letters."""
    settings = msgspec.structs.replace(SETTINGS, performance=True, limit=6)
    recipe = Recipe(name="x", base="./base", data=Data(train=("t.jsonl",)), evaluate=settings)
    run = Run(tmp_path, recipe, TomlFile(tmp_path / "r.toml", "", {}))
    run.begin("data")
    run.begin("evaluate")
    for name in ("train", "validation", "test"):
        write_examples(run.path("data") / f"{name}.jsonl", [example(one, "no") for one in splits.get(name, "")])
    run.mark("data", "k", 0.0, None)
    monkeypatch.setattr(evaluation, "report", lambda run, evaluated: None)

    def tell(moment: Moment) -> None:
        if moment.note:
            notes.append(moment.note)

    return evaluation.evaluate(run, tell, [served(url)])


def test_times_are_of_prompts_that_were_not_asked_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves keeps prompts. One that is refused is no round."""
    def say(body: Body) -> Answer:
        if body["messages"][-1]["content"] == "v":
            return refusal(400, "too long")
        return streamed("no") if body.get("stream") else answer("no")

    notes: list[str] = []
    with ChatServer(say) as server:
        [result] = race_in(tmp_path, monkeypatch, server.url, notes, test="abcdefgh", validation="vwx",
                           train="klmnopq").results
    asked_of: dict[bool, list[str]] = {True: [], False: []}
    for body in server.bodies:
        asked_of[bool(body.get("stream"))].append(body["messages"][-1]["content"])
    assert len(asked_of[False]) == 6
    assert not set(asked_of[True]) & set(asked_of[False])
    assert len(set(asked_of[True])) == len(asked_of[True]) == 2 + 3 + 7
    assert set("vwx") < set(asked_of[True][:5])
    assert result.speed is not None
    assert result.speed.rounds == 12 - 1 - (asked_of[True][0] != "v")
    assert not any("asked before" in note for note in notes)


def test_where_there_are_too_few_prompts_times_are_of_some_that_were_asked_and_this_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    with ChatServer(lambda body: streamed("no") if body.get("stream") else answer("no")) as server:
        [result] = race_in(tmp_path, monkeypatch, server.url, notes, validation="abcdef", train="klm").results
    assert result.speed is not None
    assert result.speed.rounds == LEAST_ROUNDS
    assert any("asked before" in note for note in notes)


def test_a_race_that_is_repeated_is_of_other_prompts_until_none_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    raced: list[list[str]] = []
    monkeypatch.setattr(racing, "MOST_ROUNDS", 9)
    with ChatServer(lambda body: streamed("no") if body.get("stream") else answer("no")) as server:
        for _ in range(3):
            server.bodies.clear()
            told_before = any("asked before" in note for note in notes)
            race_in(tmp_path, monkeypatch, server.url, notes, validation="abcdef", train="ghijklmnopqrstuvwxyz")
            raced.append([body["messages"][-1]["content"] for body in server.bodies if body.get("stream")])
    assert not told_before
    assert len({*raced[0], *raced[1]}) == len([*raced[0], *raced[1]]) == 20
    assert len(raced[2]) == LEAST_ROUNDS + 1
    assert any("asked before" in note for note in notes)


def test_where_all_is_refused_no_times_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    with ChatServer(lambda body: refusal(400, "too long") if body.get("stream") else answer("no")) as server:
        [result] = race_in(tmp_path, monkeypatch, server.url, notes, validation="abcdef", train="klm").results
    assert result.speed is None
    assert any("no times are told" in note for note in notes)


def lines(count: int, *, since_s: float | None = 0.25, tokens: int | None = 5) -> list[Said]:
    return [Said(id=str(at), said=Message("assistant", "no"), completion_tokens=tokens, seconds=2.0, since_s=since_s)
            for at in range(count)]


@pytest.mark.parametrize(("said", "rate"), [
    (lines(16), 20.0), (lines(15), None), (lines(16, since_s=None), None), (lines(16) + lines(1, tokens=None), None),
    ([*lines(16), Said(id="x", said=None, error="refused", since_s=1.0)], 16.0)])
def test_the_rate_of_several_at_once_is_all_tokens_by_the_time_that_all_took(
    said: list[Said], rate: float | None,
) -> None:
    assert together_tokens_per_s(said) == rate


def test_several_at_once_are_told_of_what_is_served_also_when_nothing_is_asked_any_more(tmp_path: Path) -> None:
    """The server answers all that are under way together: eight of them take no longer than one."""
    under_way = threading.Barrier(8)

    def say(body: Body) -> Answer:
        under_way.wait(10)
        return answer("no", completion_tokens=5)

    settings = msgspec.structs.replace(SETTINGS, performance=True)
    with ChatServer(say) as server:
        subject, asked_for = served(server.url, identity="1"), [example(str(at), "no") for at in range(16)]
        began_s = time.monotonic()
        first = measure(subject, asked_for, settings, tmp_path / "served", quietly)
        took_s = time.monotonic() - began_s
        assert measure(subject, asked_for, settings, tmp_path / "served", quietly) == first
        assert len(server.bodies) == 16
    assert first.together_tokens_per_s is not None
    assert first.together_tokens_per_s >= 16 * 5 / took_s
    evaluated = Evaluated(primary="exact_match", metrics=("exact_match",), labels=(), split="test", results=(first,),
                          comparisons=(), report="r")
    assert dict(performance_rows(evaluated))["tokens a second, 8 at once"] == [f"{first.together_tokens_per_s:.1f}"]


def test_times_are_compared_round_by_round() -> None:
    """Rounds differ by more than the subjects do."""
    before = [1.0, 10.0, 3.0, 30.0, 2.0, 7.0]
    found = ratio(before, [0.5 * one for one in before], 1)
    assert (found.low, found.median, found.high) == (0.5, 0.5, 0.5)


def test_the_rate_is_that_of_tokens_after_the_first() -> None:
    speed = speed_of([
        Timed(first_token_s=1.0, answer_s=3.0, tokens=21), Timed(first_token_s=1.0, answer_s=1.0, tokens=1)])
    assert speed.tokens_per_s is not None
    assert math.isclose(speed.tokens_per_s.median, 10)
    assert speed.rounds == 2
