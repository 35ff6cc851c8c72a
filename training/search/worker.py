"""A process that makes trials: `python -m training.search.worker`, told what to do by `training.search.pool`.

Its standard output is for messages alone: whatever libraries print goes to its log. When its standard input ends, so
does the process, at once: whoever asked for the trial is gone.
"""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from converters.quiet import ENVIRONMENT
from edged.errors import EdgedError
from edged.toml_file import TomlFile
from training.recipe import decoded
from training.run import Moment, Run
from training.search.messages import Answer, Begin, Ended, Evaluated, Failed, FromWorker, Live, Pruned, ToWorker, Try

_LIVE_EVERY_S = 0.5


class StopTrial(Exception):
    """The search does not want the trial's end."""


class Channel:
    """To and from the search, for one thread beside the one that reads."""

    def __init__(self, inward: BinaryIO, outward: BinaryIO) -> None:
        self._outward = outward
        self._said: queue.Queue[ToWorker] = queue.Queue()
        self._told_s = 0.0
        threading.Thread(target=self._read, args=(inward,), daemon=True).start()

    def get(self) -> ToWorker:
        return self._said.get()

    def send(self, message: FromWorker) -> None:
        self._outward.write(msgspec.json.encode(message) + b"\n")
        self._outward.flush()

    def live(self, moment: Moment) -> None:
        if time.monotonic() - self._told_s >= _LIVE_EVERY_S and (moment.figures or moment.fraction is not None):
            self._told_s = time.monotonic()
            self.send(Live(moment.fraction, moment.figures))

    def on_evaluation(self) -> Callable[[int, float], None]:
        """Of one trial: tells each loss under its number and waits whether to go on. Evaluations, not steps, are
        counted: trials with other batch sizes have other steps."""
        count = 0

        def told(step: int, loss: float) -> None:
            nonlocal count
            count += 1
            self.send(Evaluated(count, loss))
            answer = self.get()
            assert isinstance(answer, Answer)
            if not answer.go_on:
                raise StopTrial

        return told

    def _read(self, inward: BinaryIO) -> None:
        decoder: msgspec.json.Decoder[ToWorker] = msgspec.json.Decoder(ToWorker)
        for line in inward:
            self._said.put(decoder.decode(line))
        os._exit(0)


def main() -> None:
    os.environ.update(ENVIRONMENT)
    outward = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    channel = Channel(sys.stdin.buffer, outward)
    begin = channel.get()
    assert isinstance(begin, Begin)
    file = TomlFile(Path(begin.recipe), begin.text, tomllib.loads(begin.text))
    run = Run(Path(begin.run), decoded(file, file.values), file)
    while True:
        asked = channel.get()
        assert isinstance(asked, Try)
        channel.send(answered(run, asked, channel))


def answered(run: Run, asked: Try, channel: Channel) -> FromWorker:
    """trl hangs a method on the model: without a collection its weights would be there until some later one, and the
    next trial find less memory than it may have."""
    made = _made(run, asked, channel)
    gc.collect()
    return made


def _made(run: Run, asked: Try, channel: Channel) -> FromWorker:
    from training.search.trial import Trial

    try:
        value, figures = Trial(run, asked.settings, Path(asked.folder), channel.live, channel.on_evaluation()).made()
    except StopTrial:
        return Pruned()
    except EdgedError as error:
        return Failed(error.message)
    return Ended(value, figures)


if __name__ == "__main__":
    main()
