"""More models than memory has room for, asked in turn by several clients: everybody is answered, loads are shared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from edged.store import Store
from tests.daemon import until
from tests.http.conftest import Daemon
from tests.worker.daemon.rig import install

pytestmark = pytest.mark.http

MODELS = [f"model-{number:02}" for number in range(24)]
#: A worker of the fake engine takes some 75 MiB; before its first load a model is thought to need 160.
MEMORY_BYTES = 200 << 20
#: With what each client goes through the models.
STRIDES = (1, 1, 5, 7)
TURNS = 9
AT_ONCE = 6


@pytest.fixture
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """With memory for three models, or as much as a test says."""
    made = Daemon(tmp_path, memory_bytes=getattr(request, "param", MEMORY_BYTES), keep_alive_s=-1)
    store = Store(made.home)
    for name in MODELS:
        install(store, name)
    with made:
        yield made


def ask(client: httpx.Client, model: str, *, tokens: int = 3) -> httpx.Response:
    return client.post("/v1/completions", json={"model": model, "prompt": "go on", "max_tokens": tokens})


def loads(client: httpx.Client) -> dict[str, int]:
    told = client.get("/metrics").text
    return {model: int(float(count)) for model, count in
            re.findall(r'^edged_model_load_seconds_count\{model="([^"]+)"\} (\S+)$', told, re.MULTILINE)}


def test_24_models_in_rotation_with_memory_for_three_fail_nobody(daemon: Daemon) -> None:
    """Also where a worker is killed in between: only what it was answering may fail, as documented."""
    with httpx.Client(base_url=daemon.base_url, timeout=120) as client, ThreadPoolExecutor(4 * AT_ONCE) as pool:
        most_workers = 0

        def rotate(number: int) -> list[httpx.Response]:
            answers: list[httpx.Response] = []
            for turn in range(TURNS):
                model = MODELS[(6 * number + STRIDES[number] * turn) % len(MODELS)]
                answers += pool.map(lambda name: ask(client, name), [model] * AT_ONCE)
            return answers

        with ThreadPoolExecutor(len(STRIDES)) as clients:
            turns = [clients.submit(rotate, number) for number in range(len(STRIDES))]
            killed = False
            for _ in until(170, every_s=0.05):
                workers = daemon.workers()
                most_workers = max(most_workers, len(workers))
                if not killed and sum(loads(client).values()) > 8 and workers:
                    try:
                        workers[0].kill()
                    except psutil.NoSuchProcess:
                        continue
                    killed = True
                if all(turn.done() for turn in turns):
                    break
            answers = [answer for turn in turns for answer in turn.result(timeout=1)]
        failed = [answer for answer in answers if answer.status_code != 200]
        assert len(answers) == len(STRIDES) * TURNS * AT_ONCE
        assert killed
        assert {answer.json()["error"]["code"] for answer in failed} <= {"worker_died"}
        assert len(failed) <= AT_ONCE * len(STRIDES)
        assert 2 <= most_workers <= 5  # one or two of them on their way out
        counted = loads(client)
        assert sum(counted.values()) <= len(STRIDES) * TURNS + 1, "a load served nobody, or requests did not share it"
        shown = {model["name"]: model for model in client.get("/edged/v1/ps").json()["models"]}
        assert all(model["load_s"] > 0 for model in shown.values() if model["state"] == "ready")


def test_two_clients_that_alternate_over_models_that_do_not_fit_together_are_served_in_turn(daemon: Daemon) -> None:
    with httpx.Client(base_url=daemon.base_url, timeout=120) as client, ThreadPoolExecutor(2) as pool:
        for model in MODELS[:2]:
            assert ask(client, model).status_code == 200

        def alternate(number: int) -> list[int]:
            return [ask(client, MODELS[(number * 3 + turn) % 6], tokens=8).status_code for turn in range(6)]

        assert [code for codes in pool.map(alternate, range(2)) for code in codes] == [200] * 12


#: Two do not fit beside what a new one is thought to need, where a worker takes 60 to 120 MiB.
@pytest.mark.parametrize("daemon", [280 << 20], indirect=True)
def test_the_model_used_again_and_again_stays_while_others_come_and_go(daemon: Daemon) -> None:
    with httpx.Client(base_url=daemon.base_url, timeout=120) as client:
        for other in MODELS[1:7]:
            assert ask(client, MODELS[0]).status_code == 200
            assert ask(client, other).status_code == 200
        assert loads(client)[MODELS[0]] == 1
