"""Requests that the OpenAPI document allows and forbids, by the hundred; `python -m bench.fuzz` makes thousands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from edged.store import Store
from tests.daemon import Daemon
from tests.fuzzing import LEFT_OUT, Fuzzer, Tally, install_models

pytestmark = pytest.mark.http

EXAMPLES = 12
#: Beyond what msgpack, in which requests go to the worker, has numbers for.
GREAT = 10**30


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon"), keep_alive_s=-1) as daemon:
        install_models(Store(daemon.home))
        yield daemon


@pytest.fixture(scope="module")
def fuzzer(daemon: Daemon) -> Iterator[Fuzzer]:
    fuzzer = Fuzzer(daemon.base_url)
    yield fuzzer
    fuzzer.close()


def test_whatever_is_asked_is_answered_as_the_document_says(daemon: Daemon, fuzzer: Fuzzer) -> None:
    tally = Tally()
    for operation in fuzzer.operations:
        fuzzer.run(operation, EXAMPLES, tally)
    assert not tally.broken, "\n\n".join(f"{name}: {what}\n{how}" for (name, what), how in tally.broken.items())
    assert not [entry for entry in daemon.log() if "exception" in entry]
    answered = {name for name, statuses in tally.statuses.items() if statuses[200]}
    for name in ("POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings", "POST /v1/rerank",
                 "POST /v1/responses", "POST /v1/messages", "POST /api/chat", "POST /api/generate"):
        assert name in answered, f"nothing that was made for {name} fits it: {tally.statuses[name]}"
    assert len(tally.statuses) == len(fuzzer.operations)
    assert not tally.statuses.keys() & LEFT_OUT.keys()


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "pay", "arguments": arguments}}


@pytest.mark.parametrize(("path", "messages"), [
    ("/v1/chat/completions", [{"role": "assistant", "tool_calls": [call(f'{{"wei": {GREAT}}}')]},
                              {"role": "tool", "tool_call_id": "1", "content": "say: paid"}]),
    ("/api/chat", [{"role": "assistant", "tool_calls": [call({"wei": GREAT})]},
                   {"role": "tool", "content": "say: paid"}]),
    ("/v1/messages", [{"role": "assistant", "content": [
                          {"type": "tool_use", "id": "1", "name": "pay", "input": {"wei": GREAT}}]},
                      {"role": "user", "content": [
                          {"type": "tool_result", "tool_use_id": "1", "content": "say: paid"}]}]),
])
def test_numbers_of_any_size_are_read_in_the_calls_that_came_before(
    daemon: Daemon, path: str, messages: list[dict[str, Any]]
) -> None:
    """They once left the request waiting for ever."""
    body = {"model": "talker", "messages": messages, "stream": False}
    body |= {"max_tokens": 50} if path == "/v1/messages" else {}
    reply = httpx.post(daemon.base_url + path, json=body, timeout=10)
    assert reply.status_code == 200, reply.text
    assert "paid" in reply.text


def test_a_number_that_no_template_can_be_given_is_refused_by_its_name(daemon: Daemon) -> None:
    reply = httpx.post(daemon.base_url + "/edged/v1/apply-template", timeout=10, json={
        "model": "talker", "messages": [{"role": "user", "content": "hm"}], "chat_template_kwargs": {"many": GREAT}})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "chat_template_kwargs.many"


def test_a_model_reads_the_whole_number(daemon: Daemon) -> None:
    reply = httpx.post(daemon.base_url + "/edged/v1/apply-template", timeout=10, json={
        "model": "talker", "messages": [{"role": "assistant", "tool_calls": [call(f'{{"wei": {GREAT}}}')]}]})
    assert f'{{"wei": {GREAT}}}' in reply.json()["prompt"]
