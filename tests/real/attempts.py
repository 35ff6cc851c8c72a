"""Loads models one after another, each in a fork of one process that has the engines already: tens of milliseconds
where a worker takes a second. `python -m tests.real.attempts`: LoadSpecs as lines of JSON in, outcomes as lines out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import TracebackType

import msgspec

from edged.types import LoadSpec

LIMIT_S = 30


class Attempts:
    """Call it with a LoadSpec: "loaded", or the error with its class, or the signal the process died of. SIGALRM: it
    hung."""

    def __enter__(self) -> Attempts:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.real.attempts"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def __call__(self, spec: LoadSpec) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(spec) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=str)


def serve() -> None:
    from edged.engines import llama, load, ort

    assert llama
    assert ort
    # Native libraries print there.
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            signal.alarm(LIMIT_S)
            try:
                load(msgspec.json.decode(line, type=LoadSpec), lambda fraction: None)
                said = "loaded"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writer, said.encode()[:4000])
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read().decode(errors="replace")
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            said = f"died of {signal.Signals(os.WTERMSIG(status)).name}"
        os.write(answers, msgspec.json.encode(said) + b"\n")


if __name__ == "__main__":
    serve()
