"""Drafts in the step loop with the fake engine: whatever is proposed, right, wrong or both, each request says what it
says without, and steps are saved where drafts are right."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.engines.base import Generator
from edged.engines.fake import FakeGenerator, FakeVocab, Knobs
from edged.types import Regex
from edged.worker.acceptance import Acceptance
from edged.worker.lookup import Lookup
from edged.worker.sequence import Sequence
from edged.worker.speculation import FIRST_PATIENCE, FIRST_TRIALS_S, TRIAL_SHARE, Guesses, Speculation
from tests.unit.worker.played import LARGE_STASH_BYTES, CountingGenerator, Played, Timed, play, request, words
from tests.unit.worker.test_constrained_loop import SCHEMA
from tests.unit.worker.test_loop import CONTEXT, Case, check_cases, drawn, engines, plays

pytestmark = pytest.mark.unit

Answers = dict[tuple[str, int], list[int]]


class Watching(Speculation):
    """Proposes nothing and keeps the tokens of all that run."""

    def __init__(self, generator: Generator, answers: Answers) -> None:
        super().__init__(generator.caps, generator.vocab.end, tokens_per_s=1e6)
        self._answers = answers

    def propose(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self._answers[sequence.request, sequence.index] = sequence.tokens


class Wild(Speculation):
    """Proposes what comes, as a run without drafts has shown, up to some token, and from there on anything."""

    def __init__(self, generator: Generator, answers: Answers, random: Random) -> None:
        super().__init__(generator.caps, generator.vocab.end, tokens_per_s=1e6)
        self._answers, self._random, self._size = answers, random, generator.vocab.size

    def propose(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            sequence.guesses = Guesses(Lookup(sequence.tokens), Acceptance(), kind=4)
            comes = self._answers.get((sequence.request, sequence.index), [])[len(sequence.tokens):]
            length = min(self._random.choice([0, 1, 3, 8, 16]), sequence.max_length - len(sequence.tokens) - 1)
            right = self._random.choice([0, 1, 2, 5, 16])
            wrong = self._random.choices(range(self._size), k=16)
            sequence.draft = [*comes[:right], *wrong][:max(length, 0)]


def both(orders: list[Timed], knobs: Knobs, stash_limit_bytes: int, seed: int) -> Played:
    answers: Answers = {}
    play(orders, knobs, stash_limit_bytes=stash_limit_bytes,
         speculation=lambda generator: Watching(generator, answers))
    return play(orders, knobs, stash_limit_bytes=stash_limit_bytes,
                speculation=lambda generator: Wild(generator, answers, Random(seed)))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plays(), engines, st.sampled_from([0, 200, LARGE_STASH_BYTES]), st.sampled_from([1, 1, 64]), st.integers(0, 99))
def test_whatever_is_proposed_a_request_says_what_it_says_alone(
    cases: list[Case], knobs: Knobs, stash_limit_bytes: int, allowance_tokens: int, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", allowance_tokens)
        check_cases(cases, both([order for case in cases for order in case.orders()], knobs, stash_limit_bytes, seed))


@pytest.mark.parametrize("seed", range(12))
def test_a_crowd_in_a_small_pool_says_what_each_says_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(seed)
    monkeypatch.setattr("edged.worker.sequence.ALLOWANCE_TOKENS", random.choice([1, 3, 20]))
    crowd = [drawn(random, number) for number in range(random.randint(4, 9))]
    knobs = Knobs(context=CONTEXT, kv_tokens=random.choice([CONTEXT, CONTEXT + 7, 130, 200]), rows=random.randint(2, 6),
                  mixed_step=random.random() < 0.5, step_tokens=random.choice([7, 17, 40, 512]))
    check_cases(crowd, both([order for case in crowd for order in case.orders()], knobs,
                            random.choice([0, 200, LARGE_STASH_BYTES]), seed))


@pytest.mark.parametrize("mixed_step", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_constrained_answers_are_the_same_with_drafts(mixed_step: bool, seed: int) -> None:
    knobs = Knobs(context=200, rows=4, kv_tokens=300, mixed_step=mixed_step, step_tokens=[7, 20, 512][seed % 3])
    crowd: list[Timed] = [
        (0, request(words(50 + number, seed=number), max_tokens=120, temperature=0.9 * (number % 2), seed=seed,
                    n=1 + number % 3, id=f"r{number}", constraint=constraint, logprobs=2 if number % 2 else None,
                    client=str(number % 3)))
        for number, constraint in enumerate([SCHEMA, None, Regex("(the|a) box( and (the|a) box){0,2}"), SCHEMA])
    ]
    plain, drafted = play(crowd, knobs), both(crowd, knobs, LARGE_STASH_BYTES, seed)
    assert drafted.stats.speculative_accepted_tokens > 10
    for id, outcome in plain.requests.items():
        assert {index: (choice.text, choice.tokens, choice.logprobs, choice.end)
                for index, choice in drafted[id].choices.items()} == {
            index: (choice.text, choice.tokens, choice.logprobs, choice.end)
            for index, choice in outcome.choices.items()}
        assert drafted[id].usage == outcome.usage
    assert drafted.stats.kv_used_tokens == drafted.generator.kv_used_tokens


SAID = "Say again: the small box on the edge is a light, and the small box is not a word, and so on for it."


def quoting(number: int = 0) -> Timed:
    """A request whose answer repeats its prompt, token for token."""
    vocab = FakeVocab()
    prompt = [*vocab.tokenize("<|im_start|>user\nsay: ", special=True, bos=False), *_spoken(SAID),
              *vocab.tokenize("<|im_end|>\n<|im_start|>assistant\n", special=True, bos=False)]
    return 0, request(prompt, max_tokens=60, id=f"q{number}")


def _spoken(text: str) -> list[int]:
    """As the engine says it: in its longest pieces."""
    vocab, tokens, data = FakeVocab(), [], text.encode()
    while data:
        length, token = max((len(vocab.piece(token)), token) for token in range(vocab.size)
                            if vocab.piece(token) and data.startswith(vocab.piece(token)))
        tokens.append(token)
        data = data[length:]
    return tokens


def speculating(generator: FakeGenerator) -> Speculation:
    """That has seen what steps take, and holds to it: the first token ten times as much as each further one."""
    speculation = Speculation(generator.caps, generator.vocab.end, tokens_per_s=1000.0)
    for count in range(1, 40):
        for rows in {1, count}:
            speculation.observe(rows, count, 0.010 + 0.001 * count)
    speculation.observe = lambda rows, tokens, seconds: None  # type: ignore[method-assign]
    speculation.ticked = lambda seconds: None  # type: ignore[method-assign]
    return speculation


@pytest.mark.parametrize("mixed_step", [True, False])
def test_an_answer_that_repeats_its_prompt_takes_a_third_of_the_steps(mixed_step: bool) -> None:
    knobs = Knobs(mixed_step=mixed_step)
    plain, drafted = play([quoting()], knobs), play([quoting()], knobs, speculation=speculating)
    assert drafted["q0"].text == plain["q0"].text == SAID
    assert len(drafted.generator.steps) * 3 <= len(plain.generator.steps)
    stats = drafted.stats
    assert stats.speculative_accepted_tokens > 20
    assert stats.speculative_proposed_tokens < 2 * stats.speculative_accepted_tokens
    assert plain.stats.speculative_proposed_tokens == 0
    assert max(max(step) for step in drafted.generator.steps[1:]) <= 17


def test_words_by_chance_are_not_speculated_on_for_long() -> None:
    """Some begin like earlier ones, and then go on in another way."""
    one = request([260, 261] * 3, max_tokens=1500, temperature=2.0, id="r")
    knobs = Knobs(end_chance=0)
    drafted = play([one], knobs, speculation=speculating)
    assert drafted["r"].text == play([one], knobs)["r"].text
    first, last = drafted.generator.steps[:300], drafted.generator.steps[-300:]
    assert sum(map(sum, last)) - len(last) < 30
    assert sum(map(sum, first)) - len(first) < 150


@pytest.mark.parametrize("knobs", [Knobs(all_logits=False)])
def test_where_a_graph_gives_no_other_logits_nothing_is_proposed(knobs: Knobs) -> None:
    played = play([quoting()], knobs, speculation=speculating)
    assert played.stats.speculative_proposed_tokens == 0
    assert played["q0"].text == SAID


def test_a_draft_costs_nobody_his_place_in_a_full_pool() -> None:
    """Four that fit just so: with drafts they would not."""
    prompts = [quoting(number) for number in range(4)]
    length = len(prompts[0][1].prompt.tokens)  # type: ignore[union-attr]
    answer = len(_spoken(SAID)) + 1
    knobs = Knobs(rows=4, context=300, kv_tokens=4 * (length + 66))
    assert length + answer < length + 66
    played = play(prompts, knobs, speculation=speculating)
    assert played.stats.preemptions == 0
    assert all(played[f"q{number}"].text == SAID for number in range(4))


def test_an_engine_that_cannot_take_back_what_was_refused_is_spared_and_the_text_is_the_same(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is cut short loses all, as a window or a recurrent state may."""
    one = request([260, 261, 262, 263] * 3, max_tokens=100, temperature=2.0, id="r")
    knobs = Knobs(end_chance=0)
    plain = play([one], knobs)
    keep_all = CountingGenerator.trim
    monkeypatch.setattr(CountingGenerator, "trim", lambda self, row, keep: keep_all(
        self, row, keep if keep >= len(self._rows[row]) else 0))
    played = play([one], knobs, speculation=speculating)
    assert played["r"].text == plain["r"].text
    assert played.stats.speculative_proposed_tokens > played.stats.speculative_accepted_tokens
    assert [max(step) for step in played.generator.steps].count(1) > 90


def test_trials_take_a_fiftieth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight texts that always have a draft to offer, where a draft costs as much as its tokens one by one."""
    monkeypatch.setattr("edged.worker.speculation.LONGEST_PATIENCE", FIRST_PATIENCE)
    generator = FakeGenerator(Knobs())
    speculation = Speculation(generator.caps, generator.vocab.end, tokens_per_s=100.0)
    for count in range(1, 40):
        speculation.observe(count, count, 0.010 * count)
    crowd = [Sequence(f"r{number}", 0, "", [300, 301, 302, 303] * 10, 10_000) for number in range(8)]
    for sequence in crowd:
        sequence.prompt_length = sequence.length = 20
    spent_s = tried_s = 0.0
    for _ in range(1000):
        speculation.propose(crowd)
        more_s = 0.010 * sum(len(sequence.draft) for sequence in crowd)
        for sequence in crowd:
            sequence.tokens.append(300 + len(sequence.tokens) % 4)
        speculation.ticked(0.080 + more_s)
        spent_s += 0.080 + more_s
        tried_s += more_s
    assert 0 < tried_s < TRIAL_SHARE * spent_s + 2 * FIRST_TRIALS_S
