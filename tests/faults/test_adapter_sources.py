"""Adapters from folders, files and the hub, and what is refused of them before anything is installed (PROMISES T4, T5);
no engine loads them. `python -m converters.adapter` is what daemon and command line run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest

from converters.adapter import install
from edged.errors import EdgedError, InvalidRequest, ModelNotFound, RefusedFile
from edged.store import Store
from edged.store.catalog import load_catalog
from edged.store.entries import JobLine, Manifest
from tests import models
from tests.faults.test_conversion_sources import Canary
from tests.hub import Hub
from tests.lora_folders import LINEAR, lora_folder
from tests.models import fake_folder, ignore

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
TENSOR = "blk.0.attn_q.weight"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With a fake model, and one of llama.cpp that has one layer's tensor."""
    store = Store(tmp_path / "home")
    models.install(store, str(fake_folder(tmp_path / "tiny")))
    models.install(store, str(made_gguf(tmp_path / "small.gguf", "model", {TENSOR: (64, 64)})))
    return store


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


def made_gguf(path: Path, kind: str, tensors: dict[str, tuple[int, int]]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_block_count(1)
    writer.add_head_count(4)
    for name, shape in tensors.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_lora(path: Path) -> Path:
    return made_gguf(path, "adapter", {f"{TENSOR}.lora_a": (4, 64), f"{TENSOR}.lora_b": (64, 4)})


def added(store: Store, model: str, reference: Path | str, hub: Hub | None = None) -> Manifest:
    return install(store, load_catalog(None), model, str(reference), name=None,
                   hub=models.NO_HUB if hub is None else hub.settings, tell=ignore)


def test_a_folder_of_peft_and_a_gguf_both_become_adapters_of_a_gguf(store: Store, tmp_path: Path) -> None:
    added(store, "small", lora_folder(tmp_path / "pirate", shapes={LINEAR: (64, 64)}))
    made = added(store, "small", gguf_lora(tmp_path / "poet.gguf"))
    assert [(one.name, one.file) for one in made.adapters] == [
        ("pirate", "adapters/pirate.gguf"), ("poet", "adapters/poet.gguf")]
    assert (store.folder(made) / "adapters/poet.gguf").read_bytes() == (tmp_path / "poet.gguf").read_bytes()
    assert store.manifest("small") == made
    assert not list(store.layout.tmp.iterdir())


def test_an_adapter_comes_from_the_hub_with_its_commit(store: Store, tmp_path: Path, hub: Hub) -> None:
    folder = lora_folder(tmp_path / "pirate")
    for file in folder.iterdir():
        hub.add("org/pirate", file.name, file.read_bytes())
    hub.add("org/pirate", "optimizer.pt", b"pickle")
    hub.add("org/poet", "poet.gguf", gguf_lora(tmp_path / "poet.gguf").read_bytes())
    [adapter] = added(store, "tiny", "org/pirate", hub).adapters
    assert (adapter.name, adapter.reference) == ("pirate", f"org/pirate@{hub.commit('org/pirate')}")
    assert hub.sent_bytes("optimizer.pt") == 0
    [adapter] = added(store, "small", "org/poet", hub).adapters
    assert adapter.file == "adapters/poet.gguf"


def damaged(folder: Path, how: str) -> Path:
    """A folder, or a file, that is no adapter for `small`."""
    lora_folder(folder, shapes={LINEAR: (64, 32) if how == "shape" else (64, 64)})
    weights = folder / "adapter_model.safetensors"
    match how:
        case "pickle":
            weights.unlink()
            (folder / "adapter_model.bin").write_bytes(pickle.dumps(Canary(folder / "canary")))
        case "code":
            lora_folder(folder, auto_mapping={"parent_library": "evil", "base_model_class": "X"})
        case "link":
            weights.rename(folder.with_suffix(".elsewhere"))
            weights.symlink_to(folder.with_suffix(".elsewhere"))
        case "fifo":
            weights.unlink()
            os.mkfifo(weights)
        case "model":
            (folder / "adapter_config.json").unlink()
            made_gguf(folder / "a.gguf", "model", {TENSOR: (64, 64)})
        case "nothing":
            return folder / "missing"
    return folder


@pytest.mark.parametrize("how", ["pickle", "code", "link", "fifo", "model", "nothing", "shape"])
def test_what_is_no_adapter_is_refused_and_nothing_is_left(store: Store, tmp_path: Path, how: str) -> None:
    before, used = store.manifest("small"), store.usage()
    with pytest.raises(RefusedFile) as caught:
        added(store, "small", damaged(tmp_path / "bad", how))
    assert str(tmp_path / "home") not in caught.value.message
    assert not (tmp_path / "bad" / "canary").exists()
    assert store.manifest("small") == before
    assert store.versions("small") == [before]
    assert store.usage() == used


def test_a_gguf_is_no_adapter_of_another_engine_and_a_missing_model_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="as peft saved it"):
        added(store, "tiny", gguf_lora(tmp_path / "poet.gguf"))
    with pytest.raises(ModelNotFound, match="large"):
        added(store, "large", lora_folder(tmp_path / "pirate"))


def run(home: Path, *arguments: str) -> JobLine:
    said = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "EDGED_MODELS": "off", "EDGED_HOME": str(home)}
    done = subprocess.run([sys.executable, "-m", "converters.adapter", *arguments], cwd=ROOT, env=said,
                          capture_output=True, timeout=60, check=False)
    last: JobLine = msgspec.json.decode(done.stdout.splitlines()[-1], type=JobLine)
    assert done.returncode == (0 if last.manifest is not None else 1), done.stderr
    return last


def test_as_a_program_it_prints_lines_and_ends_with_the_version_or_the_error(store: Store, tmp_path: Path) -> None:
    folder = lora_folder(tmp_path / "pirate")
    made = run(store.home, "--as", "Blackbeard", "--", "tiny", str(folder)).manifest
    assert made is not None
    assert [one.name for one in made.adapters] == ["Blackbeard"]
    refused = run(store.home, "--", "tiny", str(tmp_path / "missing")).error
    assert refused is not None
    assert refused.code == "refused_file"


def test_one_that_is_there_already_is_the_version_that_it_was(store: Store, tmp_path: Path) -> None:
    folder = lora_folder(tmp_path / "pirate")
    assert added(store, "small", folder) == added(store, "small", folder)
    assert len(store.versions("small")) == 2


def test_errors_are_edgeds_own_for_any_bytes(store: Store, tmp_path: Path) -> None:
    """A GGUF cut anywhere ends in one clear error."""
    whole = gguf_lora(tmp_path / "whole.gguf").read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 23)):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(EdgedError):
            added(store, "small", tmp_path / "cut.gguf")
