"""The official clients' `responses`, unchanged, against the real daemon with the fake engine."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from tests.http.conftest import Daemon
from tests.unit.api.responses_rig import parsed

pytestmark = pytest.mark.http

CLIENTS = Path(__file__).parents[1] / "clients"


def test_a_stream_adds_up_to_the_plain_answer(daemon: Daemon) -> None:
    client = daemon.openai()
    for seed in range(3):
        said: dict[str, Any] = {"model": "tiny", "input": "Say something.", "extra_body": {"seed": seed},
                                "max_output_tokens": 40}
        plain = client.responses.create(**said)
        with client.responses.stream(**said) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == plain.output_text != ""
        assert plain.usage is not None
        assert plain.usage.input_tokens > 5


def test_every_event_on_the_wire_is_one_of_openais(daemon: Daemon) -> None:
    body = {"model": "tiny", "input": "Say something.", "stream": True, "max_output_tokens": 20,
            "include": ["message.output_text.logprobs"], "top_logprobs": 3}
    told = httpx.post(f"{daemon.base_url}/v1/responses", json=body)
    assert told.headers["content-type"].startswith("text/event-stream")
    events = parsed(told.text)
    assert len(events) > 10
    assert "[DONE]" not in told.text


def test_a_conversation_reuses_what_was_computed_and_outlives_a_restart(start: Callable[..., Daemon]) -> None:
    daemon = start()
    client = daemon.openai()
    first = client.responses.create(model="tiny", input="Remember this: the box is blue.", max_output_tokens=10)
    second = client.responses.create(model="tiny", input="What is blue?", previous_response_id=first.id,
                                     max_output_tokens=10)
    assert second.usage is not None
    assert first.usage is not None
    # All of the first turn but the end of its answer, which its template writes.
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens
    daemon.stop()
    daemon.start()
    client = daemon.openai()
    assert client.responses.retrieve(second.id).output_text == second.output_text
    listed = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    texts = [item.content[0].text for item in listed]  # type: ignore[union-attr,index]
    assert texts == ["Remember this: the box is blue.", first.output_text, "What is blue?"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="continues a response that is gone"):
        client.responses.create(model="tiny", input="And now?", previous_response_id=second.id)


def test_one_in_the_background_is_polled_and_cancelled(daemon: Daemon) -> None:
    client = daemon.openai()
    queued = client.responses.create(model="slow", input="Say something.", background=True)
    assert queued.status == "queued"
    while client.responses.retrieve(queued.id).output_text == "":
        time.sleep(0.02)
    cancelled = client.responses.cancel(queued.id)
    assert cancelled.status == "cancelled"
    assert client.responses.retrieve(queued.id) == cancelled
    assert daemon.status("slow")["running"] == 0


def test_a_background_stream_is_taken_up_again_where_it_was_left(daemon: Daemon) -> None:
    client = daemon.openai()
    said: dict[str, Any] = {"model": "slow", "input": "Say something.", "background": True, "max_output_tokens": 30}
    seen = []
    stream = client.responses.create(**said, stream=True)
    for event in stream:
        seen.append(event)
        if len(seen) == 9:
            break
    stream.close()
    identity = seen[0].response.id
    again = client.responses.retrieve(identity, stream=True, starting_after=seen[-1].sequence_number)
    seen.extend(again)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    final = client.responses.retrieve(identity)
    assert final.status == "incomplete"
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == final.output_text


def test_one_in_the_background_that_a_crash_broke_off_has_failed_after_it(start: Callable[..., Daemon]) -> None:
    daemon = start()
    queued = daemon.openai().responses.create(model="slow", input="Say something.", background=True)
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    daemon.stop()
    daemon.start()
    broken = daemon.openai().responses.retrieve(queued.id)
    assert broken.status == "failed"
    assert broken.error is not None
    assert "stopped while" in broken.error.message


def test_one_in_the_background_is_kept_when_the_daemon_stops(start: Callable[..., Daemon]) -> None:
    daemon = start(grace_s=0.3)
    client = daemon.openai()
    queued = client.responses.create(model="slow", input="Say something.", background=True)
    while client.responses.retrieve(queued.id).output_text == "":
        time.sleep(0.02)
    daemon.stop()
    daemon.start()
    broken = daemon.openai().responses.retrieve(queued.id)
    assert broken.status == "failed"
    assert broken.output_text != ""


class Box(BaseModel):
    colour: Literal["blue", "red"]
    size: int = Field(ge=0, le=99)


def test_parse_gives_a_model_of_pydantics_from_plain_and_streamed_answers(daemon: Daemon) -> None:
    client = daemon.openai()
    said: dict[str, Any] = {"model": "tiny", "input": 'say: {"colour": "blue", "size": 7}', "text_format": Box}
    plain = client.responses.parse(**said)
    assert plain.output_parsed == Box(colour="blue", size=7)
    with client.responses.stream(**said) as stream:
        assert stream.get_final_response().output_parsed == plain.output_parsed
    unscripted = client.responses.parse(model="tiny", input="Describe a box.", text_format=Box)
    assert isinstance(unscripted.output_parsed, Box)


SCRIPT = ('say: <think>Hm. Where?</think>Let me see.<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}'
          "</tool_call>")
WEATHER: Any = {"type": "function", "name": "weather", "description": "Of a city.", "strict": True, "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    "additionalProperties": False}}


def test_a_model_thinks_speaks_calls_and_goes_on_with_what_the_call_brought(daemon: Daemon) -> None:
    client = daemon.openai()
    said: dict[str, Any] = {"model": "tiny", "input": SCRIPT, "tools": [WEATHER]}
    first = client.responses.create(**said)
    thoughts, message, call = (item.model_dump() for item in first.output)
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "Hm. Where?"}]
    assert message["content"][0]["text"] == "Let me see."
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Oslo"})
    assert first.usage is not None
    assert first.usage.output_tokens_details.reasoning_tokens > 0
    told = httpx.post(f"{daemon.base_url}/v1/responses", json=said | {"stream": True})
    kinds = [event.type.removeprefix("response.") for event in parsed(told.text)]
    for kind in ("reasoning_text.delta", "output_text.delta", "function_call_arguments.delta"):
        assert kind in kinds
    result: Any = {"type": "function_call_output", "call_id": call["call_id"], "output": "say: It is cold."}
    second = client.responses.create(model="tiny", previous_response_id=first.id, input=[result], tools=[WEATHER])
    assert second.output_text == "It is cold."
    sent = client.responses.create(
        model="tiny", input=[{"role": "user", "content": SCRIPT}, *first.output, result], tools=[WEATHER])
    assert sent.output_text == "It is cold."
    assert sent.usage is not None
    assert second.usage is not None
    assert sent.usage.input_tokens == second.usage.input_tokens


def test_a_choice_of_a_function_cannot_be_missed(daemon: Daemon) -> None:
    answer = daemon.openai().responses.create(
        model="tiny", input="Say something.", tools=[WEATHER], tool_choice={"type": "function", "name": "weather"},
        max_output_tokens=400)
    (call,) = (item.model_dump() for item in answer.output)
    assert (call["type"], call["name"]) == ("function_call", "weather")
    if answer.status == "completed":
        assert json.loads(call["arguments"]).keys() == {"city"}


def test_a_worker_that_dies_fails_the_response_in_its_stream_and_its_record(daemon: Daemon) -> None:
    client = daemon.openai()
    *_, last = client.responses.create(model="brittle", input="Say something.", stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.type == "worker_died"
    assert client.responses.retrieve(last.response.id).status == "failed"


def test_a_prompt_over_the_context_is_refused_under_the_name_of_the_field(daemon: Daemon) -> None:
    for more in ({}, {"stream": True}):
        with pytest.raises(openai.BadRequestError) as caught:
            daemon.openai().responses.create(model="small", input="word " * 200, **more)  # type: ignore[call-overload]
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "input"


def test_one_key_reads_nothing_of_another_and_files_are_private(start: Callable[..., Daemon]) -> None:
    daemon = start(api_keys="key-one,key-two")
    mine = daemon.openai("key-one").responses.create(model="tiny", input="A secret.", max_output_tokens=4)
    assert daemon.openai("key-one").responses.retrieve(mine.id).id == mine.id
    other = daemon.openai("key-two")
    for attempt in (
        lambda: other.responses.retrieve(mine.id), lambda: other.responses.delete(mine.id),
        lambda: other.responses.input_items.list(mine.id), lambda: other.responses.cancel(mine.id),
        lambda: other.responses.create(model="tiny", input="And?", previous_response_id=mine.id),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()
    folder = daemon.home / "responses"
    assert folder.stat().st_mode & 0o777 == 0o700
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"key-one" not in file.read_bytes()
    told = daemon.edged("purge")
    assert (told.returncode, told.stdout) == (0, "1 stored responses, 0 files of KV and 0 captured answers removed\n")
    assert list(folder.iterdir()) == []
    with pytest.raises(openai.NotFoundError):
        daemon.openai("key-one").responses.retrieve(mine.id)


def test_without_a_daemon_purge_forgets_what_the_last_one_kept(start: Callable[..., Daemon]) -> None:
    daemon = start()
    daemon.openai().responses.create(model="tiny", input="A secret.", max_output_tokens=4)
    daemon.stop()
    assert daemon.json("purge") == {"responses": 1, "kv_files": 0, "captured": 0}
    assert list((daemon.home / "responses").iterdir()) == []


def test_many_at_once_are_all_kept_whole(daemon: Daemon) -> None:
    client, made = daemon.openai(), {}

    def one(number: int) -> None:
        response = client.responses.create(model="tiny", input=f"Number {number}.", max_output_tokens=8)
        made[response.id] = response

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 12
    assert all(client.responses.retrieve(identity) == response for identity, response in made.items())


@pytest.mark.skipif(shutil.which("node") is None or not (CLIENTS / "node_modules" / "openai").is_dir(),
                    reason="needs node, and `npm install` in tests/clients")
def test_the_npm_package_creates_streams_continues_and_deletes(daemon: Daemon) -> None:
    told = subprocess.run(["node", "responses.mjs", daemon.base_url + "/v1", "tiny"], cwd=CLIENTS, text=True,
                          capture_output=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["streamed"] == found["plain"] != ""
    assert found["final"] in ("completed", "incomplete")
    assert found["previous"] == found["first"]
    assert found["inputs"] == ["And then?", found["plain"], "Say something."]
    assert found["cancelled"] in ("cancelled", "completed", "incomplete")
    assert found["gone"] == 404
