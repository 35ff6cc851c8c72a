"""A contender behind a pipe: its answers become a burst, and one that dies ends the bench with the name of its log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import pipes
from bench.client import BenchError
from bench.workloads import Workload, text, words

pytestmark = pytest.mark.unit

CHILD = """
import json, sys
print(json.dumps({"facts": json.loads(sys.argv[1])}), flush=True)
for line in sys.stdin:
    burst = json.loads(line)
    if burst["answer_tokens"] == 13:
        sys.exit(1)
    print(json.dumps({"answers": [
        {"first_s": 0.5, "last_s": 1 + index, "prompt_tokens": len(prompt.split()),
         "completion_tokens": burst["answer_tokens"]} for index, prompt in enumerate(burst["prompts"])]}), flush=True)
"""
TWO = Workload("streams-2", "chat", prompt_tokens=32, answer_tokens=7, streams=2)


def test_a_burst_has_an_answer_for_each_prompt_and_the_child_ends_when_told(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    running = pipes.start("test-pipe", [sys.executable, tmp_path / "child.py"], {"version": "1"})
    assert running.facts == {"version": "1"}
    burst = pipes.ask(running, TWO, 5)
    assert [answer.last_s for answer in burst.answers] == [1, 2]
    assert [answer.completion_tokens for answer in burst.answers] == [7, 7]
    assert burst.answers[1].prompt_tokens == len(text(words(6, 32)).split())
    assert running.process is not None
    running.stop()
    assert not running.process.is_running()


def test_a_child_that_dies_is_told_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    running = pipes.start("test-pipe", [sys.executable, tmp_path / "child.py"], {})
    with pytest.raises(BenchError, match=r"build/bench-logs/test-pipe\.log"):
        pipes.ask(running, Workload("x", "chat", prompt_tokens=32, answer_tokens=13), 0)
    running.stop()
    (tmp_path / "child.py").write_text("raise SystemExit(1)")
    with pytest.raises(BenchError, match="did not answer"):
        pipes.start("test-pipe", [sys.executable, tmp_path / "child.py"], {})
