"""The loss curve: rows by step, kept in `history.jsonl` and returned to the stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from edged.store.files import publish_bytes
from training.fit.plan import best

HISTORY = "history.jsonl"
#: How the trainer names what becomes a field of Row.
_NAMES = {"loss": "loss", "eval_loss": "validation_loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm",
          "num_input_tokens_seen": "tokens", "seconds": "seconds"}
#: Its own timings, which count from the last start, and what is told by other fields.
_LEFT_OUT = ("epoch", "step", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "train_runtime",
             "train_tokens_per_second", "num_tokens", "eval_num_tokens")


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One point. loss: mean of training loss a token since the last point, in nats; validation_loss: of the whole
    validation split, on rows of their own. tokens: seen up to here. seconds: of training up to here, without the time
    between a kill and the next start. figures: what else the trainer told, by its name."""

    step: int
    loss: float | None = None
    validation_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None
    seconds: float | None = None
    figures: dict[str, float] = {}


def row(logged: Mapping[str, Any]) -> Row | None:
    """Of one entry of the trainer's log; None where it is none of the curve."""
    if "loss" not in logged and "eval_loss" not in logged:
        return None
    known = {field: logged[name] for name, field in _NAMES.items() if name in logged}
    if "tokens" in known:
        known["tokens"] = int(known["tokens"])
    figures = {name: float(value) for name, value in logged.items()
               if name not in _NAMES and name not in _LEFT_OUT and isinstance(value, int | float)}
    return Row(step=int(logged["step"]), **known, figures=figures)


def rows(log: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [each for logged in log if (each := row(logged)) is not None]


def write(folder: Path, history: Sequence[Row]) -> None:
    """Whole, by rename: the trainer's own log is the truth, and goes back with its checkpoint after a kill, so no step
    is ever there twice."""
    data = b"".join(msgspec.json.encode(each) + b"\n" for each in history)
    publish_bytes(folder / HISTORY, data, folder, durable=False)


def read(folder: Path) -> list[Row]:
    """Empty where there is none."""
    try:
        return msgspec.json.decode(b"[" + b",".join((folder / HISTORY).read_bytes().splitlines()) + b"]",
                                   type=list[Row])
    except FileNotFoundError:
        return []


def validation(history: Sequence[Row]) -> list[tuple[int, float]]:
    """(step, loss) of every evaluation."""
    return [(each.step, each.validation_loss) for each in history if each.validation_loss is not None]


def rate(history: Sequence[Row]) -> float | None:
    """Tokens a second up to the last point of the training loss, since the point before it of whatever kind: the time
    of evaluations and checkpoints does not count."""
    if len(history) < 2:
        return None
    before, after = history[-2:]
    if after.loss is None or None in (before.tokens, after.tokens, before.seconds, after.seconds):
        return None
    took_s = (after.seconds or 0.0) - (before.seconds or 0.0)
    return round(((after.tokens or 0) - (before.tokens or 0)) / took_s, 1) if took_s > 0 else None


def best_step(history: Sequence[Row], last: int) -> int:
    """Of the least validation loss; the last one where there is no validation."""
    losses = validation(history)
    return losses[best([loss for _, loss in losses])][0] if losses else last
