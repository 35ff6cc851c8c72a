"""Students of two layers, trained for seconds: their tokenizers, what they learn from a teacher, and where they run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.gguf import unquantized
from converters.gguf_split_rule import PROBES
from edged.engines import load
from edged.engines.base import RowWork
from edged.engines.hf_vocab import HfVocab
from edged.errors import ConfigError, InvalidRequest
from edged.store import Store
from edged.store.lineage import ConversionSpec
from tests.real.conftest import spec
from tests.real.test_conversion import converted
from tests.real.test_gguf_families import Llama
from training.data.stage import DATA
from training.encode import Encoded, encoded, prompt_ids
from training.examples import Example, Message, identity
from training.finetune.stage import save
from training.fit.fit import fit
from training.models import tokenizer_of
from training.recipe import Architecture, Match, Soft, Student, load_recipe
from training.run import Moment, Run, Trained
from training.split import training_examples
from training.student import begin, match
from training.student import teachers as of_teachers
from training.student.kept_targets import PART, keep
from training.student.soft import Targets, divergence, targets
from training.student.stage import STUDENT
from training.student.teachers import Teachers, require_same_words
from training.student.tokenizer import train_tokenizer
from training.student.trainer import Lesson, sequences, trainer_of
from training.weigh import weigh

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

TINY = Architecture(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128, context=256, vocabulary=400)
ROOMS = ("kitchen", "living room", "garage", "hall")


def command(number: int) -> Example:
    """Synthetic: a command and its slots."""
    drawn = random.Random(number)
    room, degrees = drawn.choice(ROOMS), drawn.randint(10, 29)
    prompt = (Message("user", f"set the {room} to {degrees} degrees"),)
    answer = json.dumps({"room": room, "degrees": degrees}, separators=(",", ":"))
    return Example(id=identity(prompt), prompt=prompt, answer=Message("assistant", answer))


COMMANDS = [command(number) for number in range(64)]


def student(**changes: Any) -> Student:
    return Student(**{"architecture": TINY, "tokenizer": "own", "precision": "fp32", **changes})


@pytest.fixture(scope="module")
def made() -> tuple[Any, Any]:
    """A student of its own tokenizer, untrained."""
    return begin.from_scratch(student(), COMMANDS, None, 3)


@pytest.fixture(scope="module")
def folder(made: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("student") / "model"
    save(made[0].save_pretrained, made[1], place)
    return place


def test_every_engine_cuts_text_as_the_students_own_tokenizer_does(
    made: tuple[Any, Any], folder: Path, tmp_path: Path,
) -> None:
    (tmp_path / "work").mkdir()
    file = unquantized(folder, tmp_path / "out", work=tmp_path / "work", progress=lambda done, note: None)
    llama = Llama(file)
    try:
        onnx = HfVocab(folder, len(made[1]), frozenset())
        for text in (*PROBES, *(each.prompt[0].content for each in COMMANDS), "Xylo-7 \t 19:05"):
            right = made[1](text, add_special_tokens=False)["input_ids"]
            assert llama.vocab.tokenize(text, special=False, bos=False) == right
            assert onnx.tokenize(text, special=False, bos=False) == right
            assert made[1].decode(right) == text
    finally:
        llama.close()


def test_a_word_is_the_same_token_in_the_prompt_and_in_the_answer(made: tuple[Any, Any]) -> None:
    tokenizer = made[1]
    row = encoded(tokenizer, COMMANDS[0], completion_only=True)
    start = next(index for index, label in enumerate(row.labels) if label >= 0)
    room = json.loads(COMMANDS[0].answer.content)["room"].split()[0]  # type: ignore[union-attr]
    (word,) = tokenizer(room, add_special_tokens=False)["input_ids"]
    assert word in row.input_ids[:start]
    assert word in row.labels[start:]
    assert tokenizer.convert_ids_to_tokens(tokenizer("2024", add_special_tokens=False)["input_ids"]) == list("2024")


def test_seldom_words_are_spelled_and_frequent_ones_are_whole() -> None:
    drawn = random.Random(1)
    words = ["".join(drawn.choices("aeioubdfgklmnprst", k=6)) for _ in range(100)]
    examples = [Example(id=str(number), prompt=(Message("user", f"find {words[number % 100]} please"),),
                        answer=Message("assistant", f'{{"find": "{words[number % 100]}"}}')) for number in range(1000)]
    tokenizer = train_tokenizer(examples, 2000)
    counts = {word: len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in [*words, "find", "please"]}
    assert counts["find"] == counts["please"] == 1
    assert min(counts[word] for word in words) > 1
    assert tokenizer.tokenize('"find": "') == ['"', "find", '":', 'Ġ"']


def test_a_divergence_of_all_tokens_is_that_of_the_full_distributions() -> None:
    torch.manual_seed(1)
    teacher, own = torch.randn(7, 30) * 3, torch.randn(7, 30)
    full = torch.nn.functional.kl_div(
        torch.log_softmax(own / 2, -1), torch.log_softmax(teacher / 2, -1), reduction="none", log_target=True).sum(-1)
    assert torch.allclose(divergence(own, targets([teacher], [1.0], 2.0), 2.0), full * 4, atol=1e-5)


def test_what_is_cut_off_counts_as_one_outcome_and_never_adds() -> None:
    torch.manual_seed(2)
    teacher, own = torch.randn(7, 500) * 3, torch.randn(7, 500, requires_grad=True)
    wanted = targets([teacher], [1.0], 1.0)
    assert wanted.tokens.shape == (7, 32)
    found = divergence(own, wanted, 1.0)
    full = torch.nn.functional.kl_div(
        torch.log_softmax(own, -1), torch.log_softmax(teacher, -1), reduction="none", log_target=True).sum(-1)
    assert bool((found <= full + 1e-5).all())
    assert bool((found > 0.5 * full).all())
    found.sum().backward()
    assert own.grad is not None
    assert bool(own.grad.isfinite().all())
    assert torch.allclose(divergence(teacher, wanted, 1.0), torch.zeros(7), atol=1e-4)


def test_a_teacher_that_is_sure_leaves_nothing_to_the_others() -> None:
    sure = torch.full((1, 100), -1e4)
    sure[0, 3] = 0.0
    own = torch.zeros(1, 100, requires_grad=True)
    found = divergence(own, targets([sure], [1.0], 1.0), 1.0)
    found.sum().backward()
    assert float(found.detach()) == pytest.approx(4.605, abs=1e-3)
    assert own.grad is not None
    assert bool(own.grad.isfinite().all())


def test_several_teachers_pull_as_the_weighted_mean_of_each() -> None:
    torch.manual_seed(3)
    one, other = torch.randn(4, 20), torch.randn(4, 20)

    def pull(*of: Targets, shares: tuple[float, ...]) -> torch.Tensor:
        own = torch.zeros(4, 20, requires_grad=True)
        sum(share * divergence(own, each, 1.0).sum()
            for each, share in zip(of, shares, strict=True)).backward()
        assert own.grad is not None
        return own.grad

    together = pull(targets([one, other], [3.0, 1.0], 1.0), shares=(1.0,))
    apart = pull(targets([one], [1.0], 1.0), targets([other], [1.0], 1.0), shares=(0.75, 0.25))
    assert torch.allclose(together, apart, atol=1e-6)


@pytest.fixture(scope="module")
def teacher(made: tuple[Any, Any]) -> Any:
    """Of the same tokenizer, larger, with strong opinions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(**{**made[0].config.to_dict(), "hidden_size": 96, "num_hidden_layers": 3, "head_dim": 32,
                            "num_attention_heads": 3, "num_key_value_heads": 3, "initializer_range": 0.25})
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def rows(tokenizer: Any, examples: list[Example]) -> list[Encoded]:
    return [encoded(tokenizer, example, completion_only=True) for example in examples]


def test_kept_targets_are_those_of_the_teacher_and_survive_a_kill(
    made: tuple[Any, Any], teacher: Any, tmp_path: Path,
) -> None:
    examples = rows(made[1], [command(number) for number in range(PART + 20)])
    teachers = Teachers((teacher,), (1.0,), 2.0)
    told: list[float | None] = []

    def kept() -> Any:
        return keep(teachers, examples, tmp_path, lambda moment: told.append(moment.fraction), of_teachers="these",
                    pad=0)

    kept().close()
    assert len(told) == 2
    (made_folder,) = tmp_path.iterdir()
    first, second = sorted(made_folder.iterdir())
    before = second.read_bytes()
    second.unlink()
    found = kept()
    assert len(told) == 3
    assert second.read_bytes() == before
    for example in (examples[5], examples[-1]):
        logits = teacher(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
        right = targets([logits[torch.tensor(example.labels[1:]) >= 0]], [1.0], 2.0)
        said = found.of([example.input_ids])
        assert torch.allclose(said.logs, right.logs, atol=1e-4)
    found.close()
    keep(teachers, examples[:3], tmp_path, lambda moment: None, of_teachers="others", pad=0).close()
    assert not first.exists()


def test_teachers_are_on_the_device_that_the_student_is_trained_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.fit.precision.device", lambda: "meta")
    found = of_teachers.load([(folder, 1.0)], 1.0)
    assert {weight.device.type for weight in found.models[0].parameters()} == {"meta"}
    assert found.device.type == "meta"


class Elsewhere(Teachers):
    """On a device that the examples are not on."""

    @property
    def device(self) -> Any:
        return torch.device("meta")

    def read(self, inputs: dict[str, Any], wanted: Any, **also: bool) -> list[Any]:
        assert {values.device.type for values in (*inputs.values(), wanted)} == {"meta"}
        return []

    def targets(self, outputs: Any) -> Targets:
        return Targets(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1))


def test_what_teachers_read_is_brought_to_their_device(tmp_path: Path) -> None:
    example = Encoded([1, 2, 3], [-100, 2, 3])
    kept = keep(Elsewhere((), (1.0,), 1.0), [example], tmp_path, lambda moment: None, of_teachers="", pad=0)
    assert kept.of([[1, 2, 3]]).tokens.shape == (2, 1)
    kept.close()


def test_sequences_of_a_batch_are_found_in_padded_and_in_packed_rows() -> None:
    padded = {"input_ids": torch.tensor([[5, 6, 0], [7, 8, 9]]), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    assert list(sequences(padded)) == [[5, 6], [7, 8, 9]]
    packed = {"input_ids": torch.tensor([[5, 6, 7, 8, 0, 0]]), "position_ids": torch.tensor([[0, 1, 0, 1, 0, 0]])}
    assert list(sequences(packed)) == [[5, 6], [7, 8]]


def far(model: Any, teacher: Any, examples: list[Encoded]) -> float:
    """Mean divergence of the student from the teacher where it answers."""
    total = 0.0
    for example in examples:
        ids = torch.tensor([example.input_ids])
        at = torch.tensor(example.labels[1:]) >= 0
        with torch.no_grad():
            total += float(divergence(model.eval()(input_ids=ids).logits[0, :-1][at],
                                      targets([teacher(input_ids=ids).logits[0, :-1][at]], [1.0], 1.0), 1.0).mean())
    return total / len(examples)


@pytest.mark.parametrize("packing", [False, True])
def test_a_student_comes_to_say_what_its_teacher_finds_likely_and_not_what_is_written(
    made: tuple[Any, Any], teacher: Any, tmp_path: Path, packing: bool,
) -> None:
    model, tokenizer = begin.from_scratch(student(), COMMANDS, None, 3)
    how = student(soft=Soft(temperature=1.0, share=1.0), epochs=8, learning_rate=5e-3, packing=packing, evaluations=1)
    examples = rows(tokenizer, COMMANDS)
    before = far(model, teacher, examples[:4])
    kept = keep(Teachers((teacher,), (1.0,), 1.0), examples, tmp_path / "targets", lambda moment: None, of_teachers="",
                pad=0)
    fit(model, tokenizer, COMMANDS, COMMANDS[:4], how, tmp_path, seed=1, tell=lambda moment: None,
        trainer=trainer_of(Lesson(how.soft, kept=kept), "one"))
    kept.close()
    assert far(model, teacher, examples[:4]) < 0.6 * before


def test_layers_are_matched_through_maps_that_are_not_exported(
    made: tuple[Any, Any], teacher: Any, tmp_path: Path,
) -> None:
    model, tokenizer = begin.from_scratch(student(), COMMANDS, None, 3)
    names = set(model.state_dict())
    wanted = Match(hidden=1.0, attention=1.0)
    match.attach_maps(model, 96, 0)
    for each in (model, teacher):
        each.set_attn_implementation("eager")
    batch = torch.tensor([rows(tokenizer, COMMANDS)[0].input_ids])

    def apart() -> float:
        own, its = (each.eval()(input_ids=batch, output_hidden_states=True, output_attentions=True)
                    for each in (model, teacher))
        return float(match.difference(model, own, its, torch.ones_like(batch).bool(), wanted).detach())

    before = apart()
    how = student(match=wanted, epochs=8, learning_rate=5e-3, evaluations=1)
    lesson = Lesson(match=wanted, teachers=Teachers((teacher,), (1.0,), 1.0))
    fit(model, tokenizer, COMMANDS, COMMANDS[:4], how, tmp_path, seed=1, tell=lambda moment: None,
        trainer=trainer_of(lesson, "two"))
    assert apart() < 0.8 * before
    match.take_maps_off(model)
    save(model.save_pretrained, tokenizer, tmp_path / "model")
    from transformers import AutoModelForCausalLM

    assert set(AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()) == names


def test_a_teacher_of_another_vocabulary_is_refused(made: tuple[Any, Any], folder: Path, tiny_hf: Path) -> None:
    require_same_words(made[1], len(made[1]), [folder], tokenizer_of)
    with pytest.raises(InvalidRequest, match="another vocabulary"):
        require_same_words(made[1], len(made[1]), [tiny_hf], tokenizer_of)


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
