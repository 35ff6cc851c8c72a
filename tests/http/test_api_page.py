"""Every example of edged/API.md runs as it stands, and together they ask every endpoint that needs no network."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

PAGE = (Path(__file__).parents[2] / "edged" / "API.md").read_text()
EXAMPLES = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
#: Models that the page speaks of, and what stands for them here.
STANDS_FOR = {"smollm2-135m": "tiny", "all-minilm-l6-v2": "vectors", "my-reranker": "judge"}
#: They pull, convert, change versions, tell what is there only where the operator said so, or are told by others of the
#: same kind.
NOT_SHOWN = {
    "POST /edged/v1/pull", "POST /edged/v1/convert", "GET /edged/v1/jobs/{}", "GET /edged/v1/jobs/{}/events",
    "GET /edged/v1/jobs/{}/log", "POST /edged/v1/jobs/{}/cancel", "POST /edged/v1/activate",
    "POST /edged/v1/rollback", "POST /edged/v1/rollout", "GET /edged/v1/rollout/{}", "DELETE /edged/v1/models/{}",
    "POST /api/pull", "DELETE /api/delete", "POST /api/create", "POST /api/copy", "POST /api/push",
    "POST /api/blobs/{}", "POST /api/embeddings", "POST /v2/rerank", "POST /rerank", "GET /",
    "GET /edged/v1/captured/{}",
}


@pytest.fixture(scope="module")
def daemon(start: Callable[..., Daemon]) -> Daemon:
    """One whose models nobody else unloads."""
    return start()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split("8343", 1)[1].split()[0])
def test_an_example_runs(daemon: Daemon, example: str) -> None:
    script = example.replace("http://127.0.0.1:8343", daemon.base_url).replace("curl ", "curl -sS --fail-with-body ")
    for name, stands in STANDS_FOR.items():
        script = script.replace(name, stands)
    shown = subprocess.run(["bash", "-eo", "pipefail", "-c", script], capture_output=True, text=True, timeout=60,
                           check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stdout


def test_every_endpoint_has_an_example(daemon: Daemon) -> None:
    shown = set()
    for line in "\n".join(EXAMPLES).splitlines():
        if "curl " in line:
            path = re.sub(r"\$id|smollm2-135m$", "{}", line.split("8343", 1)[1].split()[0].strip("'\""))
            said = re.search(r"-X (\w+)", line)
            method = said[1] if said else "POST" if "content-type" in line or " -d " in line else "GET"
            shown.add(f"{method} {path}")
    document = httpx.get(f"{daemon.base_url}/openapi.json").json()
    told = {f"{method.upper()} {re.sub(r'{[^}]*}', '{}', path)}"
            for path, methods in document["paths"].items() for method in methods}
    assert told - NOT_SHOWN <= shown, sorted(told - NOT_SHOWN - shown)
    assert shown <= told, sorted(shown - told)
