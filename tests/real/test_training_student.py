"""The stage that trains a student: what it leaves, in every form that is served, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edged.engines import load
from edged.engines.base import RowWork
from edged.errors import ConfigError
from edged.store import Store
from edged.store.lineage import ConversionSpec
from tests.real.conftest import spec
from tests.real.test_conversion import converted
from tests.real.tiny_student import COMMANDS
from training.data.stage import DATA
from training.encode import prompt_ids
from training.models import tokenizer_of
from training.recipe import load_recipe
from training.run import Moment, Run, Trained
from training.split import training_examples
from training.student import begin
from training.student.stage import STUDENT
from training.weigh import weigh

pytestmark = pytest.mark.real


def run_of(tmp_path: Path, base: Path, table: str) -> Run:
    """A run whose stage data has ended, with COMMANDS."""
    tmp_path.mkdir(exist_ok=True)
    said = [{"prompt": example.prompt[0].content, "answer": example.answer.content}
            for example in COMMANDS if example.answer is not None]
    (tmp_path / "commands.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "home"\nbase = "{base}"\n[data]\ntrain = ["commands.jsonl"]\n[distil.student]\n'
                    f'precision = "fp32"\n{table}')
    recipe, file = load_recipe(path)
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run", recipe, file)
    run.begin("data")
    run.mark("data", DATA.key(run), 0.0, DATA.run(run, lambda moment: None))
    return run


ARCHITECTURE = """
[distil.student.architecture]
hidden = 64
layers = 2
heads = 2
kv_heads = 1
intermediate = 128
context = 256
vocabulary = 400
"""


@pytest.fixture(scope="module")
def trained(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Trained, list[Moment]]:
    """A student that knows COMMANDS, made by the stage."""
    run = run_of(tmp_path_factory.mktemp("trained"), tiny_hf,
                 'tokenizer = "own"\nepochs = 30\nlearning_rate = 3e-3\nevaluations = 1\n'
                 "[distil.student.architecture]\nhidden = 128\nlayers = 2\nintermediate = 256\ncontext = 256\n"
                 "vocabulary = 400\n")
    moments: list[Moment] = []
    made = STUDENT.run(run, moments.append)
    assert isinstance(made, Trained)
    return run, made, moments


def test_the_stage_leaves_a_model_that_answers_as_it_was_taught(trained: tuple[Run, Trained, list[Moment]]) -> None:
    run, made, moments = trained
    assert (made.kind, made.folder, made.base) == ("weights", "student/model", None)
    assert made.metrics["validation_loss"] < 0.3
    model, tokenizer = begin.from_model(run.folder / made.folder)
    example = training_examples(run)[0]
    prompt = prompt_ids(tokenizer, example)
    said = model.generate(torch.tensor([prompt]), max_new_tokens=40)[0, len(prompt):]
    assert example.answer is not None
    assert tokenizer.decode(said) == example.answer.content + "<|im_end|>"
    assert any("loss" in moment.figures for moment in moments)


@pytest.mark.parametrize("recipe", ["cpu-int8", "gguf-q8_0"])
def test_what_a_student_learned_is_said_in_every_form(
    trained: tuple[Run, Trained, list[Moment]], tmp_path: Path, recipe: str,
) -> None:
    run, made, _ = trained
    store = Store(tmp_path / "home")
    manifest, _ = converted(store, ConversionSpec(
        name="student", source=str(run.folder / made.folder), recipe=recipe, accept_loss=True))
    tokenizer = tokenizer_of(run.folder / made.folder)
    generator = load(spec(manifest.engine, store.folder(manifest), manifest.file, context=256, rows=1),
                     lambda fraction: None).generator
    try:
        for example in training_examples(run)[:4]:
            assert example.answer is not None
            work, said = prompt_ids(tokenizer, example), b""
            generator.trim(0, 0)
            for _ in range(40):
                token = int(np.argmax(generator.step([RowWork(0, work, 1)])[0][-1]))
                if token in generator.vocab.end:
                    break
                said, work = said + generator.vocab.piece(token), [token]
            assert said.decode() == example.answer.content
    finally:
        generator.close()
    heavy, light = weigh(run.folder / made.folder), weigh(store.folder(manifest) / manifest.file if
                                                          manifest.engine == "llama" else store.folder(manifest))
    assert light.weights_bytes < 0.6 * heavy.weights_bytes


def test_a_student_with_the_teachers_tokenizer_learns_from_its_distributions(tmp_path: Path, tiny_hf: Path) -> None:
    run = run_of(tmp_path, tiny_hf, f"epochs = 2\nevaluations = 1\n[distil.student.soft]\n{ARCHITECTURE}")
    before = STUDENT.key(run)
    made = STUDENT.run(run, lambda moment: None)
    assert isinstance(made, Trained)
    model, tokenizer = begin.from_model(run.folder / made.folder)
    assert model.config.vocab_size == 512
    assert tokenizer.chat_template == tokenizer_of(tiny_hf).chat_template
    assert list((run.folder / "student" / "targets").iterdir())
    changed = run_of(tmp_path / "other", tiny_hf, f"epochs = 2\nevaluations = 1\n[distil.student.soft]\nshare = 0.9\n"
                                                  f"{ARCHITECTURE}")
    assert STUDENT.key(changed) != before


@pytest.mark.parametrize(("table", "told"), [
    ("devices = 2\n", "devices: a student is trained on one device"),
    ("packing = true\n[distil.student.match]\nhidden = 1\n", "packing: packed rows hold several examples"),
    ("[distil.student.architecture]\nhidden = 100\n", "architecture.hidden: 100 is not 4 heads of a multiple of 32"),
])
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, tiny_hf: Path, table: str, told: str) -> None:
    run = run_of(tmp_path, tiny_hf, table)
    with pytest.raises(ConfigError, match=told):
        STUDENT.run(run, lambda moment: None)
