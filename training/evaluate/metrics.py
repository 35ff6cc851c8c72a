"""Metrics, each as a function of sums over items.

`statistics` gives a row of numbers for every item; `figure` makes the metric of the sum of rows. So the figure of all
items, of a stratum, of one item and of a bootstrap's resample are computed alike. A row of zeros is an item that the
metric has nothing to say of (no grade, an expected answer that is no JSON). An item without an answer counts as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.evaluate.bootstrap import Floats
from training.evaluate.items import Item
from training.evaluate.meaning import NoJson, is_structured, label_of, same, text_of, value_of, words
from training.recipe import Metric

#: e to more than this is no float64.
_LARGEST_EXPONENT = 700.0
_WORD = re.compile(r"\w+")
_BLEU_ORDER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricKind:
    """statistics: of items, [items, columns], given the classes. figure: of sums [..., columns], on the metric's scale;
    NaN where there is nothing. points: what the second figure is better by than the first: of a share its percentage
    points, of perplexity the per cent by which it fell, of grades a hundredth of the way from 1 to 5."""

    name: str
    title: str
    unit: Literal["%", ""] = "%"
    better: Literal["more", "less"] = "more"
    statistics: Callable[[Sequence[Item], tuple[str, ...]], Floats]
    figure: Callable[[Floats], Floats]
    points: Callable[[Floats, Floats], Floats] = lambda before, after: after - before
    known: Callable[[Item], bool] = lambda item: True


def kinds(names: Sequence[Metric]) -> list[MetricKind]:
    """Those that are told where these are asked for, in order: some have a companion."""
    return [kind for name in names for kind in METRICS[name]]


def one_by_one(kind: MetricKind, statistics: Floats) -> list[float | None]:
    """The figure of each item alone."""
    return [None if np.isnan(figure) else float(figure) for figure in kind.figure(statistics)]


def _share(right: Callable[[Item], bool | None]) -> Callable[[Sequence[Item], tuple[str, ...]], Floats]:
    """right: None where the metric has nothing to say."""
    def statistics(items: Sequence[Item], labels: tuple[str, ...]) -> Floats:
        found = [right(item) for item in items]
        return np.array([[float(bool(one)), float(one is not None)] for one in found]).reshape(-1, 2)

    return statistics


def _mean(scale: float) -> Callable[[Floats], Floats]:
    def figure(sums: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(scale * sums[..., 0] / sums[..., 1])

    return figure


def _exact(item: Item) -> bool:
    return item.said is not None and words(text_of(item.said)) == words(text_of(item.expected))


def _right_label(item: Item) -> bool:
    return item.said is not None and label_of(text_of(item.said)) == label_of(text_of(item.expected))


def _json_valid(item: Item) -> bool | None:
    if not is_structured(item.expected):
        return None
    return item.said is not None and is_structured(item.said)


def _json_match(item: Item) -> bool | None:
    if not is_structured(item.expected):
        return None
    try:
        return item.said is not None and same(value_of(item.said), value_of(item.expected))
    except NoJson:
        return False


def _classes(items: Sequence[Item], labels: tuple[str, ...]) -> Floats:
    """For each class: true positives, false positives, false negatives. An answer that is no class is the false
    negative of the right one, and nobody's false positive."""
    numbers = {label_of(label): at for at, label in enumerate(labels)}
    found = np.zeros((len(items), 3 * len(labels)))
    for row, item in zip(found, items, strict=True):
        right = numbers.get(label_of(text_of(item.expected)))
        said = None if item.said is None else numbers.get(label_of(text_of(item.said)))
        if right is not None and right == said:
            row[3 * right] += 1
            continue
        if said is not None:
            row[3 * said + 1] += 1
        if right is not None:
            row[3 * right + 2] += 1
    return found


def _f1_by_class(sums: Floats) -> Floats:
    """[..., classes]; NaN of a class that neither was right nor was said."""
    right, too_many, too_few = (sums[..., column::3] for column in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(200 * right / (2 * right + too_many + too_few))


def _macro_f1(sums: Floats) -> Floats:
    by_class = _f1_by_class(sums)
    known = ~np.isnan(by_class)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(known, by_class, 0).sum(-1) / known.sum(-1))


def _micro_f1(sums: Floats) -> Floats:
    return _f1_by_class(np.stack([sums[..., column::3].sum(-1) for column in range(3)], axis=-1))[..., 0]


def _bleu(items: Sequence[Item], labels: tuple[str, ...]) -> Floats:
    """Counts of n-grams that are right, of n-grams said, and both lengths in words, for sacrebleu to go on with."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    found = []
    for item in items:
        score = metric.corpus_score(["" if item.said is None else text_of(item.said)], [[text_of(item.expected)]])
        found.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(found, dtype=np.float64).reshape(-1, 2 * _BLEU_ORDER + 2)


def _bleu_figure(sums: Floats) -> Floats:
    from sacrebleu.metrics.bleu import BLEU

    def one(row: Floats) -> float:
        said, expected = row[-2:]
        if not expected:
            return float("nan")
        return float(BLEU.compute_bleu(
            [int(count) for count in row[:_BLEU_ORDER]], [int(count) for count in row[_BLEU_ORDER:-2]], int(said),
            int(expected), smooth_method="exp").score)

    return np.asarray([one(row) for row in sums.reshape(-1, sums.shape[-1])]).reshape(sums.shape[:-1])


class _Words:
    """For rouge-score, whose own tokenizer knows no letters but a to z."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.casefold())


def _rouge(kind: str) -> Callable[[Sequence[Item], tuple[str, ...]], Floats]:
    def statistics(items: Sequence[Item], labels: tuple[str, ...]) -> Floats:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], tokenizer=_Words())
        return np.array([
            [0.0 if item.said is None else
             scorer.score(text_of(item.expected), text_of(item.said))[kind].fmeasure, 1.0]
            for item in items]).reshape(-1, 2)

    return statistics


def _losses(items: Sequence[Item], labels: tuple[str, ...]) -> Floats:
    return np.array([
        [0.0, 0.0] if item.nats is None else [item.nats, float(item.nats_tokens)] for item in items]).reshape(-1, 2)


def _perplexity(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.exp(np.minimum(sums[..., 0] / sums[..., 1], _LARGEST_EXPONENT)))


def _grades(items: Sequence[Item], labels: tuple[str, ...]) -> Floats:
    return np.array([
        [0.0, 0.0] if item.grade is None else [float(item.grade), 1.0] for item in items]).reshape(-1, 2)


METRICS: dict[Metric, tuple[MetricKind, ...]] = {
    "json_match": (MetricKind(
        name="json_match", title="the right JSON value", statistics=_share(_json_match), figure=_mean(100)),),
    "json_valid": (MetricKind(
        name="json_valid", title="valid JSON", statistics=_share(_json_valid), figure=_mean(100)),),
    "exact_match": (MetricKind(
        name="exact_match", title="exact match", statistics=_share(_exact), figure=_mean(100)),),
    "accuracy": (MetricKind(
        name="accuracy", title="accuracy", statistics=_share(_right_label), figure=_mean(100)),),
    "f1": (
        MetricKind(name="f1", title="F1, macro", statistics=_classes, figure=_macro_f1),
        MetricKind(name="f1_micro", title="F1, micro", statistics=_classes, figure=_micro_f1)),
    "bleu": (MetricKind(name="bleu", title="BLEU", unit="", statistics=_bleu, figure=_bleu_figure),),
    "rouge": (
        MetricKind(name="rouge", title="ROUGE-L", statistics=_rouge("rougeL"), figure=_mean(100)),
        MetricKind(name="rouge1", title="ROUGE-1", statistics=_rouge("rouge1"), figure=_mean(100))),
    "judge": (MetricKind(
        name="judge", title="grade of the judge, 1 to 5", unit="", statistics=_grades, figure=_mean(1),
        points=lambda before, after: 25 * (after - before), known=lambda item: item.grade is not None),),
    "perplexity": (MetricKind(
        name="perplexity", title="perplexity of the answers", unit="", better="less", statistics=_losses,
        figure=_perplexity, points=lambda before, after: 100 * (1 - after / before),
        known=lambda item: item.nats is not None),),
}
