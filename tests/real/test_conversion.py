"""Conversions of real, tiny models: merged, converted, measured, and what their engines then say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from converters import calibration, gguf_tokenizer
from converters.dequantize import read_facts
from edged.engines import load
from edged.engines.base import RowWork
from edged.store import Store, job_folders
from edged.store.entries import JobLine, JobProgress, Manifest
from edged.store.lineage import ConversionSpec
from edged.types import LoadSpec
from tests.real.conftest import spec
from tests.real.tiny_lora import ANSWER, QUESTION, train

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
_line = msgspec.json.Decoder(JobLine)


@pytest.fixture(scope="module")
def tiny_lora(tiny_hf: Path) -> Path:
    return train(tiny_hf, tiny_hf.parent / "lora")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("conversions") / "home")


def converted(store: Store, asked: ConversionSpec) -> tuple[Manifest, list[JobProgress]]:
    folder = job_folders.begin(store.layout, asked)
    environment = {**os.environ, "EDGED_MODELS": "off", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "converters", str(folder)], cwd=ROOT, env=environment,
                          capture_output=True, timeout=200, check=False)
    log = (folder / "log.txt").read_text()
    assert done.returncode == 0, done.stdout.decode()[-1000:] + log[-3000:]
    lines = [_line.decode(line) for line in done.stdout.splitlines()]
    assert {path.name for path in folder.iterdir()} == {"spec.json", "result.json", "log.txt"}
    manifest = lines[-1].manifest
    assert manifest is not None
    return manifest, [line.progress for line in lines if line.progress is not None]


def says(store: Store, manifest: Manifest, tokens: int = 24) -> str:
    """The engine's greedy answer to QUESTION."""
    generator = load(spec(manifest.engine, store.folder(manifest), manifest.file, context=256, rows=1),
                     lambda fraction: None).generator
    try:
        work = generator.vocab.tokenize(QUESTION, special=True, bos=False)
        text = b""
        for _ in range(tokens):
            token = int(np.argmax(generator.step([RowWork(0, work, 1)])[0][-1]))
            if token in generator.vocab.end:
                break
            text += generator.vocab.piece(token)
            work = [token]
    finally:
        generator.close()
    return text.decode(errors="replace")


@pytest.mark.parametrize("recipe", ["cpu-fp32", "cpu-int4", "gguf-q8_0"])
def test_what_a_merged_adapter_has_learned_is_said_by_the_converted_model(
    store: Store, tiny_hf: Path, tiny_lora: Path, recipe: str,
) -> None:
    asked = ConversionSpec(name="tuned", source=str(tiny_hf), adapters=(str(tiny_lora),), recipe=recipe)
    manifest, progress = converted(store, asked)
    assert says(store, manifest) == ANSWER
    assert manifest.quality is not None
    assert manifest.quality.tokens > 1000
    assert "1 adapter merged" in manifest.quality.reference
    assert manifest.conversion is not None
    assert [stage.name for stage in manifest.conversion.stages][:3] == ["source", "merge", "convert"]
    assert all(stage.peak_bytes > 10_000_000 for stage in manifest.conversion.stages)
    assert manifest.conversion.base_bytes == 4 * (manifest.parameters or 0)
    assert manifest.source == msgspec.structs.replace(manifest.source, base=str(tiny_hf))
    assert any("weights" in (moment.note or "") and "of disk" in (moment.note or "") for moment in progress)


def test_without_the_adapter_it_says_something_else(store: Store, tiny_hf: Path) -> None:
    manifest, _ = converted(store, ConversionSpec(name="base", source=str(tiny_hf), recipe="cpu-fp32"))
    assert manifest.quality is not None
    assert manifest.quality.kl_divergence < 1e-6
    assert says(store, manifest) != ANSWER
    assert store.active("base") == manifest.version


def test_an_installed_gguf_is_dequantized_and_said_to_be(store: Store, tiny_hf: Path, tiny_lora: Path) -> None:
    asked = ConversionSpec(name="tuned", source=str(tiny_hf), adapters=(str(tiny_lora),), recipe="gguf-q8_0",
                           accept_loss=True)
    gguf, _ = converted(store, asked)
    manifest, _ = converted(store, ConversionSpec(
        name="again", source=f"tuned@{gguf.version}", recipe="cpu-fp32", accept_loss=True))
    assert says(store, manifest) == ANSWER
    assert manifest.quality is not None
    assert "dequantized from Q8_0" in manifest.quality.reference
    assert "chat_template.jinja" in {entry.path for entry in manifest.files}


def test_what_is_built_for_a_device_that_is_not_here_is_kept_and_marked(
    store: Store, tiny_hf: Path, tmp_path: Path,
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('base = "cpu-fp32"\ntarget = "cuda"\nprecision = "fp16"\npositions = false\n')
    manifest, progress = converted(store, ConversionSpec(name="card", source=str(tiny_hf), recipe=str(recipe)))
    assert (manifest.target, manifest.never_run, manifest.quality) == ("cuda", True, None)
    assert manifest.conversion is not None
    assert [stage.name for stage in manifest.conversion.stages] == ["source", "convert", "publish"]
    assert "card" not in store.names()
    assert "built for cuda, never run" in (progress[-2].note or "")


def test_the_tokenizer_out_of_a_gguf_cuts_text_as_llama_cpp_does(smollm2: LoadSpec, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    file = Path(smollm2.path) / smollm2.file
    AutoTokenizer.from_pretrained(smollm2.path, gguf_file=smollm2.file).save_pretrained(tmp_path)
    assert gguf_tokenizer.mend(tmp_path, file, read_facts(file).split_rule) is None
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    generator = load(smollm2, lambda fraction: None).generator
    try:
        for passage in calibration.read(None, "gate").passages:
            text = passage.plain()
            wanted = generator.vocab.tokenize(text, special=False, bos=False)
            assert tokenizer.encode(text, add_special_tokens=False).ids == wanted
    finally:
        generator.close()
