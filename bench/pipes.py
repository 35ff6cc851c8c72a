"""Contenders without a server: a child process that takes one burst as a line of JSON and answers with another.

To the child: `{"prompts": [text, …], "answer_tokens": 128}`, all at once. From it: first `{"facts": {…}}`, once it can
answer, then for each burst `{"answers": [{"first_s", "last_s", "prompt_tokens", "completion_tokens"}, …]}`, times in
seconds since the line was read. It ends when its standard input ends.
"""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.client import Answer, BenchError, Burst
from bench.servers import Running, end, spawn
from bench.workloads import Workload, text, words

#: A burst takes a minute at most on the slowest machine that the bench is for; a child that hangs must end it.
TIMEOUT_S = 600


def start(name: str, command: Sequence[str | Path], config: dict[str, Any]) -> Running:
    child = spawn(name, [*command, json.dumps(config)], pipe=True)
    try:
        facts = read(child, name)["facts"]
    except BenchError:
        end(child)
        raise
    return Running("", name, psutil.Process(child.pid), facts, child)


def ask(running: Running, workload: Workload, first: int) -> Burst:
    """Prompts number `first` and following, one for each stream, all at once."""
    child = running.child
    assert child is not None
    assert child.stdin is not None
    prompts = [text(words(first + stream, workload.prompt_tokens)) for stream in range(workload.streams)]
    cpu_s, began_s = time.process_time(), time.perf_counter()
    child.stdin.write(json.dumps({"prompts": prompts, "answer_tokens": workload.answer_tokens}).encode() + b"\n")
    child.stdin.flush()
    said = read(child, running.model)["answers"]
    wall_s = time.perf_counter() - began_s
    answers = [
        Answer(sent_s=0.0, first_s=one["first_s"], last_s=one["last_s"], events=one["completion_tokens"],
               prompt_tokens=one["prompt_tokens"], cached_tokens=0, completion_tokens=one["completion_tokens"], text="")
        for one in said
    ]
    return Burst(answers, wall_s, time.process_time() - cpu_s)


def read(child: subprocess.Popen[bytes], name: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """The next line. Raises BenchError where none comes: the child has ended, or hangs."""
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], timeout_s)
    line = child.stdout.readline() if ready else b""
    if not line:
        raise BenchError(f"{name} did not answer; see build/bench-logs/{name}.log")
    said: dict[str, Any] = json.loads(line)
    return said
