"""The gate: how much worse a conversion is than what it was made from, measured on the serving engines' own logits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from converters import calibration
from converters.encoder import Encoder
from converters.pair import Pair, Progress
from converters.tasks import prepare
from converters.tasks import read as read_tasks
from edged import engines
from edged.engines.base import Generator
from edged.store.lineage import Quality, QualityLimits
from edged.types import LoadSpec

#: Positions compared at most, and how long that may take; the tasks may take as long again.
POSITIONS = 6144
SECONDS = 240.0
#: Where the progress is once both models are loaded, and after the text if tasks follow.
LOADED, COMPARED = 0.1, 0.7


def measure(
    reference: LoadSpec, result: LoadSpec, limits: QualityLimits, *, reference_words: str, text: Path | None,
    tasks: Path | None, progress: Progress, seconds: float = SECONDS, positions: int = POSITIONS,
) -> Quality:
    """Blocks; both models are in this process at once, each with one row, whatever `rows` says. Name a `context` in
    the specs where the model's own is large: windows need 513 tokens, tasks what they hold.

    reference_words: for `Quality.reference`. text: calibration text of the user, None for the one that ships
    (`converters.calibration`); tasks: file of tasks (`converters.tasks`). After `seconds` it stops at the next border
    of a window, or of a task: `Quality.tokens` and `Quality.tasks` say how far it came.

    Raises ConfigError for a mistake in text or tasks, with its line, before anything is loaded where it shows by then;
    LoadFailed and InsufficientMemory from the engines; Conflict where the vocabularies are not the same;
    DeadlineExceeded where the time did not do for `converters.pair.FEWEST_POSITIONS`; Internal where an engine fails,
    and where a model gives logits that are no numbers, as a damaged one does.
    """
    said = calibration.read(text, "gate")
    listed = read_tasks(tasks) if tasks is not None else []
    with contextlib.ExitStack() as held:
        one = _load(reference, held, lambda part: progress(part * LOADED / 2, "loading the reference"))
        other = _load(result, held, lambda part: progress((1 + part) * LOADED / 2, "loading the result"))
        encoder = Encoder(other.vocab, one.vocab, result.chat_template)
        held.callback(encoder.close)
        pair = Pair(one, other, encoder)
        prepared = prepare(tasks, listed, encoder, pair.context) if tasks is not None else []
        sums = pair.compare(said, positions, seconds, _part(progress, LOADED, COMPARED if prepared else 1.0))
        right = pair.answer(prepared, seconds, _part(progress, COMPARED, 1.0))
    quality = Quality(
        reference=reference_words, text=said.name, tokens=sums.positions, kl_divergence=sums.kl_divergence,
        top1_agreement=sums.top1_agreement, perplexity=sums.perplexity, reference_perplexity=sums.reference_perplexity,
        limits=limits, tasks=right.tasks, task_accuracy=right.result / right.tasks if right.tasks else None,
        reference_task_accuracy=right.reference / right.tasks if right.tasks else None,
    )
    return msgspec.structs.replace(quality, lacking=lacking(quality))


def lacking(quality: Quality) -> tuple[str, ...]:
    """In words, by how much it misses each of its limits; empty where it passes."""
    limits = quality.limits
    found = []
    ratio = quality.perplexity_ratio
    if ratio > limits.perplexity_ratio:
        found.append("perplexity ratio {}, at most {}".format(*_apart(ratio, limits.perplexity_ratio)))
    if quality.top1_agreement < limits.top1_agreement:
        found.append("top-1 agreement {} %, at least {} %".format(
            *_apart(100 * quality.top1_agreement, 100 * limits.top1_agreement)))
    if quality.kl_divergence > limits.kl_divergence:
        found.append("KL divergence {}, at most {}".format(*_apart(quality.kl_divergence, limits.kl_divergence)))
    if quality.task_accuracy is not None and quality.reference_task_accuracy is not None:
        # In whole tasks: shares of them are not exact.
        lost = round((quality.reference_task_accuracy - quality.task_accuracy) * quality.tasks)
        if lost > limits.task_accuracy_drop * quality.tasks + 1e-9:
            found.append(
                f"task accuracy {quality.task_accuracy:.1%}, {quality.reference_task_accuracy:.1%} before: {lost} of "
                f"{quality.tasks} tasks lost, at most {limits.task_accuracy_drop:.1%}")
    return tuple(found)


def _apart(value: float, limit: float) -> tuple[str, str]:
    """Both as text; the value with three digits, or as many more as tell it from the limit."""
    for digits in range(3, 12):
        written = f"{value:.{digits}f}"
        if written != f"{limit:.{digits}f}":
            break
    return written, f"{limit:g}"


def _load(spec: LoadSpec, held: contextlib.ExitStack, progress: Callable[[float], None]) -> Generator:
    generator = engines.load(msgspec.structs.replace(spec, rows=1), progress).generator
    held.callback(generator.close)
    return generator


def _part(progress: Progress, first: float, last: float) -> Progress:
    return lambda fraction, note: progress(first + fraction * (last - first), note)
