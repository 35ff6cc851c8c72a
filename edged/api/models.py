"""GET /v1/models and /v1/models/{id}: installed models and aliases, in OpenAI's shape with an `edged` object; in
Anthropic's for its clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Struct

from edged.api.anthropic.models import ModelInfo, ModelsPage, model_info, models_page
from edged.api.exchange import Services
from edged.errors import CorruptFile, ModelNotFound
from edged.store.lineage import Verdict

if TYPE_CHECKING:
    from edged.daemon.status import ModelStatus


class ModelBody(Struct, frozen=True):
    id: str
    created: int
    edged: dict[str, Any]
    object: str = "model"
    owned_by: str = "edged"


class ModelList(Struct, frozen=True):
    data: list[ModelBody]
    object: str = "list"


def model_body(status: ModelStatus, quality: Verdict | None) -> ModelBody:
    return ModelBody(
        id=status.name,
        created=int(status.created),
        edged={
            "state": status.state, "engine": status.engine, "device": status.device, "context": status.context,
            "size": status.size, "digest": status.digest, "version": status.version, "precision": status.precision,
            "parameters": status.parameters, "alias_of": status.alias_of, "quality": quality,
            "adapters": status.adapters,
            "kind": status.task, "dimensions": status.dimensions,
        },
    )


def told_apart(statuses: Iterable[ModelStatus]) -> list[ModelStatus]:
    """Ids are unique: another version of a model that is told already is `name@version`."""
    found: dict[str, ModelStatus] = {}
    for status in statuses:
        name = status.name if status.name not in found else f"{status.name}@{status.version}"
        found[name] = msgspec.structs.replace(status, name=name)
    return list(found.values())


def routes(services: Services) -> list[HTTPRouteHandler]:
    def quality() -> dict[str, Verdict | None]:
        """By digest, of every installed model's active version."""
        found: dict[str, Verdict | None] = {}
        for name in services.store.names():
            try:
                manifest = services.store.manifest(name)
            except (ModelNotFound, CorruptFile):
                continue
            found[manifest.digest] = manifest.verdict
        return found

    @get("/v1/models", sync_to_thread=False)
    def list_models(request: Request[Any, Any, Any]) -> ModelList | ModelsPage:
        statuses = told_apart(services.router.models())
        if "anthropic-version" in request.headers:
            return models_page(statuses, request.query_params)
        known = quality()
        return ModelList([model_body(status, known.get(status.digest)) for status in statuses])

    @get("/v1/models/{name:path}", sync_to_thread=False)
    def one_model(name: FromPath[str], request: Request[Any, Any, Any]) -> ModelBody | ModelInfo:
        """`name` may hold slashes: a model that was pulled by reference."""
        status = services.router.status(name.removeprefix("/"))
        if "anthropic-version" in request.headers:
            return model_info(status)
        return model_body(status, quality().get(status.digest))

    return [list_models, one_model]
