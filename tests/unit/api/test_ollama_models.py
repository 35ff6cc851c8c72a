"""The other routes of Ollama's API, without a daemon: lists, show, version, what is refused, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edged.api.ollama.names import readings, shown
from edged.store import Store
from tests.unit.api.asgi import HOST, ask, get
from tests.unit.api.fake_router import SERVED, FakeRouter, app_with, words

pytestmark = pytest.mark.unit


@pytest.fixture
def app(tmp_path: Path) -> Any:
    return app_with(FakeRouter(words("a")), store=Store(tmp_path / "home"))


@pytest.mark.parametrize(("said", "means"), [
    ("tiny", ["tiny"]), ("tiny:latest", ["tiny:latest", "tiny"]), ("smollm2:135m", ["smollm2:135m", "smollm2-135m"]),
    ("tiny@0123", ["tiny@0123"]), ("org/repo:q4", ["org/repo:q4", "org/repo-q4"]),
])
def test_what_a_name_may_mean(said: str, means: list[str]) -> None:
    assert readings(said) == means


def test_names_in_lists_have_a_tag() -> None:
    assert [shown(name) for name in ("tiny", "org/repo:q4", "tiny@0123")] == ["tiny:latest", "org/repo:q4", "tiny@0123"]


async def test_tags_tell_what_is_installed(app: Any) -> None:
    models = (await get(app, "/api/tags")).json["models"]
    assert [model["name"] for model in models] == ["tiny:latest", "org/repo:q4", "alias:latest"]
    assert models[0] == {
        "name": "tiny:latest", "model": "tiny:latest", "modified_at": "1970-01-01T00:00:01.000000Z", "size": 10,
        "digest": SERVED.digest,
        "details": {"parent_model": "", "format": "fake", "family": "fake", "families": ["fake"],
                    "parameter_size": "1K", "quantization_level": "fp32"},
    }


async def test_ps_tells_what_is_loaded_and_no_alias(app: Any) -> None:
    models = (await get(app, "/api/ps")).json["models"]
    assert [model["name"] for model in models] == ["tiny:latest", "org/repo:q4"]
    assert (models[0]["size"], models[0]["size_vram"], models[0]["context_length"]) == (1, 0, 4096)
    assert models[0]["expires_at"].endswith("Z")


@pytest.mark.parametrize("said", [{"model": "tiny:latest"}, {"name": "tiny"}, {"model": "tiny", "name": ""}])
async def test_show_tells_parameters_in_ollamas_names(app: Any, said: dict[str, str]) -> None:
    more = {"system": "", "template": "", "options": None, "verbose": False}
    told = (await ask(app, "/api/show", said | more)).json
    assert told["parameters"].split() == ["temperature", "0.2", "repeat_penalty", "1.1"]
    assert told["model_info"] == {"general.architecture": "fake", "general.parameter_count": 1000}
    assert told["capabilities"] == ["completion"]
    assert told["details"]["parameter_size"] == "1K"


async def test_show_of_an_unknown_model_is_404_and_of_none_400(app: Any) -> None:
    assert (await ask(app, "/api/show", {"model": "none"})).status == 404
    assert (await ask(app, "/api/show", {})).status == 400


async def test_version_is_one_that_programs_can_compare(app: Any) -> None:
    told = (await get(app, "/api/version")).json
    assert all(part.isdigit() for part in told["version"].split("."))
    assert told["edged"]


@pytest.mark.parametrize(("method", "path", "word"), [
    ("POST", "/api/create", "pull"), ("POST", "/api/copy", "aliases"), ("POST", "/api/push", "export"),
    ("POST", "/api/blobs/sha256:ab", "pull"),
])
async def test_what_edged_does_otherwise_is_refused_and_says_how(app: Any, method: str, path: str, word: str) -> None:
    reply = await ask(app, path, {"model": "tiny"}, method=method)
    assert reply.status == 400
    assert word in reply.json["error"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_tells_that_a_server_is_there(app: Any, method: str) -> None:
    reply = await ask(app, "/", method=method, headers=(HOST,))
    assert reply.status == 200
    assert method == "HEAD" or "Ollama is running" in reply.text


async def test_a_blob_is_never_there(app: Any) -> None:
    assert (await ask(app, "/api/blobs/sha256:ab", method="HEAD", headers=(HOST,))).status == 404


@pytest.mark.parametrize("kind", [None, b"application/x-www-form-urlencoded"])
async def test_what_curl_and_litellm_send_is_read_as_json_where_no_operator_is_needed(
    app: Any, kind: bytes | None
) -> None:
    headers = (HOST,) if kind is None else (HOST, (b"content-type", kind))
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    for path, names in (("/api/chat", ("model", "messages")), ("/api/generate", ("model", "prompt")),
                        ("/api/show", ("model",))):
        reply = await ask(app, path, {name: asked[name] for name in names}, headers=headers)
        assert reply.status == 200, path
    for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
        assert (await ask(app, path, {"model": "tiny"}, headers=headers, method=method)).status == 415, path


async def test_forms_of_another_site_are_kept_out_whatever_they_say_they_are(app: Any) -> None:
    for origin in (b"http://evil.example", b"null"):
        headers = (HOST, (b"origin", origin), (b"content-type", b"application/x-www-form-urlencoded"))
        assert (await ask(app, "/api/chat", {"model": "tiny"}, headers=headers)).status == 403
    assert (await ask(app, "/api/chat", {"model": "tiny"}, headers=(HOST, (b"content-type", b"text/plain")))
            ).status == 415


@pytest.mark.parametrize("path", ["/api/nothing", "/api/chat"])
async def test_errors_before_a_route_have_ollamas_shape(app: Any, path: str) -> None:
    assert isinstance((await get(app, path)).json["error"], str)
    foreign = await get(app, path, headers=((b"host", b"evil.example"),))
    assert foreign.status == 403
    assert isinstance(foreign.json["error"], str)
    locked = await get(app_with(FakeRouter(words("a")), api_keys=["k1"]), path)
    assert locked.status == 401
    assert isinstance(locked.json["error"], str)
