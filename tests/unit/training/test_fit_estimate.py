"""What a fit will take, before it starts; and refusals that say what would fit."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edged.errors import ConfigError, DeviceUnavailable, InsufficientMemory, InsufficientStorage, InvalidRequest
from edged.hardware.facts import Cpu, Facts, Gpu, Memory
from edged.store.space import MARGIN_BYTES
from edged.toml_file import TomlFile
from tests.hf_folders import hf_files, put, weights
from tests.unit.training.characters import Characters
from training import sizes
from training.data.made import DataMade, lengths_of
from training.estimate import check, estimate, in_sentence, require, require_machine
from training.examples import Example, Message, identity, write_examples
from training.recipe import Answers, Architecture, Data, Distil, Finetune, Preferences, Recipe, Student, Teacher
from training.run import Moment, Run
from training.sizes import Lesson, ModelSize, lesson, longest_of_teachers, model_size

pytestmark = pytest.mark.unit

GB = 10**9
SMALL = ModelSize(parameters=135_000_000, trainable=5_000_000, hidden=576, intermediate=1536, layers=30,
                  heads=9, vocabulary=49_152, context=8192)
LEARNED = Lesson(examples=800, tokens=80_000, longest=256, checked_tokens=10_000)
LORA = Finetune()


def facts(memory_bytes: int = 64 * GB, **more: Any) -> Facts:
    cpu = Cpu(model="x", physical=4, logical=4, usable=4, fast=4)
    return Facts(system="Linux", architecture="x86_64", cpu=cpu,
                 memory=Memory(total=memory_bytes, available=memory_bytes), **more)


@given(st.integers(1, 64), st.integers(1, 2000), st.booleans(), st.sampled_from(["full", "lora", "dora"]))
def test_more_of_anything_never_needs_less(batch: int, longest: int, checkpointing: bool, method: Any) -> None:
    how = Finetune(batch_size=batch, checkpointing=checkpointing, method=method)
    learned = replace(LEARNED, longest=longest)
    needs = estimate(SMALL, learned, how)
    for more in (estimate(SMALL, replace(learned, longest=longest + 1), how),
                 estimate(SMALL, learned, replace(how, batch_size=batch + 1)),
                 estimate(replace(SMALL, trainable=6_000_000), learned, how),
                 estimate(SMALL, learned, replace(how, devices=2))):
        assert more.memory_bytes > needs.memory_bytes
    assert estimate(SMALL, learned, replace(how, checkpointing=True)).memory_bytes <= needs.memory_bytes


def test_steps_and_time_follow_the_epochs() -> None:
    once = estimate(SMALL, LEARNED, replace(LORA, epochs=1.0, evaluations=1), flops_per_s=1e11)
    thrice = estimate(SMALL, LEARNED, replace(LORA, epochs=3.0, evaluations=1), flops_per_s=1e11)
    few = estimate(SMALL, LEARNED, replace(LORA, max_steps=10), flops_per_s=1e11)
    assert (once.steps, thrice.steps, few.steps) == (100, 300, 10)
    assert once.seconds is not None
    assert thrice.seconds is not None
    assert 2.5 < thrice.seconds / once.seconds <= 3
    assert estimate(SMALL, LEARNED, LORA).seconds is None


def test_preferences_take_their_own_time_and_memory() -> None:
    learned = replace(LEARNED, preferences=Lesson(examples=80, tokens=40_000, longest=256, checked_tokens=0))
    how = replace(LORA, epochs=1.0, evaluations=1)
    after = replace(how, preferences=Preferences(epochs=2.0))
    alone, both = (estimate(SMALL, learned, each, flops_per_s=1e11) for each in (how, after))
    assert (alone.steps, both.steps) == (100, 100 + 20)
    assert alone.seconds is not None
    assert both.seconds is not None
    assert both.seconds > alone.seconds
    # Each example is two rows, and what is trained is there once more, as it was before.
    assert both.logits_bytes == 2 * alone.logits_bytes
    assert both.activations_bytes == 2 * alone.activations_bytes
    assert both.weights_bytes == alone.weights_bytes + SMALL.trainable * 4
    with pytest.raises(InsufficientMemory, match="batch_size = "):
        require(SMALL, learned, after, facts(alone.memory_bytes), free_disk_bytes=100 * GB)
    require(SMALL, learned, how, facts(alone.memory_bytes), free_disk_bytes=100 * GB)


def test_short_preferences_need_no_more_memory_than_what_comes_before() -> None:
    learned = replace(LEARNED, preferences=Lesson(examples=8, tokens=80, longest=8, checked_tokens=0))
    after = replace(LORA, preferences=Preferences())
    assert estimate(SMALL, learned, after).memory_bytes == estimate(SMALL, learned, LORA).memory_bytes


def test_what_fits_is_not_refused() -> None:
    require(SMALL, LEARNED, LORA, facts(), free_disk_bytes=100 * GB)


def test_too_little_memory_is_refused_with_settings_that_fit() -> None:
    needs = estimate(SMALL, LEARNED, LORA).memory_bytes
    with pytest.raises(InsufficientMemory) as caught:
        require(SMALL, LEARNED, LORA, facts(int(needs * 0.6)), free_disk_bytes=100 * GB)
    assert "batch_size = " in caught.value.message
    assert "logits" in caught.value.message
    said = dict(part.split(" = ") for part in caught.value.message.partition("with ")[2].replace(
        ", or with ", " and ").split(" and "))
    tried = replace(LORA, batch_size=int(said["batch_size"]))
    assert estimate(SMALL, LEARNED, tried).memory_bytes <= needs * 0.6
    assert int(said["batch_size"]) * int(said["accumulation"]) == LORA.batch_size


def test_full_training_may_fit_as_lora() -> None:
    full = replace(SMALL, trainable=SMALL.parameters)
    how = Finetune(method="full", batch_size=1)
    with pytest.raises(InsufficientMemory, match='method = "lora"'):
        require(full, LEARNED, how, facts(estimate(full, LEARNED, how).memory_bytes - 10**9), free_disk_bytes=100 * GB)


def test_what_nothing_makes_fit_says_so() -> None:
    with pytest.raises(InsufficientMemory, match="No setting makes it fit"):
        require(SMALL, LEARNED, LORA, facts(GB), free_disk_bytes=100 * GB)


def test_a_full_disk_is_refused() -> None:
    with pytest.raises(InsufficientStorage, match="checkpoints"):
        require(SMALL, LEARNED, LORA, facts(), free_disk_bytes=10**7)


def test_examples_beyond_the_context_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"data\.max_tokens = 8192"):
        require(SMALL, replace(LEARNED, longest=9000), LORA, facts(), free_disk_bytes=100 * GB)


def test_more_devices_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceUnavailable, match="4 cores"):
        require(SMALL, LEARNED, replace(LORA, devices=5), facts(), free_disk_bytes=100 * GB)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu130")
    one_card = facts(gpus=(Gpu(vendor="nvidia", name="x", memory_bytes=80 * GB),))
    require(SMALL, LEARNED, LORA, one_card, free_disk_bytes=100 * GB)
    with pytest.raises(DeviceUnavailable, match="1 cards"):
        require(SMALL, LEARNED, replace(LORA, devices=2), one_card, free_disk_bytes=100 * GB)


def test_what_the_machine_cannot_do_is_refused_before_any_data_are_read() -> None:
    recipe = Recipe(name="x", base="./base", finetune=Finetune(devices=5))
    with pytest.raises(DeviceUnavailable, match="4 cores"):
        require_machine(recipe, facts())
    require_machine(Recipe(name="x", base="./base", finetune=LORA), facts())
    require_machine(Recipe(name="x", base="./base"), facts())


def test_on_a_card_its_own_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cu130")
    card = facts(gpus=(Gpu(vendor="nvidia", name="x", memory_bytes=2 * GB),))
    with pytest.raises(InsufficientMemory, match=r"2\.0 GB are free"):
        require(SMALL, LEARNED, LORA, card, free_disk_bytes=100 * GB)


def example(prompt: str, answer: str, teacher: str | None = None) -> Example:
    messages = (Message("user", prompt),)
    return Example(id=identity(messages), prompt=messages, answer=Message("assistant", answer), teacher=teacher)


def run_with(folder: Path, **more: Any) -> Run:
    """Stage data has ended, and the base is there: two layers' worth of tensors."""
    tensors = {"model.embed_tokens.weight": (100, 8), "model.layers.0.self_attn.q_proj.weight": (8, 8),
               "model.layers.0.mlp.up_proj.weight": (32, 8), "model.norm.weight": (8,)}
    config = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1,
              "max_position_embeddings": 64}
    put(folder / "base", {**hf_files(**config), "model.safetensors": weights(**tensors)})
    (folder / "run").mkdir()
    run = Run(folder / "run", Recipe(name="x", base="./base", data=Data(train=("t",)), **more),
              TomlFile(folder / "recipe.toml", "", {}))
    run.begin("data")
    write_examples(run.path("data") / "train.jsonl", [example(str(number), "y") for number in range(10)])
    write_examples(run.path("data") / "validation.jsonl", [example("v", "y")])
    write_examples(run.path("data") / "test.jsonl", [])
    run.mark("data", "k", 0.0, DataMade(
        digest="d", train=10, validation=1, test=0, dropped={}, strata={}, files=(),
        lengths={"train": lengths_of([(20, 5)] * 10), "validation": lengths_of([(20, 5)])}))
    return run


def test_the_recipe_and_the_headers_tell_what_is_trained(tmp_path: Path) -> None:
    run = run_with(tmp_path, finetune=Finetune(rank=2))
    size = model_size(run, Finetune(rank=2))
    assert (size.parameters, size.trainable) == (800 + 64 + 256 + 8, 2 * (8 + 8) + 2 * (32 + 8))
    assert model_size(run, Finetune(rank=2, targets=("q_proj",))).trainable == 2 * 16
    assert model_size(run, Finetune(rank=2, method="dora")).trainable == size.trainable + 8 + 32
    assert model_size(run, Finetune(method="full")).trainable == size.parameters


def test_a_student_from_scratch_is_counted_by_its_architecture(tmp_path: Path) -> None:
    how = Student()
    size = model_size(run_with(tmp_path, distil=Distil(student=how)), how)
    assert (size.vocabulary, size.context, size.trainable) == (100, 1024, size.parameters)
    layer = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768 + 2 * 256
    assert size.parameters == 100 * 256 + 4 * layer + 256


def test_it_is_told_before_it_starts(tmp_path: Path) -> None:
    told: list[Moment] = []
    needs = check(run_with(tmp_path, finetune=Finetune(rank=2)), told.append, facts=facts())
    assert needs.steps == 6
    assert [moment.note for moment in told] == [in_sentence(needs)]
    assert needs.seconds is not None


def test_what_an_earlier_start_has_written_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(tmp_path, finetune=Finetune(rank=2))
    needs = check(run, lambda moment: None, facts=facts())
    free = needs.disk_bytes + MARGIN_BYTES - 1000
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(InsufficientStorage):
        check(run, lambda moment: None, facts=facts())
    # Soft targets and logs stay, and are no part of what it needs.
    (run.path("finetune") / "targets").mkdir(parents=True)
    (run.path("finetune") / "targets" / "part").write_bytes(bytes(1000))
    with pytest.raises(InsufficientStorage):
        check(run, lambda moment: None, facts=facts())
    checkpoint = run.path("finetune") / "checkpoints" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes(1000))
    assert check(run, lambda moment: None, facts=facts()).disk_bytes == needs.disk_bytes


PAIR = {"prompt": "on?", "chosen": "yes", "rejected": "no, and a long reason why not"}


def test_preferences_are_read_before_anything_is_learned(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n" + json.dumps({**PAIR, "prompt": "v"}) + "\n")
    how = Finetune(rank=2, preferences=Preferences(data=("pairs.jsonl",)))
    run = run_with(tmp_path, finetune=how)
    # That of the validation split is not learned.
    assert lesson(run).preferences == Lesson(examples=1, tokens=2 + 2 + 2 + 10, longest=12, checked_tokens=0)
    assert check(run, lambda moment: None, facts=facts()).steps == 6 + 1
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + '\n{"prompt": "off?", "chosen": "yes"}\n')
    with pytest.raises(ConfigError, match=r"pairs\.jsonl:2"):
        check(run, lambda moment: None, facts=facts())


def test_preferences_that_are_all_held_out_are_told_before_anything_is_learned(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps({**PAIR, "prompt": "v"}) + "\n")
    run = run_with(tmp_path, finetune=Finetune(rank=2, preferences=Preferences(data=("pairs.jsonl",))))
    with pytest.raises(InvalidRequest, match=r"finetune\.preferences: no example"):
        check(run, lambda moment: None, facts=facts())


def test_an_example_longer_than_the_context_is_found(tmp_path: Path) -> None:
    run = run_with(tmp_path, finetune=Finetune(rank=2))
    made = json.loads((run.path("data") / "done.json").read_bytes())
    made["value"]["lengths"]["train"]["whole"]["most"] = 65
    (run.path("data") / "done.json").write_text(json.dumps(made))
    with pytest.raises(InvalidRequest, match="the model reads 64"):
        check(run, lambda moment: None, facts=facts())


TEACHERS = Answers(teachers=(Teacher(model="big"),))


def answered(run: Run, *answers: str) -> Run:
    run.begin("answers")
    write_examples(run.path("answers") / "examples.jsonl", [
        example(str(number), answer, teacher="big") for number, answer in enumerate(answers)])
    run.mark("answers", "k", 0.0, None)
    return run


def longest_prompt(run: Run, tokens: int) -> None:
    """Of one of the data."""
    made = DataMade(digest="d", train=10, validation=1, test=0, dropped={}, strata={}, files=(),
                    lengths={"train": lengths_of([(20, 5)] * 9 + [(tokens, 1)]), "validation": lengths_of([(20, 5)])})
    run.mark("data", "k", 0.0, made)


def test_the_longest_prompt_and_the_longest_answer_are_not_taken_for_one_example(tmp_path: Path) -> None:
    """A student of 1,024 positions: 600 and 512 tokens of two examples are not too long for it."""
    run = answered(run_with(tmp_path, distil=Distil(answers=TEACHERS, student=Student())), "y" * 3 * 511)
    longest_prompt(run, 600)
    assert lesson(run).longest == 600 + 512
    needs = check(run, lambda moment: None, facts=facts())
    # What is longer than its context is refused as the student reads it, so no more memory is asked for.
    learned = replace(lesson(run), longest=1024)
    assert needs.memory_bytes == estimate(model_size(run, Student()), learned, Student()).memory_bytes


def test_lengths_that_the_bases_tokenizer_counted_refuse_no_student_with_another(tmp_path: Path) -> None:
    short = Architecture(context=32)
    run = run_with(tmp_path, distil=Distil(student=Student(architecture=short, tokenizer="own")))
    longest_prompt(run, 40)
    check(run, lambda moment: None, facts=facts())
    for alike in (Student(architecture=short), Finetune(rank=2)):
        recipe = replace(run.recipe, distil=None, finetune=alike) if isinstance(alike, Finetune) else \
            replace(run.recipe, distil=Distil(student=alike))
        longest_prompt(run, 70)
        with pytest.raises(InvalidRequest, match="the longest example has 71 tokens"):
            check(Run(run.folder, recipe, run.file), lambda moment: None, facts=facts())


@pytest.mark.parametrize(("answer", "tokens"), [("y" * 40, None), ("y" * 50, 71)])
def test_what_teachers_answered_is_counted_as_the_base_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, tokens: int | None,
) -> None:
    monkeypatch.setattr(sizes, "tokenizer_of", lambda folder: Characters())
    run = answered(run_with(tmp_path, finetune=Finetune(rank=2), distil=Distil(answers=TEACHERS)), answer)
    longest_prompt(run, 60)
    if tokens is None:
        check(run, lambda moment: None, facts=facts())
        return
    with pytest.raises(InvalidRequest, match=rf"a teacher answered has {tokens} tokens.* reads 64.*max_characters"):
        check(run, lambda moment: None, facts=facts())


def test_short_answers_of_teachers_are_not_tokenized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "tokenizer_of", lambda folder: pytest.fail("a tokenizer was loaded"))
    run = answered(run_with(tmp_path, finetune=Finetune(rank=2), distil=Distil(answers=TEACHERS)), "y")
    assert longest_of_teachers(run, 1024) == 0


def test_data_beyond_the_context_are_refused_beside_what_teachers_answered(tmp_path: Path) -> None:
    student = Student(architecture=Architecture(context=64))
    run = answered(run_with(tmp_path, distil=Distil(answers=TEACHERS, student=student)), "y")
    longest_prompt(run, 70)
    with pytest.raises(InvalidRequest, match=r"has 71 tokens.*data\.max_tokens = 64"):
        check(run, lambda moment: None, facts=facts())
