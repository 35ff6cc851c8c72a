"""Which variant of a catalog model a pull takes on this machine."""

from __future__ import annotations

from collections.abc import Callable

from edged.hardware.choose import Row, best_of_each, choose
from edged.hardware.facts import Facts
from edged.hardware.probe import probe
from edged.store.entries import Catalog, JobProgress, ModelEntry, Variant


def rows(entry: ModelEntry, facts: Facts, budget_bytes: int | None = None) -> list[Row[Variant]]:
    """Every variant where it would run best, with its reason, the one to take first. Where none fits, the least memory
    comes first: who pulls it all the same wants what comes nearest. budget_bytes: the settings' memory_bytes."""
    ranked = best_of_each(choose(
        facts, entry.variants, parameters=entry.parameters, context=entry.context,
        kv_bytes_per_token=entry.kv_bytes_per_token, budget_bytes=budget_bytes, require=entry.require,
    ))
    if ranked and not ranked[0].fits:
        ranked.sort(key=lambda row: (row.memory_bytes is None, row.memory_bytes or 0))
    return ranked


def preferred(
    catalog: Catalog, reference: str, budget_bytes: int | None, progress: Callable[[JobProgress], None],
) -> Variant | None:
    """For a pull on this machine, which is told where nothing fits. None for a reference that is no model of the
    catalog with variants."""
    name = reference
    while name in catalog.aliases:
        name = catalog.aliases[name]
    entry = catalog.models.get(name)
    if entry is None or not entry.variants:
        return None
    first = rows(entry, probe(), budget_bytes)[0]
    if not first.fits:
        progress(JobProgress(stage="resolving", note=f"this machine cannot serve it: {first.reason}"))
    return first.variant
