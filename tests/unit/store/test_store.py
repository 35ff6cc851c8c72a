import os
import stat
from pathlib import Path

import msgspec
import pytest

from edged.errors import ConfigError, Conflict, CorruptFile, ModelNotFound, RefusedFile
from edged.store import Store
from tests.models import contents, fake_folder, install

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fake_folder(tmp_path / "tiny")


def blobs_of(store: Store) -> list[str]:
    return sorted(path.name for path in (store.home / "blobs").iterdir())


def test_a_published_model_is_listed_and_its_folder_holds_its_files(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    assert store.names() == ["tiny"]
    assert store.manifest("tiny") == store.manifest("tiny", manifest.version) == manifest
    assert store.versions("tiny") == [manifest]
    assert contents(store.folder(manifest)) == contents(source)
    assert store.folder(manifest).name == manifest.digest
    assert store.usage() == manifest.size


def test_a_models_files_are_links_to_its_blobs_and_not_to_the_source(store: Store, source: Path) -> None:
    folder = store.folder(install(store, str(source)))
    assert [(folder / "fake.json").stat().st_ino] == [path.stat().st_ino for path in (store.home / "blobs").iterdir()]
    (source / "fake.json").write_text("rewritten by its owner")
    assert contents(folder) == {"fake.json": b"{}"}


def test_everything_in_the_store_is_private(store: Store, source: Path) -> None:
    store.folder(install(store, str(source)))
    for path in (store.home, *store.home.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_names_with_slashes_and_colons_are_one_folder_and_read_back(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    named = msgspec.structs.replace(manifest, name="org/repo:Q4_K_M")
    store.publish(named)
    assert store.names() == ["org/repo:Q4_K_M", "tiny"]
    assert store.manifest("org/repo:Q4_K_M") == named
    assert sorted(path.name for path in (store.home / "manifests").iterdir()) == ["org%2Frepo%3AQ4_K_M", "tiny"]


def test_rolling_back_and_forward_moves_one_pointer(store: Store, source: Path) -> None:
    old = install(store, str(source))
    new = install(store, str(fake_folder(source, step_ms=1)))
    assert store.active("tiny") == new.version
    store.activate("tiny", old.version)
    assert store.manifest("tiny") == old
    assert {manifest.version for manifest in store.versions("tiny")} == {old.version, new.version}
    install(store, str(source))
    assert store.manifest("tiny") == new


def test_a_version_may_be_published_without_being_served(store: Store, source: Path) -> None:
    old = install(store, str(source))
    (source / "fake.json").write_text('{"rows": 1}')
    other = Store(store.home.parent / "other")
    new = install(other, str(source))
    with store.receiver() as receiver:
        data = next((other.home / "blobs").iterdir()).read_bytes()
        receiver.receive("a" * 64, lambda part: part.write(data))
        store.publish(new, activate=False)
    assert store.manifest("tiny") == old
    assert len(store.versions("tiny")) == 2


@pytest.mark.parametrize("change", [
    {"version": "0" * 12}, {"digest": "0" * 64, "version": "0" * 12}, {"file": "other.json"}, {"files": ()},
    {"schema": 99},
])
def test_a_manifest_that_contradicts_itself_is_not_published(
    store: Store, source: Path, change: dict[str, object],
) -> None:
    manifest = install(store, str(source))
    with pytest.raises(CorruptFile, match="does not fit"):
        store.publish(msgspec.structs.replace(manifest, name="other", **change))
    assert store.names() == ["tiny"]


@pytest.mark.parametrize("path", ["../x", "/x", "a\\b"])
def test_a_manifest_with_a_path_out_of_its_folder_is_not_published(store: Store, source: Path, path: str) -> None:
    manifest = install(store, str(source))
    files = (msgspec.structs.replace(manifest.files[0], path=path),)
    with pytest.raises(RefusedFile, match="refuses"):
        store.publish(msgspec.structs.replace(manifest, name="other", files=files, file=path))


def test_a_manifest_without_its_blobs_is_not_published(store: Store, source: Path, tmp_path: Path) -> None:
    manifest = install(Store(tmp_path / "other"), str(source))
    with pytest.raises(CorruptFile, match="not whole"):
        store.publish(manifest)
    assert store.names() == []


def test_an_unknown_model_or_version_is_not_found_with_what_to_do(store: Store, source: Path) -> None:
    with pytest.raises(ModelNotFound, match="edged models"):
        store.manifest("tiny")
    manifest = install(store, str(source))
    with pytest.raises(ModelNotFound, match=rf"no version '0000.*' of tiny; here are {manifest.version} \(active\)"):
        store.manifest("tiny", "0" * 12)
    with pytest.raises(ModelNotFound):
        store.activate("tiny", "0" * 12)


def test_removing_and_collecting_frees_what_no_other_model_needs(store: Store, source: Path, tmp_path: Path) -> None:
    (source / "LICENSE").write_text("of both")
    first = install(store, str(source))
    shared = fake_folder(tmp_path / "other")
    second = install(store, str(shared))
    assert {entry.sha256 for entry in second.files} < {entry.sha256 for entry in first.files}
    store.folder(first)
    store.folder(second)
    store.remove("tiny")
    collected = store.collect()
    assert (collected.models, collected.blobs, store.names()) == (1, 1, ["other"])
    assert blobs_of(store) == sorted(f"sha256-{entry.sha256}" for entry in second.files)
    assert store.verify() == []
    store.remove("other")
    store.collect()
    assert [path.name for path in store.home.rglob("*") if path.is_file()] == ["schema.json", "store"]


def test_a_leased_model_is_neither_removed_nor_collected(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    folder = store.folder(manifest)
    with store.lease(manifest), store.lease(manifest):
        with pytest.raises(Conflict, match="edged unload tiny"):
            store.remove("tiny")
        assert store.collect().blobs == 0
    store.remove("tiny")
    assert store.collect().blobs == 1
    assert not folder.exists()


def test_two_names_of_one_model_are_removed_each_by_itself(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    other = msgspec.structs.replace(manifest, name="other")
    store.publish(other)
    folder = store.folder(manifest)
    with store.lease(other):
        store.remove("tiny")
        with pytest.raises(Conflict):
            store.remove("other")
        assert store.collect().models == 0
        assert contents(folder) == {"fake.json": b"{}"}


def test_a_lease_on_a_model_that_is_gone_is_refused(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    store.remove("tiny")
    with pytest.raises(ModelNotFound, match="removed"):
        store.lease(manifest)


def test_blobs_of_a_leased_folder_stay_even_if_its_manifest_is_lost(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    folder = store.folder(manifest)
    with store.lease(manifest):
        for path in (store.home / "manifests" / "tiny").iterdir():
            path.unlink()
        assert store.collect().blobs == 0
        assert contents(folder) == {"fake.json": b"{}"}
    assert store.collect().blobs == 1


def test_the_active_version_is_not_removed_from_under_the_others(store: Store, source: Path) -> None:
    old = install(store, str(source))
    new = install(store, str(fake_folder(source, step_ms=1)))
    with pytest.raises(Conflict, match="activate another"):
        store.remove("tiny", new.version)
    store.remove("tiny", old.version)
    assert store.versions("tiny") == [new]
    store.remove("tiny", new.version)
    assert store.names() == []


def test_a_blob_that_a_receiver_holds_is_not_garbage(store: Store) -> None:
    with store.receiver() as receiver:
        blob = receiver.receive("b" * 64, lambda part: part.write(b"not yet named"))
        assert store.collect().blobs == 0
        assert receiver.have(blob.sha256) == blob
    assert store.collect().blobs == 1


def test_a_damaged_manifest_makes_nothing_garbage(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    store.layout.manifest("tiny", manifest.version).write_bytes(b"\0" * 100)
    assert store.collect().blobs == 0
    with pytest.raises(CorruptFile, match="edged pull tiny"):
        store.manifest("tiny")
    assert install(store, str(source)).files == manifest.files
    assert store.manifest("tiny").digest == manifest.digest


def test_a_damaged_pointer_is_a_model_that_is_not_installed_and_pull_mends_it(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    store.layout.active("tiny").write_bytes(b"\0" * 13)
    assert store.names() == []
    install(store, str(source))
    assert store.active("tiny") == manifest.version


@pytest.mark.parametrize("damage", [b"\0\0", b"\0", b"", None])
def test_a_damaged_blob_is_found_quarantined_and_mended_by_the_next_pull(
    store: Store, source: Path, damage: bytes | None,
) -> None:
    manifest = install(store, str(source))
    folder = store.folder(manifest)
    assert store.verify() == []
    blob = store.layout.blob(manifest.files[0].sha256)
    if damage is None:
        blob.unlink()
    else:
        blob.write_bytes(damage)
    [found] = store.verify("tiny")
    assert (found.name, found.version, found.path) == ("tiny", manifest.version, "fake.json")
    assert not blob.exists()
    assert not (folder / "fake.json").exists()
    with pytest.raises(CorruptFile, match="edged pull tiny"):
        store.folder(manifest)
    install(store, "tiny")
    assert store.verify() == []
    assert contents(store.folder(store.manifest("tiny"))) == {"fake.json": b"{}"}
    assert store.collect(parts_older_than_s=0).parts == (0 if damage is None else 1)


def test_verifying_counts_every_byte_once(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    store.publish(msgspec.structs.replace(manifest, name="again"))
    told: list[tuple[str, int, int]] = []
    assert store.verify(progress=lambda *moment: told.append(moment)) == []
    assert told[-1] == ("fake.json", 2, 2)


def test_a_truncated_blob_is_never_served(store: Store, source: Path) -> None:
    manifest = install(store, str(source))
    store.layout.blob(manifest.files[0].sha256).write_bytes(b"{")
    with pytest.raises(CorruptFile, match="cut short"):
        store.folder(manifest)


def test_a_moved_store_still_serves(store: Store, source: Path, tmp_path: Path) -> None:
    manifest = install(store, str(source))
    store.folder(manifest)
    store.home.rename(tmp_path / "elsewhere")
    moved = Store(tmp_path / "elsewhere")
    assert contents(moved.folder(moved.manifest("tiny"))) == {"fake.json": b"{}"}
    assert moved.verify() == []


def test_a_model_folder_is_completed_where_links_are_missing_or_wrong(store: Store, source: Path) -> None:
    (source / "LICENSE").write_text("x")
    manifest = install(store, str(source))
    folder = store.folder(manifest)
    (folder / "fake.json").unlink()
    assert contents(store.folder(manifest))["fake.json"] == b"{}"
    (folder / "fake.json").unlink()
    (folder / "fake.json").write_text("too long for it")
    assert contents(store.folder(manifest))["fake.json"] == b"{}"


def test_a_store_of_a_newer_edged_is_not_touched(store: Store) -> None:
    (store.home / "schema.json").write_text('{"schema": 3}')
    (store.home / "tmp").rmdir()
    before = sorted(store.home.rglob("*"))
    with pytest.raises(ConfigError, match=r"schema\.json.*newer edged.*EDGED_HOME"):
        Store(store.home)
    assert sorted(store.home.rglob("*")) == before


def test_a_home_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="EDGED_HOME"):
        Store(tmp_path / "file" / "home")


def test_unfinished_downloads_go_only_when_old_and_not_in_use(store: Store) -> None:
    part = store.layout.part("c" * 64)
    part.write_bytes(b"half")
    assert store.collect().parts == 0
    week_ago = part.stat().st_mtime - 8 * 24 * 3600
    os.utime(part, (week_ago, week_ago))

    def fill(held: object) -> None:
        os.utime(part, (week_ago, week_ago))
        assert store.collect().parts == 0
        raise KeyboardInterrupt

    with store.receiver() as receiver, pytest.raises(KeyboardInterrupt):
        receiver.receive("c" * 64, fill, sha256="d" * 64, resume=True)
    os.utime(part, (week_ago, week_ago))
    assert store.collect().parts == 1
    assert not part.exists()
