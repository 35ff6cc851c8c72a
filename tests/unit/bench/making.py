"""Answers, bursts and samples as the bench would have measured them."""

from __future__ import annotations

from bench.client import Answer, Burst
from bench.machine import CpuUse
from bench.report import Run
from bench.rounds import Sample

QUIET = CpuUse(server_cores=1.9, client_cores=0.02, foreign_cores=0.01)
BUSY = CpuUse(server_cores=1.0, client_cores=0.02, foreign_cores=0.9)


def answer(
    *, sent_s: float = 0.0, first_s: float = 1.0, last_s: float = 2.0, prompt_tokens: int = 256, cached_tokens: int = 0,
    completion_tokens: int = 128, events: int = 128,
) -> Answer:
    return Answer(
        sent_s=sent_s, first_s=first_s, last_s=last_s, events=events, prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens, completion_tokens=completion_tokens, text="text",
    )


def burst(*answers: Answer) -> Burst:
    return Burst(list(answers), wall_s=max(one.last_s for one in answers), client_cpu_s=0.01)


def samples(metric: str, side: str, *values: float, cpu: CpuUse | None = QUIET) -> list[Sample]:
    return [Sample(metric, side, turn, value, cpu) for turn, value in enumerate(values)]


def run(**changed: object) -> Run:
    fields: dict[str, object] = {
        "when": "2030-01-02 03:04 UTC", "workloads": "0123456789ab", "rounds": 5, "commit": "abcdef0",
        "machine": {"cpu": "a processor, 2 cores"}, "settings": {"threads": "2"},
        "sides": {"edged": {"version": "1"}, "llama-server": {"version": "2"}}, "quick": False, "complaints": [],
    }
    return Run(**{**fields, **changed})  # type: ignore[arg-type]
