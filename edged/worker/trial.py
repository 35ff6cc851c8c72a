"""`python -m edged.worker.trial`: load one form of a model on one device, measure it, tell its logits, and end.

A process of its own, because a driver that crashes, hangs or leaks must not end anything else. The question comes as
one line of JSON on standard input (`edged.ipc.trials.Trial`), the answer goes as JSON to standard output. Where the
input ends, whoever asked is gone, and so is the process. A trial with `turns` stays until then, and measures in turns.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import BinaryIO

import msgspec
import numpy as np
import psutil

from edged import engines
from edged.engines.base import DeviceLost, EngineError, Generator, Loaded, Logits, RowWork, Threads
from edged.errors import DeviceUnavailable, EdgedError, Internal, UnsupportedTask
from edged.hardware.measured import PROMPT_TOKENS, Speed
from edged.hardware.selftest import LIKELIEST, Position
from edged.ipc.trials import Trial, TrialFailed, TrialResult, Turn, Turned
from edged.worker.rates import BEGINNING_TOKENS, STREAMS, WARM_UP_TOKENS, Rates, repeated, typical_s
from edged.worker.topk import top_ids

#: Of the fixed text, decoded one by one for the logits; what comes before is prefilled at once.
DECODED = 16
#: Steps that a figure is made of at least, however slow they are.
LEAST_STEPS = 3

#: Plain words, numbers, code and other scripts: what kernels compute wrongly shows on any text, but a tokenizer must
#: know it.
TEXT = (
    "The lighthouse keeper counted 42 boats before sunrise, wrote the number into his book and put the kettle on. "
    "def area(width, height):\n    return width * height\n\nDer Regen fiel leise auf das Dach. La mer était calme, and "
    "nobody in the harbour had seen a calmer one since the winter of 1987."
)


def main() -> int:
    """Native libraries write to standard output as they like: it is theirs, the answer goes where it pointed before."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    trial = msgspec.json.decode(sys.stdin.buffer.readline(), type=Trial)
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), name="input", daemon=True).start()
    try:
        result, loaded = run(trial)
    except (EdgedError, EngineError) as error:
        _say(answer, TrialResult(error=_told(error)))
        return 0
    _say(answer, result)
    if trial.turns:
        _turns(loaded.generator, lines, answer)
    return 0


def _listen(lines: SimpleQueue[bytes]) -> None:
    while line := sys.stdin.buffer.readline():
        lines.put(line)
    os._exit(1)


def _say(answer: BinaryIO, said: TrialResult | Turned) -> None:
    answer.write(msgspec.json.encode(said) + b"\n")
    answer.flush()


def _turns(generator: Generator, lines: SimpleQueue[bytes], answer: BinaryIO) -> None:
    """Until a turn goes wrong; the process ends with its input."""
    rates = Rates(generator, generator.vocab.tokenize(TEXT, special=False, bos=True))
    while True:
        turn = msgspec.json.decode(lines.get(), type=Turn)
        try:
            threads = Threads(*turn.threads) if turn.threads is not None else None
            _say(answer, Turned(rates=rates.measure(turn.parts, turn.seconds, threads)))
        except EngineError as error:
            _say(answer, Turned(error=_told(error)))
            return


def run(trial: Trial) -> tuple[TrialResult, Loaded]:
    """Raises EdgedError, EngineError."""
    spec = trial.spec
    if spec.task != "generate":
        raise UnsupportedTask(f"{spec.name} writes no text: there are no tokens a second to measure, and no logits to "
                              "compare")
    loaded = engines.load(spec, lambda fraction: None)
    generator = loaded.generator
    text = generator.vocab.tokenize(TEXT, special=False, bos=True)
    positions, text_logprob = read(generator, text) if trial.logits else ([], None)
    return TrialResult(
        device=loaded.facts.device, engine_version=loaded.facts.engine_version, positions=positions,
        text_logprob=text_logprob, vocabulary=generator.vocab.size,
        speed=_speed(loaded, text, trial) if trial.seconds > 0 else None,
        sets_threads=generator.caps.sets_threads, resident_bytes=psutil.Process().memory_info().rss,
    ), loaded


def read(generator: Generator, text: Sequence[int]) -> tuple[list[Position], float | None]:
    """What the model makes of a text: its likeliest tokens after each position that it gives logits of, and the mean
    log-probability of the tokens that really come next, None where logits are no numbers."""
    tokens = list(text[:generator.caps.context])
    positions: list[Position] = []
    nexts: list[float] = []
    for end, logits in _logits(generator, tokens):
        if not np.isfinite(logits).all():
            positions.append(Position((), ()))
            nexts.append(math.nan)
            continue
        values = logits.astype(np.float64)
        likely = values - values.max() - np.log(np.exp(values - values.max()).sum())
        ids = top_ids(logits, LIKELIEST)
        positions.append(Position(tuple(map(int, ids)), tuple(map(float, likely[ids]))))
        if end < len(tokens):
            nexts.append(float(likely[tokens[end]]))
    mean = math.fsum(nexts) / len(nexts) if nexts else math.nan
    return positions, mean if math.isfinite(mean) else None


def _logits(generator: Generator, tokens: list[int]) -> Iterator[tuple[int, Logits]]:
    """Of a prefill, all positions where the graph gives them, else the last one; then of single steps. Each with the
    count of tokens up to it."""
    caps = generator.caps
    split = max(1, len(tokens) - DECODED)
    end = 0
    for piece in _pieces(tokens[:split], caps.step_tokens):
        end += len(piece)
        wanted = len(piece) if caps.all_logits else int(end == split)
        for back, logits in enumerate(generator.step([RowWork(0, piece, wanted)])[0]):
            yield end - wanted + back + 1, logits
    for token in tokens[split:]:
        end += 1
        yield end, generator.step([RowWork(0, [token], 1)])[0][0]
    generator.trim(0, 0)


def _speed(loaded: Loaded, text: Sequence[int], trial: Trial) -> Speed:
    generator = loaded.generator
    caps = generator.caps
    prefill = _prefill_rate(generator, text, trial.seconds)
    beginning = min(BEGINNING_TOKENS, caps.context // 2, _affordable(prefill, trial.seconds))
    rows = max(1, min(STREAMS, caps.rows, caps.kv_tokens // (2 * beginning)))
    prompt = repeated(text, beginning)
    _fill(generator, 0, prompt)
    decode = _decode_rate(generator, text, 1, trial.seconds)
    _fill(generator, 0, prompt[generator.trim(0, beginning):])
    for row in range(1, rows):
        _fill(generator, row, prompt[generator.fork(0, row, beginning):])
    return Speed(
        prefill=prefill, decode=decode, decode_many=_decode_rate(generator, text, rows, trial.seconds), streams=rows,
        threads=trial.spec.threads or 0, device=loaded.facts.device, engine_version=loaded.facts.engine_version,
        taken=time.time(),
    )


def _prefill_rate(generator: Generator, text: Sequence[int], seconds: float) -> float:
    """Of a prompt of PROMPT_TOKENS, or of as many as such a slow device computes in a few times `seconds`."""
    context = generator.caps.context - 1
    # The first step reads weights from disk and lets kernels compile; the second one tells what can be afforded.
    for count in (WARM_UP_TOKENS, WARM_UP_TOKENS):
        began_s = time.monotonic()
        _prefill(generator, repeated(text, min(count, context)))
        rate = count / max(time.monotonic() - began_s, 1e-9)
    count = min(PROMPT_TOKENS, context, _affordable(rate, seconds))
    prompt = repeated(text, count)
    return count / typical_s(lambda: _prefill(generator, prompt), seconds)


def _affordable(tokens_per_s: float, seconds: float) -> int:
    return max(WARM_UP_TOKENS, int(2 * seconds * tokens_per_s))


def _prefill(generator: Generator, prompt: Sequence[int]) -> None:
    _fill(generator, 0, prompt)
    generator.trim(0, 0)


def _fill(generator: Generator, row: int, tokens: Sequence[int]) -> None:
    for piece in _pieces(tokens, generator.caps.step_tokens):
        generator.step([RowWork(row, piece, 1)])


def _decode_rate(generator: Generator, text: Sequence[int], rows: int, seconds: float) -> float:
    """Tokens a second of the first `rows` rows together, which have their beginning already."""
    caps = generator.caps
    room = min(caps.context, caps.kv_tokens // rows) - min(BEGINNING_TOKENS, caps.context // 2)
    tokens = itertools.cycle(text)

    def step() -> None:
        generator.step([RowWork(row, [next(tokens)], 1) for row in range(rows)])

    step()
    return rows / typical_s(step, seconds, least=LEAST_STEPS, most=max(1, room - 1))


def _pieces(tokens: Sequence[int], most: int) -> list[list[int]]:
    return [list(tokens[first:first + most]) for first in range(0, len(tokens), most)]


def _told(failed: EdgedError | EngineError) -> TrialFailed:
    match failed:
        case EdgedError():
            error = failed
        case DeviceLost():
            error = DeviceUnavailable(f"the device was lost: {failed}")
        case _:
            error = Internal(f"the engine failed: {failed}")
    return TrialFailed(
        status=error.status, type=error.type, message=error.message, code=error.code, retry=error.retry)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Native libraries may hang or crash in their own exit handlers; nothing of ours is left to do.
    os._exit(code)
