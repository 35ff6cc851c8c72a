"""Several tokens a step, as an operator sees it: counted, turned off by a key, helped by a draft model, refused where
that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.daemon import Daemon, until

pytestmark = pytest.mark.http

QUOTE = "ORDER 4711: TWELVE BOXES; THREE ARMS; ONE DESK."
#: The engine says it in single letters, as the prompt has it.
QUOTING = f"QUOTE {QUOTE} say: {QUOTE}"


def ask(daemon: Daemon, model: str, content: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 60}
    answer = httpx.post(f"{daemon.base_url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def counts(daemon: Daemon, model: str) -> tuple[int, int]:
    """Once the worker has said what it did: it does when it has nothing more to do."""
    for _ in until(20):
        [loaded] = [each for each in daemon.json("ps") if each["name"] == model and each["state"] == "ready"]
        if loaded["kv_used_tokens"]:
            break
    return loaded["speculative_proposed_tokens"], loaded["speculative_accepted_tokens"]


def test_drafts_are_counted_and_a_key_turns_them_off(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.models_file.write_text("[models.off]\nspeculation = false\n")
        daemon.pull_fake("on", step_ms=5)
        daemon.pull_fake("off", step_ms=5)
        httpx.post(f"{daemon.base_url}/edged/v1/reload").raise_for_status()
        assert ask(daemon, "on", QUOTING) == ask(daemon, "off", QUOTING) == QUOTE
        proposed, accepted = counts(daemon, "on")
        assert len(QUOTE) / 2 < accepted <= proposed
        assert counts(daemon, "off") == (0, 0)
        metrics = httpx.get(f"{daemon.base_url}/metrics").text
        assert f'edged_speculative_proposed_tokens_total{{model="on"}} {float(proposed)}' in metrics
        assert f'edged_speculative_accepted_tokens_total{{model="on"}} {float(accepted)}' in metrics


def test_a_draft_model_that_is_right_spares_steps_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.models_file.write_text('[models.helped]\ndraft = "small"\n[models.lost]\ndraft = "nowhere"\n')
        for name, step_ms in (("helped", 20), ("alone", 0), ("small", 0), ("lost", 0)):
            daemon.pull_fake(name, step_ms=step_ms, end_chance=0)
        httpx.post(f"{daemon.base_url}/edged/v1/reload").raise_for_status()
        assert ask(daemon, "helped", "Tell me of rivers.") == ask(daemon, "alone", "Tell me of rivers.")
        proposed, accepted = counts(daemon, "helped")
        assert 20 < accepted <= proposed
        assert daemon.edged("rm", "small").returncode != 0
        refused = httpx.post(f"{daemon.base_url}/v1/chat/completions", json={
            "model": "lost", "messages": [{"role": "user", "content": "hi"}]}, timeout=60)
        assert refused.status_code >= 500
        assert "the draft model of lost is not installed; `edged pull nowhere`" in refused.json()["error"]["message"]


@pytest.mark.parametrize("said", [
    {"reasoning_budget": 12, "reasoning_effort": "high"}, {"stop": ["ARMS"]}, {"logprobs": True, "top_logprobs": 2},
    {"n": 3, "temperature": 0.8, "seed": 5}, {"max_tokens": 23},
    {"frequency_penalty": 1.5, "temperature": 1.2, "seed": 3},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "order", "schema": {
        "type": "object", "properties": {"text": {"type": "string", "maxLength": 40}}, "required": ["text"]}}}},
], ids=lambda said: next(iter(said)))
def test_whatever_is_asked_the_answer_is_the_one_without_drafts(both: Daemon, said: dict[str, Any]) -> None:
    content = f"{QUOTING} <think>{QUOTE}</think> say: <think>{QUOTE}</think>{QUOTE}"
    answers = []
    for model in ("on", "off"):
        body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 90,
                **said}
        answer = httpx.post(f"{both.base_url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        answers.append([answer.json()["choices"], answer.json()["usage"]["completion_tokens"]])
    assert answers[0] == answers[1]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A model with drafts, which must have had some accepted in the end, and the same one without."""
    with Daemon(tmp_path_factory.mktemp("both")) as daemon:
        daemon.models_file.write_text("[models.off]\nspeculation = false\n")
        daemon.pull_fake("on", step_ms=4)
        daemon.pull_fake("off", step_ms=1)
        httpx.post(f"{daemon.base_url}/edged/v1/reload").raise_for_status()
        yield daemon
        assert counts(daemon, "on")[1] > 100
        assert counts(daemon, "off") == (0, 0)
