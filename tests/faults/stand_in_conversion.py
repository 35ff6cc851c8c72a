"""A conversion of light stages: `python -m tests.faults.stand_in_conversion FOLDER`. Source, merge, convert, reference
and gate are played, in real child processes and with real files; publishing, activating and all of the job around them
are the real ones. The recipe has to be one of GGUF.

`CONVERSION_TRACE` names a file that gets one line for each stage that begins. `CONVERSION_DOES` makes one misbehave, as
in `convert=hang`: hang, sigkill, abort, memory, disk, raise, exit, print, grow (allocates without end), refuse.
`CONVERSION_BYTES` is the size of the result, `CONVERSION_LACKS` what it falls short of.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from converters.__main__ import main
from converters.child import Tell
from converters.job import StageKind
from converters.source import Sourced, model_folder
from converters.stages import STAGES
from converters.work import Work
from edged.errors import RefusedFile
from edged.store import files
from edged.store.entries import JobProgress
from edged.store.lineage import ConvertedSource, Quality
from tests.models import gguf_bytes

SIZE = 200_000
FILE = "model.gguf"


def source(work: Work, tell: Tell) -> Sourced:
    files.make_folder(work.out("source"))
    write(model_folder(work) / "LICENSE", b"a licence", tell)
    return Sourced(source=ConvertedSource(base=work.spec.source, base_digest="0" * 64), parameters=1000,
                   origin="dequantized from Q4_1")


def merge(work: Work, tell: Tell) -> None:
    write(work.out("merge") / "LICENSE", (model_folder(work) / "LICENSE").read_bytes(), tell)


def convert(work: Work, tell: Tell) -> None:
    merged = work.out("merge") if work.spec.adapters else model_folder(work)
    assert (merged / "LICENSE").read_bytes() == b"a licence"
    write(work.scratch("convert") / "between", gguf_bytes(2, SIZE), tell)
    write(work.out("convert") / FILE, gguf_bytes(1, int(os.environ.get("CONVERSION_BYTES", SIZE))), tell)


def reference(work: Work, tell: Tell) -> str:
    write(work.out("reference") / FILE, gguf_bytes(3, SIZE), tell)
    return "fp32 on llama.cpp"


def gate(work: Work, tell: Tell) -> Quality:
    assert (work.out("reference") / FILE).read_bytes() == gguf_bytes(3, SIZE)
    return Quality(
        reference=work.value("reference", str), text="played", tokens=1000, kl_divergence=0.01, top1_agreement=0.9,
        perplexity=11.0, reference_perplexity=10.0, limits=work.recipe.limits,
        lacking=tuple(filter(None, [os.environ.get("CONVERSION_LACKS")])))


def write(path: Path, data: bytes, tell: Tell) -> None:
    files.make_folder(path.parent)
    with files.OutFile(path, keep=False) as out:
        for at in range(0, len(data), 1 << 16):
            out.write(data[at:at + (1 << 16)])
            tell(JobProgress(stage="played", done_bytes=at))


PLAYED: dict[str, Callable[[Work, Tell], object]] = {
    "source": source, "merge": merge, "convert": convert, "reference": reference, "gate": gate,
}


def stages() -> Sequence[StageKind]:
    return [replace(stage, run=partial(_played, stage)) for stage in STAGES]


def _played(stage: StageKind, work: Work, tell: Tell) -> object:
    """It says that it begins, and may misbehave at its end."""
    if trace := os.environ.get("CONVERSION_TRACE"):
        with open(trace, "a") as file:
            file.write(f"{stage.name}\n")
    value = PLAYED.get(stage.name, stage.run)(work, tell)
    name, _, what = os.environ.get("CONVERSION_DOES", "").partition("=")
    if name == stage.name:
        misbehave(what)
    return value


def misbehave(what: str) -> None:
    match what:
        case "hang":
            time.sleep(600)
        case "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "abort":
            os.abort()
        case "memory":
            raise MemoryError
        case "disk":
            raise RuntimeError("could not write: No space left on device")
        case "raise":
            raise ValueError("the weights are upside down")
        case "refuse":
            raise RefusedFile("it is refused")
        case "exit":
            os._exit(3)
        case "print":
            print('{"manifest": "of a library"}')
            print(sorted(os.environ.items()))
            os.write(1, b"native words\n")
        case "grow":
            held = bytearray()
            while True:
                held += bytes(1 << 26)
        case _:
            raise AssertionError(what)


if __name__ == "__main__":
    sys.exit(main(stages=stages()))
