"""A model of its own process, for times and memory that are its alone: `python -m training.evaluate.child`.

One JSON line in, one out. First `Open`, answered by `Opened`; then any number of `Question`, each answered by
`Answered`, or `Refused` where the model cannot read the prompt. Anything else that fails is answered by `Failed`, and
the child ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from edged.errors import InvalidRequest
from training.examples import Example
from training.reply import Reply


class Open(Struct, frozen=True, tag="open"):
    folder: str
    adapter: str | None = None


class Opened(Struct, frozen=True, tag="opened"):
    """runtime_bytes: resident before the model was loaded, with all libraries that it needs."""

    runtime_bytes: int


class Question(Struct, frozen=True, tag="question"):
    example: Example
    max_tokens: int


class Answered(Struct, frozen=True, tag="answered"):
    reply: Reply


class Refused(Struct, frozen=True, tag="refused"):
    why: str


class Failed(Struct, frozen=True, tag="failed"):
    why: str


Ask = Open | Question
Told = Opened | Answered | Refused | Failed


def main() -> None:
    # Whatever libraries print goes to standard error; lines of this protocol have standard output to themselves.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _serve(sys.stdin.buffer, out)
    except Exception as error:
        _tell(out, Failed(f"{type(error).__name__}: {error}"))
        sys.exit(1)


def _serve(asked: BinaryIO, out: BinaryIO) -> None:
    decoder: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)
    opening = decoder.decode(asked.readline())
    assert isinstance(opening, Open)
    runtime_bytes = _libraries()
    from training.local_model import LocalModel

    model = LocalModel(
        Path(opening.folder), Path(opening.adapter) if opening.adapter is not None else None)
    _tell(out, Opened(runtime_bytes))
    for line in asked:
        question = decoder.decode(line)
        assert isinstance(question, Question)
        try:
            _tell(out, Answered(model.answer_timed(question.example, question.max_tokens)))
        except InvalidRequest as refused:
            _tell(out, Refused(refused.message))


def _libraries() -> int:
    """Resident bytes with them and no model."""
    import peft  # noqa: F401
    import psutil
    import torch
    import transformers

    _ = torch.ones(1), transformers.AutoModelForCausalLM
    return int(psutil.Process().memory_info().rss)


def _tell(out: BinaryIO, said: Told) -> None:
    out.write(msgspec.json.encode(said) + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
