"""Stores of every past schema, and of ones to come (PROMISES R16)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged.errors import ConfigError, CorruptFile
from edged.store import Store
from edged.store.entries import MANIFEST_SCHEMA
from edged.store.schema import SCHEMA
from tests.models import PAST_STORES, contents, fake_folder, install, past_store

pytestmark = pytest.mark.unit


def test_there_is_a_store_of_every_past_schema() -> None:
    assert sorted(PAST_STORES) == list(range(1, SCHEMA))


@pytest.mark.parametrize("schema", PAST_STORES)
def test_an_older_store_has_all_its_models_and_versions(schema: int, tmp_path: Path) -> None:
    store = Store(past_store(schema, tmp_path / "home"))
    assert store.names() == ["org/repo:Q4_K_M", "tiny"]
    assert [manifest.version for manifest in store.versions("tiny")] == ["ba65d8c43ede", "ff0d29d32918"]
    assert store.active("tiny") == "ff0d29d32918"
    assert contents(store.folder(store.manifest("tiny"))) == {
        "fake.json": b'{"end_chance": 0, "context": 512}\n', "LICENSE": b"for tests\n"}
    assert store.verify() == []
    assert store.collect().blobs == 0
    assert json.loads((store.home / "schema.json").read_bytes()) == {"schema": SCHEMA}


@pytest.mark.parametrize("schema", PAST_STORES)
def test_migrating_rewrites_no_manifest_so_an_older_daemon_that_still_runs_goes_on(schema: int, tmp_path: Path) -> None:
    home = past_store(schema, tmp_path / "home")
    before = contents(home / "manifests")
    Store(home)
    Store(home)
    assert contents(home / "manifests") == before


def test_what_is_written_into_a_migrated_store_is_of_todays_schema_beside_the_old(tmp_path: Path) -> None:
    store = Store(past_store(1, tmp_path / "home"))
    new = install(store, str(fake_folder(tmp_path / "tiny", rows=2)))
    written = json.loads(store.layout.manifest("tiny", new.version).read_bytes())
    assert written["schema"] == MANIFEST_SCHEMA
    assert len(store.versions("tiny")) == 3
    assert store.active("tiny") == new.version


def test_a_store_that_a_newer_edged_migrates_while_we_have_it_open_is_no_longer_written(tmp_path: Path) -> None:
    store = Store(past_store(1, tmp_path / "home"))
    (store.home / "schema.json").write_text(f'{{"schema": {SCHEMA + 1}}}')
    before = contents(store.home)
    for write in (lambda: store.activate("tiny", "ba65d8c43ede"), lambda: store.remove("tiny"), store.collect,
                  lambda: store.publish(store.manifest("tiny"))):
        with pytest.raises(ConfigError, match="newer edged"):
            write()
    assert contents(store.home) == before
    assert store.manifest("tiny").version == "ff0d29d32918"


@pytest.mark.parametrize("said", [{"schema": MANIFEST_SCHEMA + 1}, {"schema": 0}, {"schema": "x"}, {}, [], 7])
def test_a_manifest_of_an_unknown_schema_is_told_and_never_taken_for_another(said: Any, tmp_path: Path) -> None:
    store = Store(past_store(1, tmp_path / "home"))
    path = store.layout.manifest("tiny", "ff0d29d32918")
    manifest = json.loads(path.read_bytes())
    del manifest["schema"]
    path.write_bytes(msgspec.json.encode(manifest | said if isinstance(said, dict) else said))
    with pytest.raises(CorruptFile, match=r"tiny@ff0d29d32918 .*edged pull tiny"):
        store.manifest("tiny")
    assert store.collect().blobs == 0
