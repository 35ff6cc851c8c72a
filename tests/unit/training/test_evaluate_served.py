"""Answers, likelihoods and grades of what is behind an endpoint; and what is kept of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from edged.errors import CorruptFile, SourceUnavailable
from edged.store.select import TRAINING_FILE
from tests.chat_server import Answer, Body, ChatServer, answer, refusal
from tests.unit.training.characters import Characters
from tests.unit.training.served_items import EXAMPLES, SETTINGS, quietly, served
from training.endpoint import ATTEMPTS
from training.evaluate import asking
from training.evaluate import measure as measuring
from training.evaluate.asking import asked
from training.evaluate.items import Kept, Said
from training.evaluate.judging import grade_in, graded
from training.evaluate.measure import measure, read_items
from training.evaluate.scoring import CannotScore, Scorer
from training.evaluate.subject import Subject
from training.examples import Example, Message
from training.recipe import Judge

pytestmark = pytest.mark.unit


def test_a_served_model_is_asked_alike_and_greedily(tmp_path: Path) -> None:
    with ChatServer(lambda body: answer("no")) as server:
        result = measure(served(server.url, adapter="mine"), EXAMPLES, SETTINGS, tmp_path / "served", quietly)
    assert result.figures["exact_match"].value == pytest.approx(200 / 3)
    assert {name: told["exact_match"].value for name, told in result.strata.items()} == {"a": 0, "b": 100}
    assert all((body["temperature"], body["max_tokens"], body["adapter"]) == (0.0, 9, "mine") for body in server.bodies)
    items = read_items(tmp_path / "served")
    assert [item.id for item in items] == [one.id for one in EXAMPLES]
    assert [item.scores for item in items] == [{"exact_match": 0}, {"exact_match": 100}, {"exact_match": 100}]


def test_a_prompt_that_is_refused_is_a_wrong_answer_and_told(tmp_path: Path) -> None:
    def say(body: Body) -> Answer:
        return refusal(400, "too long") if body["messages"][0]["content"] == "two" else answer("no")

    with ChatServer(say) as server:
        result = measure(served(server.url), EXAMPLES, SETTINGS, tmp_path / "served", quietly)
    assert result.failed == 1
    assert result.figures["exact_match"].value == pytest.approx(100 / 3)
    assert "too long" in result.notes[0]


@pytest.mark.parametrize(("identity", "asked_again"), [("version 1", 0), (None, 3)])
def test_only_what_is_known_to_be_the_same_is_not_asked_again(
    tmp_path: Path, identity: str | None, asked_again: int,
) -> None:
    with ChatServer(lambda body: answer("no")) as server:
        subject = served(server.url, identity)
        first = measure(subject, EXAMPLES, SETTINGS, tmp_path / "served", quietly)
        assert measure(subject, EXAMPLES, SETTINGS, tmp_path / "served", quietly) == first
    assert len(server.bodies) == 3 + asked_again


def test_another_version_is_asked_anew(tmp_path: Path) -> None:
    with ChatServer(lambda body: answer("no")) as server:
        for identity_of in ("version 1", "version 2"):
            measure(served(server.url, identity_of), EXAMPLES, SETTINGS, tmp_path / "served", quietly)
    assert len(server.bodies) == 6


class Computed:
    """Stands in for a folder that is computed here, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @contextlib.contextmanager
    def open(self, subject: Subject, batch_size: int) -> Iterator[Computed]:
        yield self

    def said(self, examples: Sequence[Example], max_tokens: int) -> Iterator[Said]:
        for one in examples:
            self.asked.append(one.id)
            yield Said(id=one.id, said=Message("assistant", "no"))


def test_a_model_that_is_moved_or_copied_is_not_asked_again_and_another_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed = Computed()
    monkeypatch.setattr(measuring, "asked", computed.open)

    def asked_in(run: Path) -> int:
        before = len(computed.asked)
        subject = Subject(name="trained", kind="hf", folder=run / "model", adapter=run / "adapter")
        measure(subject, EXAMPLES, SETTINGS, run / "evaluate" / "trained", quietly)
        return len(computed.asked) - before

    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("model", "adapter"):
        (here / name).mkdir(parents=True)
        (here / name / "weights.safetensors").write_bytes(b"1234")
    (here / "evaluate").mkdir()
    assert asked_in(here) == 3
    here.rename(there)
    for file in there.rglob("*.safetensors"):
        os.utime(file, (1, 1))
    (there / "model" / TRAINING_FILE).write_text("{}")
    assert asked_in(there) == 0
    (there / "adapter" / "weights.safetensors").write_bytes(b"1235")
    assert asked_in(there) == 3


def test_half_a_line_is_none_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    whole = msgspec.json.encode(Said(id="1", said=Message("assistant", "yes"))) + b"\n"
    file.write_bytes(whole + whole[:12])
    kept = Kept(file, Said)
    assert list(kept.lines) == ["1"]
    with kept.appending() as append:
        append(Said(id="2", said=None, error="refused"))
    assert list(Kept(file, Said).lines) == ["1", "2"]
    file.write_bytes(b"{}\n" + whole)
    with pytest.raises(CorruptFile, match="holds a line that is none"):
        Kept(file, Said)


def scored(body: Body, tokenizer: Characters, log_p: float) -> Answer:
    return Answer({"choices": [
        {"index": at, "text": "", "logprobs": {
            "tokens": [tokenizer.decode([token]) for token in prompt],
            "token_logprobs": [None, *[log_p] * (len(prompt) - 1)]}}
        for at, prompt in reversed(list(enumerate(body["prompt"])))]})


def test_the_likelihood_is_of_the_answer_and_its_end_alone() -> None:
    tokenizer = Characters()
    with ChatServer(lambda body: answer(""), lambda body: scored(body, tokenizer, -0.5)) as server, \
            Scorer(served(server.url), tokenizer) as scorer:
        found = scorer.likelihoods(EXAMPLES)
    assert [one.tokens for one in found] == [len("yes") + 1, len("no") + 1, len("no") + 1]
    assert [one.nats for one in found] == [2.0, 1.5, 1.5]
    [body] = server.bodies
    assert (body["echo"], body["max_tokens"]) == (True, 0)


@pytest.mark.parametrize(("complete", "message"), [
    (lambda body: refusal(400, "echo is not for here"), "echo is not for here"),
    (lambda body: Answer({"choices": [{"index": 0, "text": "x"}] * 3}), "log-probability of each token"),
    (lambda body: Answer(b"<html>"), "not answer in OpenAI's form"),
    (lambda body: Answer({"choices": []}), "3 prompts with 0 choices"),
])
def test_an_endpoint_that_tells_no_likelihoods_says_why(complete: Callable[[Body], Answer], message: str) -> None:
    with ChatServer(lambda body: answer("no"), complete) as server, \
            Scorer(served(server.url), Characters()) as scorer, \
            pytest.raises(CannotScore, match=message):
        scorer.likelihoods(EXAMPLES)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_endpoint_that_is_busy_for_a_while_tells_likelihoods_all_the_same(status: int) -> None:
    tokenizer, left = Characters(), [2]

    def complete(body: Body) -> Answer:
        left[0] -= 1
        return refusal(status, "busy") if left[0] >= 0 else scored(body, tokenizer, -0.5)

    with ChatServer(lambda body: answer(""), complete) as server, \
            Scorer(served(server.url), tokenizer, backoff_s=0.001) as scorer:
        assert [one.nats for one in scorer.likelihoods(EXAMPLES)] == [2.0, 1.5, 1.5]


def test_what_an_endpoint_is_too_busy_to_tell_is_not_taken_for_what_it_cannot() -> None:
    with ChatServer(lambda body: answer(""), lambda body: refusal(503, "busy")) as server, \
            Scorer(served(server.url), Characters(), backoff_s=0.001) as scorer, \
            pytest.raises(SourceUnavailable, match="503: busy"):
        scorer.likelihoods(EXAMPLES)
    assert len(server.bodies) == ATTEMPTS


def test_a_model_with_other_tokens_is_no_model_to_compare_with() -> None:
    other = Characters(merged=["xx", "yy", "zz"])
    for text in "zyxwvutsrqponmlkjihgfedcba":
        other(text, add_special_tokens=False)
    with ChatServer(lambda body: answer(""), lambda body: scored(body, other, -1.0)) as server, \
            Scorer(served(server.url), Characters()) as scorer, \
            pytest.raises(CannotScore, match="made from another one"):
        scorer.likelihoods(EXAMPLES)


def test_perplexity_that_cannot_be_taken_is_told_and_nothing_else_is_lost(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, metrics=("exact_match", "perplexity"))
    with ChatServer(lambda body: answer("no")) as server:
        result = measure(served(server.url), EXAMPLES, settings, tmp_path / "served", quietly)
    assert result.figures["perplexity"].value is None
    assert result.figures["exact_match"].value is not None
    assert "names no folder" in result.notes[0]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_refused_costs_no_other_its_perplexity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int,
) -> None:
    tokenizer = Characters()
    monkeypatch.setattr(asking, "load_tokenizer", lambda folder, adapter: tokenizer)
    settings = msgspec.structs.replace(SETTINGS, metrics=("perplexity",), batch_size=2)

    def complete(body: Body) -> Answer:
        if any("two" in tokenizer.decode(prompt) for prompt in body["prompt"]):
            return refusal(status, "longer than its context")
        return scored(body, tokenizer, -0.5)

    with ChatServer(lambda body: answer("no"), complete) as server:
        subject = dataclasses.replace(served(server.url), folder=tmp_path)
        result = measure(subject, EXAMPLES, settings, tmp_path / "served", quietly)
    assert [item.nats for item in read_items(tmp_path / "served")] == [2.0, None, 1.5]
    assert result.figures["perplexity"].value == pytest.approx(math.exp(0.5))
    assert "no perplexity of 1 items" in result.notes[0]
    assert "longer than its context" in result.notes[0]


def judged(text: str) -> str:
    return json.dumps({"reason": "as asked", "grade": 5 if "yes" in text else 2})


def test_a_judge_sees_the_reference_and_no_name_and_grades_by_schema(tmp_path: Path) -> None:
    def say(body: Body) -> Answer:
        asked_of = body["messages"][-1]["content"]
        return answer(judged(asked_of.partition("<answer>")[2]) if "<answer>" in asked_of else
                      "" if asked_of == "two" else "yes")

    with ChatServer(say) as server:
        judge = Judge(model="judge", endpoint=server.url, criteria="Is it polite?")
        settings = msgspec.structs.replace(SETTINGS, metrics=("judge",), judge=judge)
        result = measure(served(server.url), EXAMPLES, settings, tmp_path / "served", quietly)
        assert result.figures["judge"].value == pytest.approx((5 + 1 + 5) / 3)
        questions = [body for body in server.bodies if body["model"] == "judge"]
        assert len(questions) == 2
        assert questions[0]["response_format"]["type"] == "json_schema"
        assert "Is it polite?" in questions[0]["messages"][0]["content"]
        # Both are under way at once.
        assert any("<reference_answer>\nyes\n" in body["messages"][1]["content"] for body in questions)
        assert "served" not in json.dumps(questions[0]["messages"])
        before = len(server.bodies)
        other = msgspec.structs.replace(settings, judge=msgspec.structs.replace(judge, criteria="Is it short?"))
        subject = served(server.url, identity="1")
        measure(subject, EXAMPLES, settings, tmp_path / "known", quietly)
        measure(subject, EXAMPLES, other, tmp_path / "known", quietly)
        assert len(server.bodies) - before == 3 + 2 + 2


@pytest.mark.parametrize(("text", "grade"), [
    ('{"reason": "r", "grade": 4}', 4), ('Here you are: {"reason": "r", "grade": 1} Bye.', 1),
    ('{"reason": "r", "grade": 6}', None), ("I would say 4", None), ('{"reason": "r", "grade": "4"}', None),
    ("", None)])
def test_a_grade_is_a_number_from_1_to_5_or_none(text: str, grade: int | None) -> None:
    assert grade_in("1", text).grade == grade


def test_a_judge_that_refuses_grades_nothing() -> None:
    said = Said(id=EXAMPLES[0].id, said=Message("assistant", "yes"))
    with ChatServer(lambda body: refusal(400, "no")) as server:
        [grade] = graded(Judge(model="j", endpoint=server.url), [(EXAMPLES[0], said)])
    assert grade.grade is None
    assert "gave no grade" in grade.why


def test_calls_of_a_served_model_are_its_answer() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "light", "arguments": "{}"}}
    with ChatServer(lambda body: answer("", finish_reason="tool_calls", tool_calls=[call])) as server, \
            asked(served(server.url), 4) as subject:
        [said] = subject.said(EXAMPLES[:1], 9)
    assert said.said is not None
    assert said.said.tool_calls[0]["function"]["name"] == "light"
