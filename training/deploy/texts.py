"""What a conversion of a trained model is calibrated and gated with: texts and tasks of what it was trained for.

On general text a student of one task is no model at all, and of a fine-tuned one the task is what must not be lost.
Texts are of the validation split (then of training, where that is short): nothing of the test split is calibrated with.
Tasks are of the test split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from edged.store import files
from training.examples import Example, Message
from training.run import Run
from training.split import test_examples, training_examples, validation_examples

MOST_TEXTS = 400
#: A gate answers them one at a time, twice.
MOST_TASKS = 64
#: Of the template, for each message and for a system message of its own.
_TEMPLATE_TOKENS = 32


def write_texts(run: Run, model: Path, folder: Path) -> tuple[Path, Path | None]:
    """model: the exported one. folder: where they go. Returns the calibration, and the tasks where any fit."""
    from converters.source import trained_context
    from converters.stages import TASKS_CONTEXT

    texts = validation_examples(run)
    if len(texts) < MOST_TEXTS:
        texts = [*texts, *training_examples(run)]
    context = min(TASKS_CONTEXT, trained_context(model) or TASKS_CONTEXT)
    tasks = [found for example in test_examples(run) if (found := task(example, context)) is not None]
    calibration = _written(folder / "calibration.jsonl", map(passage, texts[:MOST_TEXTS]))
    return calibration, _written(folder / "tasks.jsonl", tasks[:MOST_TASKS]) if tasks else None


def passage(example: Example) -> dict[str, Any]:
    said = (*example.prompt, example.answer) if example.answer is not None else example.prompt
    return {"messages": [_openai(message) for message in said]}


def task(example: Example, context: int) -> dict[str, Any] | None:
    """context: tokens of a gate's row. None for what `converters.tasks` cannot ask: tools, an answer that calls one,
    and what may be too long for a row (a token is a byte at least)."""
    from converters.tasks import MOST_TOKENS

    answer = example.answer
    if answer is None or answer.tool_calls or example.tools or not answer.content.strip():
        return None
    if any(message.tool_calls or message.role == "tool" for message in example.prompt):
        return None
    prompt = sum(len(message.content.encode()) + _TEMPLATE_TOKENS for message in example.prompt) + _TEMPLATE_TOKENS
    if prompt + max(2 * len(answer.content.encode()), MOST_TOKENS) > context:
        return None
    return {"messages": [_openai(message) for message in example.prompt], "answer": answer.content, "match": "exact"}


def _openai(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(message)
    return {**made, "content": message.content}


def _written(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    files.publish_bytes(path, b"".join(_encoded(lines)), path.parent)
    return path


def _encoded(lines: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for line in lines:
        yield msgspec.json.encode(line) + b"\n"
