"""How likely the tokens of a draft are what comes, and what computing them takes: both as measured, both pure.

A draft is worth its length by the tokens a second that it gives (Leviathan et al. 2023, "Fast Inference from
Transformers via Speculative Decoding", section 3.5, with measured figures instead of a model's), to all rows together
by the harmonic mean of their rates: who drafts must not hold up the others. By the sum one stream ended early and
seven late, and eight together took longer than without (bench/LOG.md).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

#: Tokens of a draft at most.
LONGEST_DRAFT = 16
#: Kinds of drafts: of a model, or of a match of so many tokens or more. What one is taken for before it was seen.
MODEL = 0
_BEFORE = {MODEL: 0.7, 2: 0.4, 3: 0.5, 4: 0.65, 8: 0.8, 16: 0.9}
#: Lengths of drafts on engines that plan their memory anew for each new shape of a step, which the first one pays.
SHAPES = frozenset({1, 3, 7, 15})

#: Weight of the newest outcome, for one sequence and for all of the model.
_NEWEST, _NEWEST_OF_ALL = 0.2, 0.04
#: The part of a weight that outcomes have for greater depths than they were seen at.
DEEPER = 0.5


def kind_of(match: int) -> int:
    """match: how many tokens were the same."""
    return max(kind for kind in _BEFORE if kind <= match)


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
        else:
            # Of what lies deeper nothing was seen, but where all was right it is likelier to be.
            for depth in range(accepted, LONGEST_DRAFT):
                chances[depth] += DEEPER * weight * (1 - chances[depth])


class Curve:
    """Seconds by count of tokens: a moving average at each count that was seen lately, straight lines between them, and
    after the last one the rate at which prompts are read."""

    #: Weight of the newest, of one that took longer than the mean and of one that took less: what holds a step up is
    #: the system, or the first run of a shape, and nothing makes one faster than it is. Twice the mean at most counts.
    SLOWER, FASTER, OUTLIER = 0.25, 0.5, 2.0
    #: Steps after which a count that was not seen again is forgotten: its neighbours know better what it takes now.
    FORGET = 256
    #: More tokens than that are a prompt's.
    MOST = 192

    def __init__(self, tokens_per_s: float) -> None:
        self._slope = 1 / tokens_per_s
        self._counts: list[int] = []
        self._seconds: dict[int, float] = {}
        self._seen: dict[int, int] = {}
        self._steps = 0

    @property
    def known(self) -> bool:
        return bool(self._counts)

    def observe(self, count: int, seconds: float, one_s: float | None = None) -> None:
        """one_s: see `seconds`."""
        if count > self.MOST:
            return
        below_all = not self._counts or count < self._counts[0]
        before = seconds if below_all and one_s is None else self.seconds(count, one_s)
        if count not in self._seconds:
            insort(self._counts, count)
        weight = self.FASTER if seconds < before else self.SLOWER
        self._seconds[count] = before + weight * (min(seconds, self.OUTLIER * before) - before)
        self._steps += 1
        self._seen[count] = self._steps
        self._forget()

    def _forget(self) -> None:
        """The least count stays: there is nothing below it to tell what it takes."""
        old = [count for count in self._counts[1:] if self._seen[count] < self._steps - self.FORGET]
        for count in old:
            self._counts.remove(count)
            del self._seconds[count], self._seen[count]

    def seconds(self, count: int, one_s: float | None = None) -> float:
        """one_s: of one token, where that is known from elsewhere; without it something must be `known`."""
        if count in self._seconds:
            return self._seconds[count]
        counts, seconds = self._counts, self._seconds
        place = bisect_left(counts, count)
        if place == 0 and one_s is None:
            return seconds[counts[0]]
        below, below_s = (1, one_s) if place == 0 and one_s is not None else (
            counts[place - 1], seconds[counts[place - 1]])
        if place == len(counts):
            return below_s + (count - below) * self._slope
        above = counts[place]
        return below_s + (count - below) / (above - below) * (seconds[above] - below_s)


class StepCosts:
    """What a tick takes. On engines whose steps mix rows of one token and of many, one step of all tokens; on others a
    step of the rows of one token, and for each row of many a step of its own."""

    def __init__(self, tokens_per_s: float, *, mixed_step: bool) -> None:
        self.mixed_step = mixed_step
        self._steps = Curve(tokens_per_s)
        self._pieces = self._steps if mixed_step else Curve(tokens_per_s)
        self._decoded = False

    @property
    def known(self) -> bool:
        """A step of rows of one token was seen, by which all others are judged."""
        return self._decoded

    def observe(self, rows: int, tokens: int, seconds: float) -> None:
        """A step of `tokens` in `rows`."""
        self._decoded = self._decoded or tokens == rows
        if self.mixed_step or tokens == rows:
            self._steps.observe(tokens, seconds)
        else:
            self._pieces.observe(tokens, seconds, self._steps.seconds(1) if self._steps.known else None)

    def tick_s(self, rows: int, drafts: Sequence[int]) -> float:
        """rows: that answer, of which len(drafts) verify a draft of such a length."""
        if self.mixed_step:
            return self._steps.seconds(rows + sum(drafts))
        plain, one_s = rows - len(drafts), self._steps.seconds(1)
        pieces_s = sum(self._pieces.seconds(1 + draft, one_s) for draft in drafts)
        return pieces_s + (self._steps.seconds(plain) if plain else 0.0)



#: A smaller gain is within what the figures are off, the more so as the best of many is taken.
LEAST_GAIN = 1.1
#: Tokens of all drafts of a tick at most.
MOST_DRAFTED = 64


def best_lengths(
    rows: int, survivals: Sequence[Sequence[float]], costs: StepCosts, *, token_s: Sequence[float],
) -> list[int]:
    """How many tokens of each draft to verify in this tick, so that all rows have the most tokens a second, see
    `fair_rate`.

    rows: that answer. survivals: of the drafts that there are, one for a row, see `Acceptance.survival`. token_s: what
    it takes to draft one token of each. Counts along a whole path are weighed, since a second token can cost much and
    the next seven little.
    """
    best = [0] * len(survivals)
    best_rate = LEAST_GAIN * fair_rate([1.0] * rows, costs.tick_s(rows, []))
    others = [1.0] * (rows - len(survivals))
    for path in _paths(survivals, costs.mixed_step):
        lengths = list(best)
        for draft in path[:MOST_DRAFTED]:
            lengths[draft] += 1
            if not costs.mixed_step and lengths[draft] not in SHAPES:
                continue
            gained = [1 + sum(chances[:length]) for chances, length in zip(survivals, lengths, strict=True)]
            drafting_s = sum(each_s * length for each_s, length in zip(token_s, lengths, strict=True))
            took_s = drafting_s + costs.tick_s(rows, [length for length in lengths if length])
            if (rate := fair_rate([*gained, *others], took_s)) > best_rate:
                best, best_rate = list(lengths), rate
    return best


def fair_rate(tokens: Sequence[float], seconds: float) -> float:
    """Harmonic mean of the rates of rows that got so many tokens each in one tick."""
    return len(tokens) / (seconds * sum(1 / each for each in tokens))


def _paths(survivals: Sequence[Sequence[float]], mixed_step: bool) -> list[list[int]]:
    """Which draft gets a token more, from step to step. Where all share one step, the likeliest token of all; where
    each has a step of its own, one draft after another, the most promising first."""
    if mixed_step:
        every = [(chance, draft) for draft, chances in enumerate(survivals) for chance in chances]
        return [[draft for _, draft in sorted(every, reverse=True)]]
    drafts = sorted(range(len(survivals)), key=lambda draft: -sum(survivals[draft]))
    return [[draft] * len(survivals[draft]) for draft in drafts]
