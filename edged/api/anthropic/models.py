"""GET /v1/models as Anthropic's clients read it: they send `anthropic-version`, and page through the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from edged.api.fields import wrong
from edged.errors import InvalidRequest

if TYPE_CHECKING:
    from edged.daemon.status import ModelStatus

#: Of a page, as Anthropic has it.
DEFAULT_LIMIT = 20
MAX_LIMIT = 1000


class ModelInfo(Struct, frozen=True, tag="model", tag_field="type"):
    """max_input_tokens: None unless the model is loaded."""

    id: str
    display_name: str
    created_at: datetime
    max_input_tokens: int | None
    lifecycle: str = "active"


class ModelsPage(Struct, frozen=True):
    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


def model_info(status: ModelStatus) -> ModelInfo:
    return ModelInfo(status.name, status.name, datetime.fromtimestamp(int(status.created), UTC), status.context)


def models_page(statuses: Sequence[ModelStatus], query: Mapping[str, str]) -> ModelsPage:
    """query: `limit`, and `after_id` or `before_id`. Raises InvalidRequest."""
    infos = [model_info(status) for status in statuses]
    limit = _limit(query.get("limit"))
    if "before_id" in query:
        before = infos[: _place(infos, query["before_id"], "before_id")]
        shown = before[-limit:]
        more = len(before) > limit
    else:
        after = infos[_place(infos, query["after_id"], "after_id") + 1:] if "after_id" in query else infos
        shown = after[:limit]
        more = len(after) > limit
    return ModelsPage(shown, more, shown[0].id if shown else None, shown[-1].id if shown else None)


def _limit(said: str | None) -> int:
    if said is None:
        return DEFAULT_LIMIT
    if not said.isascii() or not said.isdigit() or not 1 <= int(said[:5]) <= MAX_LIMIT:
        raise wrong("limit", f"a whole number from 1 to {MAX_LIMIT}")
    return int(said)


def _place(infos: Sequence[ModelInfo], id_: str, name: str) -> int:
    found = next((place for place, info in enumerate(infos) if info.id == id_), None)
    if found is None:
        raise InvalidRequest(f"`{name}` is no model of the list; begin again without it.", param=name)
    return found
