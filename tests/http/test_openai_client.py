"""The official client, unchanged, against the real daemon with the fake engine."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import Any

import httpx
import openai
import pytest

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

HELLO: list[Any] = [{"role": "user", "content": "Say something."}]


def test_chat_streams_what_it_answers_plainly(daemon: Daemon) -> None:
    client = daemon.openai()
    for seed in range(6):
        said: dict[str, Any] = {"model": "tiny", "messages": HELLO, "seed": seed, "max_tokens": 60, "n": 2}
        plain = client.chat.completions.create(**said)
        texts, reasons = ["", ""], ["", ""]
        with client.chat.completions.create(**said, stream=True) as stream:
            for chunk in stream:
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
                    reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        assert texts == [choice.message.content for choice in plain.choices]
        assert reasons == [choice.finish_reason for choice in plain.choices]
        assert plain.usage is not None
        assert plain.usage.prompt_tokens > 5


def test_an_alias_answers_and_the_answer_names_the_model(daemon: Daemon) -> None:
    raw = daemon.openai().chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO, max_tokens=3)
    answer = raw.parse()
    assert answer.model == "tiny"
    assert raw.headers["edged-model"].startswith("tiny@")
    assert raw.headers["edged-engine"] == "fake"
    assert raw.headers["x-request-id"]
    assert answer.system_fingerprint is not None
    assert answer.system_fingerprint.startswith("fake-")


def test_models_are_listed_and_told_one_by_one(daemon: Daemon) -> None:
    client = daemon.openai()
    assert {"tiny", "slow", "gpt-4o-mini"} <= {model.id for model in client.models.list()}
    one = client.models.retrieve("tiny")
    assert one.object == "model"
    assert one.model_extra is not None
    assert one.model_extra["edged"]["engine"] == "fake"


def test_an_unknown_model_is_a_404_that_shows_the_line_to_add(daemon: Daemon) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        daemon.openai().chat.completions.create(model="gpt-99", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert '"gpt-99" = ' in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        daemon.openai().models.retrieve("org/none:q4")


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_over_the_context_is_a_400_with_both_numbers(daemon: Daemon, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        daemon.openai().chat.completions.create(
            model="small", messages=[{"role": "user", "content": "x" * 200}], stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    assert "64" in str(caught.value)


def test_logprobs_cover_the_text(daemon: Daemon) -> None:
    answer = daemon.openai().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=20, logprobs=True, top_logprobs=3, seed=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    raw = b"".join(bytes(token.bytes or []) for token in logprobs.content)
    assert raw.decode("utf-8", "replace").strip() == (answer.choices[0].message.content or "").strip()
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in logprobs.content)


def test_completions_take_many_prompts_and_echo(daemon: Daemon) -> None:
    answer = daemon.openai().completions.create(
        model="tiny", prompt=["one", "two", "three"], max_tokens=8, echo=True, n=2, seed=3, logprobs=1)
    assert [choice.index for choice in answer.choices] == list(range(6))
    for choice, prompt in zip(answer.choices, ["one", "one", "two", "two", "three", "three"], strict=True):
        assert choice.text.startswith(prompt)
        assert choice.logprobs is not None
        assert choice.logprobs.text_offset is not None
        assert choice.logprobs.tokens is not None
        assert len(choice.logprobs.text_offset) == len(choice.logprobs.tokens)


def test_a_stop_string_is_never_in_the_text(daemon: Daemon) -> None:
    client = daemon.openai()
    said: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "seed": 5}
    free = client.chat.completions.create(**said).choices[0].message.content
    assert free
    stop = free[len(free) // 2:][:3]
    held = client.chat.completions.create(**said, stop=[stop]).choices[0]
    assert held.message.content == free[: free.index(stop)]
    assert held.finish_reason == "stop"


def test_a_worker_that_dies_in_mid_stream_is_an_error_event_and_the_next_request_works(daemon: Daemon) -> None:
    stream = daemon.openai().chat.completions.create(model="brittle", messages=HELLO, max_tokens=50, stream=True)
    got: list[Any] = []
    with pytest.raises(openai.APIError) as caught:
        got.extend(stream)
    assert len(got) > 1
    assert caught.value.code == "worker_died"
    assert daemon.openai().chat.completions.create(model="tiny", messages=HELLO, max_tokens=2).choices


def test_eight_streams_run_side_by_side(daemon: Daemon) -> None:
    client = daemon.openai()
    client.chat.completions.create(model="slow", messages=HELLO, max_tokens=1)
    barrier = threading.Barrier(8)

    def one(seed: int) -> tuple[float, float]:
        barrier.wait()
        times = [time.monotonic() for chunk in client.chat.completions.create(
            model="slow", messages=HELLO, max_tokens=25, seed=seed, stream=True)]
        return times[1], times[-1]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        spans = list(pool.map(one, range(8)))
    assert max(first for first, _ in spans) < min(last for _, last in spans)


def test_a_client_gone_in_mid_stream_frees_its_row_within_a_second(daemon: Daemon) -> None:
    stream = daemon.openai().chat.completions.create(model="slow", messages=HELLO, max_tokens=3000, stream=True)
    next(iter(stream))
    assert daemon.status("slow")["running"] == 1
    stream.close()
    assert _idle_after(daemon, "slow") < 1.0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_gone_in_prefill_frees_its_row_within_a_second(daemon: Daemon, stream: bool) -> None:
    daemon.openai().chat.completions.create(model="sluggish", messages=HELLO, max_tokens=1)
    long: list[Any] = [{"role": "user", "content": "x" * 3000}]
    impatient = daemon.openai().with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        for _ in impatient.chat.completions.create(model="sluggish", messages=long, max_tokens=1000, stream=stream):
            pass
    assert _idle_after(daemon, "sluggish") < 1.0


def _idle_after(daemon: Daemon, model: str) -> float:
    began = time.monotonic()
    while (status := daemon.status(model))["running"] or status["waiting"]:
        assert time.monotonic() - began < 5
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_client_gone_while_the_model_loads_leaves_no_request_behind(daemon: Daemon) -> None:
    with pytest.raises(openai.APITimeoutError):
        daemon.openai().with_options(timeout=0.3).chat.completions.create(model="late", messages=HELLO)
    assert _idle_after(daemon, "late") < 1.0
    assert daemon.openai().chat.completions.create(model="late", messages=HELLO, max_tokens=2).choices


def test_timeout_s_is_a_504_that_the_client_does_not_retry(daemon: Daemon) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        daemon.openai().with_options(max_retries=3).chat.completions.create(
            model="slow", messages=HELLO, max_tokens=3000, extra_body={"timeout_s": 0.2})
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_keep_alive_zero_unloads_the_model_after_its_answer(daemon: Daemon) -> None:
    daemon.openai().chat.completions.create(
        model="small", messages=[{"role": "user", "content": "x"}], max_tokens=2, extra_body={"keep_alive": 0})
    began = time.monotonic()
    while daemon.status("small")["state"] != "absent":
        assert time.monotonic() - began < 10
        time.sleep(0.05)


def test_the_operators_routes(daemon: Daemon) -> None:
    with httpx.Client(base_url=daemon.base_url + "/edged/v1", timeout=30) as client:
        status = client.get("/status").json()
        assert (status["pid"], status["ready"]) == (daemon.pid, True)
        loaded = client.post("/load", json={"model": "tiny", "pin": True, "keep_alive": "1h"}).json()
        assert (loaded["state"], loaded["pinned"], loaded["keep_alive_s"]) == ("ready", True, 3600.0)
        assert "tiny" in [model["name"] for model in client.get("/ps").json()["models"]]
        refused = client.delete("/models/tiny")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "conflict")
        assert client.post("/unload", json={"model": "tiny"}).json()["state"] == "absent"
        config = client.get("/config").json()
        assert config["max_queue"] == 64
        assert config["api_keys"] is False
        assert client.get("/hardware").json()["cpu"]["logical"] >= 1
        assert client.post("/reload").json() == {"changed": []}


def test_the_unix_socket_answers_without_host_or_key(start: Any) -> None:
    guarded = start(api_keys="k1")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(guarded.socket)), base_url="http://edged") as client:
        assert client.get("/edged/v1/status").json()["pid"] == guarded.pid
    assert httpx.get(guarded.base_url + "/edged/v1/status", headers={"authorization": "Bearer k1"}).status_code == 403
    assert httpx.get(guarded.base_url + "/v1/models").status_code == 401
    assert len(guarded.openai("k1").models.list().data) > 3


def test_a_full_queue_is_a_429_with_retry_after(start: Any) -> None:
    narrow = start(max_queue=0)
    client = narrow.openai()
    client.chat.completions.create(model="slow", messages=HELLO, max_tokens=1)
    streams = [client.chat.completions.create(model="slow", messages=HELLO, max_tokens=500, stream=True)
               for _ in range(8)]
    try:
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="slow", messages=HELLO)
        assert int(caught.value.response.headers["retry-after"]) >= 1
    finally:
        for stream in streams:
            stream.close()


def test_metrics_count_what_was_answered(daemon: Daemon) -> None:
    daemon.openai().chat.completions.create(model="tiny", messages=HELLO, max_tokens=3)
    text = httpx.get(daemon.base_url + "/metrics").text
    assert 'edged_requests_total{endpoint="/v1/chat/completions",model="tiny",status="200"}' in text
    assert "edged_time_to_first_token_seconds_bucket" in text
    assert "edged_generation_tokens_total" in text
