"""The step loop with the fake engine, whose logits depend on every token before: a wrong length, a lost trim, a fork of
the wrong row change the text."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.engines.fake import Knobs
from edged.ipc.messages import Cancel, Pause, Resume
from edged.types import Delta, Finished, GenerateRequest, Started, TokenPrompt
from edged.worker.orders import Closed
from tests.unit.worker.played import LARGE_STASH_BYTES, Expected, Outcome, Played, Timed, alone, play, request, words

pytestmark = pytest.mark.unit

CONTEXT = 96
PREFIXES = [words(40, seed=1), words(40, seed=2)]
HALF_AN_EMOJI = 303


class Case(NamedTuple):
    """One request, and what befalls it: engine steps at which it comes, is cancelled, paused and resumed."""

    request: GenerateRequest
    at: int
    cancel: int | None
    pause: int | None
    resume: int | None

    def orders(self) -> Iterator[Timed]:
        id = self.request.id
        yield self.at, self.request
        if self.pause is not None:
            yield self.pause, Pause(id)
            # A client that reads slowly reads on some day.
            yield max(self.pause, self.resume or 10_000), Resume(id)
        if self.cancel is not None:
            yield self.cancel, Cancel(id)


steps = st.integers(0, 25)


@st.composite
def prompts(draw: st.DrawFn) -> list[int]:
    prefix = draw(st.sampled_from(PREFIXES))[: draw(st.integers(0, 40))]
    tail = draw(st.lists(st.sampled_from([260, 261, 300, 301, HALF_AN_EMOJI, 65, 10, 257]), max_size=6))
    return [*prefix, *tail] or [256]


@st.composite
def cases(draw: st.DrawFn, number: int) -> Case:
    one = request(
        draw(prompts()), id=f"r{number}",
        max_tokens=draw(st.sampled_from([0, 1, 7, 20, 40, None])),
        temperature=draw(st.sampled_from([0.0, 0.7, 1.5])), seed=draw(st.integers(0, 2)),
        n=draw(st.sampled_from([1, 1, 2, 3])),
        stop=tuple(draw(st.lists(st.sampled_from([" the", "e", "ox e", "🙂", "語.", " is it", "."]), max_size=2))),
        echo=draw(st.booleans()), logprobs=draw(st.sampled_from([None, None, 0, 3])),
        client=draw(st.sampled_from("ab")), adapter=draw(st.sampled_from([None, None, "pirate", "poet"])),
    )
    at = draw(steps)
    late = st.one_of(st.none(), st.none(), st.integers(at, 80))
    return Case(one, at, draw(late), draw(late), draw(late))


@st.composite
def plays(draw: st.DrawFn) -> list[Case]:
    return [draw(cases(number)) for number in range(draw(st.integers(1, 7)))]


engines = st.builds(
    Knobs, context=st.just(CONTEXT), kv_tokens=st.sampled_from([CONTEXT, CONTEXT + 7, 2 * CONTEXT]),
    rows=st.integers(1, 4), mixed_step=st.booleans(), step_tokens=st.sampled_from([5, 17, 512]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plays(), engines, st.sampled_from([0, 200, LARGE_STASH_BYTES]), st.sampled_from([1, 1, 64]))
def test_whatever_runs_beside_it_a_request_says_what_it_says_alone(
    played_cases: list[Case], knobs: Knobs, stash_limit_bytes: int, allowance_tokens: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # With a small one these short contexts are preempted as long ones are.
        patch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", allowance_tokens)
        played = play([order for case in played_cases for order in case.orders()], knobs,
                      stash_limit_bytes=stash_limit_bytes)
    check_cases(played_cases, played)


def drawn(random: Random, number: int) -> Case:
    """More crowded than what hypothesis draws."""
    prefix = random.choice(PREFIXES)[: random.randint(0, 40)]
    one = request(
        [*prefix, *random.choices([260, 261, 300, HALF_AN_EMOJI, 65, 10, 257], k=random.randint(1, 6))],
        id=f"r{number}", max_tokens=random.choice([0, 1, 7, 20, 40, 50, None]),
        temperature=random.choice([0.0, 0.7, 1.5]), seed=random.randint(0, 2), n=random.choice([1, 1, 2, 3, 5]),
        stop=tuple(random.sample([" the", "e", "ox e", "🙂", "語.", " is it"], random.choice([0, 0, 1, 2]))),
        echo=random.random() < 0.3, logprobs=random.choice([None, 0, 3]), client=random.choice("abc"),
        adapter=random.choice([None, "pirate", "poet"]),
    )
    at = random.randint(0, 40)
    pause = at + random.randint(0, 30) if random.random() < 0.3 else None
    return Case(one, at, at + random.randint(0, 40) if random.random() < 0.15 else None, pause,
                pause and pause + random.choice([0, 5, 30, 10_000]))


@pytest.mark.parametrize("seed", range(30))
def test_a_crowd_in_a_small_pool_says_what_each_says_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(seed)
    monkeypatch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", random.choice([1, 3, 20]))
    crowd = [drawn(random, number) for number in range(random.randint(4, 9))]
    knobs = Knobs(context=CONTEXT, kv_tokens=random.choice([CONTEXT, CONTEXT + 7, 130, 200]), rows=random.randint(2, 6),
                  mixed_step=random.random() < 0.5, step_tokens=random.choice([7, 17, 40, 512]))
    check_cases(crowd, play([order for case in crowd for order in case.orders()], knobs,
                            stash_limit_bytes=random.choice([0, 200, LARGE_STASH_BYTES])))


def check_cases(played_cases: list[Case], played: Played) -> None:
    for case in played_cases:
        outcome = played[case.request.id]
        assert outcome.failed is None
        if case.cancel is None:
            check(case.request, outcome)
    assert played.stats.running == played.stats.waiting == 0
    assert played.stats.kv_used_tokens == played.generator.kv_used_tokens


def expected(one: GenerateRequest, index: int = 0, context: int = CONTEXT) -> Expected:
    assert isinstance(one.prompt, TokenPrompt)
    sampling = one.sampling
    assert sampling.temperature is not None
    assert sampling.seed is not None
    return alone(
        tuple(one.prompt.tokens), max_tokens=one.max_tokens, temperature=sampling.temperature, seed=sampling.seed,
        index=index, stop=one.stop, echo=one.echo, context=context, adapter=one.adapter)


def check(one: GenerateRequest, outcome: Outcome, context: int = CONTEXT) -> None:
    """Ended once, whole and true."""
    assert isinstance(one.prompt, TokenPrompt)
    wanted = [expected(one, index, context) for index in range(one.n)]
    assert outcome.usage is not None
    assert outcome.started is not None
    assert sorted(outcome.choices) == list(range(one.n))
    for index, want in enumerate(wanted):
        choice = outcome.choices[index]
        assert choice.text == want.text
        assert choice.tokens == want.tokens
        assert choice.end is not None
        assert (choice.end.reason, choice.end.stop) == (want.reason, want.stop)
        said = [(entry.token, entry.logprob) for entry in choice.logprobs]
        assert said == (list(want.logprobs) if one.logprobs is not None else [])
        assert all(len(entry.top) == one.logprobs for entry in choice.logprobs if entry.logprob is not None)
    assert outcome.usage.prompt_tokens == outcome.started.prompt_tokens == len(one.prompt.tokens)
    assert outcome.usage.completion_tokens == sum(want.tokens for want in wanted)
    assert outcome.usage.cached_tokens == outcome.started.cached_tokens < len(one.prompt.tokens)


def crowd(count: int) -> list[GenerateRequest]:
    return [request(words(20, seed=number), max_tokens=70, temperature=0.8, seed=number, id=f"r{number}",
                    client=str(number % 3), logprobs=0 if number % 2 else None) for number in range(count)]


@pytest.mark.parametrize("mixed_step", [True, False])
@pytest.mark.parametrize("stash_limit_bytes", [0, 4 * 70, LARGE_STASH_BYTES])
def test_preemption_changes_no_text(mixed_step: bool, stash_limit_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", 2)
    requests = crowd(6)
    knobs = Knobs(context=CONTEXT, rows=4, kv_tokens=CONTEXT + 30, mixed_step=mixed_step, step_tokens=20)
    played = play(requests, knobs, stash_limit_bytes=stash_limit_bytes)
    for one in requests:
        check(one, played[one.id])
    assert played.stats.preemptions >= 2


def test_echoed_logprobs_are_said_once_though_the_prompt_was_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", 2)
    requests = [
        request(words(30, seed=number), max_tokens=50, echo=True, logprobs=1, n=2, id=f"r{number}") for number in (1, 2)
    ]
    played = play(requests, Knobs(context=CONTEXT, rows=4, kv_tokens=CONTEXT + 30, step_tokens=20, end_chance=0),
                  stash_limit_bytes=0)
    assert played.stats.preemptions >= 2
    for one in requests:
        for choice in played[one.id].choices.values():
            assert len(choice.logprobs) == 30 + 50


def test_choices_share_one_prefill() -> None:
    one = request(words(80), n=5, max_tokens=3, temperature=1.0)
    played = play([one], Knobs(context=200, rows=2, end_chance=0))
    check_all(played, [one], 200)
    # The last token of the prompt is computed for every choice, for its logits; the answer's last needs no KV.
    assert played.generator.computed == 80 + 4 + 5 * 2


def check_all(played: Played, requests: list[GenerateRequest], context: int) -> None:
    for one in requests:
        outcome = played[one.id]
        assert outcome.usage is not None
        assert sorted(outcome.choices) == list(range(one.n))
        assert outcome.usage.completion_tokens == sum(choice.tokens for choice in outcome.choices.values())


def test_choices_differ_and_every_one_is_what_its_number_says() -> None:
    one = request(words(20), n=4, temperature=1.0, max_tokens=12)
    played = play([one])
    check(one, played[one.id], context=4096)
    assert len({choice.text for choice in played[one.id].choices.values()}) > 1


def test_cached_tokens_are_those_that_were_not_computed() -> None:
    first = request(words(40), max_tokens=5, id="first")
    second = request([*words(40), 65, 66], max_tokens=5, id="second")
    played = play([(0, first), (100, second)], Knobs(end_chance=0))
    outcome = played["second"]
    assert outcome.usage is not None
    assert outcome.usage.cached_tokens == 40
    assert played.generator.computed == 40 + 4 + 2 + 4
    assert (played.stats.prefix_query_tokens, played.stats.prefix_hit_tokens) == (82, 40)


def test_a_running_prefix_is_shared() -> None:
    first = request(words(40), max_tokens=30, id="first")
    second = request(words(40), max_tokens=30, id="second", temperature=1.0)
    played = play([(0, first), (2, second)], Knobs(end_chance=0))
    usage = played["second"].usage
    assert usage is not None
    assert usage.cached_tokens == 39
    assert played.step_of(Started, "second") < played.step_of(Finished, "first")


def test_a_long_prompt_in_the_middle_leaves_every_tick_to_the_others() -> None:
    knobs = Knobs(rows=4, step_tokens=20, end_chance=0)
    running = [request(words(5, seed=number), max_tokens=60, id=f"r{number}") for number in range(2)]
    long = request(words(300, seed=9), max_tokens=1, id="long")
    played = play([*((0, one) for one in running), (10, long)], knobs)
    assert all(step.count(1) == 2 for step in played.generator.steps[1:60])
    assert [max(step) for step in played.generator.steps[11:27]] == [18] * 16
    assert played.step_of(Delta, "long") == 28


def test_a_cancel_in_prefill_frees_the_row_at_the_next_step() -> None:
    knobs = Knobs(rows=1, step_tokens=20)
    other = request(words(5), max_tokens=2, id="other")
    played = play([(0, request(words(2000), id="long")), (0, other), (5, Cancel("long"))], knobs)
    assert played.step_of(Started, "other") == 6
    assert not played["long"].over


def test_the_last_word_of_a_cancelled_one_is_before_the_cancel() -> None:
    played = play([(0, request(words(5), max_tokens=None, id="gone")), (7, Cancel("gone"))], Knobs(end_chance=0))
    assert max(step for step, _ in played.log) <= 8
    assert not played["gone"].over
    assert len(played.generator.steps) == 8


def test_a_cancelled_id_never_comes_back_in_any_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running, stashed, waiting; all cancelled at once."""
    monkeypatch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", 1)
    requests = crowd(6)
    knobs = Knobs(context=CONTEXT, rows=4, kv_tokens=CONTEXT + 30, end_chance=0)
    played = play([*((0, one) for one in requests), *((30, Cancel(one.id)) for one in requests[:5])], knobs)
    assert played.stats.preemptions
    for one in requests[:5]:
        assert not played[one.id].over
        assert all(step <= 31 for step, event in played.log if event.id == one.id)
    check_all(played, requests[5:], CONTEXT)


def test_a_slow_reader_does_not_hold_the_only_row() -> None:
    slow = request(words(10, seed=1), max_tokens=20, id="slow")
    other = request(words(10, seed=2), max_tokens=20, id="other")
    orders: list[Timed] = [(0, slow), (4, Pause("slow")), (6, other), (1000, Resume("slow"))]
    played = play(orders, Knobs(rows=1, end_chance=0))
    assert played.step_of(Finished, "other") < played.step_of(Finished, "slow")
    assert {step for step, event in played.log if event.id == "slow"}.isdisjoint(range(6, 26))
    check_all(played, [slow, other], 4096)


@pytest.mark.parametrize("mixed_step", [True, False])
def test_a_failed_step_fails_those_in_it_once_and_its_rows_are_not_reused(mixed_step: bool) -> None:
    prompt = words(30, seed=1)
    in_it = [request(prompt, n=3, max_tokens=40, id="three"), request(words(12, seed=2), max_tokens=40, id="one")]
    later = request(prompt, max_tokens=10, id="later")
    played = play([*((0, one) for one in in_it), (11, later)],
                  Knobs(rows=5, fail_at_token=10, mixed_step=mixed_step, end_chance=0))
    for one in in_it:
        failed = played[one.id].failed
        assert failed is not None
        assert (failed.status, failed.type, failed.retry) == (500, "server_error", True)
    usage = played["later"].usage
    assert usage is not None
    assert usage.cached_tokens == 0
    assert played.stats.running == 0
    assert played.stats.kv_used_tokens == played.generator.kv_used_tokens
    assert played["later"].text == play([later], Knobs(end_chance=0))["later"].text


def test_others_than_those_in_the_failed_step_go_on() -> None:
    paused = request(words(30, seed=1), max_tokens=20, id="paused")
    failing = request(words(30, seed=2), max_tokens=20, id="failing")
    played = play([(0, paused), (3, Pause("paused")), (5, failing), (1000, Resume("paused"))], Knobs(fail_at_token=9))
    assert played["failing"].failed is not None
    check(paused, played["paused"], context=4096)


def test_logits_that_are_no_numbers_fail_their_request_and_their_prefix_is_forgotten() -> None:
    prompt = words(30, seed=1)
    orders: list[Timed] = [(0, request(prompt, max_tokens=5, id="before")), (20, request(prompt, id="bad", n=2)),
                           (60, request(prompt, id="after", max_tokens=5))]
    played = play(orders, Knobs(nan_at_token=8, end_chance=0))
    assert played["before"].usage is not None
    failed = played["bad"].failed
    assert failed is not None
    assert failed.status == 500
    usage = played["after"].usage
    assert usage is not None
    assert usage.cached_tokens == 0
    assert played["after"].text == played["before"].text


def test_an_echoed_prompt_without_numbers_fails_too() -> None:
    played = play([request([260], echo=True, logprobs=1, id="bad"), request([261], echo=True, logprobs=1, id="bad2")],
                  Knobs(nan_at_token=1))
    assert played["bad"].failed is not None
    assert played["bad2"].failed is not None


def test_a_stop_string_that_nothing_can_match_fails_its_request_alone() -> None:
    played = play([request(words(5), stop=("",), id="bad"), request(words(5), id="good")])
    failed = played["bad"].failed
    assert failed is not None
    assert (failed.status, failed.param) == (400, "stop")
    assert played["good"].usage is not None


def test_an_answer_without_a_limit_fills_the_context_and_no_more() -> None:
    one = request(words(10), max_tokens=None, id="r")
    played = play([one], Knobs(context=64, end_chance=0))
    usage = played["r"].usage
    assert usage is not None
    assert usage.prompt_tokens + usage.completion_tokens == 64
    end = played["r"].choices[0].end
    assert end is not None
    assert end.reason == "length"


def test_nothing_is_asked_of_an_answer_of_no_tokens() -> None:
    played = play([request(words(10), max_tokens=0, id="r")])
    outcome = played["r"]
    assert outcome.usage is not None
    assert (outcome.usage.completion_tokens, outcome.text) == (0, "")
    assert outcome.choices[0].deltas == []


def test_it_stops_at_once_when_the_daemon_is_gone() -> None:
    played = play([(0, request(words(5), max_tokens=None, id="r")), (9, Closed())], Knobs(end_chance=0))
    assert len(played.generator.steps) == 10
    assert not played["r"].over
