"""What the figures say of a row: pure functions of a record."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal

from bench.compare import median_interval
from bench.proof.forms import COMMON, SAME, Form
from bench.proof.record import Record
from bench.proof.rows import Row
from bench.proof.sides import TITLES

Verdict = Literal["met", "missed", "failed", ""]


@dataclass(frozen=True)
class Judgement:
    """subject, peer: medians of their figures. value: what the goal is about, the median of the rounds' ratios or the
    subject's own figure; low and high enclose its true median, or are the extremes of too few rounds. sure: they lie on
    one side of the goal. reason: why there is no value, or what weakens it."""

    row: Row
    verdict: Verdict
    subject: float | None = None
    best: str | None = None
    peer: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    sure: bool = True
    reason: str = ""


def judge(record: Record, row: Row) -> Judgement:
    mine = series(record, row, row.subject)
    if not mine:
        return Judgement(row, "failed" if row.goal is not None else "", reason=_why_none(record, row, row.subject))
    peers = {peer: found for peer in row.peers if (found := series(record, row, peer))}
    pick = max if row.better == "higher" else min
    best = pick(peers, key=lambda peer: median(peers[peer].values())) if peers else None
    theirs = peers[best] if best is not None else {}
    if row.of == "figure":
        values = list(mine.values())
    else:
        values = [mine[turn] / theirs[turn] for turn in sorted(mine.keys() & theirs.keys()) if theirs[turn]]
    if not values:
        return Judgement(row, "failed" if row.goal is not None else "", subject=median(mine.values()),
                         reason="; ".join(_why_none(record, row, peer) for peer in row.peers))
    low, high, _ = median_interval(values)
    value = median(values)
    return Judgement(
        row, _verdict(row, value), subject=median(mine.values()), best=best,
        peer=median(theirs.values()) if theirs else None, value=value, low=low, high=high, rounds=len(values),
        sure=_verdict(row, low) == _verdict(row, high),
        reason="; ".join(_why_none(record, row, peer) for peer in row.peers if peer not in peers))


def _verdict(row: Row, value: float) -> Verdict:
    if row.goal is None:
        return ""
    return "met" if (value >= row.goal if row.better == "higher" else value <= row.goal) else "missed"


def series(record: Record, row: Row, side: str) -> dict[int, float]:
    """A side's figure by round."""
    scene = record.scenes.get(row.scene)
    if scene is None:
        return {}
    if row.figure != "roofline":
        return scene.series(side, row.figure)
    moved, most = form_of(record, side), bandwidth(record)
    if moved is None or most is None:
        return {}
    return {turn: rate * moved.bytes_of_token / most for turn, rate in scene.series(side, "decode").items()}


def bandwidth(record: Record) -> float | None:
    """Bytes a second, None where it was not measured: the most of all rounds, since none can be faster than it is."""
    scene = record.scenes.get("bandwidth")
    found = scene.series("machine", "gb-s").values() if scene else ()
    return max(found) * 1e9 if found else None


def form_of(record: Record, side: str) -> Form | None:
    """What a side serves."""
    for form in record.forms:
        if form.own_choice if side == "edged" else form.recipe == (COMMON if side == "llama-k_m" else SAME):
            return form
    return None


def _why_none(record: Record, row: Row, side: str) -> str:
    scene = record.scenes.get(row.scene)
    if scene is None:
        return f"{row.scene} was not run"
    return f"{TITLES[side]}: {scene.failed.get(side, 'not measured')}"
