"""What an evaluation says: figures of each subject, and differences between subjects on the same items."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from training.evaluate.subject import About
from training.recipe import Metric

#: kept: the interval says that no more is lost than the tolerance. lost: more is lost, as far as the items tell.
#: unsure: the items are too few to say, though what was lost lies within the tolerance. gained: the interval lies above
#: zero.
Verdict = Literal["gained", "kept", "unsure", "lost"]


class Figure(Struct, frozen=True, kw_only=True):
    """value: on the metric's scale, None where there is nothing; low, high: the 95 % interval; items: it is of."""

    value: float | None
    low: float | None
    high: float | None
    items: int


class Spread(Struct, frozen=True, kw_only=True):
    """Over rounds: the median, and the first and the last tenth."""

    median: float
    low: float
    high: float


class Speed(Struct, frozen=True, kw_only=True):
    """Of one request at a time, turn about with the other subjects. first_token_s: from the request to the first piece
    of the answer; answer_s: to its end; tokens_per_s: after the first one; answer_tokens: how long the answers were."""

    rounds: int
    first_token_s: Spread
    answer_s: Spread
    tokens_per_s: Spread | None
    answer_tokens: Spread


class Memory(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """weights_bytes: as stored; kv_bytes_per_token: keys and values of one token of one sequence. resident_bytes: of
    the process that computes, after it answered; runtime_bytes: of the same process before it loaded the model."""

    weights_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    resident_bytes: int | None = None
    runtime_bytes: int | None = None


class Result(Struct, frozen=True, kw_only=True):
    """figures: by metric. strata: figures by stratum. failed: items that got no answer; unfinished: answers that were
    cut off at max_tokens; both count as what they are. together_tokens_per_s: of a served model, asked for several
    answers at once. notes: what could not be measured, and why."""

    subject: About
    items: int
    failed: int
    unfinished: int
    figures: dict[str, Figure]
    strata: dict[str, dict[str, Figure]]
    speed: Speed | None = None
    memory: Memory | None = None
    together_tokens_per_s: float | None = None
    notes: tuple[str, ...] = ()


class Difference(Struct, frozen=True, kw_only=True):
    """points: what `after` is better by than `before` (`MetricKind.points`), with its 95 % interval by the paired
    bootstrap. better, worse: items whose own score rose or fell."""

    points: float | None
    low: float | None
    high: float | None
    better: int
    worse: int
    verdict: Verdict | None


class Ratio(Struct, frozen=True, kw_only=True):
    """after / before, the median over rounds, with its 95 % interval."""

    median: float
    low: float
    high: float


class Comparison(Struct, frozen=True, kw_only=True):
    """Of two subjects by name. differences: by metric. answer_time, first_token_time: of what the same prompts took."""

    before: str
    after: str
    differences: dict[str, Difference]
    answer_time: Ratio | None = None
    first_token_time: Ratio | None = None


class Evaluated(Struct, frozen=True, kw_only=True):
    """What stage `evaluate` leaves. comparisons: of every two subjects in order. report: relative to the run.
    turn_about: False where times were measured one subject after the other."""

    primary: Metric
    metrics: tuple[Metric, ...]
    labels: tuple[str, ...]
    split: Literal["test", "validation"]
    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]
    report: str
    turn_about: bool = True

    def comparison(self, before: str, after: str) -> Comparison | None:
        return next((one for one in self.comparisons if (one.before, one.after) == (before, after)), None)
