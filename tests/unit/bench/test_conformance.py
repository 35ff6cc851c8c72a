"""The suite tells apart what a server does: a check that cannot fail would flatter everybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bench.conformance.outcome import CHECKS, Check, Row, Verdict, expect, outcome
from bench.conformance.server import Server
from bench.conformance.suite import Report, ordered, table

pytestmark = pytest.mark.unit

REFUSAL = {"error": {"message": "`seed` is not served.", "type": "invalid_request_error", "param": "seed"}}


def server(answer: Callable[[httpx.Request], httpx.Response]) -> Server:
    made = Server("http://test", "model")
    made._client = httpx.Client(base_url="http://test", transport=httpx.MockTransport(answer))
    return made


def seen(status: int, body: Any, run: Callable[[Server], str | None]) -> tuple[Verdict, str]:
    row = outcome(Check("area", "name", False, run), server(lambda request: httpx.Response(status, json=body)))
    return row.verdict, row.note


def takes_seed(server: Server) -> None:
    expect(server.ask("/v1/x", {}, "seed")["kept"], "the field was dropped")


def must_refuse(server: Server) -> None:
    server.refusal("/v1/x", {}, "seed")


@pytest.mark.parametrize(("status", "body", "verdict"), [
    (200, {"kept": True}, Verdict.WORKS), (200, {"kept": False}, Verdict.SILENT), (200, {}, Verdict.BROKEN),
    (200, [], Verdict.BROKEN), (400, REFUSAL, Verdict.REFUSED), (400, {"error": "no"}, Verdict.BROKEN),
    (500, REFUSAL, Verdict.BROKEN), (404, {"detail": "Not Found"}, Verdict.ABSENT), (405, {}, Verdict.ABSENT),
    (501, {}, Verdict.ABSENT),
])
def test_a_field_that_is_asked_for(status: int, body: Any, verdict: Verdict) -> None:
    assert seen(status, body, takes_seed)[0] is verdict


@pytest.mark.parametrize(("status", "body", "verdict"), [
    (200, {}, Verdict.SILENT), (400, REFUSAL, Verdict.WORKS), (400, {"error": "no"}, Verdict.BROKEN),
    (500, REFUSAL, Verdict.BROKEN), (404, {}, Verdict.ABSENT),
])
def test_a_field_that_must_be_refused(status: int, body: Any, verdict: Verdict) -> None:
    assert seen(status, body, must_refuse)[0] is verdict


def test_a_server_that_does_not_answer_fails() -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("gone")

    row = outcome(Check("area", "name", False, takes_seed), server(gone))
    assert (row.verdict, row.note) == (Verdict.BROKEN, "no answer: ConnectError")


def parrot(request: httpx.Request) -> httpx.Response:
    """Answers everything with 200 and the same text, as a server would that ignores what it is asked."""
    said = json.loads(request.content or b"{}")
    message = {"role": "assistant", "content": "4, 5, 6, 7, 8, 9"}
    usage = {"prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22}
    chunk = {"choices": [{"index": 0, "delta": message, "finish_reason": "stop"}]}
    if said.get("stream"):
        return httpx.Response(200, text=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")
    choice = {"index": 0, "message": message, "text": message["content"], "finish_reason": "stop"}
    return httpx.Response(200, json={"choices": [choice], "usage": usage})


#: What such a server may do by chance, or is right to answer.
HONEST = {
    "/v1/chat/completions": {
        "stream equals the whole answer", "messages: calls with broken arguments", "tool_choice: auto",
        "tool_choice: none", "an answer after its time",
    },
    "/v1/completions": {"prompt: a string"},
}


@pytest.mark.parametrize("one", [one for one in ordered() if one.area in HONEST], ids=lambda one: one.name)
def test_a_server_that_ignores_all_fields_passes_no_check_of_a_field(one: Check) -> None:
    row = outcome(one, server(parrot))
    if one.name not in HONEST[one.area]:
        assert row.verdict is not Verdict.WORKS, row


def test_rows_have_names_of_their_own() -> None:
    names = [(one.area, one.name) for one in CHECKS]
    assert len(set(names)) == len(names)


def test_servers_stand_side_by_side() -> None:
    reports = [
        Report("one", "1.0", [Row("/v1/x", "a | b", True, Verdict.WORKS, "")]),
        Report("other", "2.0", [Row("/v1/x", "a | b", True, Verdict.SILENT, "dropped")]),
    ]
    text = table(reports)
    assert "| a \\| b° | works | **silently wrong** |" in text
    assert "## What was seen of other" in text
    assert "dropped" in text
