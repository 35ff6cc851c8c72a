"""What disturbs running streams: a long prompt beside them, and foreign threads on the box."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import uvloop

from bench.client import BenchError, Burst, beside
from bench.proof.scene import Ask, Found, Scene, chat, prose
from bench.rounds import Side
from bench.servers import end
from bench.workloads import Workload, body

_STREAMS = 4


def _four(ask: Ask, model: str) -> list[dict[str, Any]]:
    return [chat(model, prose(ask.number + stream, 4), prose(ask.number + 10 + stream, 28), ask.sizes.beside_answer)
            for stream in range(_STREAMS)]


def _late(ask: Ask, model: str) -> dict[str, Any]:
    return chat(model, prose(ask.number + 30, 4), prose(ask.number + 31, ask.sizes.long_prompt), 4)


def long_prompt(side: Side, ask: Ask) -> Found:
    """gap-ms: the longest time between two events of one of the four streams from the sending of the long prompt on,
    less the median time between events before it. long-first-ms: until the long prompt's first token."""
    running = side.up()
    answered = uvloop.run(beside(running.url, "chat", _four(ask, running.model), _late(ask, running.model)))
    return Found(gaps(answered))


def gaps(answered: Burst) -> dict[str, float]:
    *four, late = answered.answers
    steps = [after - before for one in four for before, after in pairwise(one.times_s) if after <= late.sent_s]
    waits = [after - before for one in four for before, after in pairwise(one.times_s) if after > late.sent_s]
    if not steps or not waits:
        raise BenchError("the streams had ended before the long prompt came; nothing can be said of gaps")
    step_ms = median(steps) * 1000
    return {"gap-ms": max(waits) * 1000 - step_ms, "step-ms": step_ms, "worst-ms": max(waits) * 1000,
            "long-first-ms": (late.first_s - late.sent_s) * 1000}


#: A thread that is always busy, in a process of its own, which ends with us.
_BUSY = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()
while True:
    pass
"""


@contextmanager
def busy_threads(count: int) -> Iterator[None]:
    children = [subprocess.Popen([sys.executable, "-c", _BUSY], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for child in children:
            end(child)


def _piece(number: int) -> Workload:
    return Workload(f"decode-{number}", "completions", 16, 16)


def foreign(side: Side, ask: Ask) -> Found:
    """rate-1, rate-2: decode of one stream beside one foreign thread and beside two, in answers of 16 tokens until the
    time is over: tokens after the first over the time that they took."""
    side.up()
    return Found({f"rate-{count}": _beside(side, ask, count) for count in (1, 2)})


def _beside(side: Side, ask: Ask, count: int) -> float:
    running, tokens, seconds = side.up(), 0, 0.0
    with busy_threads(count):
        ends = time.perf_counter() + ask.sizes.foreign_s
        for number in range(ask.number + count * 200, ask.number + count * 200 + 200):
            [answer] = side.ask(running, _piece(count), number).answers
            tokens += answer.completion_tokens - 1
            seconds += answer.last_s - answer.first_s
            if time.perf_counter() > ends:
                break
    return tokens / seconds


LONG_PROMPT = Scene(
    "long-prompt", "a prompt of 3,000 tokens beside four running streams: the longest gap between their tokens",
    ("edged", "edged-same", "llama-default", "llama-tuned", "llama-reuse"),
    long_prompt, lambda ask: [*_four(ask, ""), _late(ask, "")], rounds=2,
)
FOREIGN = Scene(
    "foreign", "one and two foreign busy threads on the box: decode of one stream",
    ("edged", "edged-same", "llama-default", "llama-tuned", "llama-1-thread"),
    foreign,
    lambda ask: [ask.sizes.foreign_s, *(body(_piece(count), ask.number + count * 200, "") for count in (1, 2))],
    rounds=2,
)
