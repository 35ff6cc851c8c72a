"""POST /api/embed and /api/embeddings."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.ollama.embed import unit
from edged.errors import EdgedError
from edged.types import Embedded, EmbedRequest, Event, Finished, Started, Usage
from tests.unit.api.asgi import ask
from tests.unit.api.fake_router import FakeRouter, app_with

pytestmark = pytest.mark.unit

EMBED, OLD = "/api/embed", "/api/embeddings"


def vector(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def script(request: Any) -> Sequence[Event | EdgedError | float]:
    """Input k is (3 + k, 4); they come in two pieces, the last one first."""
    count = len(request.inputs)
    pieces = [Embedded(request.id, [index], vector(3 + index, 4)) for index in reversed(range(count))]
    return [Started(request.id, 5, 0, 0.0), *pieces, Finished(request.id, Usage(5, 0))]


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter(script)


async def test_each_input_gets_a_vector_of_length_one(router: FakeRouter) -> None:
    reply = await ask(app_with(router), EMBED, {"model": "tiny:latest", "input": ["a", "b"]})
    told = reply.json
    assert told["embeddings"] == [[pytest.approx(0.6), pytest.approx(0.8)], [pytest.approx(0.5 ** 0.5)] * 2]
    assert (told["model"], told["prompt_eval_count"]) == ("tiny:latest", 5)
    assert told["total_duration"] >= told["load_duration"] > 0
    assert reply.answer_headers["edged-model"] == "tiny@0123456789ab"


async def test_older_programs_get_one_vector_as_the_model_makes_it(router: FakeRouter) -> None:
    reply = await ask(app_with(router), OLD, {"model": "tiny", "prompt": "a"})
    assert reply.json == {"embedding": [3.0, 4.0]}


async def test_the_body_becomes_one_request(router: FakeRouter) -> None:
    body = {"model": "tiny", "input": "a", "dimensions": 4, "truncate": False, "keep_alive": "5m",
            "options": {"num_ctx": 99, "temperature": 3, "mirostat": 1}}
    reply = await ask(app_with(router), EMBED, body)
    (request,) = router.requests
    assert isinstance(request, EmbedRequest)
    assert (request.inputs, request.dimensions, request.context) == (["a"], 4, 99)
    assert reply.answer_headers["edged-ignored"] == "options.temperature, options.mirostat"
    assert router.calls == [("load", "tiny", 300.0, None)]


@pytest.mark.parametrize(("path", "body"), [
    (EMBED, {}), (EMBED, {"input": []}), (EMBED, {"input": ""}), (OLD, {}), (OLD, {"prompt": ""}),
])
async def test_no_input_loads_the_model(router: FakeRouter, path: str, body: dict[str, Any]) -> None:
    reply = await ask(app_with(router), path, {"model": "tiny"} | body)
    assert [*reply.json.values()][-1] == []
    assert router.calls == [("load", "tiny", None, None)]


@pytest.mark.parametrize(("path", "said", "names"), [
    (EMBED, {"input": [""]}, "input[0]"), (EMBED, {"input": [1, 2]}, "input[0]"), (EMBED, {"input": {}}, "input"),
    (EMBED, {"input": "a", "truncate": 1}, "truncate"), (EMBED, {"input": "a", "dimensions": 0}, "dimensions"),
    (EMBED, {"input": "a", "options": {"num_ctx": 0}}, "options.num_ctx"),
    (EMBED, {"input": "a", "options": {"depth": 0}}, "depth"), (EMBED, {"prompt": "a"}, "prompt"),
    (OLD, {"input": "a"}, "input"), (OLD, {"prompt": ["a"]}, "prompt"),
])
async def test_what_is_not_served_is_refused_by_name(
    router: FakeRouter, path: str, said: dict[str, Any], names: str
) -> None:
    reply = await ask(app_with(router), path, {"model": "tiny"} | said)
    assert reply.status == 400
    assert f"`{names}`" in reply.json["error"]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8))
def test_a_vector_of_length_one_stays_what_it_is_and_every_other_gets_it(values: list[float]) -> None:
    made: list[float] = json.loads(bytes(unit(vector(*values))))
    if any(values):
        assert sum(value * value for value in made) == pytest.approx(1, abs=1e-4)
        again = struct.unpack(f"<{len(made)}f", vector(*made))
        assert tuple(json.loads(bytes(unit(vector(*made))))) == again
    else:
        assert made == values
