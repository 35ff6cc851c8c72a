"""Prompts that begin alike: many clients at once, after a restart, and agents whose histories grow."""

from __future__ import annotations

import time
from statistics import mean
from typing import Any

import uvloop

from bench.client import BenchError, Burst, burst, whole
from bench.machine import tree_cpu_s
from bench.proof.scene import Ask, Found, Scene, chat, forced, prose
from bench.rounds import Side
from bench.servers import Running

_ANSWER_TOKENS = 4
_USER_TOKENS = 16
#: Tokens of a template that every chat begins with; more than this from a cache, and a prompt was not cold.
_TEMPLATE_TOKENS = 24
#: At most, for what a server does once nobody asks it anything.
_REST_S = 15


def _clients(ask: Ask, model: str, first: int = 0) -> list[dict[str, Any]]:
    """One body for each client: the same system prompt, words of their own. first: number of the first words."""
    system = prose(ask.number, ask.sizes.system)
    return [chat(model, system, prose(ask.number + 1 + first + client, _USER_TOKENS), _ANSWER_TOKENS)
            for client in range(ask.sizes.clients)]


def shared(side: Side, ask: Ask) -> Found:
    """first-ms: mean time to the first token, from sending. computed: prompt tokens that no cache had."""
    running = side.up()
    answered = uvloop.run(burst(running.url, "chat", _clients(ask, running.model)))
    cold = min(answer.cached_tokens for answer in answered.answers)
    notes = () if cold <= _TEMPLATE_TOKENS else (f"{side.name}: {cold} tokens of a cold prompt came from a cache",)
    return Found(_first(answered), notes)


def _first(answered: Burst) -> dict[str, float]:
    waits = [(answer.first_s - answer.sent_s) * 1000 for answer in answered.answers]
    computed = sum(answer.prompt_tokens - answer.cached_tokens for answer in answered.answers)
    return {"first-ms": mean(waits), "worst-ms": max(waits), "computed": computed}


def restart(side: Side, ask: Ask) -> Found:
    """The prompt is asked by three clients one after the other; then the server rests, is ended, and started again, and
    all clients ask at once, with other words of their own. first-ms: from sending, when the server says that
    it is ready (llama-server has its model then; edged has begun to load what was in memory, and what is left of that
    load is in the first request's time). launched-ms: the same from the launch of the process."""
    before = side.up()
    for body in _clients(ask, before.model, 100)[:3]:
        uvloop.run(burst(before.url, "chat", [body]))
    _rest(before)
    side.down()
    began = time.perf_counter()
    side.running = side.launch()
    ready_ms = (time.perf_counter() - began) * 1000
    answered = uvloop.run(burst(side.running.url, "chat", _clients(ask, side.running.model)))
    figures = _first(answered)
    return Found(figures | {"launched-ms": figures["first-ms"] + ready_ms, "ready-ms": ready_ms})


def _rest(running: Running) -> None:
    """Until its processes have been idle for three seconds, a while at most: what it keeps is on the disk then."""
    idle_s = 0
    for _ in range(_REST_S):
        before_s = tree_cpu_s(running.process) if running.process else 0.0
        time.sleep(1)
        busy_s = tree_cpu_s(running.process) - before_s if running.process else 0.0
        idle_s = idle_s + 1 if busy_s < 0.1 else 0
        if idle_s == 3:
            return


def agents(side: Side, ask: Ask) -> Found:
    """Each agent in turn sends its whole history and some words more. New in a prompt is what its last prompt and that
    one's answer did not have; of the first turn, everything. computed-share: prompt tokens that no cache had, of those
    that were new."""
    running, sizes = side.up(), ask.sizes
    histories: list[list[dict[str, str]]] = [
        [{"role": "system", "content": prose(ask.number + agent, 120)}] for agent in range(sizes.agents)]
    known = [0] * sizes.agents
    computed = new = 0
    seconds = 0.0
    for turn in range(sizes.turns):
        for agent, history in enumerate(histories):
            said = prose(ask.number + (turn + 1) * sizes.agents + agent, sizes.turn_words)
            history.append({"role": "user", "content": said})
            body = {"model": running.model, "messages": history, **forced(sizes.turn_answer, stream=False)}
            answer = whole(running.url, "chat", body)
            history.append({"role": "assistant", "content": answer.body["choices"][0]["message"]["content"]})
            if answer.prompt_tokens <= known[agent]:
                raise BenchError(f"a longer history counted {answer.prompt_tokens} tokens after {known[agent]}")
            computed += answer.prompt_tokens - answer.cached_tokens
            new += answer.prompt_tokens - known[agent]
            known[agent] = answer.prompt_tokens + answer.completion_tokens
            seconds += answer.seconds
    return Found({"computed-share": computed / new, "computed": computed, "new": new, "seconds": seconds})


def _agents_asked(ask: Ask) -> list[Any]:
    sizes = ask.sizes
    last = ask.number + (sizes.turns + 1) * sizes.agents
    return [prose(number, sizes.turn_words) for number in range(ask.number, last)] + [sizes.turn_answer]


_SIDES = ("edged", "edged-same", "llama-tuned", "llama-reuse")
SHARED = Scene(
    "shared", "eight clients at once with one system prompt of 1,000 tokens that nobody has seen: time to first token",
    _SIDES, shared, lambda ask: _clients(ask, ""),
)
RESTART = Scene(
    "restart", "the same after a restart of the server, with a prompt that it knew before",
    _SIDES, restart, lambda ask: [*_clients(ask, "", 100)[:3], *_clients(ask, "")], rounds=2,
)
AGENTS = Scene(
    "agents", "four agents in turn, ten turns each, whole histories: prompt tokens computed of those that were new",
    ("edged", "edged-same", "llama-default", "llama-reuse"), agents, _agents_asked, rounds=1,
)
