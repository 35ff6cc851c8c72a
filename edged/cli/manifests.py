"""All versions of one model: what the daemon says, else what the store holds."""

from __future__ import annotations

from msgspec import Struct

from edged.cli.client import model_path
from edged.cli.target import Target
from edged.store.entries import Activation, Manifest


class Versions(Struct, frozen=True):
    """GET /edged/v1/manifests/NAME. active: None where a model has versions, but none of them was let serve."""

    active: str | None
    versions: list[Manifest]
    history: list[Activation]


def versions_of(target: Target, name: str) -> Versions:
    """name: of a model, or an alias. Raises ModelNotFound."""
    if target.running is not None:
        return target.running.client.get(model_path(name, under="manifests"), Versions)
    from edged.store import Store
    from edged.store.catalog import load_catalog

    store = Store(target.settings.home)
    plain = load_catalog(target.settings.models_file).resolve_alias(name).partition("@")[0]
    return Versions(store.manifests.pointer(plain), store.versions(plain), [*store.manifests.history(plain)])
