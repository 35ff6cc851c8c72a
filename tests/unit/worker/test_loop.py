"""The step loop with the fake engine, whose logits depend on every token before: a wrong length, a lost trim, a fork of
the wrong row change the text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.engines.fake import Knobs
from edged.ipc.messages import Cancel, Pause, Resume
from edged.types import GenerateRequest, TokenPrompt
from tests.unit.worker.played import LARGE_STASH_BYTES, Expected, Outcome, Timed, alone, play, request, words

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
        client=draw(st.sampled_from("ab")),
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


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plays(), engines, st.sampled_from([0, 200, LARGE_STASH_BYTES]), st.sampled_from([1, 1, 64]))
def test_whatever_runs_beside_it_a_request_says_what_it_says_alone(
    played_cases: list[Case], knobs: Knobs, stash_limit_bytes: int, allowance_tokens: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # With a small one these short contexts are preempted as long ones are.
        patch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", allowance_tokens)
        played = play([order for case in played_cases for order in case.orders()], knobs,
                      stash_limit_bytes=stash_limit_bytes)
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
        index=index, stop=one.stop, echo=one.echo, context=context)


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
