"""Which metrics fit what the answers are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edged.errors import InvalidRequest
from training.evaluate.meaning import is_structured, label_of, text_of
from training.examples import Example
from training.recipe import Evaluate, Metric

#: More classes than these are texts rather than classes, where the recipe names none.
MOST_CLASSES = 50
#: Answers are classes where each is seen so often, on average.
_TIMES_SEEN = 5
#: In words; longer answers are rarely said word by word.
_SHORT_ANSWER = 8


@dataclass(frozen=True, slots=True)
class Chosen:
    """metrics: in the order in which they are told. primary: what subjects are compared by. labels: the classes,
    sorted; () where the answers are none."""

    metrics: tuple[Metric, ...]
    primary: Metric
    labels: tuple[str, ...]


def choose(settings: Evaluate, test: Sequence[Example], training: Sequence[Example]) -> Chosen:
    """Raises InvalidRequest where a metric that was asked for cannot be."""
    answers = [example.answer for example in test if example.answer is not None]
    structured = sum(map(is_structured, answers)) * 2 > len(answers)
    labels = settings.labels or (() if structured else _classes([*training, *test]))
    if settings.metrics == "auto":
        metrics = _fitting(structured, bool(labels), [text_of(answer) for answer in answers])
        if settings.judge is not None:
            metrics = (*metrics, "judge")
    else:
        metrics = tuple(dict.fromkeys(settings.metrics))
        if settings.primary is not None and settings.primary not in metrics:
            metrics = (settings.primary, *metrics)
    if "judge" in metrics and settings.judge is None:
        raise InvalidRequest("the metric judge needs to know who judges; add [evaluate.judge] with model and endpoint")
    if ("f1" in metrics or "accuracy" in metrics) and not labels:
        raise InvalidRequest(
            "accuracy and f1 are of answers that are classes, and here nearly every answer is another; name the "
            "classes (evaluate.labels), or take exact_match or rouge")
    primary = settings.primary or metrics[0]
    if primary not in metrics:
        raise InvalidRequest(f"evaluate.primary is {primary}, which does not fit these answers; they have "
                             f"{', '.join(metrics)}")
    return Chosen(metrics, primary, tuple(sorted(labels)))


def _fitting(structured: bool, classes: bool, answers: Sequence[str]) -> tuple[Metric, ...]:
    if structured:
        return ("json_match", "json_valid", "perplexity")
    if classes:
        return ("accuracy", "f1", "perplexity")
    lengths = sorted(len(answer.split()) for answer in answers)
    if lengths and lengths[len(lengths) // 2] <= _SHORT_ANSWER:
        return ("exact_match", "rouge", "perplexity")
    return ("rouge", "bleu", "perplexity")


def _classes(examples: Sequence[Example]) -> tuple[str, ...]:
    """As they are written most often. None where the answers are too many different ones."""
    spellings: dict[str, Counter[str]] = {}
    for example in examples:
        if example.answer is not None:
            said = text_of(example.answer)
            spellings.setdefault(label_of(said), Counter())[said] += 1
    count = sum(each.total() for each in spellings.values())
    if not 1 < len(spellings) <= MOST_CLASSES or count < _TIMES_SEEN * len(spellings):
        return ()
    return tuple(each.most_common(1)[0][0] for each in spellings.values())
