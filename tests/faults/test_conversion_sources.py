"""`python -m converters` with what it refuses, and the hub as its source: real processes, no model is loaded (PROMISES
T4, T5, T6)."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from converters import source
from converters.recipe import load_recipe
from converters.source import Sourced
from converters.work import Work
from edged.errors import RefusedFile
from edged.store import Store, job_folders
from edged.store.entries import JobLine, JobProgress
from edged.store.lineage import AdapterSource, ConversionSpec
from tests.hf_folders import hf_files, lora_files, put, weights
from tests.hub import Hub
from tests.models import contents, gguf_bytes, install

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
_line = msgspec.json.Decoder(JobLine)


class Canary:
    """Whoever unpickles it writes the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self._path, "unpickled"))


def converted(home: Path, spec: ConversionSpec, environment: dict[str, str] | None = None) -> list[JobLine]:
    """What `python -m converters` prints."""
    folder = job_folders.begin(Store(home).layout, spec)
    said = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "EDGED_MODELS": "off", **(environment or {})}
    done = subprocess.run(
        [sys.executable, "-m", "converters", str(folder)], cwd=ROOT, env=said, capture_output=True, timeout=60,
        check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    assert {path.name for path in folder.iterdir()} == {"spec.json", "result.json", "log.txt"}
    return [_line.decode(line) for line in done.stdout.splitlines()]


def refusal(lines: list[JobLine]) -> str:
    assert lines[-1].error is not None
    assert lines[-1].error.code == "refused_file", lines[-1].error
    return lines[-1].error.message


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_code_that_comes_with_a_model_is_never_imported(home: Path, tmp_path: Path, canary: Path) -> None:
    files = hf_files(auto_map={"AutoConfig": "modeling_canary.Config", "AutoModelForCausalLM": "modeling_canary.Model"})
    folder = put(tmp_path / "model", files)
    (folder / "modeling_canary.py").write_text(f"open({str(canary)!r}, 'w')")
    assert "never run" in refusal(converted(home, ConversionSpec(name="m", source=str(folder))))
    assert not canary.exists()
    assert list((home / "blobs").iterdir()) == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_pickle_is_never_opened(home: Path, tmp_path: Path, canary: Path, name: str) -> None:
    files = hf_files()
    del files["model.safetensors"]
    folder = put(tmp_path / "model", {**files, name: pickle.dumps(Canary(canary))})
    assert "pickle" in refusal(converted(home, ConversionSpec(name="m", source=str(folder))))
    assert not canary.exists()


@pytest.mark.parametrize("what", ["pickle", "module", "megatron", "shape"])
def test_an_adapter_that_brings_code_or_does_not_fit_is_refused(
    home: Path, tmp_path: Path, canary: Path, what: str,
) -> None:
    folder = put(tmp_path / "model", hf_files())
    files = lora_files()
    if what == "pickle":
        del files["adapter_model.safetensors"]
        files["adapter_model.bin"] = pickle.dumps(Canary(canary))
    elif what == "module":
        files = lora_files(auto_mapping={"parent_library": "canary_module"})
    elif what == "megatron":
        files = lora_files(megatron_config={"a": 1}, megatron_core="canary_module")
    else:
        files["adapter_model.safetensors"] = weights(**{"base_model.model.model.w.lora_A.weight": (2, 5)})
    adapter = put(tmp_path / "lora", files)
    (tmp_path / "canary_module.py").write_text(f"open({str(canary)!r}, 'w')")
    lines = converted(home, ConversionSpec(name="m", source=str(folder), adapters=(str(adapter),)), {
        "PYTHONPATH": f"{ROOT}:{tmp_path}"})
    wanted = {"pickle": "pickle", "module": "canary_module", "megatron": "canary_module", "shape": "another model"}
    assert wanted[what] in refusal(lines)
    assert not canary.exists()


def test_damaged_weights_are_named(home: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "model", {**hf_files(), "model.safetensors": weights()[:-3]})
    error = converted(home, ConversionSpec(name="m", source=str(folder)))[-1].error
    assert error is not None
    assert (error.code, "model.safetensors is damaged" in error.message) == ("corrupt_file", True)
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(gguf_bytes(1, 5000))
    error = converted(home, ConversionSpec(name="m", source=str(gguf)))[-1].error
    assert error is not None
    assert (error.code, "m.gguf is damaged" in error.message) == ("corrupt_file", True)


def test_what_can_never_fit_is_refused_before_anything_is_written(home: Path, tmp_path: Path) -> None:
    files = hf_files()
    tensor = {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}
    header = json.dumps({"model.w": tensor}).encode()
    folder = put(tmp_path / "model", files)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 42))
    lines = converted(home, ConversionSpec(name="m", source=str(folder)))
    notes = [line.progress.note for line in lines if line.progress is not None and line.progress.note is not None]
    assert "1,099,512 million weights" in notes[0]
    assert lines[-1].error is not None
    assert lines[-1].error.code == "insufficient_storage"
    assert "TB" in lines[-1].error.message or "GB" in lines[-1].error.message


@pytest.mark.parametrize(("asked", "code", "words"), [
    ({"tasks": "/nowhere/tasks.jsonl"}, "invalid_configuration", "/nowhere/tasks.jsonl"),
    ({"calibration": "/nowhere/text.txt"}, "invalid_configuration", "/nowhere/text.txt"),
    ({"recipe": "cpu-int5"}, "invalid_configuration", "there is no recipe cpu-int5"),
    ({"name": "n" * 300}, "invalid_model_reference", "a model name has 1 to 240 characters"),
])
def test_what_a_late_stage_would_refuse_is_refused_first(
    home: Path, tmp_path: Path, asked: dict[str, str], code: str, words: str,
) -> None:
    folder = put(tmp_path / "model", hf_files())
    spec = msgspec.structs.replace(ConversionSpec(name="m", source=str(folder)), **asked)
    error = converted(home, spec)[-1].error
    assert error is not None
    assert (error.code, words in error.message) == (code, True)


def test_an_onnx_model_or_a_name_that_is_not_installed_is_refused_with_what_to_do(home: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "onnx", {"genai_config.json": b"{}", "model.onnx": b"\x08\x0a"})
    install(Store(home), str(folder))
    assert "Hugging Face original" in refusal(converted(home, ConversionSpec(name="m", source="onnx")))
    error = converted(home, ConversionSpec(name="m", source="nobody"))[-1].error
    assert error is not None
    assert error.code == "model_not_found"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        for name, data in hf_files().items():
            running.add("org/model", name, data)
        for name, data in lora_files().items():
            running.add("org/lora", name, data)
        yield running


def sourced(home: Path, hub: Hub, spec: ConversionSpec) -> tuple[Work, Sourced]:
    """What the first stage does, in this process."""
    store = Store(home)
    work = Work(folder=job_folders.begin(store.layout, spec), spec=spec, recipe=load_recipe(spec.recipe), store=store,
                hub=hub.settings)
    work.begin("source")
    told: list[JobProgress] = []
    return work, source.run(work, told.append)


SPEC = ConversionSpec(name="m", source="org/model", adapters=("org/lora",))


def test_a_repository_and_an_adapter_come_from_the_hub_pinned(home: Path, hub: Hub) -> None:
    hub.add("org/model", "pytorch_model.bin", b"pickle")
    hub.add("org/model", "modeling.py", b"code")
    hub.add("org/model", "onnx/model.onnx", b"graph")
    work, got = sourced(home, hub, SPEC)
    assert contents(source.model_folder(work)) == hf_files()
    assert contents(source.adapter_folder(work, 0)) == lora_files()
    assert got.source.base == f"org/model@{hub.commit('org/model')}"
    assert [adapter.reference for adapter in got.source.adapters] == ["org/lora"]
    assert isinstance(got.source.adapters[0], AdapterSource)
    assert (got.parameters, got.context, got.linked) == (32, 128, ())
    assert hub.sent_bytes("pytorch_model.bin") == hub.sent_bytes("modeling.py") == 0


def test_a_download_that_breaks_off_again_and_again_is_gone_on_with(home: Path, hub: Hub) -> None:
    large = weights(**{"model.w": (1000, 1000)})
    hub.add("org/model", "model.safetensors", large)
    hub.faults.drop_each["model.safetensors"] = 300_000
    work, _ = sourced(home, hub, SPEC)
    assert contents(source.model_folder(work))["model.safetensors"] == large
    assert hub.sent_bytes("/model.safetensors") == len(large)


def test_code_in_a_repository_is_refused_before_the_weights_come(home: Path, hub: Hub) -> None:
    hub.add("org/model", "config.json", hf_files(auto_map={"AutoModel": "x.Y"})["config.json"])
    with pytest.raises(RefusedFile, match="auto_map"):
        sourced(home, hub, SPEC)
    assert hub.sent_bytes("/model.safetensors") == 0
