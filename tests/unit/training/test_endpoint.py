"""The client of OpenAI-compatible endpoints, against a small one on loopback."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import ConfigError, InvalidApiKey, InvalidRequest, ModelNotFound, SourceUnavailable
from tests.chat_server import Answer, Body, ChatServer, answer, refusal
from training.chat_wire import Ask, Joined, StreamError, body_of, openai_message
from training.endpoint import MOST_FAILED, Endpoint, checked_url, retry_after_s
from training.examples import Message
from training.reply import TokenChoice

pytestmark = pytest.mark.unit

HELLO = Ask(messages=(Message("user", "Hello"),), max_tokens=8)
CALL = {"id": "c1", "type": "function", "function": {"name": "light", "arguments": '{"on": true}'}}


def client(server: ChatServer, **said: Any) -> Endpoint:
    return Endpoint(server.url, "m", **{"backoff_s": 0.001, **said})


def in_turn(*answers: Answer) -> Any:
    turn = iter(answers)
    return lambda body: next(turn)


def test_an_answer_comes_with_its_counts_and_calls() -> None:
    with ChatServer(in_turn(answer("Yes.", tool_calls=[CALL], finish_reason="tool_calls"))) as server, \
            client(server) as endpoint:
        reply = endpoint.ask(HELLO)
    assert reply.message == Message("assistant", "Yes.", (CALL,))
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("tool_calls", 10, 5)
    assert server.bodies == [{"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8,
                              "temperature": 0.0, "top_p": 1.0}]


def test_what_is_asked_for_is_in_the_body() -> None:
    body = body_of(
        Ask(messages=(Message("assistant", "", (CALL,)), Message("tool", "ok", tool_call_id="c1", name="light")),
            max_tokens=8, seed=3, logprobs=2, schema={"type": "object"}, adapter="home", stream=True),
        "m", limit_key="max_completion_tokens")
    assert body["messages"] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "ok", "tool_call_id": "c1", "name": "light"}]
    assert (body["logprobs"], body["top_logprobs"], body["seed"], body["adapter"]) == (True, 2, 3, "home")
    assert (body["max_completion_tokens"], body["stream_options"]) == (8, {"include_usage": True})
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert openai_message(Message("user")) == {"role": "user", "content": ""}


@pytest.mark.parametrize("failure", [
    refusal(429, "busy"), refusal(503, "loading", retry_after="0"), refusal(500, "oops"), Answer(b"{", broken=True),
    Answer({"error": {"message": "upstream is busy", "code": 502}}),
])
def test_a_failure_that_may_pass_is_tried_again(failure: Answer) -> None:
    with ChatServer(in_turn(failure, failure, answer("there"))) as server, client(server) as endpoint:
        assert endpoint.ask(HELLO).message.content == "there"
    assert len(server.bodies) == 3


def test_it_waits_as_long_as_it_is_asked_to_with_all_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    clock = [0.0]
    monkeypatch.setattr("training.endpoint.asyncio.sleep", sleep)
    monkeypatch.setattr("training.endpoint.time.monotonic", lambda: clock[0])
    with ChatServer(in_turn(refusal(429, "busy", retry_after="7"), answer("there"))) as server, \
            client(server) as endpoint:
        assert endpoint.ask(HELLO).message.content == "there"
    assert sum(slept) == pytest.approx(7)


def test_a_quota_of_a_day_is_not_waited_for() -> None:
    with ChatServer(in_turn(refusal(429, "quota", retry_after="86400"))) as server, client(server) as endpoint, \
            pytest.raises(SourceUnavailable, match="left alone for 86400 s"):
        endpoint.ask(HELLO)


def test_what_another_attempt_cannot_mend_is_tried_once() -> None:
    with ChatServer(in_turn(refusal(507, "no memory", x_should_retry="false"))) as server, \
            client(server) as endpoint, pytest.raises(SourceUnavailable, match="no memory"):
        endpoint.ask(HELLO)
    assert len(server.bodies) == 1


def test_after_all_attempts_it_says_what_to_do() -> None:
    with ChatServer(lambda body: refusal(503, "loading")) as server, client(server, attempts=3) as endpoint, \
            pytest.raises(SourceUnavailable, match=r"loading\), after 3 attempts; see that it runs"):
        endpoint.ask(HELLO)
    assert len(server.bodies) == 3


def test_nobody_there_is_told() -> None:
    with ChatServer(lambda body: answer("")) as server:
        url = server.url
    with Endpoint(url, "m", attempts=2, backoff_s=0.001) as endpoint, \
            pytest.raises(SourceUnavailable, match="does not answer"):
        endpoint.ask(HELLO)


@pytest.mark.parametrize(("status", "error", "hint"), [
    (400, InvalidRequest, "says 400: no"), (422, InvalidRequest, "says 422: no"),
    (401, InvalidApiKey, "api_key_env"), (404, ModelNotFound, "serves 'm'"), (302, SourceUnavailable, "says 302"),
])
def test_refusals_are_told_by_what_mends_them(status: int, error: type[Exception], hint: str) -> None:
    with ChatServer(lambda body: refusal(status, "no", location="http://127.0.0.1:1/")) as server, \
            client(server) as endpoint, pytest.raises(error, match=hint):
        endpoint.ask(HELLO)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"index": 0}]}'])
def test_a_page_that_is_no_answer_is_told(body: bytes) -> None:
    with ChatServer(lambda said: Answer(body)) as server, client(server) as endpoint, \
            pytest.raises(SourceUnavailable, match="OpenAI-compatible address"):
        endpoint.ask(HELLO)


def test_an_error_that_comes_as_an_answer_is_told_by_its_message() -> None:
    with ChatServer(lambda body: Answer({"error": {"message": "upstream is gone", "code": 502}})) as server, \
            client(server, attempts=2) as endpoint, pytest.raises(SourceUnavailable, match="upstream is gone"):
        endpoint.ask(HELLO)


@pytest.mark.parametrize("body", [
    b'{"choices": []}', b'{"choices": [{"message": {"content": "\\ud83d"}}]}', b"<html>"])
def test_what_is_no_answer_among_answers_is_that_prompts_refusal(body: bytes) -> None:
    def say(said: Body) -> Answer:
        return Answer(body) if said["messages"][0]["content"] == "1" else answer("there")

    with ChatServer(say) as server, client(server, concurrency=1) as endpoint:
        replies = dict(endpoint.ask_all(numbered(4)))
    assert [number for number, reply in replies.items() if isinstance(reply, InvalidRequest)] == [1]
    assert len(server.bodies) == len(replies) == 4


FAILURES = [refusal(500, "cannot take this"), Answer({"error": {"message": "cannot take this"}})]


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_request_on_which_the_endpoint_always_fails_fails_alone(failure: Answer, concurrency: int) -> None:
    def say(said: Body) -> Answer:
        return failure if said["messages"][0]["content"] in ("3", "9") else answer("there")

    with ChatServer(say) as server, client(server, concurrency=concurrency, attempts=3) as endpoint:
        replies = dict(endpoint.ask_all(numbered(10)))
    assert len(replies) == 10
    failed = {number: reply.message for number, reply in replies.items() if isinstance(reply, InvalidRequest)}
    assert sorted(failed) == [3, 9]
    assert "fails on this request (" in failed[3]
    assert "cannot take this), in all 3 attempts" in failed[3]


@pytest.mark.parametrize("failure", FAILURES)
def test_an_endpoint_that_fails_on_everything_from_some_time_on_ends_it_and_nothing_is_failed(failure: Answer) -> None:
    def say(said: Body) -> Answer:
        return answer("there") if said["messages"][0]["content"] in ("0", "1") else failure

    with ChatServer(say) as server, client(server, concurrency=1, attempts=2) as endpoint:
        replies = endpoint.ask_all(numbered(100))
        assert [number for number, _ in itertools.islice(replies, 2)] == [0, 1]
        with pytest.raises(SourceUnavailable, match="cannot take this"):
            next(replies)
    assert len(server.bodies) == 2 + 2 * MOST_FAILED


@pytest.mark.parametrize("count", [5, 7])
def test_the_last_requests_fail_alone_where_the_endpoint_answers_something_else(count: int) -> None:
    def say(said: Body) -> Answer:
        return answer("there") if said["messages"][0]["content"] in ("0", "1", "2", "3", "Hello") else FAILURES[0]

    with ChatServer(say) as server, client(server, concurrency=2, attempts=2) as endpoint:
        replies = dict(endpoint.ask_all(numbered(count)))
    failed = sorted(number for number, reply in replies.items() if isinstance(reply, InvalidRequest))
    assert failed == [*range(4, count)]
    assert len(replies) == count


@pytest.mark.parametrize("count", [5, 7])
def test_an_endpoint_that_fails_on_all_of_the_last_ones_is_not_taken_for_bad_requests(count: int) -> None:
    def say(said: Body) -> Answer:
        return answer("there") if said["messages"][0]["content"] in ("0", "1", "2", "3") else FAILURES[0]

    with ChatServer(say) as server, client(server, concurrency=1, attempts=2) as endpoint:
        replies = endpoint.ask_all(numbered(count))
        assert [number for number, _ in itertools.islice(replies, 4)] == [0, 1, 2, 3]
        with pytest.raises(SourceUnavailable, match="cannot take this"):
            next(replies)


def test_the_key_goes_to_the_endpoint_and_into_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-secret")
    with ChatServer(lambda body: refusal(401, "wrong key")) as server, \
            client(server, api_key_env="TEACHER_KEY") as endpoint, pytest.raises(InvalidApiKey) as caught:
        endpoint.ask(HELLO)
    assert server.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in str(caught.value)
    assert "TEACHER_KEY" in str(caught.value)


def test_a_key_that_is_not_there_is_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(ConfigError, match="TEACHER_KEY is not set"):
        Endpoint("http://127.0.0.1:1/v1", "m", api_key_env="TEACHER_KEY")


@pytest.mark.parametrize("url", ["127.0.0.1:8343", "ftp://host/v1", "http://", "http://me:secret@host/v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="address") as caught:
        checked_url(url)
    assert "secret" not in str(caught.value)


def test_the_newer_name_of_the_limit_is_used_where_the_endpoint_wants_it() -> None:
    def say(body: Body) -> Answer:
        if "max_tokens" in body:
            return refusal(400, "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
        return answer("there")

    with ChatServer(say) as server, client(server) as endpoint:
        endpoint.ask(HELLO)
        endpoint.ask(HELLO)
    assert ["max_tokens" in body for body in server.bodies] == [True, False, False]


def numbered(count: int) -> Iterator[tuple[int, Ask]]:
    for number in range(count):
        yield number, Ask(messages=(Message("user", str(number)),), max_tokens=8)


def test_many_are_asked_at_once_but_never_more_than_said() -> None:
    lock, here, most = threading.Lock(), [0], [0]
    together = threading.Barrier(3)

    def say(body: Body) -> Answer:
        with lock:
            here[0] += 1
            most[0] = max(most[0], here[0])
        together.wait(10)
        with lock:
            here[0] -= 1
        return answer(body["messages"][0]["content"])

    with ChatServer(say) as server, client(server, concurrency=3) as endpoint:
        replies = {key: reply.message.content for key, reply in endpoint.ask_all(numbered(9))
                   if not isinstance(reply, InvalidRequest)}
    assert replies == {number: str(number) for number in range(9)}
    assert most == [3]


def test_one_that_is_refused_does_not_end_the_others() -> None:
    def say(body: Body) -> Answer:
        return refusal(400, "too long") if body["messages"][0]["content"] == "1" else answer("there")

    with ChatServer(say) as server, client(server) as endpoint:
        replies = dict(endpoint.ask_all(numbered(4)))
    assert [number for number, reply in replies.items() if isinstance(reply, InvalidRequest)] == [1]
    assert len(replies) == 4


def test_no_more_are_asked_once_the_asker_ends() -> None:
    with ChatServer(lambda body: answer("there")) as server, client(server, concurrency=2) as endpoint:
        taken = itertools.islice(endpoint.ask_all(numbered(100)), 3)
        assert len(list(taken)) == 3
    assert len(server.bodies) < 8


def test_what_came_is_handed_on_before_the_error_that_ends_it() -> None:
    def say(body: Body) -> Answer:
        together.wait(10)
        return refusal(401, "no") if body["messages"][0]["content"] == "0" else answer("there")

    together = threading.Barrier(2)
    came = []
    with ChatServer(say) as server, client(server, concurrency=2) as endpoint, pytest.raises(InvalidApiKey):
        came += [key for key, _ in endpoint.ask_all(numbered(2))]
    assert came in ([], [1])


def chunks(*deltas: Body, finish: str | None = "stop") -> list[str]:
    body = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    return [f"data: {json.dumps(chunk)}" for chunk in [*body, end, usage]]


def test_a_stream_adds_up_to_the_answer() -> None:
    piece = {"index": 0, "function": {"arguments": "true}"}}
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "light", "arguments": '{"on": '}}
    data = "\n\n".join([": beat", *chunks(
        {"role": "assistant", "content": ""}, {"content": "It "}, {"content": "is."}, {"tool_calls": [first]},
        {"tool_calls": [piece]}, finish="tool_calls"), "data: [DONE]", ""])
    with ChatServer(in_turn(Answer(data.encode()))) as server, client(server) as endpoint:
        reply = endpoint.ask(Ask(messages=HELLO.messages, max_tokens=8, stream=True))
    assert reply.message == Message("assistant", "It is.", (CALL,))
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("tool_calls", 3, 2)
    assert reply.first_token_s is not None
    assert 0 < reply.first_token_s <= reply.seconds


@pytest.mark.parametrize(("arguments", "text"), [({"on": True, "room": "Küche"}, '{"on": true, "room": "Küche"}'),
                                                 ({}, "{}"), ('{"on":true}', '{"on":true}')])
@pytest.mark.parametrize("stream", [False, True])
def test_arguments_that_are_no_text_are_written_as_json(arguments: object, text: str, stream: bool) -> None:
    sent = {"index": 0, "id": "c1", "type": "function", "function": {"name": "light", "arguments": arguments}}
    data = "\n\n".join([*chunks({"tool_calls": [sent]}, finish="tool_calls"), "data: [DONE]", ""]).encode()
    whole = Answer(data) if stream else answer("", tool_calls=[sent], finish_reason="tool_calls")
    with ChatServer(in_turn(whole)) as server, client(server) as endpoint:
        [call] = endpoint.ask(Ask(messages=HELLO.messages, max_tokens=8, stream=stream)).message.tool_calls
    assert call["function"] == {"name": "light", "arguments": text}


def test_a_call_without_arguments_has_none_of_them() -> None:
    with ChatServer(in_turn(answer("", tool_calls=[{"id": "c1", "function": {"name": "light", "arguments": None}}]))) \
            as server, client(server) as endpoint:
        [call] = endpoint.ask(HELLO).message.tool_calls
    assert call["function"] == {"name": "light", "arguments": "{}"}


def test_a_stream_that_breaks_off_or_tells_an_error_is_tried_again() -> None:
    whole = "\n\n".join([*chunks({"content": "there"}), "data: [DONE]", ""]).encode()
    cut = chunks({"content": "the"})[0].encode() + b"\n\n"
    error = cut + b'data: {"error": {"message": "worker died", "code": "worker_died"}}\n\n'
    with ChatServer(in_turn(Answer(cut), Answer(error), Answer(whole))) as server, client(server) as endpoint:
        assert endpoint.ask(Ask(messages=HELLO.messages, max_tokens=8, stream=True)).message.content == "there"


@given(st.lists(st.text(max_size=5), max_size=8))
def test_any_cut_of_a_text_adds_up(pieces: list[str]) -> None:
    joined = Joined()
    for line in chunks(*({"content": piece} for piece in pieces)):
        joined.take(line)
    assert joined.reply(1.0, None).message.content == "".join(pieces)


def test_log_probabilities_are_told_by_text_and_parts_of_characters_by_bytes() -> None:
    content = [{"token": "\ufffd", "logprob": -0.5, "bytes": [226, 130], "top_logprobs": [
        {"token": " a", "logprob": -0.75, "bytes": [32, 97]}, {"token": "b", "logprob": -3, "bytes": None}]}]
    whole = answer("x")
    whole.body["choices"][0]["logprobs"] = {"content": content, "refusal": None}
    with ChatServer(in_turn(whole)) as server, client(server) as endpoint:
        reply = endpoint.ask(HELLO)
    assert reply.logprobs == (TokenChoice("bytes:\\xe2\\x82", -0.5, ((" a", -0.75), ("b", -3.0))),)


def test_a_stream_without_an_end_is_none() -> None:
    joined = Joined()
    joined.take(chunks({"content": "the"})[0])
    with pytest.raises(StreamError, match="broke off"):
        joined.reply(1.0, None)


def test_how_long_to_wait_is_read_in_seconds_and_as_a_date() -> None:
    assert retry_after_s("7") == 7
    assert retry_after_s(None) == retry_after_s("soon") == retry_after_s("-3") == retry_after_s("nan") == 0
    assert 50 < retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
