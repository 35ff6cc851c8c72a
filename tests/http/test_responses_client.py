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
from typing import Any

import httpx
import openai
import pytest

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
