"""Who learns from what: splits by stratum, teachers' answers, and that nothing held out is learned from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import ConfigError, InvalidRequest
from edged.toml_file import TomlFile
from tests.unit.training.characters import CHATML, Characters
from training import split
from training.examples import Example, Message, identity, write_examples
from training.finetune.preferred import candidates, preferred
from training.recipe import Answers, Data, Distil, Preferences, Recipe, Teacher
from training.run import Moment, Run
from training.split import SplitName, shared_out, split_file, training_examples, validation_examples

pytestmark = pytest.mark.unit

GROUPS = st.dictionaries(st.text(max_size=4), st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=80)


def example(prompt: str, answer: str | None = None, **more: Any) -> Example:
    messages = (Message("user", prompt),)
    said = Message("assistant", answer) if answer is not None else None
    return Example(id=identity(messages), prompt=messages, answer=said, **more)


def run_with(folder: Path, distil: Distil | None = None, **data: Any) -> Run:
    recipe = Recipe(name="x", base="./base", data=Data(train=("t.jsonl",), **data), distil=distil)
    return Run(folder, recipe, TomlFile(folder / "recipe.toml", "", {}))


def made(run: Run, **splits: list[Example]) -> Run:
    run.begin("data")
    for name in ("train", "validation", "test"):
        write_examples(run.path("data") / f"{name}.jsonl", splits.get(name, []))
    run.mark("data", "k", 0.0, None)
    return run


def answered(run: Run, examples: list[Example]) -> Run:
    run.begin("answers")
    write_examples(run.path("answers") / "examples.jsonl", examples)
    run.mark("answers", "k", 0.0, None)
    return run


TEACHERS = Answers(teachers=(Teacher(model="big"),))


@given(GROUPS, st.floats(0.05, 0.5), st.sampled_from([0.0, 0.1, 0.25, 0.5]), st.integers(0, 3))
def test_every_split_gets_its_share_of_all_and_of_every_stratum(
    groups: dict[str, str | None], validation: float, test: float, seed: int,
) -> None:
    shares: dict[SplitName, float] = {"validation": validation, "test": test}
    found = shared_out(list(groups.items()), shares, seed)
    assert found.keys() == groups.keys()
    counts = Counter(found.values())
    wanted = max(1, round(validation * len(groups)))
    assert abs(counts["validation"] - wanted) <= 1e-9
    assert counts["test"] == (min(len(groups) - wanted, max(1, round(test * len(groups)))) if test else 0)
    for stratum in set(groups.values()):
        members = [group for group in groups if groups[group] == stratum]
        inside = sum(found[group] == "validation" for group in members)
        assert abs(inside - wanted * len(members) / len(groups)) < 1


@given(GROUPS, st.integers(0, 3), st.randoms())
def test_the_order_of_rows_changes_nothing(groups: dict[str, str | None], seed: int, random: Any) -> None:
    shares: dict[SplitName, float] = {"validation": 0.2, "test": 0.1}
    mixed = list(groups.items())
    random.shuffle(mixed)
    assert shared_out(mixed, shares, seed) == shared_out(list(groups.items()), shares, seed)


def test_another_seed_draws_others() -> None:
    groups = [(str(number), None) for number in range(100)]
    draws = {frozenset(group for group, name in shared_out(groups, {"validation": 0.2}, seed).items()
                       if name == "validation") for seed in range(5)}
    assert len(draws) == 5


def test_data_is_learned_from_as_it_was_split(tmp_path: Path) -> None:
    run = made(run_with(tmp_path), train=[example("a", "1")], validation=[example("b", "2")], test=[example("c", "3")])
    assert [each.answer for each in training_examples(run)] == [Message("assistant", "1")]
    assert [each.answer for each in validation_examples(run)] == [Message("assistant", "2")]
    assert [each.answer for each in split.test_examples(run)] == [Message("assistant", "3")]


def test_without_test_data_validation_is_measured_on(tmp_path: Path) -> None:
    run = made(run_with(tmp_path), train=[example("a", "1")], validation=[example("b", "2")])
    assert split.test_examples(run) == validation_examples(run)


def test_teachers_answers_are_learned_from_beside_the_data(tmp_path: Path) -> None:
    run = made(run_with(tmp_path, Distil(answers=TEACHERS)), train=[example("a", "1")], validation=[example("b", "2")])
    answered(run, [example("a", "one", teacher="big")])
    assert [each.teacher for each in training_examples(run)] == [None, "big"]


def test_keep_data_false_sets_the_original_answers_aside(tmp_path: Path) -> None:
    alone = Answers(teachers=TEACHERS.teachers, keep_data=False)
    run = made(run_with(tmp_path, Distil(answers=alone)), train=[example("a", "1")], validation=[example("b", "2")])
    answered(run, [example("a", "one", teacher="big")])
    assert [each.teacher for each in training_examples(run)] == ["big"]


def test_a_teachers_answer_to_a_held_out_prompt_is_not_learned(tmp_path: Path) -> None:
    run = made(run_with(tmp_path, Distil(answers=TEACHERS)), train=[example("a", "1")], validation=[example("b", "2")],
               test=[example("c", "3")])
    answered(run, [example("b", "two"), example("c", "three"), example("d", "four")])
    assert [each.prompt[0].content for each in training_examples(run)] == ["a", "d"]


def test_near_copies_of_held_out_prompts_are_not_learned_either(tmp_path: Path) -> None:
    run = made(run_with(tmp_path, Distil(answers=TEACHERS), near_duplicates=0.8), train=[example("a", "1")],
               validation=[example("turn on the lamp in the hall", "2")])
    answered(run, [example("Turn on  the lamp in the hall", "x"), example("close the door of the shed", "y")])
    assert [each.prompt[0].content for each in training_examples(run)] == ["a", "close the door of the shed"]


def test_of_prompts_alone_a_share_of_the_answers_is_held_out(tmp_path: Path) -> None:
    prompts = [example(str(number)) for number in range(40)]
    run = made(run_with(tmp_path, Distil(answers=TEACHERS), validation_share=0.25), train=prompts)
    answered(run, [example(str(number), text) for number in range(40) for text in ("one", "two")])
    train, validation = training_examples(run), validation_examples(run)
    assert (len(train), len(validation)) == (60, 10)
    assert not {each.id for each in train} & {each.id for each in validation}


def test_beside_an_answered_test_file_a_validation_share_of_the_answers_is_held_out(tmp_path: Path) -> None:
    prompts = [example(str(number)) for number in range(20)]
    run = made(run_with(tmp_path, Distil(answers=TEACHERS), validation_share=0.25), train=prompts,
               test=[example("t", "right")])
    answered(run, [example(str(number), "said") for number in range(20)])
    train, validation = training_examples(run), validation_examples(run)
    assert (len(train), len(validation)) == (15, 5)
    assert not {each.id for each in train} & {each.id for each in validation}
    assert [each.prompt[0].content for each in split.test_examples(run)] == ["t"]


def test_beside_an_answered_validation_file_a_test_share_of_the_answers_is_held_out(tmp_path: Path) -> None:
    prompts = [example(str(number)) for number in range(20)]
    run = made(run_with(tmp_path, Distil(answers=TEACHERS), test_share=0.25), train=prompts,
               validation=[example("v", "right")])
    answered(run, [example(str(number), "said") for number in range(20)])
    assert [each.prompt[0].content for each in validation_examples(run)] == ["v"]
    train, test = training_examples(run), split.test_examples(run)
    assert (len(train), len(test)) == (15, 5)
    assert split.tested_apart(run) == test
    assert not {each.id for each in train} & {each.id for each in test}


def test_without_test_data_what_is_measured_on_is_said_to_be_the_validation_split(tmp_path: Path) -> None:
    run = made(run_with(tmp_path), train=[example("a", "1")], validation=[example("v", "right")])
    assert split.test_examples(run) == validation_examples(run)
    assert split.tested_apart(run) == []


@pytest.mark.parametrize("near_duplicates", [None, 0.8])
def test_what_is_held_out_of_the_answers_is_not_learned_from_the_data_either(
    tmp_path: Path, near_duplicates: float | None,
) -> None:
    """Validation is a file of prompts alone."""
    original = [example(f"turn on the lamp in room {number}", "1") for number in range(20)]
    run = made(run_with(tmp_path, Distil(answers=TEACHERS), validation_share=0.25, near_duplicates=near_duplicates),
               train=original, validation=[example("v")])
    answered(run, [example(f"turn on the lamp in room {number}", "one", teacher="big") for number in range(20)])
    train, validation = training_examples(run), validation_examples(run)
    assert (len(train), len(validation)) == (30, 5)
    assert not {each.id for each in train} & {each.id for each in validation}


def test_preferences_of_prompts_that_are_held_out_of_the_answers_are_not_learned(tmp_path: Path) -> None:
    pairs = [example(str(number), "1", rejected=Message("assistant", "x")) for number in range(20)]
    run = made(run_with(tmp_path, Distil(answers=TEACHERS), validation_share=0.25), train=pairs,
               validation=[example("v")])
    answered(run, [example(str(number), "one") for number in range(20)])
    held_out = {each.id for each in validation_examples(run)}
    assert [each.id for each in candidates(run, Preferences())] == [
        each.id for each in pairs if each.id not in held_out]


@pytest.mark.parametrize(("near_duplicates", "learned"), [(None, ["near", "far"]), (0.8, ["far"])])
def test_preferences_with_near_copies_of_held_out_prompts_are_not_learned(
    tmp_path: Path, near_duplicates: float | None, learned: list[str],
) -> None:
    prompts = {"near": "Turn on  the lamp in the hall", "far": "close the door of the shed"}
    (tmp_path / "pairs.jsonl").write_bytes(b"".join(
        msgspec.json.encode({"prompt": prompt, "chosen": said, "rejected": "x"}) + b"\n"
        for said, prompt in {**prompts, "same": "turn on the lamp in the hall"}.items()))
    run = made(run_with(tmp_path, near_duplicates=near_duplicates, validation_share=0.0), train=[example("a", "1")],
               validation=[example("turn on the lamp in the hall", "2")])
    own = Preferences(data=("pairs.jsonl",))
    told: list[Moment] = []
    better, held_out = preferred(run, own, Characters(), told.append)
    assert [each.answer.content for each in better if each.answer] == learned
    assert held_out == []
    assert candidates(run, own) == better
    assert [moment.note for moment in told if f"{3 - len(learned)} of 3 preferences" in (moment.note or "")]


def test_wrong_rows_of_preferences_that_are_left_out_are_told(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        '{"prompt": "p", "chosen": "c", "rejected": "r"}\n{"prompt": "q", "chosen": "c", "rejected": ""}\n')
    run = made(run_with(tmp_path, max_invalid_share=0.5, validation_share=0.0))
    told: list[Moment] = []
    better, _ = preferred(run, Preferences(data=("pairs.jsonl",)), Characters(), told.append)
    assert [each.id for each in better] == [example("p").id]
    assert [(moment.stage, moment.note) for moment in told] == [
        ("finetune", "1 of 2 rows of finetune.preferences.data are no examples and left out"),
        ("finetune", "left out: pairs.jsonl:2: `rejected` is empty")]


def test_preferences_that_the_chat_template_refuses_are_told_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        '{"prompt": "p", "chosen": "c", "rejected": "r"}\n{"prompt": "q", "chosen": "c", "rejected": "twice"}\n')
    run = made(run_with(tmp_path, validation_share=0.0))
    cuts = Characters(CHATML.replace("{{ message.content }}", "{{ message.content[:3] }}"))
    with pytest.raises(ConfigError, match=r"pairs\.jsonl:2: the chat template"):
        preferred(run, Preferences(data=("pairs.jsonl",)), cuts, lambda moment: None)


def test_preferences_of_their_own_are_read_by_their_columns_whatever_the_data_are_made_of(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r", "json": "{}"}\n')
    run = made(run_with(tmp_path, prompt="{{ command }}", answer="{{ json }}", stratum="kind"))
    assert candidates(run, Preferences(data=("pairs.jsonl",))) == [
        example("p", "c", rejected=Message("assistant", "r"))]


def test_of_a_held_out_prompt_one_answer_is_right_the_one_that_most_say(tmp_path: Path) -> None:
    """Teachers' answers to one prompt, and preferences with several pairs, share its id."""
    pairs = [example("a", "1", rejected=Message("assistant", "x")), example("b", '{"on": true}'), example("a", "2"),
             example("b", "off", weight=1.5), example("a", " 2"), example("b", '{"on":true}')]
    run = made(run_with(tmp_path), train=[example("z", "1")], validation=pairs, test=pairs[::-1])
    assert [each.answer.content for each in validation_examples(run) if each.answer] == ["2", '{"on": true}']
    assert [(each.id, each.answer) for each in split.test_examples(run)] == [
        (pairs[5].id, pairs[5].answer), (pairs[4].id, pairs[4].answer)]


def test_data_without_answers_says_how_to_get_some(tmp_path: Path) -> None:
    run = made(run_with(tmp_path), train=[example("a")], validation=[example("b")])
    with pytest.raises(InvalidRequest, match=r"distil\.answers"):
        training_examples(run)
    with pytest.raises(InvalidRequest, match=r"data\.validation"):
        validation_examples(run)


def test_a_stage_that_has_not_ended_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="stage data has not ended"):
        training_examples(run_with(tmp_path))
    run = made(run_with(tmp_path, Distil(answers=TEACHERS)), train=[example("a", "1")])
    with pytest.raises(InvalidRequest, match="stage answers has not ended"):
        training_examples(run)


def test_a_split_is_a_file_of_stage_data(tmp_path: Path) -> None:
    assert split_file(run_with(tmp_path), "test") == tmp_path / "data" / "test.jsonl"
