"""How likely the tokens of a draft are what comes, and what computing them takes: both as measured, both pure.

A draft is worth its length by the tokens a second that it gives all rows together (Leviathan et al. 2023, "Fast
Inference from Transformers via Speculative Decoding", section 3.5, with measured figures instead of a model's).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

#: Tokens of a draft at most.
LONGEST_DRAFT = 16
#: Where a draft comes from: a model, or a match of so many tokens. What one is taken to be worth before it was seen.
MODEL = 0
_BEFORE = {MODEL: 0.7, 2: 0.4, 3: 0.55, 4: 0.7}

#: Weight of the newest outcome, for one sequence and for all of the model.
_NEWEST, _NEWEST_OF_ALL = 0.2, 0.04


class Acceptance:
    """For each kind of draft and each depth: the chance that the token is what comes, given that all before it were.

    prior: that of the model, from which a sequence starts, and which learns from all of them.
    """

    def __init__(self, prior: Acceptance | None = None) -> None:
        self._prior = prior
        self._chances: dict[int, list[float]] = {
            kind: list(prior._chances[kind]) if prior else [chance] * LONGEST_DRAFT for kind, chance in _BEFORE.items()}

    def survival(self, kind: int, count: int) -> list[float]:
        """For each of the first `count` tokens of a draft the chance that it is accepted."""
        found, chance = [], 1.0
        for one in self._chances[kind][:count]:
            chance *= one
            found.append(chance)
        return found

    def observe(self, kind: int, accepted: int, *, refused: bool) -> None:
        """The first `accepted` tokens of a draft were what came. refused: and the next one was not."""
        self._learn(kind, accepted, refused, _NEWEST)
        if self._prior is not None:
            self._prior._learn(kind, accepted, refused, _NEWEST_OF_ALL)

    def _learn(self, kind: int, accepted: int, refused: bool, weight: float) -> None:
        chances = self._chances[kind]
        for depth in range(accepted):
            chances[depth] += weight * (1 - chances[depth])
        if refused:
            chances[accepted] -= weight * chances[accepted]


class Curve:
    """Seconds by count of tokens: a moving average at each count that was seen, straight lines between them, and after
    the last one the rate at which prompts are read."""

    #: Weight of the newest. One step that the system held up counts as twice the mean at most.
    NEWEST, OUTLIER = 0.25, 2.0
    #: More tokens than that are a prompt's.
    MOST = 192

    def __init__(self, tokens_per_s: float) -> None:
        self.slope = 1 / tokens_per_s
        self._counts: list[int] = []
        self._seconds: dict[int, float] = {}

    @property
    def known(self) -> bool:
        return bool(self._counts)

    def observe(self, count: int, seconds: float) -> None:
        """The first run of a shape is slow on some engines, so a new count starts at what its neighbours say."""
        if count > self.MOST:
            return
        before = self.seconds(count) if self._counts else seconds
        if count not in self._seconds:
            insort(self._counts, count)
        self._seconds[count] = before + self.NEWEST * (min(seconds, self.OUTLIER * before) - before)

    def seconds(self, count: int) -> float:
        """Only where something is `known`."""
        if count in self._seconds:
            return self._seconds[count]
        counts, seconds = self._counts, self._seconds
        place = bisect_left(counts, count)
        if place == 0:
            return seconds[counts[0]]
        below = counts[place - 1]
        if place == len(counts):
            return seconds[below] + (count - below) * self.slope
        above = counts[place]
        share = (count - below) / (above - below)
        return seconds[below] + share * (seconds[above] - seconds[below])


class StepCosts:
    """What a tick takes. On engines whose steps mix rows of one token and of many, one step of all tokens; on others a
    step of the rows of one token, and for each row of many a step of its own."""

    def __init__(self, tokens_per_s: float, *, mixed_step: bool) -> None:
        self.mixed_step = mixed_step
        self._steps = Curve(tokens_per_s)
        self._pieces = self._steps if mixed_step else Curve(tokens_per_s)

    @property
    def known(self) -> bool:
        return self._steps.known

    def observe(self, rows: int, tokens: int, seconds: float) -> None:
        """A step of `tokens` in `rows`."""
        (self._steps if self.mixed_step or tokens == rows else self._pieces).observe(tokens, seconds)

    def tick_s(self, rows: int, drafts: Sequence[int]) -> float:
        """rows: that answer, of which len(drafts) verify a draft of such a length."""
        if self.mixed_step:
            return self._steps.seconds(rows + sum(drafts))
        plain = rows - len(drafts)
        return (self._steps.seconds(plain) if plain else 0.0) + sum(self._piece_s(1 + draft) for draft in drafts)

    def _piece_s(self, tokens: int) -> float:
        """Of which none was seen: as long as one row of one token, and the rest at the rate of prompts."""
        if self._pieces.known:
            return max(self._pieces.seconds(tokens), self._steps.seconds(1))
        return self._steps.seconds(1) + (tokens - 1) * self._steps.slope


#: A smaller gain is within what the figures are off.
LEAST_GAIN = 1.03
#: Tokens of all drafts of a tick at most.
MOST_DRAFTED = 64


def best_lengths(
    rows: int, survivals: Sequence[Sequence[float]], costs: StepCosts, *, token_s: Sequence[float],
) -> list[int]:
    """How many tokens of each draft to verify in this tick, so that all rows together have the most tokens a second.

    rows: that answer. survivals: of the drafts that there are, one for a row, see `Acceptance.survival`. token_s: what
    it takes to draft one token of each. Every count along a path is weighed, since a second token can cost much and the
    next seven little.
    """
    best = [0] * len(survivals)
    best_rate = LEAST_GAIN * rows / costs.tick_s(rows, [])
    for path in _paths(survivals, costs.mixed_step):
        lengths = list(best)
        for draft in path[:MOST_DRAFTED]:
            lengths[draft] += 1
            gained = sum(sum(chances[:length]) for chances, length in zip(survivals, lengths, strict=True))
            drafting_s = sum(each_s * length for each_s, length in zip(token_s, lengths, strict=True))
            took_s = drafting_s + costs.tick_s(rows, [length for length in lengths if length])
            if (rate := (rows + gained) / took_s) > best_rate:
                best, best_rate = list(lengths), rate
    return best


def _paths(survivals: Sequence[Sequence[float]], mixed_step: bool) -> list[list[int]]:
    """Which draft gets a token more, from step to step. Where all share one step, the likeliest token of all; where
    each has a step of its own, one draft after another, the most promising first."""
    if mixed_step:
        every = [(chance, draft) for draft, chances in enumerate(survivals) for chance in chances]
        return [[draft for _, draft in sorted(every, reverse=True)]]
    drafts = sorted(range(len(survivals)), key=lambda draft: -sum(survivals[draft]))
    return [[draft] * len(survivals[draft]) for draft in drafts]
