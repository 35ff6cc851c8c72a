"""/v1/responses without a socket: what is kept, continued, listed, and made in the background."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response, ResponseItemList

from edged.errors import QueueFull, WorkerDied
from edged.types import ChatPrompt, ChoiceEnd, Delta, Finished, GenerateRequest, Started, Usage
from tests.unit.api.asgi import HOST, Client, ask, get
from tests.unit.api.fake_router import FakeRouter, app_with, words
from tests.unit.api.responses_rig import (
    CALLING,
    HELLO,
    NOBODYS,
    PATH,
    SPEAKING,
    THINKING,
    script,
    typed_events,
    validated,
)

pytestmark = pytest.mark.unit

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


async def test_a_daemon_that_stops_begins_nothing_in_the_background(tmp_path: Path) -> None:
    router = FakeRouter(words("a"))
    router.ready = False
    reply = await ask(keeping(tmp_path, router), PATH, HELLO | {"background": True})
    assert (reply.status, reply.error["code"]) == (503, "shutting_down")
    assert not (tmp_path / "responses").exists()
