"""Many programs at once: answered together, not in turn, and without harm to each other."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
import openai
import psutil
import pytest

from tests.real.conftest import Served

pytestmark = pytest.mark.real

MODEL = "smollm2-135m"
TOPICS = ["rivers", "bridges", "tea", "clocks", "glass", "trains", "bees", "salt"]
#: Forbids the end tokens, so that answers have the length that is asked for.
NO_END = {"2": -100, "0": -100}
#: Two logits closer than this may swap places beside other requests.
NEAR_TIE = 0.05


@dataclass
class Stream:
    """Arrival of one stream's pieces, on the monotonic clock."""

    text: str = ""
    at_s: list[float] = field(default_factory=list)


async def stream(client: openai.AsyncOpenAI, content: str, tokens: int, **options: object) -> Stream:
    got = Stream()
    pieces = await client.chat.completions.create(  # type: ignore[call-overload]
        model=MODEL, messages=[{"role": "user", "content": content}], temperature=0, max_tokens=tokens, stream=True,
        logit_bias=NO_END, **options)
    async for piece in pieces:
        if piece.choices and piece.choices[0].delta.content:
            got.text += piece.choices[0].delta.content
            got.at_s.append(time.monotonic())
    return got


def worker(served: Served) -> psutil.Process:
    [one] = [child for child in psutil.Process(served.pid).children() if "edged.worker" in child.cmdline()]
    return one


def client_of(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0, timeout=300)


async def test_eight_streams_end_sooner_together_than_in_turn_and_overlap(served: Served) -> None:
    async with client_of(served) as client:
        await stream(client, "Say hello.", 4)
        began_s = time.monotonic()
        for topic in TOPICS:
            await stream(client, f"Write about {topic}.", 32)
        in_turn_s = time.monotonic() - began_s
        began_s = time.monotonic()
        streams = await asyncio.gather(*(stream(client, f"Tell me of {topic}.", 32) for topic in TOPICS))
        together_s = time.monotonic() - began_s
    print(f"eight in turn {in_turn_s:.2f} s, together {together_s:.2f} s")
    assert together_s < in_turn_s
    first_end_s = min(one.at_s[-1] for one in streams)
    for one in streams:
        assert one.at_s[0] < first_end_s, "a stream had to wait for another to end"


async def test_a_long_prompt_in_the_middle_does_not_stop_the_others(served: Served) -> None:
    """Medians of a shared machine: the longest gap of each stream beside the long prompt, less its usual step."""
    words = " ".join(f"{index} bottles of water on the wall," for index in range(260))
    async with client_of(served) as client:
        await stream(client, "Say hello.", 4)
        others = [asyncio.create_task(stream(client, f"Explain {topic} at length.", 160)) for topic in TOPICS[:3]]
        await asyncio.sleep(1.0)
        began_s = time.monotonic()
        long = await stream(client, words, 4)
        streams = await asyncio.gather(*others)
    prefill_s = long.at_s[0] - began_s
    gaps = [after - before for one in streams for before, after in pairwise(one.at_s)]
    beside = [
        after - before for one in streams for before, after in pairwise(one.at_s)
        if before < long.at_s[0] and after > began_s
    ]
    usual_s = sorted(gaps)[len(gaps) // 2]
    longest_s = sorted(beside)[int(len(beside) * 0.98)]
    print(f"3,000-token prefill {prefill_s:.2f} s; gaps beside it: {len(beside)}, usual {usual_s * 1000:.0f} ms, "
          f"98th percentile {longest_s * 1000:.0f} ms, longest {max(beside) * 1000:.0f} ms")
    assert len(beside) > 10, "the others stood still while the long prompt was read"


async def test_greedy_text_among_seven_others_is_that_alone_or_differs_at_a_near_tie(served: Served) -> None:
    questions = [f"Write one sentence about {topic}." for topic in TOPICS]

    async def answer(client: openai.AsyncOpenAI, question: str) -> list[tuple[str, float]]:
        """Each token with the gap between the two likeliest."""
        got = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=40, logprobs=True,
            top_logprobs=2)
        content = got.choices[0].logprobs.content if got.choices[0].logprobs else None
        assert content
        return [(one.token, one.top_logprobs[0].logprob - one.top_logprobs[1].logprob) for one in content]

    async with client_of(served) as client:
        alone = [await answer(client, question) for question in questions]
        together = await asyncio.gather(*(answer(client, question) for question in questions))
    gaps = []
    for one, other in zip(alone, together, strict=True):
        for (token, gap), (among, gap_among) in zip(one, other, strict=False):
            if token != among:
                gaps.append(min(gap, gap_among))
                break
    print(f"{len(gaps)} of {len(questions)} greedy texts differ among others; gaps where they part: "
          f"{[round(gap, 4) for gap in gaps]}")
    assert all(gap < NEAR_TIE for gap in gaps)


async def test_a_killed_worker_gives_a_clear_error_and_the_next_request_works(served: Served) -> None:
    async with client_of(served) as client:
        await stream(client, "Say hello.", 4)
        running = asyncio.create_task(stream(client, "Count to one hundred.", 400))
        await asyncio.sleep(1.0)
        os.kill(worker(served).pid, signal.SIGKILL)
        with pytest.raises(openai.APIError) as caught:
            await running
        assert caught.value.code == "worker_died"
        assert "again" in caught.value.message
        again = await stream(client, "Say hello.", 4)
        assert again.text


async def test_a_client_that_leaves_in_prefill_frees_its_slot_within_a_second(served: Served) -> None:
    words = " ".join(f"{index} green bottles," for index in range(560))
    async with client_of(served) as client:
        await stream(client, "Say hello.", 4)
    body = {"model": MODEL, "messages": [{"role": "user", "content": words}], "stream": True, "max_tokens": 4}
    async with httpx.AsyncClient(timeout=60) as raw:
        sending = asyncio.create_task(raw.post(served.url + "/v1/chat/completions", json=body))
        await asyncio.sleep(0.8)
        assert (await raw.get(f"{served.url}/edged/v1/models/{MODEL}")).json()["running"] == 1
        assert await busy_s(served) > 0.1, "the prompt was read before the client left; make it longer"
        sending.cancel()
        await asyncio.sleep(1.0)
        assert await busy_s(served) < 0.1, "the worker went on with the prompt"
        assert (await raw.get(f"{served.url}/edged/v1/models/{MODEL}")).json()["running"] == 0


async def busy_s(served: Served) -> float:
    """CPU seconds that the worker uses in half a second."""
    process = worker(served)
    before = process.cpu_times()
    await asyncio.sleep(0.5)
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system
