"""Constrained answers in the step loop with the fake engine: each is what its constraint says, whatever runs beside it,
and what is forced is computed in one piece."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from llguidance import LLParserLimits

from edged.engines.fake import FakeVocab, Knobs
from edged.types import Constraint, Gbnf, GenerateRequest, JsonSchema, Lark, Regex
from tests.unit.worker.played import LARGE_STASH_BYTES, Choice, play, request, words

pytestmark = pytest.mark.unit

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"const": "person of interest"},
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["small", "light", None]}, "maxItems": 3},
    },
    "required": ["kind", "name", "age", "tags"], "additionalProperties": False,
}
SCHEMA = JsonSchema(json.dumps(PERSON))
CONSTRAINTS: list[tuple[Constraint, str]] = [
    (Regex("(the|a) box( and (the|a) box){0,2}"), r"(the|a) box( and (the|a) box){0,2}"),
    (Gbnf('root ::= "forced beginning " [0-9]{3}'), r"forced beginning [0-9]{3}"),
]
VOCAB = FakeVocab()


def one(constraint: Constraint, **said: Any) -> Choice:
    [choice] = play([request(words(20), id="r", constraint=constraint, **said)])["r"].choices.values()
    return choice


def check_person(text: str) -> None:
    person = json.loads(text)
    assert list(person) == ["kind", "name", "age", "tags"]
    assert person["kind"] == "person of interest"
    assert len(person["name"]) <= 12
    assert 0 <= person["age"] <= 130
    assert set(person["tags"]) <= {"small", "light", None}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_an_answer_to_a_schema_is_valid_and_stops_by_itself(temperature: float, seed: int) -> None:
    choice = one(SCHEMA, max_tokens=300, temperature=temperature, seed=seed)
    check_person(choice.text)
    assert choice.end is not None
    assert choice.end.reason == "stop"


@pytest.mark.parametrize("mixed_step", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_beside_others_in_a_small_pool_each_says_what_it_says_alone(
    mixed_step: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", 2)
    knobs = Knobs(context=200, rows=4, kv_tokens=201, mixed_step=mixed_step, step_tokens=[7, 20, 512][seed % 3])
    crowd: list[GenerateRequest] = [
        request(words(50 + number, seed=number), max_tokens=120, temperature=0.9 * (number % 2), seed=seed,
                n=1 + number % 3, id=f"r{number}", constraint=constraint, logprobs=2 if number % 2 else None,
                    client=str(number % 3))
        for number, constraint in enumerate([SCHEMA, None, Regex("(the|a) box( and (the|a) box){0,2}"), SCHEMA, None])
    ]
    together = play(crowd, knobs, stash_limit_bytes=[0, 200, LARGE_STASH_BYTES][seed % 3])
    assert together.stats.preemptions
    for each in crowd:
        alone = play([each], Knobs(context=200))[each.id]
        said, wanted = together[each.id].choices, alone.choices
        assert {index: (choice.text, choice.tokens, choice.logprobs) for index, choice in said.items()} == {
            index: (choice.text, choice.tokens, choice.logprobs) for index, choice in wanted.items()}
        if each.constraint is SCHEMA:
            for choice in said.values():
                check_person(choice.text)
    assert together.stats.kv_used_tokens == together.generator.kv_used_tokens


@pytest.mark.parametrize(("constraint", "pattern"), CONSTRAINTS, ids=["regex", "gbnf"])
def test_other_grammars_hold_too(constraint: Constraint, pattern: str) -> None:
    assert re.fullmatch(pattern, one(constraint, max_tokens=100, temperature=1.0).text)


def test_what_is_forced_is_computed_in_one_piece() -> None:
    played = play([request(words(20), id="r", max_tokens=100, constraint=Gbnf('root ::= [ab] " and so on" [ab]'))])
    # The prompt; then the letter that was drawn with all that must follow it. The last letter needs no KV.
    assert played.generator.steps == [[20], [11]]
    assert played["r"].usage is not None
    assert played["r"].usage.completion_tokens == 12


def test_what_is_forced_at_once_costs_no_step() -> None:
    played = play([request(words(20), id="r", max_tokens=100, constraint=Regex("one way only"))])
    assert played.generator.steps == [[20]]
    assert played["r"].text == "one way only"
    choice = played["r"].choices[0]
    assert choice.end is not None
    assert (choice.end.reason, choice.tokens) == ("stop", 12)


def test_the_first_space_of_a_constrained_answer_is_not_the_tokenizers() -> None:
    assert one(Regex(" the"), max_tokens=10).text == " the"


@pytest.mark.parametrize("limit", [1, 5, 11])
def test_forced_tokens_respect_the_limit(limit: int) -> None:
    choice = one(Regex("one way only"), max_tokens=limit)
    assert choice.text == "one way only"[:limit]
    assert choice.end is not None
    assert (choice.end.reason, choice.tokens) == ("length", limit)


def test_an_answer_that_is_complete_at_its_limit_has_stopped() -> None:
    choice = one(Regex("one way only"), max_tokens=12)
    assert choice.end is not None
    assert choice.end.reason == "stop"


def test_forced_tokens_respect_the_context() -> None:
    played = play([request(words(20), id="r", max_tokens=None, constraint=Regex("x" * 100))], Knobs(context=50))
    choice = played["r"].choices[0]
    assert choice.end is not None
    assert (choice.end.reason, choice.text) == ("length", "x" * 30)


def test_forced_tokens_respect_stop_strings() -> None:
    choice = one(Regex("one way only"), max_tokens=50, stop=("way",))
    assert choice.end is not None
    assert (choice.text, choice.end.reason, choice.end.stop) == ("one ", "stop", "way")
    assert choice.tokens == 7


def test_the_grammar_wins_over_a_bias() -> None:
    bias = dict.fromkeys([*VOCAB.end, *b"xyz"], 100.0) | dict.fromkeys(b"ab", -100.0)
    text = one(Regex("[ab]{4}"), max_tokens=20, temperature=1.0, logit_bias=bias).text
    assert re.fullmatch("[ab]{4}", text)


def test_a_bias_decides_among_what_the_grammar_allows() -> None:
    assert one(Regex("[ab]{4}"), max_tokens=20, logit_bias={ord("b"): 5.0}).text == "bbbb"


def test_logprobs_are_those_of_what_the_constraint_allows_and_0_where_it_forces() -> None:
    choice = one(Gbnf('root ::= [ab] "forced" [cde]'), max_tokens=20, temperature=1.0, logprobs=5)
    drawn, *forced, last = choice.logprobs
    assert sum(2.718281828 ** value for _, _, _, value in drawn.top) == pytest.approx(1, abs=1e-5)
    assert {raw for _, _, raw, _ in drawn.top} == {b"a", b"b"}
    assert {raw for _, _, raw, _ in last.top} == {b"c", b"d", b"e"}
    assert [entry.raw for entry in forced] == [bytes([byte]) for byte in b"forced"]
    assert all(entry.logprob == 0.0 and entry.top == [(entry.token, entry.text, entry.raw, 0.0)] for entry in forced)


def test_a_prompt_is_echoed_before_a_constrained_answer() -> None:
    choice = one(Regex(" the"), max_tokens=10, echo=True)
    assert choice.text == b"".join(map(VOCAB.piece, words(20))).decode().removeprefix(" ") + " the"


def test_choices_of_a_constrained_request_differ_and_all_hold() -> None:
    played = play([request(words(20), id="r", n=5, max_tokens=40, temperature=1.5, constraint=Regex("[a-z]{12}"))])
    texts = [choice.text for choice in played["r"].choices.values()]
    assert len(set(texts)) == 5
    assert all(re.fullmatch("[a-z]{12}", text) for text in texts)


def test_a_grammar_that_outgrows_its_limits_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.worker.constraint._LIMITS", LLParserLimits(max_items_in_row=50, verbose_errors=False))
    # Ever more ways to read what was written so far.
    many_ways = Lark('start: a*\na: b*\nb: c*\nc: "a" | "b" | a b c | c b a')
    other = request(words(30, seed=3), id="other", max_tokens=300)
    stubborn = request(words(20), id="r", max_tokens=300, constraint=many_ways)
    played = play([stubborn, other], Knobs(end_chance=0))
    failed = played["r"].failed
    assert failed is not None
    assert (failed.status, failed.type) == (400, "invalid_request_error")
    assert "too complex" in failed.message
    assert played["other"].text == play([other], Knobs(end_chance=0))["other"].text
    assert played.stats.running == 0
