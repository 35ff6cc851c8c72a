"""The versions of one model, ranked for this machine: what `edged.hardware.choose` says of them, less those that may
not be taken at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edged.hardware.choose import Row, choose
from edged.hardware.facts import Facts
from edged.hardware.measured import NOTHING, Known, Record
from edged.hardware.place import places
from edged.store.entries import Activation, Manifest, ModelEntry
from edged.store.lineage import ConvertedSource


def possible(
    versions: Sequence[Manifest], entry: ModelEntry, facts: Facts, *, budget_bytes: int | None = None,
    known: Callable[[Manifest, str], Record] = lambda manifest, key: NOTHING,
    barred: Callable[[Manifest], str | None] = lambda manifest: None,
) -> list[Row[Manifest]]:
    """What could be run here, whatever was measured and however good it is; best guess first, then the rejected."""
    parameters = entry.parameters or next((one.parameters for one in versions if one.parameters), None)
    return choose(
        facts, versions, parameters=parameters, context=entry.context, kv_bytes_per_token=entry.kv_bytes_per_token,
        budget_bytes=budget_bytes, require=entry.require, environment=entry.environment, known=known, barred=barred,
    )


def ranking(
    versions: Sequence[Manifest], entry: ModelEntry, facts: Facts, known: Known, *, budget_bytes: int | None = None,
) -> list[Row[Manifest]]:
    """Best first, each with its reason, then the rejected ones. known: what was measured here."""
    return possible(
        versions, entry, facts, budget_bytes=budget_bytes,
        known=lambda manifest, key: known(manifest.digest, key),
        barred=lambda manifest: _barred(manifest, facts, entry, known),
    )


def _barred(manifest: Manifest, facts: Facts, entry: ModelEntry, known: Known) -> str | None:
    quality = manifest.verdict
    if quality is None and isinstance(manifest.source, ConvertedSource) and not manifest.never_run:
        return "converted, and its quality was never measured: the same `edged convert` here makes up for that"
    if quality is not None and not quality.passed and not quality.accepted_loss:
        return f"its gate did not pass: {'; '.join(quality.lacking)}"
    if manifest.never_run and not any(
        known(manifest.digest, place.key).verdict is not None
        for place in places(facts, manifest.engine, manifest.target, environment=entry.environment)
        if place.provider == manifest.target
    ):
        return (f"built for {manifest.target} and never run: its self-test comes first, which "
                f"`edged bench {manifest.name}` makes")
    return None


def activated_by_hand(history: Sequence[Activation]) -> bool:
    """Somebody chose the active version: what was measured is told and changes nothing."""
    return bool(history) and history[-1].by in ("activate", "rollback")
