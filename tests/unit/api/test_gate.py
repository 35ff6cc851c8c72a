"""Who may come in: hosts, origins, keys, sizes, kinds; and that every refusal has the one shape."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.app import create_routes
from edged.api.exchange import Services
from edged.api.limits import limits_of
from edged.daemon.metrics import Metrics
from edged.daemon.responses import Responses
from edged.settings import Settings
from tests.unit.api.asgi import HOST, Client, ask, get
from tests.unit.api.fake_router import FakeRouter, app_with, words

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
JSON = (b"content-type", b"application/json")


def headers(*more: tuple[bytes, bytes], host: bytes = b"127.0.0.1:8343") -> tuple[tuple[bytes, bytes], ...]:
    return ((b"host", host), JSON, *more)


def app(**settings: Any) -> Any:
    return app_with(FakeRouter(words("a")), **settings)


APP = app()


@pytest.mark.parametrize("host", [b"127.0.0.1:8343", b"localhost:8343", b"LOCALHOST:8343", b"[::1]:8343"])
async def test_loopback_names_with_the_port_are_let_in(host: bytes) -> None:
    assert (await ask(app(), CHAT, HELLO, headers=headers(host=host))).status == 200


@pytest.mark.parametrize("host", [
    b"evil.example:8343", b"127.0.0.1", b"localhost:80", b"localhost.evil.example:8343", b"", b"localhost:8343:8343",
    b"evil.example@localhost:8343", b"[::1]", b"localhost.:8343", b"127.0.0.1:08343",
])
async def test_any_other_host_is_forbidden(host: bytes) -> None:
    reply = await ask(app(), CHAT, HELLO, headers=headers(host=host))
    assert (reply.status, reply.error["code"]) == (403, "forbidden_host")


async def test_no_host_or_two_hosts_are_forbidden() -> None:
    assert (await ask(app(), CHAT, HELLO, headers=(JSON,))).status == 403
    twice = headers((b"host", b"localhost:8343"))
    assert (await ask(app(), CHAT, HELLO, headers=twice)).status == 403


async def test_names_of_the_settings_are_let_in() -> None:
    made = app(host="192.168.7.5", allowed_hosts=["box.lan", "proxy.lan:9000"])
    for host, status in [(b"192.168.7.5:8343", 200), (b"box.lan", 200), (b"box.lan:1234", 200),
                         (b"proxy.lan:9000", 200), (b"proxy.lan:9001", 403)]:
        assert (await ask(made, CHAT, HELLO, headers=headers(host=host))).status == status


@pytest.mark.parametrize(("origin", "status"), [
    (b"http://127.0.0.1:8343", 200), (b"http://localhost:8343", 200), (b"http://evil.example", 403),
    (b"http://localhost:3000", 403), (b"null", 403), (b"https://localhost:8343.evil.example", 403), (b"file://", 403),
])
async def test_pages_of_another_site_are_kept_out(origin: bytes, status: int) -> None:
    assert (await ask(app(), CHAT, HELLO, headers=headers((b"origin", origin)))).status == status


async def test_an_origin_of_the_settings_may_call_and_is_told_so() -> None:
    made = app(cors_origins=["https://app.example"], api_keys=["k1"])
    origin = (b"origin", b"https://app.example")
    reply = await ask(made, CHAT, HELLO, headers=headers(origin, (b"x-api-key", b"k1")))
    assert (reply.status, reply.answer_headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert "edged-capture" in reply.answer_headers["access-control-expose-headers"]
    preflight = await Client(made, CHAT, method="OPTIONS", headers=(
        HOST, origin, (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"authorization"),
    )).run()
    assert preflight.status == 204
    assert preflight.answer_headers["access-control-allow-origin"] == "https://app.example"
    assert (await ask(made, CHAT, HELLO, headers=headers((b"origin", b"https://other.example")))).status == 403


async def test_without_configured_origins_no_cors_header_is_sent() -> None:
    reply = await ask(app(), CHAT, HELLO, headers=headers((b"origin", b"http://localhost:8343")))
    assert not [name for name in reply.answer_headers if name.startswith("access-control")]


async def test_the_unix_socket_asks_for_neither_host_nor_key() -> None:
    made = app(api_keys=["k1"], admin_keys=["a1"])
    reply = await ask(made, CHAT, HELLO, headers=(JSON, (b"host", b"edged")), server=("/run/edged.sock", None))
    assert reply.status == 200
    assert (await get(made, "/edged/v1/status", headers=(), server=("/run/edged.sock", None))).status == 200


async def test_a_server_that_does_not_know_its_address_counts_as_tcp() -> None:
    assert (await ask(app(), CHAT, HELLO, server=None)).status == 403


def every_route() -> list[tuple[str, str]]:
    settings = Settings()
    routes = create_routes(Services(
        FakeRouter(words("a")), settings, None, Metrics(), None, Responses(settings), limits_of(settings)))  # type: ignore[arg-type]
    return sorted(
        (route.path, method) for route in routes.routes
        for method in getattr(route, "methods", ()) if method != "OPTIONS"
    )


def code(reply: Client) -> Any:
    """Wherever the family of the path says it; Ollama's has text alone, of which the only 401 is that of a key."""
    if isinstance(reply.error, str):
        return "invalid_api_key" if "key" in reply.error else None
    return reply.error["code"] if "code" in reply.error else reply.error["details"]["error_code"]


async def test_every_route_without_a_key_is_401_health_aside() -> None:
    made = app(api_keys=["k1"], admin_keys=["a1"])
    routes = every_route()
    assert len(routes) > 12
    for path, method in [*routes, ("/nowhere", "GET"), ("/edged/nowhere", "POST"), ("//v1/models", "GET")]:
        reply = await ask(made, path.replace("{name:path}", "tiny"), {}, method=method)
        if path.startswith("/health/"):
            assert reply.status == 200, path
        else:
            assert (reply.status, code(reply)) == (401, "invalid_api_key"), (path, method)


@pytest.mark.parametrize("path", ["/health/../v1/models", "/health/", "/health/%2e%2e/v1/models", "/health//v1/models"])
async def test_no_path_that_begins_with_health_reaches_more_than_health(path: str) -> None:
    assert (await get(app(api_keys=["k1"]), path)).status == 404


@pytest.mark.parametrize(("key", "models", "admin"), [
    ((b"authorization", b"Bearer k1"), 200, 403), ((b"authorization", b"bearer a1"), 200, 200),
    ((b"x-api-key", b"k1"), 200, 403), ((b"authorization", b"Bearer k2"), 401, 401),
    ((b"authorization", b"Basic k1"), 401, 401), ((b"authorization", b"Bearer "), 401, 401),
    ((b"authorization", "Bearer ké".encode()), 401, 401),
])
async def test_what_each_key_opens(key: tuple[bytes, bytes], models: int, admin: int) -> None:
    made = app(api_keys=["k1"], admin_keys=["a1"])
    assert (await ask(made, CHAT, HELLO, headers=headers(key))).status == models
    assert (await get(made, "/edged/v1/status", headers=(HOST, key))).status == admin


@pytest.mark.parametrize("path", [
    "//edged/v1/status", "/edged//v1/status", "///edged///v1///status", "/edged/v1/status/",
    "/health/../edged/v1/status", "/v1/../edged/v1/status", "/./edged/v1/status", "/health//edged/v1/status",
])
async def test_no_spelling_of_a_path_leads_around_the_admin_key(path: str) -> None:
    made = app(api_keys=["k1"], admin_keys=["a1"])
    assert (await get(made, path, headers=(HOST, (b"x-api-key", b"k1")))).status in (403, 404)
    assert (await get(app(admin_keys=["a1"]), path)).status in (401, 404)


async def test_every_admin_route_needs_more_than_a_clients_key() -> None:
    made = app(api_keys=["k1"], admin_keys=["a1"])
    everybodys = {"/edged/v1/tokenize", "/edged/v1/detokenize", "/edged/v1/apply-template"}
    routes = [(path, method) for path, method in every_route()
              if path.startswith("/edged/") and path not in everybodys]
    assert len(routes) >= 10
    for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
        reply = await ask(made, path, {"model": "tiny"}, method=method, headers=headers((b"x-api-key", b"k1")))
        assert reply.status == 403, path
        assert "admin_keys" in reply.error
    for path, method in routes:
        reply = await ask(made, path.replace("{name:path}", "tiny"), {}, method=method,
                          headers=headers((b"x-api-key", b"k1")))
        assert (reply.status, reply.error["code"]) == (403, "admin_key_required"), path


async def test_with_api_keys_alone_the_admin_routes_are_for_the_unix_socket() -> None:
    reply = await get(app(api_keys=["k1"]), "/edged/v1/status", headers=(HOST, (b"x-api-key", b"k1")))
    assert (reply.status, reply.error["code"]) == (403, "admin_key_required")


async def test_with_admin_keys_alone_the_models_are_free() -> None:
    made = app(admin_keys=["a1"])
    assert (await ask(made, CHAT, HELLO)).status == 200
    assert (await get(made, "/edged/v1/status")).status == 401


async def test_fairness_goes_by_key_else_by_peer_whatever_is_forwarded() -> None:
    router = FakeRouter(words("a"))
    forged = (b"x-forwarded-for", b"10.9.9.9")
    await ask(app_with(router), CHAT, HELLO, headers=headers(forged))
    await ask(app_with(router, api_keys=["k1"]), CHAT, HELLO, headers=headers((b"x-api-key", b"k1")))
    by_peer, by_key = (request.client for request in router.requests)
    assert by_peer == "127.0.0.1"
    assert by_key.startswith("sha256:")
    assert "k1" not in by_key


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data", b""])
async def test_what_is_not_json_is_415(kind: bytes) -> None:
    reply = await ask(app(), CHAT, HELLO, headers=(HOST, (b"content-type", kind)))
    assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")


async def test_json_with_a_charset_is_json() -> None:
    kind = (b"content-type", b"Application/JSON; charset=utf-8")
    assert (await ask(app(), CHAT, HELLO, headers=(HOST, kind))).status == 200


async def test_a_compressed_body_is_415() -> None:
    reply = await ask(app(), CHAT, b"\x1f\x8b", headers=headers((b"content-encoding", b"gzip")))
    assert reply.status == 415
    assert "Content-Encoding" in reply.error["message"]


@pytest.mark.parametrize("declared", [True, False])
async def test_too_large_a_body_is_413_before_it_is_whole(declared: bool) -> None:
    body = b'{"model": "' + b"x" * 100_000 + b'"}'
    length = ((b"content-length", str(len(body)).encode()),) if declared else ()
    client = Client(app(max_body_bytes=1000), CHAT, body, headers=headers(*length), chunk=100)
    await client.run()
    assert (client.status, client.error["code"]) == (413, "request_too_large")
    assert len(client._left) > 98_000


async def test_a_body_that_does_not_arrive_is_given_up_with_a_status_that_is_not_retried() -> None:
    client = Client(app(receive_timeout_s=0.02), CHAT, b"{}x", headers=headers(), chunk=2)

    async def slowly() -> dict[str, Any]:
        await asyncio.sleep(0.005)
        return {"type": "http.request", "body": b" ", "more_body": True}

    client._receive = slowly  # type: ignore[method-assign]
    await asyncio.wait_for(client.run(), 1)
    assert (client.status, client.error["code"]) == (400, "request_timeout")


async def test_a_large_header_is_431() -> None:
    reply = await ask(app(), CHAT, HELLO, headers=headers((b"x-filler", b"y" * 40_000)))
    assert (reply.status, reply.error["code"]) == (431, "request_too_large")


@pytest.mark.parametrize("body", [
    b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b"{", b"", b"[]", b"3", b"null", b'{"model": NaN}',
    b'{"model": Infinity}', b'{"temperature": 1e400}', b'{"seed": ' + b"9" * 5000 + b"}", b'{"model": "\xff"}',
    b"\xff\xfe", b'{"model": "\\ud800"}', b'{"model": "a\x00b"}', b"{'model': 1}", b'{"model": "tiny",}',
    b"\xef\xbb\xbf{}",
    b'{"messages": "' + b'[{\\"' * 300 + b'"',
    b'{"prompt": [' + b"1," * 600_000 + b"1]}", b'{"a": [' + b"[]," * 300_000 + b"1]}", b'"' * 3_000_000,
])
async def test_broken_deep_and_odd_json_is_400(body: bytes) -> None:
    reply = await ask(app(), CHAT, body)
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"


async def test_brackets_within_strings_are_no_depth() -> None:
    text = '[{"\\"' * 500
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}]}
    router = FakeRouter(words("a"))
    assert (await ask(app_with(router), CHAT, body)).status == 200
    assert router.requests[0].prompt.messages[0]["content"] == text  # type: ignore[union-attr]


@pytest.mark.parametrize(("said", "kept"), [
    (b"abc-123", True), (b"with space", False), (b"x" * 200, False), (b"a\r\nset-cookie: x", False), (b"", False),
])
async def test_the_request_id_is_the_clients_if_it_is_sane(said: bytes, kept: bool) -> None:
    router = FakeRouter(words("a"))
    reply = await ask(app_with(router), CHAT, HELLO, headers=headers((b"x-request-id", said)))
    told = reply.answer_headers["x-request-id"]
    assert (told == said.decode()) is kept
    assert router.requests[0].id.startswith(told)


async def test_two_requests_of_one_id_stay_apart() -> None:
    router = FakeRouter(words("a"))
    made = app_with(router)
    for _ in range(2):
        await ask(made, CHAT, HELLO, headers=headers((b"x-request-id", b"same")))
    assert len({request.id for request in router.requests}) == 2


async def test_unknown_routes_and_methods_have_the_shape_of_errors() -> None:
    nowhere = await get(app(), "/v1/nowhere")
    assert (nowhere.status, nowhere.error["code"]) == (404, "not_found")
    wrong = await get(app(), CHAT)
    assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")
    assert "x-request-id" in wrong.answer_headers


async def test_health_and_metrics_answer() -> None:
    router = FakeRouter(words("a"))
    made = app_with(router)
    assert (await get(made, "/health/live")).json == {"status": "live"}
    assert (await get(made, "/health/ready")).status == 200
    router.ready = False
    not_ready = await get(made, "/health/ready")
    assert (not_ready.status, not_ready.error["code"]) == (503, "not_ready")
    assert (await get(made, "/health/live")).status == 200
    await ask(made, CHAT, HELLO)
    metrics = await get(made, "/metrics")
    assert metrics.answer_headers["content-type"].startswith("text/plain")
    assert 'edged_requests_total{endpoint="/v1/chat/completions",model="tiny",status="200"} 1.0' in metrics.text


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["model", "messages", "role", "content", "type", "text", "stop", "n", "prompt"])
        | st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
))
def test_no_json_brings_a_5xx(value: Any) -> None:
    async def all_routes() -> None:
        for path in (CHAT, "/v1/completions", "/edged/v1/load", "/edged/v1/unload"):
            reply = await ask(APP, path, {"model": "tiny"} | value if isinstance(value, dict) else value)
            assert reply.status < 500

    asyncio.run(all_routes())


async def test_a_request_is_logged_once_without_a_word_of_its_prompt(logs: list[Any]) -> None:
    await ask(app(), CHAT, HELLO | {"messages": [{"role": "user", "content": "a-secret-word"}]},
              headers=headers((b"x-request-id", b"one")))
    (entry,) = logs
    assert (entry["event"], entry["request_id"], entry["endpoint"], entry["status"], entry["model"]) == (
        "request", "one", CHAT, 200, "tiny")
    assert "a-secret-word" not in str(logs)
