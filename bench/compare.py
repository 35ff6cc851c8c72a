"""Statistics of interleaved rounds: pure functions from samples to comparisons.

Both sides are measured in each round, so a round gives one pair and one ratio; a machine that is slower for a minute
slows both halves of the pairs it touches. The ratio that counts is the median of the pairs' ratios, with an interval
that assumes nothing about how the noise is distributed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Literal

from bench.client import BenchError, Burst
from bench.workloads import Workload

#: That an interval encloses the true median ratio, where there are rounds enough.
CONFIDENCE = 0.9

Better = Literal["higher", "lower"]
Verdict = Literal["met", "missed", "open"]


@dataclass(frozen=True)
class Metric:
    """goal: of the ratio subject ÷ peer; at least it where higher is better, at most it where lower is.
    limit: of the subject's own figure, in `unit`, at most it."""

    name: str
    title: str
    unit: str
    better: Better
    goal: float | None = None
    limit: float | None = None


METRICS = (
    Metric("decode", "decode, one stream", "tok/s", "higher", goal=0.97),
    Metric("prefill", "prefill", "tok/s", "higher"),
    Metric("first-token", "time to first token, short chat", "ms", "lower"),
    Metric("streams-1", "total rate, 1 stream", "tok/s", "higher"),
    Metric("streams-4", "total rate, 4 streams", "tok/s", "higher"),
    Metric("streams-8", "total rate, 8 streams", "tok/s", "higher", goal=1.0),
    Metric("streams-16", "total rate, 16 streams", "tok/s", "higher"),
    Metric("memory", "resident memory, model loaded (PSS)", "MiB", "lower"),
    Metric("cold", "start to first answer, model on disk cache", "s", "lower"),
    Metric("idle-ready", "daemon without a model: ready", "s", "lower", goal=1.3),
    Metric("idle-memory", "daemon without a model: RSS", "MiB", "lower", limit=64),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def figure(workload: Workload, bursts: Sequence[Burst]) -> float:
    """The one figure of a workload's bursts, in its metric's unit; the median where it was repeated.

    decode: tokens after the first, per second between first text and end. prefill: prompt tokens that no cache knew,
    per second until the first text. first-token: milliseconds from sending. streams: all generated tokens, per second
    from first send to last end, prefill included.
    """
    return median(_figure(workload, burst) for burst in bursts)


def _figure(workload: Workload, burst: Burst) -> float:
    answers = burst.answers
    first = answers[0]
    match workload.name:
        case "decode":
            return (first.completion_tokens - 1) / (first.last_s - first.first_s)
        case "prefill":
            return (first.prompt_tokens - first.cached_tokens) / (first.first_s - first.sent_s)
        case "first-token":
            return (first.first_s - first.sent_s) * 1000
    tokens = sum(answer.completion_tokens for answer in answers)
    return tokens / (max(answer.last_s for answer in answers) - min(answer.sent_s for answer in answers))


def check_lengths(workload: Workload, burst: Burst) -> list[str]:
    """Why the burst is not what the workload asked for, if it is not: complaints for the report. An answer that is too
    short or long makes figures incomparable: BenchError."""
    complaints = []
    for answer in burst.answers:
        if answer.completion_tokens != workload.answer_tokens:
            raise BenchError(
                f"{workload.name}: {answer.completion_tokens} tokens came instead of {workload.answer_tokens}; "
                "the server must honour max_tokens and logit_bias"
            )
        if workload.endpoint == "completions" and answer.prompt_tokens != workload.prompt_tokens:
            complaints.append(
                f"{workload.name}: the prompt counted {answer.prompt_tokens} tokens instead of "
                f"{workload.prompt_tokens} (a model with another vocabulary?)"
            )
        if answer.cached_tokens > 8:
            complaints.append(f"{workload.name}: {answer.cached_tokens} prompt tokens came from a cache")
        if answer.events < 0.9 * answer.completion_tokens:
            complaints.append(
                f"{workload.name}: {answer.events} events for {answer.completion_tokens} tokens: rates between events "
                "are less exact"
            )
    return sorted(set(complaints))


@dataclass(frozen=True)
class Comparison:
    """ratio: median over the rounds of subject ÷ peer. low and high enclose the true median ratio with at least
    `confidence`, or are the extremes, with the confidence that these have, where there are too few rounds for it."""

    metric: Metric
    subject: float
    peer: float
    ratio: float
    low: float
    high: float
    confidence: float
    rounds: int

    @property
    def verdict(self) -> Verdict | None:
        """Of a ratio's goal met or missed only where the whole interval says so, and there are rounds enough for it."""
        goal, limit = self.metric.goal, self.metric.limit
        if limit is not None:
            return "met" if self.subject <= limit else "missed"
        if goal is None:
            return None
        if self.confidence < CONFIDENCE:
            return "open"
        low, high = (self.low, self.high) if self.metric.better == "higher" else (-self.high, -self.low)
        goal = goal if self.metric.better == "higher" else -goal
        if low >= goal:
            return "met"
        return "missed" if high < goal else "open"


def compare(metric: Metric, subject: Sequence[float], peer: Sequence[float]) -> Comparison:
    """Both in the order of rounds; round i of one side belongs to round i of the other."""
    ratios = [mine / theirs for mine, theirs in zip(subject, peer, strict=True)]
    low, high, confidence = median_interval(ratios)
    return Comparison(metric, median(subject), median(peer), median(ratios), low, high, confidence, len(ratios))


def median_interval(values: Sequence[float], wanted: float = CONFIDENCE) -> tuple[float, float, float]:
    """The narrowest pair of order statistics that encloses the population's median with at least `wanted` confidence,
    and that confidence (the sign test's interval: David & Nagaraja, Order Statistics, 3rd ed., 7.1). The extremes of
    four values reach 0.875, of five 0.9375."""
    if not values:
        raise ValueError("no values")
    ranked = sorted(values)
    count = len(ranked)
    best = 0
    for rank in range(1, (count + 1) // 2):
        if _coverage(count, rank) < wanted:
            break
        best = rank
    return ranked[best], ranked[-1 - best], _coverage(count, best)


def _coverage(count: int, rank: int) -> float:
    """Probability that the median lies between the rank-th smallest and largest of `count`; ranks count from 0."""
    outside = sum(comb(count, below) for below in range(rank + 1))
    return max(0.0, 1 - outside / float(2 ** (count - 1)))
