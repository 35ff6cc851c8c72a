"""What is computed of prompts that begin alike, counted by the worker, over HTTP. The fake engine computes slowly, so
that all clients are there while the first one's prompt is computed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

SYSTEM = "You are a box at the edge that answers in a word. " * 12


def counted(daemon: Daemon, name: str, model: str) -> int:
    text = httpx.get(daemon.base_url + "/metrics").text
    found = re.search(rf'^edged_{name}\{{model="{model}"\}} (\S+)$', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def settled(daemon: Daemon, model: str, prompt_tokens: int) -> int:
    """Prompt tokens computed, once the worker has told of all requests."""
    ends_s = time.monotonic() + 10
    while counted(daemon, "prefix_cache_query_tokens_total", model) < prompt_tokens and time.monotonic() < ends_s:
        time.sleep(0.05)
    assert counted(daemon, "prefix_cache_query_tokens_total", model) == prompt_tokens
    return counted(daemon, "prompt_computed_tokens_total", model)


def test_eight_clients_with_one_system_prompt_compute_it_once(start: Callable[..., Daemon]) -> None:
    daemon = start()
    client = daemon.openai()
    client.chat.completions.create(model="sluggish", messages=[{"role": "user", "content": "-"}], max_tokens=1)
    before = counted(daemon, "prompt_computed_tokens_total", "sluggish")

    def ask(number: int) -> tuple[int, int]:
        answer = client.chat.completions.create(model="sluggish", max_tokens=2, messages=[
            {"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{number} of them?"}])
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens, answer.usage.prompt_tokens_details.cached_tokens or 0

    with ThreadPoolExecutor(8) as threads:
        usages = list(threads.map(ask, range(8)))
    tokens = [prompt for prompt, _ in usages]
    computed = settled(daemon, "sluggish", sum(tokens) + before) - before
    tail = tokens[0] - len(SYSTEM)
    assert computed <= len(SYSTEM) + 8 * tail
    assert sum(cached for _, cached in usages) == sum(tokens) - computed
    assert sorted(cached >= len(SYSTEM) for _, cached in usages) == [False] + [True] * 7


def test_agents_with_growing_histories_compute_what_is_new(start: Callable[..., Daemon]) -> None:
    """Four in turn, ten turns each. The fake engine's answers are words, and their text is bytes to its tokenizer: of
    each answer all tokens are new in the next prompt, the worst that a template can do."""
    daemon = start()
    client = daemon.openai()
    histories: list[list[Any]] = [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{agent} begins"}] for agent in range(4)]
    lengths = [0] * 4
    prompts = new = 0
    for turn in range(10):
        for agent, history in enumerate(histories):
            answer = client.chat.completions.create(model="wordy", messages=history, max_tokens=6)
            assert answer.usage is not None
            length = answer.usage.prompt_tokens
            prompts += length
            new += length - (lengths[agent] or (agent and len(SYSTEM)))
            lengths[agent] = length
            history += [{"role": "assistant", "content": answer.choices[0].message.content},
                        {"role": "user", "content": f"and {turn} more?"}]
    assert settled(daemon, "wordy", prompts) <= 1.05 * new
