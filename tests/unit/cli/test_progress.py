from __future__ import annotations

import itertools
import json

import pytest

from edged.cli.progress import JsonLines, Lines
from edged.store.entries import JobProgress

pytestmark = pytest.mark.unit


def moments() -> list[JobProgress]:
    return [
        JobProgress(stage="resolving"),
        *(JobProgress(stage="downloading", file="m.gguf", done_bytes=done, total_bytes=10_000_000)
          for done in range(0, 10_000_001, 1_000_000)),
        JobProgress(stage="downloading", note="README.md was left out"),
        JobProgress(stage="publishing", done_bytes=10_000_000, total_bytes=10_000_000),
    ]


def test_lines_are_few_and_tell_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = itertools.count()
    with Lines(interval_s=5, clock=lambda: float(next(seconds))) as show:
        for moment in moments():
            show(moment)
    assert capsys.readouterr().err.splitlines() == [
        "resolving",
        "downloading m.gguf: 0 B of 10.0 MB",
        "downloading m.gguf: 5.0 MB of 10.0 MB, 1.0 MB/s, 5 s left",
        "downloading m.gguf: 10.0 MB of 10.0 MB",
        "note: README.md was left out",
        "downloading",
        "publishing: 10.0 MB of 10.0 MB",
    ]


def test_for_scripts_every_moment_is_a_line_of_json(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with JsonLines() as show:
        for moment in moments():
            show(moment)
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["progress"]["done_bytes"] for line in lines] == [moment.done_bytes for moment in moments()]
