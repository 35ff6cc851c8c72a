"""What is small to send and large to answer: numbers, JSON and templates (T3, T8, T9), against the whole daemon."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from edged.store import Store
from tests.daemon import Daemon
from tests.held import forget_peak, held, peak_bytes
from tests.http.test_serve_stop import Stream
from tests.wire import CHAT, COMPLETIONS, Wire
from tests.worker.daemon.rig import install

pytestmark = pytest.mark.faults

#: Above the base line, while bodies of up to two megabytes are read.
PEAK_LIMIT_BYTES = 24 << 20
TEMPLATES = {
    "spinning": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "ranging": "{{ range(10**9) | list }}",
    "filling": "{{ 'x' * 10**10 }}",
    "escaping": "{{ cycler.__init__.__globals__.os.system('true') }}",
}
CATALOG = "".join(f"[models.{name}]\nchat_template = {json.dumps(text)}\n" for name, text in TEMPLATES.items())


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("bombs")
    (folder / "models.toml").write_text(CATALOG)
    made = Daemon(folder, keep_alive_s=-1)
    for name in ("steady", *TEMPLATES):
        install(Store(made.home), name, step_ms=10)
    with made:
        yield made


ASKS: dict[str, dict[str, Any]] = {
    CHAT: {"model": "steady", "messages": [{"role": "user", "content": "x"}]},
    COMPLETIONS: {"model": "steady", "prompt": "x"},
}


def with_field(path: str, field: str, json_text: str) -> bytes:
    """A good request with one more field, whose value no encoder of ours would write."""
    return json.dumps(ASKS[path]).encode()[:-1] + f', "{field}": {json_text}}}'.encode()


NUMBERS = [
    *((field, digits)
      for field in ("n", "max_tokens", "seed", "top_k", "temperature", "top_p", "presence_penalty",
                    "repetition_penalty", "timeout_s", "keep_alive", "logprobs")
      for digits in ("1e9999", "NaN", "Infinity", "9" * 5000, "-" + "9" * 5000)),
    *((field, "9." + "9" * 100_000) for field in ("n", "max_tokens", "seed", "top_k", "temperature", "top_p")),
    ("n", "1000000000"), ("n", "1e9"), ("n", "-1"), ("max_tokens", str(2**63)), ("max_tokens", "-1"),
    ("seed", str(2**64)), ("temperature", "-1"), ("top_k", "-1"), ("timeout_s", "-1"),
    ("logit_bias", json.dumps({str(token): 1 for token in range(100_000)})), ("stop", json.dumps(["x"] * 100_000)),
]
JSONS = [
    b"[" * 100_000, b'{"a":' * 100_000, b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"messages": [' + b"[]," * 400_000 + b"[]]}", b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}', b"\x00" * 1000,
    b'{"a": "' + b"\\u0000" * 100_000, b"{" + b'"a":1,' * 200_000 + b'"a":1',
]


async def refused_flat(daemon: Daemon, bombs: list[tuple[str, bytes, str]]) -> None:
    """Each (path, body, field) is a 400 that names the field, or says that it is no JSON, again and again; what the
    daemon holds stays flat, also while it reads them."""
    process, port = psutil.Process(daemon.pid), int(daemon.listening["port"])

    async def all_of_them() -> None:
        wire = await Wire.connect(port)
        for path, body, field in bombs:
            await wire.post(path, body)
            status, error = await wire.answered(), (await wire.body())["error"]
            assert (status, error["type"]) == (400, "invalid_request_error"), body[:200]
            assert error["code"] == "invalid_json" or error["param"].startswith(field), (body[:200], error)
            assert len(error["message"]) < 500
        wire.leave()

    await all_of_them()
    before = held(process)
    forget_peak(process)
    for _ in range(10):
        await all_of_them()
    assert held(process).resident_bytes <= before.resident_bytes * 1.05
    assert peak_bytes(process) <= before.resident_bytes + PEAK_LIMIT_BYTES


async def test_number_bombs_are_400_and_memory_stays_flat(daemon: Daemon) -> None:
    await refused_flat(daemon, [(path, with_field(path, *bomb), bomb[0]) for path in ASKS for bomb in NUMBERS])


async def test_deep_and_broken_json_is_400_and_memory_stays_flat(daemon: Daemon) -> None:
    await refused_flat(daemon, [(path, body, "nothing") for path in ASKS for body in JSONS])


def ask(daemon: Daemon, model: str) -> httpx.Response:
    return httpx.post(daemon.base_url + CHAT, timeout=60, json={**ASKS[CHAT], "model": model})


@pytest.mark.parametrize(("model", "status", "said"), [
    ("spinning", 400, "longer than"), ("ranging", 400, "Range too big"), ("filling", 400, "memory"),
    ("escaping", 500, "unsafe"),
])
def test_a_template_bomb_ends_in_an_error_while_health_answers_and_streams_go_on(
    daemon: Daemon, model: str, status: int, said: str
) -> None:
    httpx.post(daemon.base_url + "/edged/v1/load", json={"model": model}, timeout=30)
    stream = Stream(daemon, "steady", max_tokens=700 if model == "spinning" else 150)
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=daemon.base_url) as health:
        asked, slowest_s = pool.submit(ask, daemon, model), 0.0
        while not asked.done():
            began = time.monotonic()
            assert health.get("/health/ready").status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - began)
            time.sleep(0.02)
    refused = asked.result()
    assert refused.status_code == status, refused.text
    assert said in refused.json()["error"]["message"]
    assert slowest_s < 1
    stream.end(30)
    assert (stream.finish, stream.whole, stream.error) == ("length", True, None)
    deaths = httpx.get(daemon.base_url + "/metrics").text
    assert not [line for line in deaths.splitlines()
                if line.startswith("edged_worker_restarts_total{") and not line.endswith(" 0.0")]


@pytest.mark.parametrize("more", [{"chat_template": "{{ 1 }}"}, {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}])
def test_a_client_brings_no_template(daemon: Daemon, more: dict[str, Any]) -> None:
    refused = httpx.post(daemon.base_url + CHAT, json={**ASKS[CHAT], **more})
    assert refused.status_code == 400
    assert "chat_template" in refused.json()["error"]["param"]
