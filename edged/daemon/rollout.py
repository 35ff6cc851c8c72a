"""Is a candidate version worse than the active one? Pure decisions over the latest requests of both.

Both tests are exact for few requests and assume no distribution. Errors: Fisher's test on the two counts. Times: bounds
of a quantile from order statistics (David and Nagaraja, Order Statistics, 7.1); the candidate is slower where even the
lower bound of its quantile is over the limit times the upper bound of the active version's. `CHANCE` is small because
it is asked again after every request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from msgspec import Struct

#: Of being called worse by chance, in one look.
CHANCE = 0.001
LEAST_ERRORS = 3
#: Requests that come together share the machine's bad moments: a few of them are not so many witnesses.
LEAST_TIMES = 20
#: After so many requests without a sign that it is worse, it is called no worse.
ENOUGH = 50
#: Quantile, and the ratio of times that is too slow.
SLOWER = ((0.5, 1.5), (0.9, 2.0))
#: Differences below this are nobody's concern: a first token, a later one.
LEAST_FIRST_TOKEN_S = 0.02
LEAST_TOKEN_S = 0.002


class Sample(Struct, frozen=True):
    """One request that ended. first_token_s: from its acceptance, None where it waited for a load or had no token;
    token_s: mean time between two tokens, None for fewer than two."""

    failed: bool
    first_token_s: float | None = None
    token_s: float | None = None


class Verdict(StrEnum):
    TRYING = "trying"
    NO_WORSE = "no worse"
    WORSE = "worse"


class Judgement(Struct, frozen=True):
    """words: why, with the figures."""

    verdict: Verdict
    words: str


class Spread:
    """Which of the requests go to the candidate: after n of them, exactly the whole part of n times the share did, one
    by one as evenly as can be."""

    def __init__(self, share: float) -> None:
        self._share = Fraction(repr(share))
        self._count = 0

    def take(self) -> bool:
        before = math.floor(self._count * self._share)
        self._count += 1
        return math.floor(self._count * self._share) > before


def judge(active: Sequence[Sample], candidate: Sequence[Sample]) -> Judgement:
    """Of the latest requests of each."""
    words = _more_errors(active, candidate) or _slower(
        "first token", LEAST_FIRST_TOKEN_S, first_tokens(active), first_tokens(candidate),
    ) or _slower("later token", LEAST_TOKEN_S, later_tokens(active), later_tokens(candidate))
    if words:
        return Judgement(Verdict.WORSE, words)
    if not active:
        return Judgement(Verdict.TRYING, "no request went to the active version yet, so there is nothing to compare "
                                         "with")
    if min(len(candidate), len(active)) < ENOUGH:
        return Judgement(Verdict.TRYING, f"{len(candidate)} requests of the candidate and {len(active)} of the active "
                                         f"version are too few to call it no worse ({ENOUGH} each)")
    return Judgement(Verdict.NO_WORSE, f"no worse in errors and times in its last {len(candidate)} requests")


def first_tokens(samples: Iterable[Sample]) -> list[float]:
    return sorted(each.first_token_s for each in samples if each.first_token_s is not None)


def later_tokens(samples: Iterable[Sample]) -> list[float]:
    return sorted(each.token_s for each in samples if each.token_s is not None)


def quantile(ordered: Sequence[float], q: float) -> float | None:
    """The least value that a share of q does not exceed."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else None


def chance_of_more_errors(errors: int, count: int, other_errors: int, other_count: int) -> float:
    """The chance that of all errors so many or more fall on these `count` requests, if none were likelier to fail
    (Fisher's exact test, one-sided)."""
    all_errors, total = errors + other_errors, count + other_count
    ways = sum(math.comb(all_errors, k) * math.comb(total - all_errors, count - k)
               for k in range(errors, min(all_errors, count) + 1))
    return ways / math.comb(total, count)


def lower_bound(ordered: Sequence[float], q: float) -> float | None:
    """A value that the true quantile is under with a chance of `CHANCE` at most; None where there are too few."""
    rank = _rank(len(ordered), q)
    return ordered[rank - 1] if rank else None


def upper_bound(ordered: Sequence[float], q: float) -> float | None:
    """A value that the true quantile is over with a chance of `CHANCE` at most; None where there are too few."""
    rank = _rank(len(ordered), 1 - q)
    return ordered[-rank] if rank else None


@lru_cache(maxsize=2048)
def _rank(count: int, q: float) -> int:
    """The highest rank, from 1, whose value is over the true quantile with a chance of `CHANCE` at most; 0: none. It is
    over where fewer than so many of the values lie below the quantile."""
    rank, cumulated = 0, 0.0
    while rank < count:
        cumulated += math.comb(count, rank) * q**rank * (1 - q) ** (count - rank)
        if cumulated > CHANCE:
            break
        rank += 1
    return rank


def _more_errors(active: Sequence[Sample], candidate: Sequence[Sample]) -> str | None:
    errors, others = sum(each.failed for each in candidate), sum(each.failed for each in active)
    if errors < LEAST_ERRORS:
        return None
    chance = chance_of_more_errors(errors, len(candidate), others, len(active))
    if chance > CHANCE:
        return None
    return (f"{errors} of its last {len(candidate)} requests failed, of the active version's {others} of {len(active)} "
            f"(by chance: {chance:.1g})")


def _slower(what: str, least_s: float, active: Sequence[float], candidate: Sequence[float]) -> str | None:
    if len(candidate) < LEAST_TIMES:
        return None
    for q, limit in SLOWER:
        low, high = lower_bound(candidate, q), upper_bound(active, q)
        if low is not None and high is not None and low > limit * high and low - high > least_s:
            ours, theirs = quantile(candidate, q), quantile(active, q)
            return (f"its {what} takes {_ms(ours)} at the {q:.0%} quantile, the active version's {_ms(theirs)} (over "
                    f"{limit:g} times as long, whatever chance did)")
    return None


def _ms(seconds: float | None) -> str:
    return f"{(seconds or 0.0) * 1000:.3g} ms"
