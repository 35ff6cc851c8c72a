"""Which versions of a model a device may be compared with."""

from __future__ import annotations

import pytest

from edged.daemon.proving import are_sisters
from edged.store.entries import FileEntry, HubSource, LocalSource, Manifest, Source
from edged.store.lineage import AdapterSource, ConvertedSource

pytestmark = pytest.mark.unit

LORA = (AdapterSource(reference="./lora", sha256="a" * 64),)


def version(source: Source) -> Manifest:
    digest = "0" * 64
    return Manifest(name="m", version=digest[:12], digest=digest, engine="ort", precision="int4", file="f",
                    files=(FileEntry(path="f", size=1, sha256=digest),), source=source, reference="m", created=0)


def converted(digest: str, adapters: tuple[AdapterSource, ...] = ()) -> Manifest:
    return version(ConvertedSource(base="b", base_digest=digest, adapters=adapters))


def hub(repo: str, folder: str) -> Manifest:
    return version(HubSource(repo=repo, files=(folder,)))


def test_forms_of_the_same_weights_are_compared() -> None:
    assert are_sisters(converted("d1"), converted("d1"))
    assert are_sisters(converted("d1", LORA), converted("d1", LORA))
    assert are_sisters(hub("org/phi-onnx", "cuda/*"), hub("org/phi-onnx", "cpu/*"))


def test_other_weights_are_not() -> None:
    assert not are_sisters(converted("d1"), converted("d2"))
    assert not are_sisters(converted("d1"), converted("d1", LORA))
    assert not are_sisters(hub("org/phi-onnx", "*"), hub("org/other", "*"))
    assert not are_sisters(converted("d1"), hub("org/phi-onnx", "*"))
    assert not are_sisters(version(LocalSource(path="a")), version(LocalSource(path="a")))
