"""What weights were trained from goes with them: from a folder into the manifest, from there into an export."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import adapter, refuse
from edged.errors import RefusedFile
from edged.store import Store, trained
from edged.store.catalog import load_catalog
from edged.store.export import export
from edged.store.lineage import Training
from edged.store.select import TRAINING_FILE
from tests.lora_folders import lora_folder
from tests.models import GRAPH, NO_HUB, contents, fake_folder, gguf_bytes, ignore, install

pytestmark = pytest.mark.unit

TRAINING = Training(
    recipe="home", recipe_digest="ab" * 32, base="smollm2-135m@0123456789ab", base_digest="cd" * 32,
    method="lora of rank 16", seed=7, data_digest="ef" * 16, train=400, validation=60, test=500, parents=("teacher",),
    steps=120, seconds=33.5, metrics={"json_match": 91.2}, packages={"torch": "2.13.0"}, at=1_790_000_000.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def onnx_folder(path: Path) -> Path:
    path.mkdir()
    (path / "genai_config.json").write_text('{"model": {"decoder": {"filename": "model.onnx"}}}')
    (path / "model.onnx").write_bytes(GRAPH)
    return path


def test_a_pulled_folder_brings_it_into_the_manifest_and_not_into_the_model(store: Store, tmp_path: Path) -> None:
    without = install(store, str(onnx_folder(tmp_path / "without")))
    folder = onnx_folder(tmp_path / "with")
    (folder / TRAINING_FILE).write_bytes(trained.encode(TRAINING))
    manifest = install(store, str(folder))
    assert store.manifest(manifest.name).training == TRAINING
    assert manifest.digest == without.digest
    assert TRAINING_FILE not in contents(store.folder(manifest))
    assert without.training is None


def test_an_export_says_it_and_says_it_again_where_it_is_pulled(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine-Q8_0.gguf").write_bytes(gguf_bytes(1, 5000))
    (folder / TRAINING_FILE).write_bytes(trained.encode(TRAINING))
    manifest = install(store, str(folder))
    export(store, manifest, tmp_path / "out", ignore)
    there = install(Store(tmp_path / "another"), str(tmp_path / "out"))
    assert (there.digest, there.training) == (manifest.digest, TRAINING)


@pytest.mark.parametrize("data", [
    b"no JSON", b'{"recipe": "home"}', b"[1]", b'{"recipe": "\xff"}', b'{"x":' + b"[" * 100_000,
    msgspec.json.encode(msgspec.structs.replace(TRAINING, method="lora\x1b[2J")),
    msgspec.json.encode(msgspec.structs.replace(TRAINING, packages={"torch": "1\n  quality  perfect"})),
    *(msgspec.json.encode(msgspec.structs.replace(TRAINING, at=at)) for at in (1e300, -1.0, 4.1e9)),
    msgspec.json.encode(msgspec.structs.replace(TRAINING, metrics={f"m{number}": 1.0 for number in range(257)})),
    msgspec.json.encode(msgspec.structs.replace(TRAINING, parents=("p",) * 257)),
    msgspec.json.encode(msgspec.structs.replace(TRAINING, packages={"torch": "1" * 4097})),
])
def test_what_does_not_say_it_or_would_steer_a_terminal_is_refused(store: Store, tmp_path: Path, data: bytes) -> None:
    folder = fake_folder(tmp_path / "fake")
    (folder / TRAINING_FILE).write_bytes(data)
    with pytest.raises(RefusedFile, match="take it out of the folder"):
        install(store, str(folder))
    assert store.names() == []


def test_an_adapters_folder_brings_it_too() -> None:
    names = [refuse.ADAPTER_CONFIG, refuse.ADAPTER_WEIGHTS, TRAINING_FILE, "README.md", "tokenizer.json"]
    assert TRAINING_FILE in refuse.adapter_files(names)
    refuse.check_adapter_json(TRAINING_FILE, trained.encode(TRAINING))
    with pytest.raises(RefusedFile):
        refuse.check_adapter_json(refuse.ADAPTER_CONFIG, b'{"peft_type": "PROMPT_TUNING"}')


def test_a_model_with_an_adapter_says_what_the_adapter_was_trained_from(store: Store, tmp_path: Path) -> None:
    install(store, str(fake_folder(tmp_path / "fake")))
    folder = lora_folder(tmp_path / "lights")
    (folder / TRAINING_FILE).write_bytes(trained.encode(TRAINING))
    (models_file := tmp_path / "models.toml").write_text("")
    manifest = adapter.install(store, load_catalog(models_file), "fake", str(folder), name=None, hub=NO_HUB,
                               tell=ignore)
    assert [(each.name, each.training) for each in manifest.adapters] == [("lights", TRAINING)]
    assert manifest.training is None


@given(st.builds(Training, recipe_digest=st.text("0123456789abcdef", min_size=64, max_size=64),
                 data_digest=st.text("0123456789abcdef", min_size=32, max_size=32),
                 recipe=st.from_regex(r"[a-z]{1,9}", fullmatch=True),
                 method=st.from_regex(r"[a-z ]{1,9}", fullmatch=True),
                 base=st.none() | st.from_regex(r"[a-z/]{1,9}", fullmatch=True), base_digest=st.none(),
                 parents=st.just(()), metrics=st.just({}), packages=st.just({}),
                 seconds=st.just(1.0), at=st.floats(0, 4e9)))
def test_it_is_read_as_it_was_written_and_told_on_lines(training: Training) -> None:
    assert trained.decode(trained.encode(training)) == training
    assert all("\n" not in line and line for line in trained.words(training))


def test_people_read_from_what_on_what_and_how_well() -> None:
    said = "\n".join(trained.words(TRAINING))
    for part in ("by home (abababababab), lora of rank 16, seed 7", "from smollm2-135m@0123456789ab (cdcdcdcdcdcd)",
                 "400 examples, 60 for validation, 500 for testing", "taught by teacher", "json match 91.2",
                 "torch 2.13.0"):
        assert part in said
