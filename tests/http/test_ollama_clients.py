"""Ollama's official clients, unchanged, against the real daemon with the fake engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from tests.daemon import until
from tests.http.conftest import Daemon
from tests.models import fake_folder

pytestmark = pytest.mark.http

CLIENTS = Path(__file__).parents[1] / "clients"
HELLO = [{"role": "user", "content": "Say something."}]


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(host=daemon.base_url) as made:
        yield made


def said(text: str) -> list[dict[str, str]]:
    """What makes the fake model answer it."""
    return [{"role": "user", "content": f"say: {text}"}]


def state(daemon: Daemon, model: str) -> str:
    found: str = daemon.status(model)["state"]
    return found


def test_chat_streams_what_it_answers_plainly(client: ollama.Client) -> None:
    for seed in range(4):
        asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "options": {"seed": seed, "num_predict": 40}}
        plain = client.chat(**asked)
        *parts, last = client.chat(**asked, stream=True)
        assert "".join(part.message.content or "" for part in parts) == plain.message.content
        assert (last.done, last.done_reason) == (True, plain.done_reason)
        assert (last.prompt_eval_count, last.eval_count) == (plain.prompt_eval_count, plain.eval_count)
        assert last.total_duration is not None
        assert last.total_duration > (last.eval_duration or 0) > 0


@pytest.mark.parametrize("text", ["one\u2028two\x85three\u2029four", "語🙂 ✓", 'a "quoted" \\ line\n\nand another\r\n'])
def test_any_text_passes_the_lines_of_a_stream(client: ollama.Client, text: str) -> None:
    assert client.chat("tiny", said(text)).message.content == text
    streamed = client.chat("tiny", said(text), stream=True)
    assert "".join(part.message.content or "" for part in streamed) == text


async def test_the_async_client_works_too(daemon: Daemon) -> None:
    async with ollama.AsyncClient(host=daemon.base_url) as client:
        stream = await client.chat("tiny:latest", said("all of it"), stream=True)
        assert "".join([part.message.content or "" async for part in stream]) == "all of it"


def test_num_predict_and_stop_end_an_answer(client: ollama.Client) -> None:
    cut = client.chat("slow", HELLO, options={"num_predict": 5})
    assert (cut.done_reason, cut.eval_count) == ("length", 5)
    stopped = client.chat("tiny", said("one two three"), options={"stop": ["two"]})
    assert (stopped.message.content, stopped.done_reason) == ("one ", "stop")


def test_durations_are_those_of_the_engine(client: ollama.Client) -> None:
    """A step of `slow` takes 20 ms, of a prompt and of a token alike."""
    told = client.chat("slow", HELLO, options={"num_predict": 11})
    assert (told.prompt_eval_duration or 0) >= 20e6
    assert (told.eval_duration or 0) >= 200e6
    assert (told.total_duration or 0) > (told.prompt_eval_duration or 0) + (told.eval_duration or 0)


def test_logprobs_cover_the_text(client: ollama.Client) -> None:
    answer = client.chat("tiny", said("ok"), logprobs=True, top_logprobs=2)
    assert answer.logprobs is not None
    assert "".join(token.token for token in answer.logprobs) == "ok"
    assert all(token.logprob <= 0 and len(token.top_logprobs or []) == 2 for token in answer.logprobs)


def test_generate_keeps_a_conversation_in_its_context(client: ollama.Client) -> None:
    first = client.generate("tiny", "say: one", system="Be brief.")
    assert first.response == "one"
    second = client.generate("tiny", "say: two", context=first.context)
    assert second.response == "two"
    alone = client.generate("tiny", "say: two")
    assert (second.prompt_eval_count or 0) > (alone.prompt_eval_count or 0)
    *parts, last = client.generate("tiny", "say: three", context=second.context, stream=True)
    assert "".join(part.response or "" for part in parts) == "three"
    assert len(last.context or []) > len(second.context or []) > len(first.context or [])


def test_a_raw_prompt_is_taken_as_it_stands(client: ollama.Client) -> None:
    raw = client.generate("tiny", "abc", raw=True, options={"num_predict": 3})
    assert raw.prompt_eval_count == 4  # its bytes, after the token that begins every text
    assert raw.context is None
    with pytest.raises(ollama.ResponseError, match="`system`"):
        client.generate("tiny", "abc", raw=True, system="x")


def test_an_answer_is_what_its_format_says(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}, "kind": {"enum": ["cat", "dog"]}},
              "required": ["age", "kind"], "additionalProperties": False}
    for asked in (HELLO, said("no JSON at all")):
        answer = client.chat("slow", asked, format=schema, options={"num_predict": 400})
        found = json.loads(answer.message.content or "")
        assert {*found} == {"age", "kind"}
        assert type(found["age"]) is int
        assert found["kind"] in ("cat", "dog")
    assert json.loads(client.generate("tiny", 'say: {"a": [1]}', format="json").response or "") == {"a": [1]}
    with pytest.raises(ollama.ResponseError, match="`format`") as caught:
        client.chat("tiny", HELLO, format={"type": "objekt"})
    assert caught.value.status_code == 400


def weather(city: str) -> str:
    """The weather of a city.

    Args:
      city: its name

    Returns:
      str: in words
    """
    return f"sunny in {city}"


def test_a_function_of_the_program_is_called_and_its_result_answered(client: ollama.Client) -> None:
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
    asked: list[Any] = said(f"<think>Rome, then.</think>Let me see.{call}")
    first = client.chat("tiny", asked, tools=[weather], think=True).message
    assert (first.thinking, first.content) == ("Rome, then.", "Let me see.")
    (called,) = first.tool_calls or []
    result = {"weather": weather}[called.function.name](**called.function.arguments)
    assert result == "sunny in Rome"
    *parts, last = client.chat("tiny", asked, tools=[weather], think=True, stream=True)
    assert "".join(part.message.thinking or "" for part in parts) == first.thinking
    assert "".join(part.message.content or "" for part in parts) == first.content
    assert [call for part in parts for call in part.message.tool_calls or []] == [called]
    assert last.done_reason == "stop"
    turns = [*asked, first, {"role": "tool", "tool_name": "weather", "content": f"say: It is {result}."}]
    assert client.chat("tiny", turns, tools=[weather]).message.content == f"It is {result}."


def test_without_thinking_there_is_none(client: ollama.Client) -> None:
    answer = client.chat("tiny", said("Plainly."), think=False).message
    assert (answer.thinking, answer.content) == (None, "Plainly.")
    thought = client.generate("tiny", "say: <think>Hm.</think>Yes.", think="low")
    assert (thought.thinking, thought.response) == ("Hm.", "Yes.")


def test_num_ctx_is_kept_or_refused_with_both_numbers(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match=r"`num_ctx` is 128, .* is 64 ") as caught:
        client.chat("small", HELLO, options={"num_ctx": 128})
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match=r"`num_ctx` is 20 .* needs \d+"):
        client.chat("tiny", HELLO, options={"num_ctx": 20})
    fits = client.chat("slow", HELLO, options={"num_ctx": 60})
    assert fits.done_reason == "length"
    assert (fits.prompt_eval_count or 0) + (fits.eval_count or 0) == 60


def test_an_unknown_model_is_a_404_by_which_programs_pull(client: ollama.Client) -> None:
    for asked in (lambda: client.chat("no-such", HELLO), lambda: client.generate("no-such:1b", "x"),
                  lambda: client.show("no-such"), lambda: client.delete("no-such"),
                  lambda: [*client.chat("no-such", HELLO, stream=True)]):
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            asked()
        assert caught.value.status_code == 404


def test_a_worker_that_dies_in_mid_stream_is_an_error_of_the_client(client: ollama.Client) -> None:
    got: list[Any] = []
    with pytest.raises(ollama.ResponseError, match="died"):
        got.extend(client.chat("brittle", HELLO, stream=True))
    assert got


def test_loading_may_take_long_and_clients_pass_over_the_heartbeat(start: Callable[..., Daemon]) -> None:
    daemon = start(heartbeat_s=0.1)
    with ollama.Client(host=daemon.base_url) as client:
        answer = [*client.chat("late", said("at last"), stream=True)]
        assert "".join(part.message.content or "" for part in answer) == "at last"
        assert (answer[-1].load_duration or 0) > 1e9
        client.chat("late", [], keep_alive=0)
        loaded = [*client.generate("late", "", stream=True)]
        assert [(line.done, line.done_reason) for line in loaded] == [(True, "load")]


def test_a_model_is_loaded_kept_and_unloaded_as_asked(daemon: Daemon, client: ollama.Client) -> None:
    assert client.chat("late", [], keep_alive="1h30m").done_reason == "load"
    (late,) = [model for model in client.ps().models if model.model == "late:latest"]
    assert daemon.status("late")["keep_alive_s"] == 5400
    assert late.context_length == daemon.status("late")["context"]
    assert late.expires_at is not None
    assert client.generate("late", keep_alive=0).done_reason == "unload"
    assert state(daemon, "late") == "absent"
    client.generate("late", "say: x", keep_alive=0)
    for _ in until(10):
        if state(daemon, "late") == "absent":
            break
    assert state(daemon, "late") == "absent"


def test_models_are_pulled_listed_shown_and_deleted(client: ollama.Client, tmp_path: Path) -> None:
    folder = fake_folder(tmp_path / "fetched", end_chance=9)
    *progress, last = client.pull(str(folder), stream=True)
    assert last.status == "success"
    bars = [(moment.digest, moment.completed or 0, moment.total) for moment in progress if moment.total is not None]
    assert bars
    assert all(digest == str(folder) and completed <= total for digest, completed, total in bars)
    assert client.pull(str(folder)).status == "success"
    listed = {model.model: model for model in client.list().models}
    assert {"tiny:latest", "fetched:latest", "gpt-4o-mini:latest"} <= {*listed}
    shown = client.show("fetched")
    assert shown.details == listed["fetched:latest"].details
    assert shown.capabilities == ["completion"]
    assert client.chat("fetched:latest", said("here")).message.content == "here"
    client.generate("fetched", keep_alive=0)
    assert client.delete("fetched:latest").status == "success"
    assert "fetched:latest" not in {model.model for model in client.list().models}


@pytest.mark.parametrize("stream", [True, False])
def test_a_pull_of_nothing_is_an_error(client: ollama.Client, stream: bool) -> None:
    with pytest.raises(ollama.ResponseError, match="not found"):
        list(client.pull("nothing-of-that-name", stream=stream))  # type: ignore[call-overload]


def test_texts_become_vectors_of_length_one_in_their_order(daemon: Daemon, client: ollama.Client) -> None:
    texts = ["a box on the edge", "the light"]
    told = client.embed("vectors:latest", texts)
    theirs = daemon.openai().embeddings.create(model="vectors", input=texts, encoding_format="float")
    assert told.model == "vectors:latest"
    assert [list(vector) for vector in told.embeddings] == [item.embedding for item in theirs.data]
    assert told.prompt_eval_count == theirs.usage.prompt_tokens
    (short,) = client.embed("vectors", "the light", dimensions=4, truncate=True, options={"num_thread": 2}).embeddings
    assert len(short) == 4
    assert sum(value * value for value in short) == pytest.approx(1)
    assert list(client.embeddings("vectors", "the light").embedding) == pytest.approx(list(told.embeddings[1]))
    assert client.show("vectors").capabilities == ["embedding"]


def test_an_input_that_does_not_fit_is_refused_and_never_cut(client: ollama.Client) -> None:
    for more in ({}, {"truncate": True}, {"truncate": False}):
        with pytest.raises(ollama.ResponseError, match=r"512 tokens, and `input\[1\]` has \d+") as caught:
            client.embed("vectors", ["fits", "x" * 600], **more)  # type: ignore[arg-type]
        assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match=r"`num_ctx` is 8192, .* is 512 "):
        client.embed("vectors", "x", options={"num_ctx": 8192})
    with pytest.raises(ollama.ResponseError, match=r"`num_ctx` is 4 tokens, and `input` has \d+"):
        client.embed("vectors", "longer than four", options={"num_ctx": 4})


def test_each_task_has_its_models(client: ollama.Client) -> None:
    for asked in (lambda: client.embed("tiny", "x"), lambda: client.chat("vectors", HELLO)):
        with pytest.raises(ollama.ResponseError) as caught:
            asked()
        assert caught.value.status_code == 400
    assert client.embed("vectors").embeddings == []


def test_what_edged_does_otherwise_says_how(client: ollama.Client) -> None:
    for asked, how in ((lambda: client.copy("tiny", "mine"), "aliases"), (lambda: client.push("tiny"), "export"),
                       (lambda: client.create("mine", from_="tiny"), "pull"),
                       (lambda: client.create_blob(__file__), "pull")):
        with pytest.raises(ollama.ResponseError, match=how) as caught:
            asked()
        assert caught.value.status_code == 400


def test_programs_find_a_server_by_its_root(daemon: Daemon) -> None:
    assert "Ollama is running" in httpx.get(daemon.base_url).text
    for path, status in (("/", 200), ("/api/blobs/sha256:00", 404)):
        answer = httpx.head(daemon.base_url + path)
        assert (answer.status_code, answer.content) == (status, b"")


def test_the_npm_package_does_what_its_readme_shows(start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start(heartbeat_s=0.1)
    folder = fake_folder(tmp_path / "carried", end_chance=11)
    shown = subprocess.run(
        ["node", "ollama.mjs", daemon.base_url, "tiny", "late", str(folder)], cwd=CLIENTS, capture_output=True,
        text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stderr
    told = json.loads(shown.stdout)
    # It warns of every line that is no JSON, the heartbeat's included.
    assert told["warnings"] == []
    assert "".join(part["message"]["content"] for part in told["loading"]) == "at last"
    assert told["chat"]["message"]["content"] == "two words"
    assert "".join(part["message"]["content"] for part in told["streamed"]) == "two words"
    assert told["streamed"][-1]["eval_count"] == told["chat"]["eval_count"]
    message = told["tools"]["message"]
    assert (message["thinking"], message["content"]) == ("Hm.", "Let me see.")
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "weather", "arguments": {"city": "Rome"}, "index": 0}]
    assert isinstance(json.loads(told["format"]["message"]["content"])["a"], int)
    assert [told[name]["response"] for name in ("generate", "again")] == ["one", "two"]
    assert len(told["embed"]["embeddings"]) == 2
    assert [told[name]["done_reason"] for name in ("loaded", "unloaded")] == ["load", "unload"]
    assert "tiny:latest" in [model["name"] for model in told["list"]["models"]]
    assert told["show"]["details"]["family"] == "fake"
    assert {"tiny:latest", "late:latest", "vectors:latest"} <= {model["name"] for model in told["ps"]["models"]}
    assert [told["pull"][-1], told["pulled"], told["deleted"]] == [{"status": "success"}] * 3
    assert (told["unknown"]["name"], told["unknown"]["status"]) == ("ResponseError", 404)
    assert told["wrong"]["status"] == 400
    assert "num_ctx" in told["wrong"]["error"]
    assert "died" in told["broken"]["error"]
