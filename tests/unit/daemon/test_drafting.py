"""Which model drafts for another: found by its name in the catalog, kept from removal, counted in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from edged.daemon.drafting import draft_bytes, draft_manifest, leased_draft
from edged.daemon.footprint import model_bytes
from edged.errors import Conflict, LoadFailed
from edged.store import Store
from edged.store.catalog import CatalogFile, shipped_file
from edged.store.entries import FileEntry, ModelEntry
from tests.models import fake_folder, install

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "home")
    install(store, str(fake_folder(tmp_path / "small")))
    install(store, str(fake_folder(tmp_path / "vectors", task="embed")))
    return store


@pytest.fixture
def catalog(tmp_path: Path) -> CatalogFile:
    file = tmp_path / "models.toml"
    file.write_text('[models.small]\n[aliases]\nlittle = "small"\n')
    return CatalogFile(file, shipped_file())


@pytest.mark.parametrize("named", ["small", "little"])
def test_a_draft_is_an_installed_model_or_an_alias_of_one(store: Store, catalog: CatalogFile, named: str) -> None:
    entry = ModelEntry(name="large", draft=named)
    manifest = draft_manifest(store, catalog, entry)
    assert manifest is not None
    assert manifest.name == "small"
    assert draft_bytes(store, catalog, entry) == model_bytes(manifest) >= manifest.size > 0


def test_what_it_takes_is_its_weights_and_its_kv(store: Store) -> None:
    large = replace(store.manifest("small"), files=(FileEntry(path="w", size=1000, sha256="0" * 64),))
    assert model_bytes(large) == 1100 + 150
    assert model_bytes(large, kv_bytes=7) == 1107


def test_it_cannot_be_removed_while_it_is_loaded(store: Store, catalog: CatalogFile) -> None:
    found = leased_draft(store, catalog, ModelEntry(name="large", draft="small"))
    assert found is not None
    lease, draft = found
    assert (Path(draft.path) / draft.file).is_file()
    with lease, pytest.raises(Conflict):
        store.remove("small")
    store.remove("small")


@pytest.mark.parametrize(("named", "message"), [
    ("nowhere", "is not installed; `edged pull nowhere`"), ("vectors", "writes no text"),
])
def test_one_that_cannot_draft_is_refused_with_what_to_do(
    store: Store, catalog: CatalogFile, named: str, message: str
) -> None:
    entry = ModelEntry(name="large", draft=named)
    with pytest.raises(LoadFailed, match=message):
        leased_draft(store, catalog, entry)
    assert draft_bytes(store, catalog, entry) == 0


@pytest.mark.parametrize("entry", [
    ModelEntry(name="large"), ModelEntry(name="large", draft="small", speculation=False)])
def test_without_speculation_none_is_loaded(store: Store, catalog: CatalogFile, entry: ModelEntry) -> None:
    assert leased_draft(store, catalog, entry) is None
    assert draft_bytes(store, catalog, entry) == 0
