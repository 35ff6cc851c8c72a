"""Asking teachers, killed again and again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.answer_runs import run_of, teacher
from tests.chat_server import Answer, Body, ChatServer, answer
from tests.daemon import ROOT
from training.examples import read_examples

pytestmark = pytest.mark.faults

PROMPTS, CONCURRENCY, KILLS = 40, 3, 5
#: The stage as a process of its own.
STAGE = """
import sys
from pathlib import Path
from training.answers.stage import ANSWERS
from training.recipe import load_recipe
from training.run import Run
recipe, file = load_recipe(Path(sys.argv[1]))
run = Run(Path(sys.argv[2]), recipe, file)
run.begin("answers")
run.mark("answers", ANSWERS.key(run), 0.0, ANSWERS.run(run, lambda moment: None))
"""


def test_killed_at_any_moment_no_answer_that_came_is_asked_for_again(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    lock, more = threading.Lock(), threading.Event()
    kill_at = [PROMPTS // (KILLS + 1) * number for number in range(1, KILLS + 1)]

    def say(body: Body) -> Answer:
        with lock:
            asked[body["messages"][0]["content"]] += 1
            if len(kill_at) and sum(asked.values()) >= kill_at[0]:
                kill_at.pop(0)
                more.set()
        return answer("yes")

    with ChatServer(say) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server, concurrency=CONCURRENCY)}]", count=PROMPTS)
        killed = 0
        while not run.ended("answers"):
            more.clear()
            process = subprocess.Popen([sys.executable, "-c", STAGE, str(run.file.path), str(run.folder)], cwd=ROOT)
            while process.poll() is None and not more.wait(0.01):
                pass
            if more.is_set() and process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            process.wait()
    assert killed >= 2
    assert len(asked) == PROMPTS
    assert sum(asked.values()) <= PROMPTS + killed * (CONCURRENCY + 1)
    assert len(list(read_examples(run.path("answers") / "examples.jsonl"))) == PROMPTS
