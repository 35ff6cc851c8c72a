"""Rates of one stream and of eight: tokens a second, and what a token costs the daemon."""

from __future__ import annotations

from typing import Any

import httpx
import psutil

from bench import machine
from bench.client import BenchError, Burst
from bench.compare import check_lengths, figure
from bench.proof.scene import Ask, Found, Scene
from bench.rounds import Side
from bench.workloads import Workload, body


def _single(ask: Ask) -> tuple[Workload, ...]:
    sizes = ask.sizes
    return (
        Workload("decode", "completions", sizes.decode_prompt, sizes.decode_answer, repeats=2),
        Workload("prefill", "completions", sizes.prefill, 1),
    )


def single(side: Side, ask: Ask) -> Found:
    figures, notes, number = {}, set(), ask.number
    for workload in _single(ask):
        bursts, complaints = _bursts(side, workload, number)
        figures[workload.name] = figure(workload, bursts)
        notes |= complaints
        number += workload.requests
    return Found(figures, tuple(sorted(notes)))


def _streams(ask: Ask, *, long: bool) -> Workload:
    prompt, answer = ask.sizes.long_stream if long else ask.sizes.stream
    return Workload(f"streams-{ask.sizes.streams}", "chat", prompt, answer, streams=ask.sizes.streams)


def streams(side: Side, ask: Ask) -> Found:
    return _rate(side, _streams(ask, long=False), ask)


def long_streams(side: Side, ask: Ask) -> Found:
    return _rate(side, _streams(ask, long=True), ask)


def _rate(side: Side, workload: Workload, ask: Ask) -> Found:
    """rate: answered tokens a second, prefill included. root-us: CPU time of the server's first process, a token, which
    of edged is the daemon. pss-mib: of all its processes afterwards."""
    process = side.up().process
    before_s = _cpu_s(process)
    bursts, notes = _bursts(side, workload, ask.number)
    figures = {"rate": figure(workload, bursts)}
    if process is not None:
        tokens = sum(answer.completion_tokens for burst in bursts for answer in burst.answers)
        figures["root-us"] = (_cpu_s(process) - before_s) / tokens * 1e6
        figures["pss-mib"] = machine.tree_memory(process).pss_bytes / machine.MIB
    return Found(figures, tuple(sorted(notes)))


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def _bursts(side: Side, workload: Workload, number: int) -> tuple[list[Burst], set[str]]:
    running = side.up()
    bursts = [side.ask(running, workload, number + repeat * workload.streams) for repeat in range(workload.repeats)]
    notes = {f"{side.name}: {said}" for burst in bursts for said in check_lengths(workload, burst)}
    return bursts, notes


def daemon_cost(side: Side, ask: Ask) -> Found:
    """Streams of the fake engine, so that hardly anything but the daemon and the frames costs. series, metrics-bytes:
    of one reading of its metrics."""
    sizes = ask.sizes
    workload = Workload("streams-64", "chat", 16, sizes.fake_answer, streams=sizes.fake_streams)
    running = side.up()
    if running.process is None:
        raise BenchError("the daemon's process cannot be seen")
    before_s = _cpu_s(running.process)
    burst = side.ask(running, workload, ask.number)
    tokens = sum(answer.completion_tokens for answer in burst.answers)
    cost_us = (_cpu_s(running.process) - before_s) / tokens * 1e6
    told = httpx.get(f"{running.url}/metrics").text
    series = sum(bool(line) and not line.startswith("#") for line in told.splitlines())
    return Found({"daemon-us": cost_us, "tokens": tokens, "series": series, "metrics-bytes": len(told)})


def _asked(workloads: tuple[Workload, ...], ask: Ask) -> list[dict[str, Any]]:
    numbers = range(ask.number, ask.number + sum(workload.requests for workload in workloads))
    each = [workload for workload in workloads for _ in range(workload.requests)]
    return [body(workload, number, "") for workload, number in zip(each, numbers, strict=True)]


SINGLE = Scene(
    "single", "one stream: decode after a short prompt, prefill of a long one",
    ("edged", "edged-same", "edged-plain", "llama-default", "llama-tuned", "llama-ngram", "llama-k_m"),
    single, lambda ask: _asked(_single(ask), ask), rounds=5,
)
STREAMS = Scene(
    "streams", "eight chats at once, prompts of 32 tokens and answers of 128: all answered tokens over the whole time",
    ("edged", "edged-same", "llama-default", "llama-tuned", "llama-reuse", "foundry"),
    streams, lambda ask: _asked((_streams(ask, long=False),), ask),
)
LONG_STREAMS = Scene(
    "streams-256", "the same with prompts of 256 tokens",
    ("edged", "edged-same", "llama-default", "llama-tuned", "foundry"),
    long_streams, lambda ask: _asked((_streams(ask, long=True),), ask),
)
DAEMON = Scene(
    "daemon", "64 streams of the fake engine: CPU time of the daemon for each token",
    ("edged-fake",), daemon_cost, lambda ask: [16, ask.sizes.fake_streams, ask.sizes.fake_answer], rounds=2,
)
