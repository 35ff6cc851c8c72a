"""`edged captured list`, `export` and `purge`: answers kept for training."""

from __future__ import annotations

import codecs
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import Struct

from edged.cli.client import model_path
from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, size, table
from edged.cli.target import Target, store_of
from edged.errors import Conflict
from edged.store.captured import Captured, Kept, is_captured
from edged.store.catalog import load_catalog
from edged.store.files import OutFile
from edged.store.paths import Layout

Model = Annotated[str, Parameter(help="The name of the model that answered.")]


class Listed(Struct, frozen=True):
    """on: models whose answers are kept now."""

    on: list[str]
    kept: list[Kept]


class Purged(Struct, frozen=True):
    answers: int


def list_captured(*, home: Home = None, json: Json = False) -> int:
    """List what is kept of which model's answers, and whose answers are kept now.

    As in:

    ```
    edged captured list
    ```
    """
    target = store_of(home)
    found = target.running.client.get("/edged/v1/captured", Listed) if target.running is not None else _listed(target)
    if json:
        answer_json(found)
        return ExitCode.OK
    if found.kept:
        answer(table(("MODEL", "ANSWERS", "SIZE", "OLDEST", "NEWEST"), [
            (each.model, str(each.answers), size(each.bytes), _moment(each.first_at), _moment(each.last_at))
            for each in found.kept]))
    else:
        answer("no answers are captured")
    answer(f"captured now: {', '.join(found.on)}" if found.on else
           "captured now: of no model (`capture` in the settings or in models.toml begins it)")
    return ExitCode.OK


def export(
    model: Model,
    to: Annotated[Path | None, Parameter(help="A file that is not there yet; by default standard output.")] = None,
    /, *, home: Home = None, json: Json = False,
) -> int:
    """Write the captured answers of a model, one JSON object a line, to train on elsewhere.

    A recipe on the same machine can name them itself: `train = ["captured:MODEL"]`.

    As in:

    ```
    edged captured export smollm2-135m answers.jsonl
    edged captured export smollm2-135m | jq .messages
    ```
    """
    pieces = _pieces(store_of(home), model)
    if to is None:
        for piece in _shown(pieces) if sys.stdout.isatty() else pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return ExitCode.OK
    count = _written(pieces, to.expanduser())
    if json:
        answer_json({"model": model, "file": str(to.expanduser().absolute()), "answers": count})
    else:
        answer(f"wrote {count} answers of {model} to {to}")
    return ExitCode.OK


def purge(
    model: Annotated[str | None, Parameter(help="Of this model only; all of them by default.")] = None, /, *,
    home: Home = None, json: Json = False,
) -> int:
    """Forget captured answers. What is being answered meanwhile is not captured either.

    As in:

    ```
    edged captured purge smollm2-135m
    edged captured purge
    ```
    """
    target = store_of(home)
    if target.running is not None:
        body = {} if model is None else {"model": model}
        purged = target.running.client.post("/edged/v1/captured/purge", body, Purged)
    else:
        purged = Purged(Captured(Layout(target.settings.home)).purge(model))
    if json:
        answer_json(purged)
    else:
        answer(f"{purged.answers} captured answers removed")
    return ExitCode.OK


def _listed(target: Target) -> Listed:
    settings = target.settings
    models = load_catalog(settings.models_file).current.models
    on = sorted(name for name in {*settings.capture, *models} if is_captured(name, settings, models.get(name)))
    return Listed(on, Captured(Layout(settings.home)).kept())


def _pieces(target: Target, model: str) -> Iterator[bytes]:
    if target.running is not None:
        return target.running.client.pieces(model_path(model, under="captured"))
    return Captured(Layout(target.settings.home)).lines(model)


def _shown(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same JSON for a terminal, which a model's words or a client's must not steer: what does not print is
    escaped. A piece may end within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield "".join(each if each.isprintable() or each == "\n" else dumps(each)[1:-1]
                      for each in decoder.decode(piece)).encode()


def _written(pieces: Iterator[bytes], path: Path) -> int:
    """Private, and whole or not there. How many lines."""
    if path.exists():
        raise Conflict(f"{path} is there already; name another file, or take it away")
    # The first piece is asked for before anything is made: there may be none.
    count, first = 0, next(pieces, b"")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with OutFile(part, keep=False, new=True) as out:
            for piece in itertools.chain((first,), pieces):
                out.write(piece)
                count += piece.count(b"\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _moment(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds is not None else "?"
