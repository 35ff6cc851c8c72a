"""/v1/responses without a socket; every body and every event is held to the official package's types."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import (
    Response,
    ResponseIncludable,
    ResponseInputItemParam,
    ResponseItemList,
    ResponseStreamEvent,
    response_create_params,
)
from pydantic import TypeAdapter

from edged.api import responses_input, sse
from edged.api.responses_events import ResponseBody
from edged.api.responses_request import _INCLUDABLE, FIELDS
from edged.api.responses_stream import ResponseAnswer, ResponseStream
from edged.api.responses_wire import RESPONSES
from edged.errors import ContextLengthExceeded, EdgedError, QueueFull, WorkerDied
from edged.types import (
    CallPiece,
    ChatPrompt,
    ChoiceEnd,
    Delta,
    Event,
    Finished,
    GenerateRequest,
    Started,
    TokenLogprob,
    Usage,
)
from tests.unit.api.asgi import HOST, Client, ask, get
from tests.unit.api.fake_router import FakeRouter, Script, app_with, words

pytestmark = pytest.mark.unit

PATH = "/v1/responses"
NOBODYS = "resp_" + "0" * 40
HELLO = {"model": "tiny", "input": "hi"}
_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
THINKING = [Delta("", 0, "", reasoning="Hm. "), Delta("", 0, "", reasoning="Well.")]
SPEAKING = [Delta("", 0, "Let me "), Delta("", 0, "see.")]
CALLING = [
    Delta("", 0, "", calls=[CallPiece(0, "", "call_1", "weather")]),
    Delta("", 0, "", calls=[CallPiece(0, '{"city": ')]),
    Delta("", 0, "", calls=[CallPiece(0, '"Oslo"}'), CallPiece(1, "{}", "call_2", "time")]),
]


def script(*deltas: Delta, reason: Any = "stop") -> Script:
    def made(request: GenerateRequest) -> list[Event]:
        return [Started(request.id, 3, 1, 0.0), *deltas, ChoiceEnd(request.id, 0, reason),
                Finished(request.id, Usage(3, 5, 1, 2))]

    return made


def parsed(text: str) -> list[Any]:
    """The events of a stream; every one valid, named as its data says, and numbered."""
    found = []
    for block in text.split("\n\n"):
        if block.startswith("event: "):
            name, data = block.removeprefix("event: ").split("\ndata: ")
            event = _EVENT.validate_json(data)
            assert event.type == name
            found.append(event)
    assert [event.sequence_number for event in found] == list(range(len(found)))
    return found


def typed_events(reply: Client) -> list[Any]:
    return parsed(reply.text)


def validated(reply: Client) -> Response:
    assert reply.status == 200, reply.text
    return Response.model_validate(reply.json)


def output(response: Response) -> list[Any]:
    """Its items, of kinds that the test knows."""
    return list(response.output)


async def made(deltas: Any, **more: Any) -> tuple[Response, list[Any]]:
    """The same answer, plain and streamed."""
    app = app_with(FakeRouter(script(*deltas)))
    plain = validated(await ask(app, PATH, HELLO | more))
    return plain, typed_events(await ask(app, PATH, HELLO | {"stream": True} | more))


async def test_a_plain_answer_is_a_response_with_one_message() -> None:
    reply = await ask(app_with(FakeRouter(words("Hel", "lo"))), PATH, HELLO)
    response = validated(reply)
    assert response.output_text == "Hello"
    assert response.status == "completed"
    assert response.model == "tiny"
    assert response.id.startswith("resp_")
    assert response.completed_at is not None
    assert reply.json["usage"] == {
        "input_tokens": 3, "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5,
    }
    assert reply.answer_headers["edged-model"] == "tiny@0123456789ab"


async def test_a_stream_tells_each_step_in_openais_order_and_ends_without_done() -> None:
    reply = await ask(app_with(FakeRouter(words("Hel", "lo"))), PATH, HELLO | {"stream": True})
    assert "[DONE]" not in reply.text
    events = typed_events(reply)
    assert [event.type.removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]
    assert [event.delta for event in events if event.type.endswith("text.delta")] == ["Hel", "lo"]
    assert events[0].response.status == "in_progress"
    assert events[-1].response.output_text == "Hello"
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1


async def test_thoughts_text_and_calls_are_items_of_their_own() -> None:
    plain, events = await made([*THINKING, *SPEAKING, *CALLING])
    assert [item.type for item in plain.output] == ["reasoning", "message", "function_call", "function_call"]
    thoughts, message, weather, clock = output(plain)
    assert thoughts.content[0].text == "Hm. Well."
    assert message.content[0].text == "Let me see."
    assert (weather.call_id, weather.name, json.loads(weather.arguments)) == (
        "call_1", "weather", {"city": "Oslo"})
    assert (clock.call_id, clock.arguments) == ("call_2", "{}")
    assert plain.usage is not None
    assert plain.usage.output_tokens_details.reasoning_tokens == 2
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[2:8] == ["output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
                          "reasoning_text.done", "content_part.done"]
    assert kinds.count("function_call_arguments.done") == 2
    assert [event.output_index for event in events if event.type == "response.output_item.done"] == [0, 1, 2, 3]


@given(st.lists(st.sampled_from([*THINKING, *SPEAKING, *CALLING]), max_size=12), st.sampled_from(["stop", "length"]))
def test_streamed_is_plain_and_its_events_add_up_to_it(deltas: list[Delta], reason: str) -> None:
    def begun() -> ResponseStream:
        return ResponseStream(ResponseBody(id="resp_x", created_at=1, model="tiny"), logprobs=False)

    answer, stream = ResponseAnswer(begun()), begun()
    arriving = script(*deltas, reason=reason)(GenerateRequest(id="r", prompt=ChatPrompt([])))
    told = b""
    for event in arriving:
        assert not isinstance(event, EdgedError | float)
        answer.add(0, event)
        told += sse.framed(RESPONSES, stream.chunks(0, event))
    events = parsed((told + sse.framed(RESPONSES, stream.closing())).decode())
    last = events[-1]
    assert last.type == ("response.completed" if reason == "stop" else "response.incomplete")
    assert last.response == Response.model_validate_json(msgspec.json.encode(answer.answer()))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.model_dump() for item in done] == [item.model_dump() for item in last.response.output]
    added = [event.item.id for event in events if event.type == "response.output_item.added"]
    assert added == [item.id for item in done]
    assert len(set(added)) == len(added)
    deltas_by_item: dict[str, str] = {}
    for event in events:
        if event.type.endswith(".delta"):
            deltas_by_item[event.item_id] = deltas_by_item.get(event.item_id, "") + event.delta
    for item in done:
        whole = item.arguments if item.type == "function_call" else item.content[0].text
        assert deltas_by_item.get(item.id, "") == whole


async def test_a_summary_asked_for_is_all_of_the_thoughts() -> None:
    plain, events = await made(THINKING, reasoning={"effort": "low", "summary": "auto"})
    assert output(plain)[0].summary[0].text == "Hm. Well."
    assert output(plain)[0].content is None
    assert plain.reasoning is not None
    assert (plain.reasoning.effort, plain.reasoning.summary) == ("low", "auto")
    assert [event.type for event in events if "summary" in event.type] == [
        "response.reasoning_summary_part.added", "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta", "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ]


async def test_an_answer_that_length_cut_is_incomplete_and_says_why() -> None:
    app = app_with(FakeRouter(script(*SPEAKING, reason="length")))
    response = validated(await ask(app, PATH, HELLO | {"max_output_tokens": 2}))
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert output(response)[0].status == "incomplete"
    assert response.completed_at is None
    last = typed_events(await ask(app, PATH, HELLO | {"stream": True}))[-1]
    assert last.type == "response.incomplete"


async def test_an_answer_without_a_word_is_an_empty_message() -> None:
    plain, events = await made([])
    assert plain.output_text == ""
    assert len(plain.output) == 1
    assert output(events[-1].response)[0].content[0].text == ""


TOKEN = TokenLogprob(7, "a", b"a", -0.5, [(7, "a", b"a", -0.5), (8, "\ufffd", b"\xf0", float("-inf"))])


@pytest.mark.parametrize("asked", [
    {"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"top_logprobs": 2},
])
async def test_logprobs_are_told_where_asked_for(asked: dict[str, Any]) -> None:
    router = FakeRouter(script(Delta("", 0, "a", logprobs=[TOKEN])))
    app = app_with(router)
    response = validated(await ask(app, PATH, HELLO | asked))
    (logprob,) = output(response)[0].content[0].logprobs
    assert (logprob.token, logprob.bytes, logprob.logprob) == ("a", [97], -0.5)
    assert [top.logprob for top in logprob.top_logprobs] == [-0.5, -9999.0]
    assert router.requests[0].logprobs == 2
    events = typed_events(await ask(app, PATH, HELLO | {"stream": True} | asked))
    assert next(event for event in events if event.type.endswith("text.delta")).logprobs[0].token == "a"


async def test_without_asking_no_logprobs_are_computed() -> None:
    router = FakeRouter(words("a"))
    response = validated(await ask(app_with(router), PATH, HELLO))
    assert router.requests[0].logprobs is None
    assert output(response)[0].content[0].logprobs == []


async def test_fields_reach_the_request_and_come_back_in_the_response() -> None:
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), PATH, HELLO | {
        "instructions": "Be short.", "max_output_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 4,
        "stop": "x", "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k",
        "service_tier": "flex", "reasoning": {"effort": "high"}, "truncation": "disabled", "max_tool_calls": 3,
        "text": {"format": {"type": "text"}},
    })
    response = validated(reply)
    (request,) = router.requests
    assert request.prompt == ChatPrompt([
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "hi"}])
    assert (request.max_tokens, request.stop) == (7, ("x",))
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k, request.sampling.seed) == (
        0.5, 0.9, 3, 4)
    assert request.reasoning is not None
    assert request.reasoning.effort == "high"
    assert (response.instructions, response.max_output_tokens, response.temperature, response.top_p) == (
        "Be short.", 7, 0.5, 0.9)
    assert (response.metadata, response.user, response.safety_identifier, response.prompt_cache_key) == (
        {"a": "b"}, "u", "s", "k")
    assert reply.answer_headers["edged-ignored"] == (
        "user, safety_identifier, prompt_cache_key, service_tier, max_tool_calls")


def test_every_field_of_the_official_package_is_known() -> None:
    official = set(get_type_hints(response_create_params.ResponseCreateParamsStreaming))
    assert official - set(FIELDS) == set()
    assert set(get_args(ResponseIncludable)) == set(_INCLUDABLE)
    known = set(responses_input._OTHER_ITEMS) | set(responses_input._Reader._readers)
    kinds = set()
    for item in get_args(ResponseInputItemParam):
        kind = get_type_hints(item, include_extras=False).get("type")
        kinds |= {value for one in (kind, *get_args(kind)) for value in get_args(one) if isinstance(value, str)}
    assert len(kinds) > 20
    assert kinds - known == set()


@pytest.mark.parametrize(("said", "param"), [
    ({"truncation": "auto"}, "truncation"), ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"), ({"background": True, "store": False}, "background"),
    ({"metadata": {"a": 1}}, "metadata"), ({"metadata": {"a" * 65: "x"}}, "metadata"),
    ({"include": ["nothing"]}, "include[0]"), ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"), ({"stream_options": {}}, "stream_options"),
    ({"context_management": [{"type": "compaction"}]}, "context_management"), ({"n": 2}, "n"),
    ({"max_output_tokens": 0}, "max_output_tokens"), ({"input": []}, "input"), ({"input": 5}, "input"),
    ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm"),
    ({"store": True}, "store"), ({"background": True}, "background"),
])
async def test_what_is_not_served_is_refused_by_name(said: dict[str, Any], param: str) -> None:
    reply = await ask(app_with(FakeRouter(words("a"))), PATH, HELLO | said)
    assert reply.status == 400
    assert reply.error["param"] == param
    assert reply.error["type"] == "invalid_request_error"


async def test_an_error_before_the_answer_is_a_plain_error_under_the_wires_own_names() -> None:
    router = FakeRouter(words("a"))
    router.refuse = ContextLengthExceeded("too long", param="messages")
    reply = await ask(app_with(router), PATH, HELLO | {"stream": True})
    assert reply.status == 400
    assert reply.json == {"error": {
        "message": "too long", "type": "invalid_request_error", "param": "input", "code": "context_length_exceeded"}}


async def test_an_error_in_the_middle_is_a_failed_response() -> None:
    def breaks(request: GenerateRequest) -> Any:
        return [Started(request.id, 3, 0, 0.0), Delta(request.id, 0, "Hel"), WorkerDied("it died")]

    reply = await ask(app_with(FakeRouter(breaks)), PATH, HELLO | {"stream": True})
    last = typed_events(reply)[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert (last.response.error.code, last.response.error.message, last.response.error.type) == (
        "server_error", "it died", "worker_died")
    assert last.response.output_text == "Hel"


async def test_an_error_after_heartbeats_is_an_error_event() -> None:
    router = FakeRouter(words("a"))
    router.load_s, router.refuse = 0.2, QueueFull("full")
    reply = await ask(app_with(router, heartbeat_s=0.05), PATH, HELLO | {"stream": True})
    assert ": still working" in reply.text
    (event,) = typed_events(reply)
    assert (event.type, event.message, event.code) == ("error", "full", "queue_full")
    assert '"error":{"message":"full"' in reply.text


# What is stored.


def keeping(tmp_path: Path, router: FakeRouter | None = None, **settings: Any) -> Any:
    return app_with(router or FakeRouter(words("Hel", "lo")), home=tmp_path, **settings)


async def test_a_response_is_stored_and_got_again_as_it_was(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    said = await ask(app, PATH, HELLO | {"metadata": {"k": "v"}})
    again = await get(app, f"{PATH}/{said.json['id']}")
    assert again.json == said.json
    (file,) = (tmp_path / "responses").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


async def test_a_streamed_response_is_there_once_its_last_event_is(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    last = typed_events(await ask(app, PATH, HELLO | {"stream": True}))[-1]
    again = validated(await get(app, f"{PATH}/{last.response.id}"))
    assert again == last.response


async def test_a_response_that_is_not_to_be_stored_is_not(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    said = await ask(app, PATH, HELLO | {"store": False})
    assert said.json["store"] is False
    assert (await get(app, f"{PATH}/{said.json['id']}")).status == 404
    assert not (tmp_path / "responses").exists()


async def test_a_failed_response_is_stored_too(tmp_path: Path) -> None:
    app = keeping(tmp_path, FakeRouter(
        lambda request: [Started(request.id, 3, 0, 0.0), Delta(request.id, 0, "Hel"), WorkerDied("it died")]))
    last = typed_events(await ask(app, PATH, HELLO | {"stream": True}))[-1]
    again = validated(await get(app, f"{PATH}/{last.response.id}"))
    assert again.status == "failed"


async def test_a_conversation_goes_on_with_all_that_was_said_in_one_prompt(tmp_path: Path) -> None:
    router = FakeRouter(script(*THINKING, *SPEAKING, *CALLING))
    app = keeping(tmp_path, router)
    first = (await ask(app, PATH, HELLO | {"instructions": "Once."})).json
    output = {"type": "function_call_output", "call_id": "call_1", "output": "cold"}
    second = (await ask(app, PATH, {
        "model": "tiny", "previous_response_id": first["id"], "input": [output]})).json
    await ask(app, PATH, {"model": "tiny", "previous_response_id": second["id"], "input": "And now?"})
    turn = {
        "role": "assistant", "content": "Let me see.", "reasoning_content": "Hm. Well.", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}},
            {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": {}}},
        ],
    }
    hello, cold = {"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "call_1", "content": "cold"}
    assert [request.prompt for request in router.requests] == [
        ChatPrompt([{"role": "system", "content": "Once."}, hello]), ChatPrompt([hello, turn, cold]),
        ChatPrompt([hello, turn, cold, turn, {"role": "user", "content": "And now?"}]),
    ]


async def test_items_sent_back_read_as_the_same_items_stored_do(tmp_path: Path) -> None:
    router = FakeRouter(script(*THINKING, *SPEAKING, *CALLING))
    app = keeping(tmp_path, router)
    first = (await ask(app, PATH, HELLO)).json
    more = {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "cold"}]}
    hello = {"role": "user", "content": "hi"}
    await ask(app, PATH, {"model": "tiny", "previous_response_id": first["id"], "input": [more]})
    await ask(app, PATH, {"model": "tiny", "input": [hello, *first["output"], more], "store": False})
    references = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    await ask(app, PATH, {"model": "tiny", "input": [hello, *references, more]})
    _, stored, sent, referred = [request.prompt for request in router.requests]
    assert stored == sent == referred


async def test_a_response_that_is_gone_is_named_and_what_to_do_is_said(tmp_path: Path) -> None:
    app = keeping(tmp_path, stored_responses=2)
    first = (await ask(app, PATH, HELLO)).json["id"]
    second = (await ask(app, PATH, HELLO | {"previous_response_id": first})).json["id"]
    await get(app, f"{PATH}/{second}")
    await ask(app, PATH, HELLO)
    for previous in (first, second):
        reply = await ask(app, PATH, HELLO | {"previous_response_id": previous})
        assert reply.status == 404
        assert reply.error["code"] == "previous_response_not_found"
        assert reply.error["param"] == "previous_response_id"
        assert first in reply.error["message"]
        assert "Send the whole conversation as input" in reply.error["message"]


async def test_one_key_never_reads_anothers(tmp_path: Path) -> None:
    app = keeping(tmp_path, api_keys=["k1", "k2"])

    def key(name: str) -> Any:
        return (HOST, (b"content-type", b"application/json"), (b"authorization", f"Bearer {name}".encode()))

    mine = (await ask(app, PATH, HELLO, headers=key("k1"))).json
    path, item = f"{PATH}/{mine['id']}", mine["output"][0]["id"]
    assert (await get(app, path, headers=key("k1"))).status == 200
    for said in ({"previous_response_id": mine["id"]}, {"input": [{"type": "item_reference", "id": item}]}):
        assert (await ask(app, PATH, HELLO | said, headers=key("k2"))).status == 404
    for method, suffix in [("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel"),
                           ("GET", "?stream=true")]:
        reply = await ask(app, path + suffix, method=method, headers=key("k2"))
        assert reply.status == 404, (method, suffix)
        nobodys = path.replace(mine["id"], NOBODYS) + suffix
        unknown = await ask(app, nobodys, method=method, headers=key("k2"))
        assert unknown.text.replace(NOBODYS, mine["id"]) == reply.text
    assert (await get(app, path, headers=key("k1"))).status == 200


async def test_a_deleted_response_is_gone(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    identity = (await ask(app, PATH, HELLO)).json["id"]
    assert (await ask(app, f"{PATH}/{identity}", method="DELETE")).json == {
        "id": identity, "object": "response", "deleted": True}
    assert (await get(app, f"{PATH}/{identity}")).status == 404
    assert (await ask(app, f"{PATH}/{identity}", method="DELETE")).status == 404


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 300, b'{"id": 1}'])
async def test_a_damaged_file_is_a_named_error_and_can_be_deleted(tmp_path: Path, damage: bytes) -> None:
    app = keeping(tmp_path)
    identity = (await ask(app, PATH, HELLO)).json["id"]
    (file,) = (tmp_path / "responses").iterdir()
    file.write_bytes(damage)
    reply = await get(app, f"{PATH}/{identity}")
    assert (reply.status, reply.error["code"]) == (500, "corrupt_file")
    assert identity in reply.error["message"]
    assert reply.answer_headers["x-should-retry"] == "false"
    assert (await ask(app, f"{PATH}/{identity}", method="DELETE")).status == 200
    assert not file.exists()


async def test_what_cannot_be_stored_fails_only_where_storing_was_asked_for(tmp_path: Path) -> None:
    app = keeping(tmp_path, stored_responses_bytes=200)
    by_default = await ask(app, PATH, HELLO)
    assert by_default.status == 200
    assert by_default.json["store"] is False
    asked = await ask(app, PATH, HELLO | {"store": True})
    assert (asked.status, asked.error["param"]) == (507, "store")
    last = typed_events(await ask(app, PATH, HELLO | {"store": True, "stream": True}))[-1]
    assert last.type == "response.failed"


async def test_input_is_listed_newest_first_in_pages(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    said = [{"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"role": "assistant", "content": "Yes?"}]
    first = (await ask(app, PATH, {"model": "tiny", "input": said})).json["id"]
    second = (await ask(app, PATH, HELLO | {"previous_response_id": first})).json["id"]
    path = f"{PATH}/{second}/input_items"
    reply = await get(app, path)
    everything = ResponseItemList.model_validate(reply.json)
    data: list[Any] = list(everything.data)
    texts = [item.content[0].text for item in data]
    assert texts == ["hi", "Hello", "Yes?", "hi", "Be kind."]
    assert everything.has_more is False
    page = (await get(app, path + "?limit=2&order=asc")).json
    assert [item["content"][0]["text"] for item in page["data"]] == ["Be kind.", "hi"]
    assert page["has_more"] is True
    rest = (await get(app, f"{path}?order=asc&limit=9&after={page['last_id']}")).json
    assert [item["content"][0]["text"] for item in rest["data"]] == ["Yes?", "Hello", "hi"]
    for query, param in [("after=x", "after"), ("limit=0", "limit"), ("order=up", "order"), ("page=1", "page")]:
        assert (await get(app, f"{path}?{query}")).error["param"] == param


async def test_logprobs_that_were_not_computed_are_not_told_later(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    path = f"{PATH}/{(await ask(app, PATH, HELLO)).json['id']}"
    assert (await get(app, path + "?include[]=message.output_text.logprobs")).error["param"] == "include"
    assert (await get(app, path + "?include[]=file_search_call.results")).status == 200


# In the background.


async def until(app: Any, identity: str, status: str) -> Response:
    for _ in range(200):
        response = validated(await get(app, f"{PATH}/{identity}"))
        if response.status == status:
            return response
        await asyncio.sleep(0.01)
    raise AssertionError(f"it stays {response.status}")


async def test_a_response_in_the_background_is_queued_then_made(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    queued = validated(await ask(app, PATH, HELLO | {"background": True}))
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    assert (await until(app, queued.id, "completed")).output_text == "Hello"


def slow(request: GenerateRequest) -> Any:
    return [Started(request.id, 3, 0, 0.0), Delta(request.id, 0, "Hel"), 30.0, Delta(request.id, 0, "lo")]


async def test_one_in_the_background_can_be_cancelled_and_its_rows_are_free(tmp_path: Path) -> None:
    router = FakeRouter(slow)
    app = keeping(tmp_path, router)
    identity = (await ask(app, PATH, HELLO | {"background": True})).json["id"]
    await router.until(lambda: bool(router.generations) and router.generations[0].read == 2)
    assert (await until(app, identity, "in_progress")).output_text == "Hel"
    early = await ask(app, PATH, HELLO | {"previous_response_id": identity})
    assert (early.status, early.error["param"]) == (400, "previous_response_id")
    cancelled = validated(await ask(app, f"{PATH}/{identity}/cancel", method="POST"))
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "Hel")
    assert router.generations[0].cancelled.is_set()
    again = validated(await ask(app, f"{PATH}/{identity}/cancel", method="POST"))
    assert again == cancelled == validated(await get(app, f"{PATH}/{identity}"))


async def test_only_one_in_the_background_can_be_cancelled(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    identity = (await ask(app, PATH, HELLO)).json["id"]
    assert (await ask(app, f"{PATH}/{identity}/cancel", method="POST")).status == 400


async def test_deleting_one_in_the_background_ends_it(tmp_path: Path) -> None:
    router = FakeRouter(slow)
    app = keeping(tmp_path, router)
    identity = (await ask(app, PATH, HELLO | {"background": True})).json["id"]
    await router.until(lambda: bool(router.generations))
    assert (await ask(app, f"{PATH}/{identity}", method="DELETE")).status == 200
    assert router.generations[0].cancelled.is_set()
    assert (await get(app, f"{PATH}/{identity}")).status == 404
    assert list((tmp_path / "responses").iterdir()) == []


async def test_one_in_the_background_that_fails_says_why_when_it_is_got(tmp_path: Path) -> None:
    router = FakeRouter(words("a"))
    router.refuse = QueueFull("full")
    app = keeping(tmp_path, router)
    identity = (await ask(app, PATH, HELLO | {"background": True})).json["id"]
    failed = await until(app, identity, "failed")
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("rate_limit_exceeded", "full")
    unknown = await ask(app, PATH, HELLO | {"background": True, "model": "none"})
    assert unknown.status == 404


async def test_one_in_the_background_streams_to_many_and_again_from_any_number(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    stream = await ask(app, PATH, HELLO | {"background": True, "stream": True})
    events = typed_events(stream)
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert events[-1].type == "response.completed"
    path = f"{PATH}/{events[0].response.id}?stream=true"
    assert (await get(app, path)).text == stream.text
    later = await get(app, path + "&starting_after=4")
    assert later.text == stream.text[stream.text.index(f"event: {events[5].type}"):]
    assert (await get(app, path + "&starting_after=1000")).text == ""


async def test_a_client_that_leaves_a_background_stream_does_not_end_it(tmp_path: Path) -> None:
    router = FakeRouter(lambda request: [Started(request.id, 3, 0, 0.0), 0.3, Delta(request.id, 0, "Hel"),
                                         ChoiceEnd(request.id, 0, "stop"), Finished(request.id, Usage(3, 1))])
    app = keeping(tmp_path, router)
    client = Client(app, PATH, json.dumps(HELLO | {"background": True, "stream": True}).encode())
    asking = asyncio.create_task(client.run())
    await router.until(lambda: bool(router.generations) and router.generations[0].read == 1)
    client.gone.set()
    await asking
    identity = json.loads(client.text.split("data: ")[1].split("\n")[0])["response"]["id"]
    assert (await until(app, identity, "completed")).output_text == "Hel"


async def test_events_of_one_that_was_not_streamed_are_not_made_up(tmp_path: Path) -> None:
    app = keeping(tmp_path)
    identity = (await ask(app, PATH, HELLO)).json["id"]
    reply = await get(app, f"{PATH}/{identity}?stream=true")
    assert (reply.status, reply.error["param"]) == (422, "stream")
    assert (await get(app, f"{PATH}/{identity}?starting_after=3")).status == 400


async def test_one_that_a_crash_broke_off_has_failed(tmp_path: Path) -> None:
    router = FakeRouter(slow)
    identity = (await ask(keeping(tmp_path, router), PATH, HELLO | {"background": True})).json["id"]
    fresh = keeping(tmp_path)
    broken = validated(await get(fresh, f"{PATH}/{identity}"))
    assert broken.status == "failed"
    assert broken.error is not None
    assert "stopped while" in broken.error.message
