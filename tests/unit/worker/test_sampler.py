from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edged.engines.base import EngineError
from edged.errors import InvalidRequest
from edged.types import DEFAULT_SAMPLING, SamplingParams
from edged.worker.sampler import Sampler
from edged.worker.truncate import WIDE, Truncation

pytestmark = pytest.mark.unit

Logits = NDArray[np.float32]


def sampler(
    params: SamplingParams, *, seed: int = 1, choice: int = 0, prompt: list[int] | None = None, vocab: int = 100_000
) -> Sampler:
    return Sampler(params.over(DEFAULT_SAMPLING), seed=seed, choice=choice, prompt=prompt or [], vocab_size=vocab)


def some_logits(seed: int, vocab: int) -> Logits:
    return np.random.default_rng(seed).normal(0, 3, vocab).astype(np.float32)


seeds = st.integers(-(2**63), 2**64 - 1)
vocabularies = st.integers(1, 2000)


@given(seeds, st.integers(0, 2**32), vocabularies)
def test_greedy_is_the_greatest_logit(seed: int, noise: int, vocab: int) -> None:
    logits = some_logits(noise, vocab)
    for params in (
        SamplingParams(temperature=0.0), SamplingParams(top_k=1), SamplingParams(top_p=1e-9), SamplingParams(top_p=0.0),
        SamplingParams(min_p=1.0), SamplingParams(temperature=1e-4),
    ):
        assert sampler(params, seed=seed).sample(logits, 3) == int(logits.argmax())


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    logits = np.array([0, 5, 5, 5], np.float32)
    assert sampler(SamplingParams(temperature=0.0)).sample(logits, 0) == 1
    assert sampler(SamplingParams(top_p=0.1)).sample(logits, 0) == 1


@given(seeds, st.integers(0, 7), st.integers(0, 10_000))
def test_a_draw_depends_on_seed_choice_and_position_only(seed: int, choice: int, position: int) -> None:
    logits, others = some_logits(1, 500), some_logits(2, 700)
    params = SamplingParams(temperature=1.3, top_p=0.9)
    fresh = sampler(params, seed=seed, choice=choice).sample(logits, position)
    used = sampler(params, seed=seed, choice=choice)
    for earlier in (position + 9, 0, position):
        used.sample(others, earlier)
    assert used.sample(logits, position) == fresh


def test_seeds_choices_and_positions_give_draws_of_their_own() -> None:
    logits = np.zeros(100_000, np.float32)
    draws = [
        sampler(SamplingParams(), seed=seed, choice=choice).sample(logits, position)
        for seed in (0, 1, -1, 2**63) for choice in range(3) for position in range(3)
    ]
    assert len(set(draws)) == len(draws)


def test_a_seed_gives_the_same_draws_for_ever() -> None:
    logits = np.linspace(0, 6, 1000, dtype=np.float32)
    draws = [sampler(SamplingParams(), seed=-42).sample(logits, position) for position in range(8)]
    assert draws == GOLDEN


#: Drawn once; a change here breaks the promise of `seed` between versions.
GOLDEN = [955, 983, 752, 529, 903, 956, 960, 964]


def chi_square(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> tuple[float, int]:
    expected = probabilities * counts.sum()
    likely = expected >= 5
    observed = np.append(counts[likely], counts[~likely].sum())
    wanted = np.append(expected[likely], expected[~likely].sum())
    fits = wanted > 0
    assert observed[~fits].sum() == 0
    return float((((observed - wanted)[fits] ** 2) / wanted[fits]).sum()), int(fits.sum()) - 1


@pytest.mark.parametrize("vocab", [40, 5000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_softmax(vocab: int, temperature: float) -> None:
    logits = some_logits(3, vocab)
    choose = sampler(SamplingParams(temperature=temperature), seed=99)
    counts = np.bincount([choose.sample(logits, position) for position in range(3000)], minlength=vocab)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    statistic, freedom = chi_square(counts, weights / weights.sum())
    # Five standard deviations of the chi-square distribution, by its normal approximation.
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_draws_of_a_truncated_distribution_follow_it_too() -> None:
    logits = some_logits(5, 3000)
    choose = sampler(SamplingParams(top_k=20), seed=7)
    counts = np.bincount([choose.sample(logits, position) for position in range(3000)], minlength=3000)
    weights = np.exp(logits.astype(np.float64))
    weights[np.argsort(-logits)[20:]] = 0
    statistic, freedom = chi_square(counts, weights / weights.sum())
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


@given(st.integers(0, 2**32), st.integers(2, 600), st.data())
def test_a_forbidden_token_never_comes(noise: int, vocab: int, data: st.DataObject) -> None:
    logits = some_logits(noise, vocab)
    allowed = data.draw(st.sets(st.integers(0, vocab - 1), min_size=1, max_size=5))
    logits[[token for token in range(vocab) if token not in allowed]] = -np.inf
    for params in (
        SamplingParams(temperature=2.0), SamplingParams(top_k=100), SamplingParams(top_p=0.99),
        SamplingParams(typical_p=0.9), SamplingParams(min_p=0.01),
    ):
        assert sampler(params, seed=noise).sample(logits, 0) in allowed


@pytest.mark.parametrize("share", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(top_k=500)])
def test_the_ends_of_the_random_range_draw_tokens_that_can_come(
    params: SamplingParams, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.worker.sampler._uniform", lambda key, position: share)
    for noise in range(20):  # sums of float32 round up for some, down for others
        logits = some_logits(noise, 1000)
        logits[:300] = logits[700:] = -np.inf
        assert 300 <= sampler(params).sample(logits, 0) < 700


@given(st.integers(0, 2**32), st.integers(0, 99))
def test_a_bias_of_minus_100_bans_and_of_100_decides(noise: int, token: int) -> None:
    logits = some_logits(noise, 100)
    banned = sampler(SamplingParams(logit_bias={token: -100.0}), seed=noise)
    forced = sampler(SamplingParams(logit_bias={token: 100.0}), seed=noise)
    for position in range(5):
        assert banned.sample(logits, position) != token
        assert forced.sample(logits, position) == token


def test_a_bias_outside_the_vocabulary_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="tokens are 0 to 9") as caught:
        sampler(SamplingParams(logit_bias={10: 1.0}), vocab=10)
    assert caught.value.param == "logit_bias"


@settings(max_examples=60)
@given(
    noise=st.integers(0, 2**32),
    prompt=st.lists(st.integers(0, 49), max_size=200),
    answer=st.lists(st.integers(0, 49), max_size=200),
    repetition=st.floats(0.5, 2), presence=st.floats(-2, 2), frequency=st.floats(-2, 2),
)
def test_penalties_are_those_of_openai_and_ctrl(
    *, noise: int, prompt: list[int], answer: list[int], repetition: float, presence: float, frequency: float
) -> None:
    logits = some_logits(noise, 50)
    choose = sampler(
        SamplingParams(
            temperature=0.0, repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency,
            logit_bias={3: 1.5},
        ),
        prompt=prompt,
    )
    for token in answer:
        choose.accept(token)
    wanted = logits.astype(np.float64)
    wanted[3] += 1.5
    for token in {*prompt, *answer}:
        wanted[token] = wanted[token] / repetition if wanted[token] > 0 else wanted[token] * repetition
    for token in set(answer):
        wanted[token] -= presence + frequency * answer.count(token)
    chosen = choose.sample(logits, 0)
    assert wanted[chosen] == pytest.approx(wanted.max(), abs=1e-4)


@pytest.mark.parametrize("repetition", [5e-324, 1e-45, 1e-38, 1e-3])
def test_a_penalty_near_nothing_leaves_numbers_to_draw_by(repetition: float) -> None:
    """It favours what was said, as a penalty under 1 does, and ends no request."""
    logits = np.array([3.0, 9.0, 0.0, -4.0], np.float32)
    drawn = sampler(SamplingParams(repetition_penalty=repetition, temperature=1.0), prompt=[0, 2, 3]).sample(logits, 0)
    assert drawn == 0


def test_a_model_that_gives_infinity_is_still_found_out_under_a_penalty() -> None:
    logits = np.array([np.inf, 9.0], np.float32)
    with pytest.raises(EngineError):
        sampler(SamplingParams(repetition_penalty=1.5), prompt=[0]).sample(logits, 0)



def test_penalties_move_on_to_other_tokens() -> None:
    choose = sampler(SamplingParams(temperature=0.0, frequency_penalty=1.0))
    logits, drawn = np.array([1.5, 1.0, 0.9], np.float32), []
    for position in range(6):
        drawn.append(choose.sample(logits, position))
        choose.accept(drawn[-1])
    assert drawn == [0, 1, 2, 0, 1, 2]


def test_the_engines_logits_stay_as_they_are() -> None:
    logits = some_logits(8, 400)
    before = logits.copy()
    logits.flags.writeable = False
    sampler(SamplingParams(logit_bias={1: 5.0}, repetition_penalty=1.5, top_p=0.9), prompt=[1, 2]).sample(logits, 0)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [[0, np.nan, 1], [np.inf, 0, 1], [-np.inf, -np.inf, -np.inf]])
def test_broken_logits_are_an_error_and_never_a_token(broken: list[float], temperature: float) -> None:
    with pytest.raises(EngineError, match="greatest logit"):
        sampler(SamplingParams(temperature=temperature)).sample(np.array(broken, np.float32), 0)


@pytest.mark.parametrize("scale", [1e30, 3e38])
def test_huge_logits_do_no_harm(scale: float) -> None:
    logits = np.array([scale, -scale, 0, scale], np.float32)
    assert sampler(SamplingParams(temperature=1e-5 * 2)).sample(logits, 0) in (0, 3)
    assert sampler(SamplingParams(top_p=0.9, typical_p=0.9)).sample(logits, 0) in (0, 3)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_what_is_not_allowed_never_comes_whatever_its_logit_and_bias(temperature: float, top_p: float) -> None:
    logits = np.zeros(600, np.float32)
    logits[7] = 50.0
    before = logits.copy()
    allowed = np.zeros(600, np.bool_)
    allowed[[3, 300, 599]] = True
    params = SamplingParams(temperature=temperature, top_p=top_p, logit_bias={9: 100.0, 3: -100.0, 300: 1.0})
    sampler = Sampler(params, seed=1, choice=0, prompt=[], vocab_size=600)
    drawn = {sampler.sample(logits, position, allowed) for position in range(50)}
    assert drawn <= {300, 599}
    assert (logits == before).all()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_where_all_is_allowed_the_draw_is_the_same(temperature: float) -> None:
    logits = np.random.default_rng(1).normal(size=600).astype(np.float32)
    sampler = Sampler(SamplingParams(temperature=temperature), seed=1, choice=0, prompt=[], vocab_size=600)
    everything = np.ones(600, np.bool_)
    assert [sampler.sample(logits, place, everything) for place in range(20)] == [
        sampler.sample(logits, place) for place in range(20)]


@pytest.mark.parametrize("share", [0.001, 0.5, 0.95])
@pytest.mark.parametrize("said", [{}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.02}, {"temperature": 0.0}])
def test_few_allowed_tokens_and_many_are_drawn_from_alike(share: float, said: dict[str, Any]) -> None:
    """What a mask allows is all that counts: the same tokens with nothing else in the vocabulary are drawn alike."""
    random = np.random.default_rng(3)
    logits = random.normal(0, 3, 5000).astype(np.float32)
    allowed = random.random(5000) < share
    ids = np.flatnonzero(allowed)
    params = SamplingParams(**said)
    masked = Sampler(params, seed=9, choice=0, prompt=[], vocab_size=5000)
    alone = Sampler(params, seed=9, choice=0, prompt=[], vocab_size=len(ids))
    for position in range(50):
        assert masked.sample(logits, position, allowed) == ids[alone.sample(logits[ids], position)]


@pytest.mark.parametrize("vocab", [10, 5000])
def test_a_mask_that_allows_nothing_is_no_draw(vocab: int) -> None:
    sampler = Sampler(SamplingParams(), seed=9, choice=0, prompt=[], vocab_size=vocab)
    with pytest.raises(EngineError, match="no token can be chosen"):
        sampler.sample(np.zeros(vocab, np.float32), 0, np.zeros(vocab, np.bool_))


@pytest.mark.parametrize("params", [
    SamplingParams(temperature=2.0, top_p=0.95), SamplingParams(temperature=1.5, typical_p=0.9),
    SamplingParams(temperature=2.0, top_p=0.9, min_p=1e-4), SamplingParams(temperature=3.0, min_p=1e-3),
    SamplingParams(temperature=2.0, typical_p=0.9, top_p=0.8)])
def test_where_thousands_of_tokens_are_left_the_draw_is_the_one_of_a_plain_implementation(
    params: SamplingParams
) -> None:
    """Not gathered, but drawn from where they stand: the same token for the same seed."""
    logits = some_logits(5, 60_000)
    drawing = sampler(params, seed=11)
    scaled = (logits - logits.max()) * np.float32(1 / (params.temperature or 1.0))
    kept = Truncation.of(params.over(DEFAULT_SAMPLING)).kept(scaled)
    assert len(kept) > WIDE
    sums = np.cumsum(np.exp(scaled[kept].astype(np.float64)))
    for position in range(20):
        share = int(np.random.Philox(key=11, counter=position).random_raw() >> 11) * 2.0**-53
        place = int(np.searchsorted(sums, share * sums[-1], side="right"))
        drawn = int(np.searchsorted(kept, drawing.sample(logits, position)))
        if np.abs(sums - share * sums[-1]).min() > 1e-6 * sums[-1]:
            assert drawn == place
        else:  # float32 sums may fall to either side of the border
            assert abs(drawn - place) <= 1
