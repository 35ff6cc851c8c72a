"""The list of models as Anthropic's clients page through it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api.anthropic.models import models_page
from edged.errors import InvalidRequest
from tests.unit.api.asgi import HOST, get
from tests.unit.api.fake_router import FakeRouter, app_with, status, words

pytestmark = pytest.mark.unit

APP = app_with(FakeRouter(words("a")))
THEIRS: Any = (HOST, (b"anthropic-version", b"2023-06-01"))


async def test_anthropics_clients_get_their_own_shape() -> None:
    theirs = (await get(APP, "/v1/models/tiny", headers=THEIRS)).json
    assert theirs == {"type": "model", "id": "tiny", "display_name": "tiny", "created_at": "1970-01-01T00:00:01Z",
                      "max_input_tokens": 4096, "lifecycle": "active"}
    page = (await get(APP, "/v1/models?limit=1", headers=THEIRS)).json
    assert (page["first_id"], page["last_id"], page["has_more"], len(page["data"])) == ("tiny", "tiny", True, 1)


@given(st.integers(0, 7), st.integers(1, 4))
def test_pages_forwards_and_backwards_show_each_model_once(count: int, limit: int) -> None:
    statuses = [status(f"m{number}") for number in range(count)]
    forwards: list[str] = []
    query = {"limit": str(limit)}
    while True:
        page = models_page(statuses, query)
        forwards += [info.id for info in page.data]
        if not page.has_more:
            break
        query["after_id"] = page.last_id or ""
    assert forwards == [each.name for each in statuses]
    if count:
        back = models_page(statuses, {"before_id": f"m{count - 1}", "limit": str(limit)})
        assert [info.id for info in back.data] == forwards[:-1][-limit:]
        assert back.has_more == (count - 1 > limit)


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"limit": "١"},
                                   {"after_id": "none"}, {"before_id": "none"}])
def test_a_page_that_cannot_be_is_refused_by_its_name(query: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        models_page([status("tiny")], query)
    assert caught.value.param == next(iter(query))
