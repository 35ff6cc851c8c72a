"""Tasks: whether a model answers right, not only how likely it finds a text.

A file of tasks is JSONL; each line has `prompt` (a text to go on with) or `messages` (OpenAI's chat shape, through the
model's template), and `answer`. A task is answered right
- with `choices` (a list that holds the answer): if of all choices, each appended to the prompt as it stands, the answer
  has the highest log-likelihood by byte (`acc_norm` of EleutherAI's lm-evaluation-harness, so that long choices are not
  at a disadvantage);
- without: if what the model says greedily holds the answer, as words of its own, whatever the case and the white space
  (`match` "contains"), or is the answer and nothing else but white space (`match` "exact").
The model may say twice as many tokens as the answer has, between LEAST_TOKENS and MOST_TOKENS. Other keys are left
alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from converters.calibration import check_messages, decoded, read_bytes
from converters.divergence import likeliest, log_likelihood
from converters.encoder import Encoder
from converters.row import Row
from edged.engines.base import Vocab
from edged.errors import ConfigError, Conflict, InvalidRequest

LEAST_TOKENS = 32
MOST_TOKENS = 256


class Task(Struct, frozen=True):
    answer: str
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    choices: list[str] | None = None
    match: Literal["contains", "exact"] = "contains"


class Prepared(Struct, frozen=True):
    """prompt: tokens. said: how many of them a model may say. choices: prompt and choice as tokens, for each."""

    task: Task
    prompt: list[int]
    said: int
    choices: list[list[int]]


def read(file: Path) -> list[tuple[int, Task]]:
    """The tasks, each with its line. Raises ConfigError with file and line."""
    found = []
    for number, line in enumerate(read_bytes(file).split(b"\n"), 1):
        if line.strip():
            found.append((number, _task(file, number, line)))
    if not found:
        raise ConfigError("holds no task; each line is an object with `prompt` and `answer`", file=str(file))
    return found


def _task(file: Path, number: int, line: bytes) -> Task:
    def mistake(message: str) -> ConfigError:
        return ConfigError(message, file=str(file), line=number)

    try:
        task = msgspec.json.decode(decoded(file, line, number), type=Task)
    except msgspec.ValidationError as error:
        raise mistake(f"{error}; a task has `prompt` or `messages`, and `answer`") from None
    except msgspec.DecodeError as error:
        raise mistake(f"is not JSON: {error}; each line is one object") from None
    if (task.prompt is None) == (task.messages is None):
        raise mistake("has to hold either `prompt` or `messages`")
    if task.messages is not None:
        check_messages(task.messages, mistake)
    elif not task.prompt:
        raise mistake("`prompt` is empty")
    if not task.answer.strip():
        raise mistake("`answer` is empty")
    if task.choices is not None:
        if len(set(task.choices)) < 2:
            raise mistake("`choices` has to hold two different ones at least")
        if task.answer not in task.choices:
            raise mistake("`answer` is none of the `choices`; one of them has to be exactly the same text")
        if not all(task.choices):
            raise mistake("one of the `choices` is empty")
    return task


def prepare(file: Path, tasks: list[tuple[int, Task]], encoder: Encoder, context: int) -> list[Prepared]:
    """As tokens. Raises ConfigError with the line of a task that the context does not hold or the template refuses."""
    found = []
    for number, task in tasks:
        try:
            prompt = _encode(encoder, task, "")
            choices = [_encode(encoder, task, choice) for choice in task.choices or ()]
        except Conflict:
            raise
        except InvalidRequest as error:
            raise ConfigError(error.message, file=str(file), line=number) from None
        answer = len(encoder.text(task.answer))
        said = 0 if choices else min(max(2 * answer, LEAST_TOKENS), MOST_TOKENS)
        if (need := max([len(prompt) + said, *map(len, choices)])) > context:
            raise ConfigError(
                f"needs {need} tokens, and the models are loaded with a context of {context}; shorten it",
                file=str(file), line=number)
        found.append(Prepared(task, prompt, said, choices))
    return found


def _encode(encoder: Encoder, task: Task, more: str) -> list[int]:
    if task.messages is not None:
        return encoder.chat(task.messages, answers=True, more=more)
    return encoder.text((task.prompt or "") + more)


def answered_right(item: Prepared, row: Row, vocab: Vocab) -> bool:
    """Raises NoDistribution for logits that are none."""
    task = item.task
    if task.choices is not None:
        scores = [_likelihood(item.prompt, tokens, row) / len(choice.encode())
                  for choice, tokens in zip(task.choices, item.choices, strict=True)]
        return task.choices[int(np.argmax(scores))] == task.answer
    return matches(_greedy(item, row, vocab), task)


def matches(said: str, task: Task) -> bool:
    if task.match == "exact":
        return said.strip() == task.answer.strip()
    said, answer = (" ".join(text.split()).casefold() for text in (said, task.answer))
    # Scripts that part no words have no borders to look for: only letters and digits of ASCII go on with a word.
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", said, re.ASCII) is not None


def _likelihood(prompt: list[int], tokens: list[int], row: Row) -> float:
    """Of what follows the longest common beginning: the last token of a prompt may change with what comes after it."""
    common = next((index for index, (one, other) in enumerate(zip(prompt, tokens, strict=False)) if one != other),
                  min(len(prompt), len(tokens)))
    common = min(max(common, 1), len(tokens) - 1)
    row.hold(tokens[:common - 1])
    return log_likelihood(row.append(tokens[common - 1:-1]), np.array(tokens[common:]))


def _greedy(item: Prepared, row: Row, vocab: Vocab) -> str:
    row.hold(item.prompt[:-1])
    token, said = item.prompt[-1], b""
    for _ in range(item.said):
        token = likeliest(row.append([token])[-1])
        if token in vocab.end:
            break
        said += vocab.piece(token)
    return said.decode(errors="replace")
