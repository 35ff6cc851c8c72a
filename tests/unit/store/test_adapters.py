"""Versions of a model with adapters beside it: they share its files, and are kept, checked and removed like others."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edged.daemon.jobs import wanted_conversions
from edged.daemon.spec import load_spec
from edged.errors import AdapterNotFound, BadReference
from edged.hardware.place import Place
from edged.store import Store, adapters
from edged.store.entries import Adapter, Catalog, FileEntry, Manifest, ModelEntry
from edged.store.manifests import digest_of
from edged.store.pull import pull
from edged.store.select import choose
from tests.models import NO_HUB, fake_folder, install

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def base(store: Store, tmp_path: Path, **said: object) -> Manifest:
    return install(store, str(fake_folder(tmp_path / "tiny", **said)))


def add(store: Store, name: str, content: bytes = b"lora") -> Manifest:
    """As an installer of adapters does it, to the active version."""
    with adapters.changing(store, "tiny"):
        path = adapters.file_for(name, ".safetensors")
        with store.receiver() as receiver:
            blob = receiver.receive(digest_of([FileEntry(path=path, size=0, sha256=name)]),
                                    lambda part: part.write(content))
            adapter = Adapter(name=name, file=path, reference=f"./{name}", sha256=blob.sha256)
            entry = FileEntry(path=path, size=blob.size, sha256=blob.sha256)
            made = adapters.as_known(store, adapters.with_one(store.manifest("tiny"), adapter, [entry]))
            store.publish(made)
    return made


def names(manifest: Manifest) -> list[str]:
    return [adapter.name for adapter in manifest.adapters]


def test_an_adapter_makes_another_version_that_shares_the_models_files(store: Store, tmp_path: Path) -> None:
    plain = base(store, tmp_path)
    used = store.usage()
    made = add(store, "pirate")
    assert store.manifest("tiny") == made
    assert made.version != plain.version
    assert made.base_files == plain.files
    assert store.usage() == used + len(b"lora")
    folder = store.folder(made)
    assert (folder / "adapters/pirate.safetensors").read_bytes() == b"lora"
    assert (folder / "fake.json").samefile(store.folder(plain) / "fake.json")


def test_the_same_adapters_in_another_order_are_the_same_version(store: Store, tmp_path: Path) -> None:
    base(store, tmp_path)
    add(store, "pirate")
    both = add(store, "poet", b"other")
    adapters.remove(store, "tiny", "pirate")
    assert names(store.manifest("tiny")) == ["poet"]
    assert add(store, "pirate") == both


def test_a_new_one_of_the_same_name_takes_its_place(store: Store, tmp_path: Path) -> None:
    base(store, tmp_path)
    first, second = add(store, "pirate"), add(store, "pirate", b"better")
    assert names(second) == ["pirate"]
    assert second.version != first.version
    assert store.rollback("tiny") == first.version


def test_the_last_one_that_goes_leaves_the_version_that_was_pulled(store: Store, tmp_path: Path) -> None:
    plain = base(store, tmp_path)
    add(store, "pirate")
    assert adapters.remove(store, "tiny", "pirate") == plain
    with pytest.raises(AdapterNotFound, match="has none"):
        adapters.remove(store, "tiny", "pirate")


def test_pulling_the_same_model_again_keeps_them_and_other_files_do_not(store: Store, tmp_path: Path) -> None:
    base(store, tmp_path)
    made = add(store, "pirate")
    assert base(store, tmp_path) == made
    assert store.manifest("tiny") == made
    notes: list[str] = []
    folder = fake_folder(tmp_path / "tiny", context=100)
    other = pull(store, Catalog(), str(folder), hub=NO_HUB,
                 progress=lambda moment: notes.append(moment.note) if moment.note else None)
    assert other.adapters == ()
    [note] = notes
    assert "pirate" in note
    assert "--adapter-of tiny" in note
    assert store.manifest("tiny") == other


def test_what_no_version_has_any_more_is_collected_and_damage_is_found(store: Store, tmp_path: Path) -> None:
    base(store, tmp_path)
    made = add(store, "pirate")
    blob = store.layout.blob(made.adapters[0].sha256)
    adapters.remove(store, "tiny", "pirate")
    assert store.collect().blobs == 0
    blob.chmod(0o600)
    blob.write_bytes(b"rola")
    assert [damage.path for damage in store.verify()] == ["adapters/pirate.safetensors"]
    store.remove("tiny", made.version)
    store.collect()
    assert not blob.exists()


def test_two_that_come_at_once_are_both_there(store: Store, tmp_path: Path) -> None:
    base(store, tmp_path)
    wanted = [f"a{number}" for number in range(6)]
    threads = [threading.Thread(target=add, args=(store, name, name.encode())) for name in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(store.manifest("tiny")) == wanted


def test_a_worker_is_told_of_each_and_where_it_is(store: Store, tmp_path: Path) -> None:
    base(store, tmp_path)
    made = add(store, "pirate")
    place = Place(engine="fake", provider="cpu", threads=1, device=None)
    spec = load_spec(made, ModelEntry(name="tiny"), place, folder="/folder", memory_bytes=0, serving=None)
    [adapter] = spec.adapters
    assert (adapter.name, adapter.path) == ("pirate", "/folder/adapters/pirate.safetensors")
    assert adapter.digest == made.adapters[0].sha256


def test_the_catalogs_conversions_are_not_made_again_for_an_adapter(store: Store, tmp_path: Path) -> None:
    plain = base(store, tmp_path)
    add(store, "pirate")
    [spec] = wanted_conversions("tiny", ["cpu-int4"], store.versions("tiny"))
    assert spec.source == f"tiny@{plain.version}"


def test_an_exported_folder_is_pulled_as_the_model_alone() -> None:
    assert choose(["model.gguf", "adapters/pirate.gguf"]).files == ("model.gguf",)
    onnx = ["genai_config.json", "model.onnx", "adapters.onnx", "adapters/pirate.safetensors"]
    assert choose(onnx).files == ("genai_config.json", "model.onnx")


@pytest.mark.parametrize(("reference", "said", "name"), [
    ("./loras/pirate", None, "pirate"), ("./pirate-v2.gguf", None, "pirate-v2"), ("org/pirate-l", None, "pirate-l"),
    ("./loras/pirate", "Blackbeard", "Blackbeard"),
])
def test_it_is_called_as_said_or_as_what_it_comes_from(reference: str, said: str | None, name: str) -> None:
    assert adapters.name_for(reference, said) == name


@pytest.mark.parametrize("said", ["", "../x", "a/b", "a b", ".hidden", "x" * 101])
def test_a_name_that_could_be_a_path_is_refused(said: str) -> None:
    with pytest.raises(BadReference, match="--as"):
        adapters.name_for("./pirate", said)

