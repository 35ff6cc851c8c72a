"""Embeddings and reranking over HTTP, as the official clients ask for them."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

CLIENTS = Path(__file__).parents[1] / "clients"


def post(daemon: Daemon, path: str, **body: Any) -> httpx.Response:
    return httpx.post(daemon.base_url + path, json=body, timeout=30)


def refused(daemon: Daemon, path: str, **body: Any) -> dict[str, Any]:
    answer = post(daemon, path, **body)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def test_the_official_client_gets_vectors_in_order_and_the_same_in_both_encodings(daemon: Daemon) -> None:
    texts = ["a box on the edge", "the light", "a box on the edge", "which word is small " * 20]
    client = daemon.openai()
    plain = client.embeddings.create(model="vectors", input=texts, encoding_format="float")
    # The client's own default is base64, which it decodes itself.
    decoded = client.embeddings.create(model="vectors", input=texts)
    assert [item.index for item in plain.data] == [0, 1, 2, 3]
    vectors = np.array([item.embedding for item in plain.data], np.float32)
    np.testing.assert_array_equal(vectors, np.array([item.embedding for item in decoded.data], np.float32))
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == sum(len(text) + 1 for text in texts)
    assert plain.model == "vectors"


def test_each_input_alone_has_the_vector_it_has_among_others(daemon: Daemon) -> None:
    client = daemon.openai()
    texts = [f"word {number} " * (number % 7 + 1) for number in range(40)]
    together = client.embeddings.create(model="vectors", input=texts).data
    for index in (0, 6, 39):
        alone = client.embeddings.create(model="vectors", input=texts[index]).data[0]
        assert alone.embedding == together[index].embedding


def test_base64_is_float32_in_little_endian_order(daemon: Daemon) -> None:
    said = post(daemon, "/v1/embeddings", model="vectors", input="word", encoding_format="base64").json()
    raw = base64.b64decode(said["data"][0]["embedding"])
    plain = post(daemon, "/v1/embeddings", model="vectors", input="word").json()["data"][0]["embedding"]
    assert np.frombuffer(raw, "<f4").tolist() == plain
    assert said["object"] == "list"
    assert said["data"][0]["object"] == "embedding"


def test_tokens_and_lists_of_tokens_are_inputs_too(daemon: Daemon) -> None:
    client = daemon.openai()
    tokens = [256, *b"a box"]
    by_text = client.embeddings.create(model="vectors", input="a box").data[0].embedding
    assert client.embeddings.create(model="vectors", input=tokens).data[0].embedding == by_text
    many = client.embeddings.create(model="vectors", input=[tokens, [98]]).data
    assert many[0].embedding == by_text
    assert len(many) == 2


def test_shorter_vectors_where_the_model_has_them(daemon: Daemon) -> None:
    client = daemon.openai()
    whole = np.array(client.embeddings.create(model="vectors", input="a box of light").data[0].embedding)
    short = np.array(client.embeddings.create(model="vectors", input="a box of light", dimensions=8).data[0].embedding)
    np.testing.assert_allclose(short, whole[:8] / np.linalg.norm(whole[:8]), rtol=1e-6)
    error = refused(daemon, "/v1/embeddings", model="vectors", input="a", dimensions=5)
    assert error["param"] == "dimensions"
    assert "16 or one of 4, 8" in error["message"]


@pytest.mark.parametrize(("said", "param"), [
    ({"input": ""}, "input"), ({"input": []}, "input"), ({"input": ["a", ""]}, "input[1]"), ({}, "input"),
    ({"input": ["a", ["b"]]}, "input[1][0]"), ({"input": [[]]}, "input[0]"), ({"input": [1, -1]}, "input[1]"),
    ({"input": ["a"] * 2049}, "input"), ({"input": 7}, "input"), ({"input": [5, 100_000]}, "input"),
    ({"input": "a", "encoding_format": "int8"}, "encoding_format"), ({"input": "a", "dimensions": 0}, "dimensions"),
    ({"input": "a", "truncate": True}, "truncate"), ({"input": "a", "stream": True}, "stream"),
])
def test_what_cannot_be_embedded_is_refused_by_name(daemon: Daemon, said: dict[str, Any], param: str) -> None:
    assert refused(daemon, "/v1/embeddings", model="vectors", **said)["param"] == param


def test_an_input_over_the_context_is_refused_with_both_numbers_and_nothing_is_cut(daemon: Daemon) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        daemon.openai().embeddings.create(model="vectors", input=["short", "x" * 600])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "input[1]"
    assert "512" in caught.value.message
    assert "601" in caught.value.message
    assert len(daemon.openai().embeddings.create(model="vectors", input="x" * 511).data) == 1


def test_a_user_is_told_to_be_ignored(daemon: Daemon) -> None:
    answer = post(daemon, "/v1/embeddings", model="vectors", input="a", user="me")
    assert answer.headers["edged-ignored"] == "user"
    assert answer.headers["edged-model"].startswith("vectors@")
    assert answer.headers["edged-engine"] == "fake"


@pytest.mark.parametrize(("path", "said", "hint"), [
    ("/v1/chat/completions", {"model": "vectors", "messages": [{"role": "user", "content": "hi"}]}, "/v1/embeddings"),
    ("/v1/completions", {"model": "judge", "prompt": "hi"}, "/v1/rerank"),
    ("/v1/embeddings", {"model": "tiny", "input": "hi"}, "/v1/chat/completions"),
    ("/v1/embeddings", {"model": "judge", "input": "hi"}, "/v1/rerank"),
    ("/v1/rerank", {"model": "vectors", "query": "a", "documents": ["b"]}, "/v1/embeddings"),
])
def test_a_model_that_is_for_something_else_says_for_what(
        daemon: Daemon, path: str, said: dict[str, Any], hint: str) -> None:
    error = refused(daemon, path, **said)
    assert (error["code"], error["param"]) == ("unsupported_task", "model")
    assert hint in error["message"]


def test_the_list_of_models_says_what_each_is_for(daemon: Daemon) -> None:
    daemon.openai().embeddings.create(model="vectors", input="a")
    told = {model["id"]: model["edged"] for model in httpx.get(daemon.base_url + "/v1/models").json()["data"]}
    assert [told[name]["kind"] for name in ("tiny", "vectors", "judge")] == ["generate", "embed", "rerank"]
    assert told["vectors"]["dimensions"] == 16


def test_documents_come_back_best_first(daemon: Daemon) -> None:
    documents = ["light on the edge", "a small box", "small words for a box of light", "none of it"]
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        said = post(daemon, path, model="judge", query="a small box", documents=documents).json()
        assert [result["index"] for result in said["results"]] == [1, 2, 0, 3]
    scores = [result["relevance_score"] for result in said["results"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1.0
    assert "document" not in said["results"][0]
    assert said["usage"]["total_tokens"] > 0


def test_the_best_few_documents_with_their_texts(daemon: Daemon) -> None:
    said = post(daemon, "/v1/rerank", model="judge", query="a small box", top_n=2, return_documents=True,
                documents=["light", {"text": "a small box"}, "a box"]).json()
    assert [result["document"]["text"] for result in said["results"]] == ["a small box", "a box"]


@pytest.mark.parametrize(("said", "param"), [
    ({"documents": []}, "documents"), ({"documents": ["a", ""]}, "documents[1]"), ({"query": ""}, "query"),
    ({"documents": [{"image": "x"}]}, "documents[0].image"), ({"top_n": 0}, "top_n"),
    ({"max_tokens_per_doc": 100}, "max_tokens_per_doc"), ({"documents": ["a", "b" * 600]}, "documents[1]"),
])
def test_what_cannot_be_ranked_is_refused_by_name(daemon: Daemon, said: dict[str, Any], param: str) -> None:
    body = {"model": "judge", "query": "q", "documents": ["a", "b"]} | said
    assert refused(daemon, "/v1/rerank", **body)["param"] == param


def test_the_javascript_client_gets_vectors(daemon: Daemon) -> None:
    script = """
        import OpenAI from "openai";
        const client = new OpenAI({ baseURL: process.argv[1], apiKey: "none", maxRetries: 0 });
        const answer = await client.embeddings.create({ model: "vectors", input: ["a box", "light"] });
        console.log(JSON.stringify(answer.data.map((item) => item.embedding.length)));
    """
    shown = subprocess.run(
        ["node", "--input-type=module", "--eval", script, daemon.base_url + "/v1"], cwd=CLIENTS, text=True,
        capture_output=True, timeout=60, check=True)
    assert shown.stdout.strip() == "[16,16]"
