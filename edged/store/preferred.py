"""Which variant of a catalog model a pull takes on this machine."""

from __future__ import annotations

from edged.hardware.choose import Row, choose
from edged.hardware.facts import Facts
from edged.store.entries import Catalog, ModelEntry, Variant


def rows(entry: ModelEntry, facts: Facts, budget_bytes: int | None = None) -> list[Row[Variant]]:
    """Every variant with its reason, the one to take first. Where none fits, the least memory comes first: who pulls
    it all the same wants what comes nearest. budget_bytes: the settings' memory_bytes."""
    ranked = choose(
        facts, entry.variants, parameters=entry.parameters, context=entry.context,
        kv_bytes_per_token=entry.kv_bytes_per_token, budget_bytes=budget_bytes,
    )
    if ranked and not ranked[0].fits:
        ranked.sort(key=lambda row: (row.memory_bytes is None, row.memory_bytes or 0))
    return ranked


def preferred(catalog: Catalog, reference: str, facts: Facts, budget_bytes: int | None = None) -> Variant | None:
    """None for a reference that is no model of the catalog with variants."""
    name = reference
    while name in catalog.aliases:
        name = catalog.aliases[name]
    entry = catalog.models.get(name)
    if entry is None or not entry.variants:
        return None
    return rows(entry, facts, budget_bytes)[0].variant
