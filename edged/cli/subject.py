"""The model that `edged hardware` and `edged bench` look at, with all that a ranking of its versions needs."""

from __future__ import annotations

from dataclasses import dataclass

from edged.cli.catalog import models_file
from edged.cli.target import Target
from edged.errors import BadReference
from edged.hardware.choose import Row
from edged.hardware.facts import Facts
from edged.hardware.fingerprint import fingerprint
from edged.hardware.measured import Measured
from edged.hardware.probe import probe_with
from edged.store import Store
from edged.store.catalog import load_catalog
from edged.store.entries import Activation, Manifest, ModelEntry
from edged.store.ranking import ranking


@dataclass(frozen=True, slots=True)
class Subject:
    """active: None where none of its versions was let serve."""

    name: str
    store: Store
    entry: ModelEntry
    facts: Facts
    measured: Measured
    budget_bytes: int | None

    @property
    def active(self) -> str | None:
        return self.store.manifests.pointer(self.name)

    @property
    def history(self) -> tuple[Activation, ...]:
        return self.store.manifests.history(self.name)

    def versions(self) -> list[Manifest]:
        """Raises ModelNotFound where there is none."""
        return self.store.versions(self.name)

    def ranking(self) -> list[Row[Manifest]]:
        return ranking(self.versions(), self.entry, self.facts, self.measured.known(), budget_bytes=self.budget_bytes)


def subject(target: Target, said: str) -> Subject:
    """said: a model, or an alias. Raises ModelNotFound, BadReference."""
    catalog = load_catalog(models_file(target))
    if "@" in said:
        raise BadReference(f"all versions are ranked, so name the model alone: {said.partition('@')[0]}")
    name = catalog.resolve_alias(said).partition("@")[0]
    store = Store(target.home)
    store.versions(name)
    facts = probe_with(store.home)
    return Subject(
        name=name, store=store, entry=catalog.entry(name) or ModelEntry(name=name), facts=facts,
        measured=Measured(store.home, fingerprint(facts)), budget_bytes=target.settings.memory_bytes)
