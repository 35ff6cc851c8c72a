"""Stage data as a whole: files in, three splits out, with every row accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.errors import ConfigError, InvalidRequest
from edged.store import Store
from edged.store.captured import Answer
from edged.store.captured_files import CapturedFiles
from edged.toml_file import TomlFile
from tests.hf_folders import hf_files, put
from tests.unit.training.characters import CHATML, Characters
from tests.unit.training.jaccard import similarity
from training.data import stage
from training.data.made import DataMade, table
from training.data.near import words_of
from training.examples import Example, Message, read_examples
from training.recipe import Data, Recipe
from training.run import Moment, Run
from training.split import SPLITS, split_file

pytestmark = pytest.mark.unit

Rows = list[dict[str, Any]]
Make = Callable[..., tuple[DataMade, dict[str, list[Example]], list[Moment]]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Runs the stage over rows by file name; keys of [data] as keywords."""
    put(tmp_path / "base", hf_files())
    monkeypatch.setattr(stage, "tokenizer_of", lambda folder: Characters(CHATML))

    def made(files: dict[str, Rows], seed: int = 0, **data: Any) -> Any:
        for name, rows in files.items():
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        said: dict[str, Any] = {"train": ("train.jsonl",), **data}
        run = run_of(tmp_path, seed, **said)
        run.begin("data")
        told: list[Moment] = []
        result = stage.make(run, told.append)
        return result, {name: list(read_examples(split_file(run, name))) for name in SPLITS}, told

    return made


def run_of(folder: Path, seed: int = 0, **data: Any) -> Run:
    (folder / "run").mkdir(exist_ok=True)
    return Run(folder / "run", Recipe(name="x", base="./base", seed=seed, data=Data(**data)),
               TomlFile(folder / "recipe.toml", "", {}))


def pairs(count: int, **more: Any) -> Rows:
    return [{"prompt": f"question {number}", "answer": f"answer {number}", **more} for number in range(count)]


def prompts(examples: list[Example]) -> list[str]:
    return [example.prompt[-1].content for example in examples]


def everything(splits: dict[str, list[Example]]) -> list[str]:
    return [prompt for examples in splits.values() for prompt in prompts(examples)]


def test_validation_and_test_come_out_of_train_by_their_shares(make: Make) -> None:
    made, splits, _ = make({"train.jsonl": pairs(100)}, validation_share=0.15, test_share=0.1)
    assert (made.train, made.validation, made.test) == (75, 15, 10)
    assert [len(splits[name]) for name in SPLITS] == [75, 15, 10]
    assert sorted(everything(splits)) == sorted(f"question {number}" for number in range(100))


def test_files_of_their_own_are_the_splits(make: Make) -> None:
    _, splits, _ = make(
        {"train.jsonl": pairs(9)[:5], "v.jsonl": pairs(9)[5:7], "t.jsonl": pairs(9)[7:]}, validation=("v.jsonl",),
        test=("t.jsonl",))
    assert [prompts(splits[name]) for name in SPLITS] == [
        [f"question {number}" for number in range(5)], ["question 5", "question 6"], ["question 7", "question 8"]]


def test_every_stratum_has_its_share_of_validation(make: Make) -> None:
    rows = [{**row, "kind": "rare" if number < 20 else "usual"} for number, row in enumerate(pairs(100))]
    made, _, _ = make({"train.jsonl": rows}, stratum="kind", validation_share=0.2)
    assert made.strata == {"rare": {"train": 16, "validation": 4, "test": 0},
                           "usual": {"train": 64, "validation": 16, "test": 0}}


def test_all_mistakes_are_told_with_file_and_line(make: Make) -> None:
    rows: Rows = [*pairs(3), {"prompt": "x", "answer": ""}, {"prompt": "y"}]
    with pytest.raises(ConfigError) as caught:
        make({"train.jsonl": rows})
    assert str(caught.value).splitlines() == [
        "2 of 5 rows are no examples; mend them, or set data.max_invalid_share to leave such rows out:",
        "  train.jsonl:4: `answer` is empty",
        "  train.jsonl:5: has no column for an answer (answer, answers, response, output, completion, target); it has "
        "the columns prompt. A template in [data] makes one of any columns"]


def test_mistakes_of_different_kinds_are_told_in_the_order_of_lines(make: Make, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,answer\n"one\ntwo",yes\nthree,\n"fo"ur,y\n,x\n')
    with pytest.raises(ConfigError) as caught:
        make({}, train=("a.csv",))
    assert [line.strip().partition(": ")[0] for line in str(caught.value).splitlines()[1:]] == [
        "a.csv:4", "a.csv:5", "a.csv:6"]


def test_of_many_mistakes_the_first_twenty_are_told(make: Make) -> None:
    with pytest.raises(ConfigError) as caught:
        make({"train.jsonl": pairs(30, answers=[]) and [{"prompt": "x", "answer": ""}] * 30})
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1].strip() == "and 10 more"


def test_a_share_of_wrong_rows_may_be_left_out_and_is_counted(make: Make) -> None:
    made, _, told = make({"train.jsonl": [*pairs(9), {"prompt": "x", "answer": ""}]}, max_invalid_share=0.1)
    assert (made.train + made.validation, made.dropped) == (9, {"invalid": 1})
    assert any("train.jsonl:10" in (moment.note or "") for moment in told)


def test_a_row_with_half_a_character_may_be_left_out(make: Make) -> None:
    half = r'[{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "x"}]'
    rows: Rows = [{"messages": half.replace(r"\ud83d", str(number))} for number in range(9)]
    made, _, told = make({"train.jsonl": [*rows, {"messages": half}]}, max_invalid_share=0.1)
    assert (made.train + made.validation, made.dropped) == (9, {"invalid": 1})
    assert any("train.jsonl:10: holds half a character" in (moment.note or "") for moment in told)


def test_what_the_bases_template_refuses_is_told_with_its_line(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% if messages[0].content == 'question 1' %}{{ messages[7].content.x }}{% endif %}" + CHATML
    monkeypatch.setattr(stage, "tokenizer_of", lambda folder: Characters(template))
    with pytest.raises(ConfigError, match=r"train\.jsonl:2: the chat template of this base refuses"):
        make({"train.jsonl": pairs(3)})


def test_a_base_without_a_template_is_told_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "tokenizer_of", lambda folder: Characters(None))
    with pytest.raises(InvalidRequest, match="the base has no chat template"):
        make({"train.jsonl": pairs(3)})


def test_longer_examples_are_left_out(make: Make) -> None:
    made, splits, _ = make({"train.jsonl": [*pairs(9), {"prompt": "long", "answer": "x" * 200}]}, max_tokens=100)
    assert made.dropped == {"too_long": 1}
    assert "long" not in everything(splits)
    assert made.lengths["train"].whole.most <= 100


def test_equal_rows_count_once_and_contradictions_are_told(make: Make) -> None:
    rows = [*pairs(9), {"prompt": "question 3", "answer": "answer 3"}, {"prompt": "question 4", "answer": "other"}]
    made, splits, told = make({"train.jsonl": rows})
    assert made.dropped == {"duplicate": 1, "contradiction": 1}
    assert not any(example.answer is not None and example.answer.content == "other" for example in splits["train"])
    assert any("train.jsonl:11 because of train.jsonl:5" in (moment.note or "") for moment in told)


def test_a_prompt_may_have_several_preferences_and_they_stay_together(make: Make) -> None:
    rows = [{"prompt": f"q{number % 5}", "chosen": f"good {number}", "rejected": "bad"} for number in range(20)]
    made, splits, _ = make({"train.jsonl": rows}, validation_share=0.2)
    assert (made.train, made.validation, made.dropped) == (16, 4, {})
    assert not set(prompts(splits["train"])) & set(prompts(splits["validation"]))


def test_what_is_held_out_is_taken_from_train(make: Make) -> None:
    made, splits, told = make(
        {"train.jsonl": pairs(9), "t.jsonl": [{"prompt": "question 2", "answer": "another"}], "v.jsonl": pairs(9)[8:]},
        test=("t.jsonl",), validation=("v.jsonl",))
    assert made.dropped == {"in_test": 1, "in_validation": 1}
    assert prompts(splits["test"]) == ["question 2"]
    assert any("train.jsonl:3 because of t.jsonl:1" in (moment.note or "") for moment in told)


LIKE = [{"prompt": "please turn on the big lamp in the hall", "answer": "1"},
        {"prompt": "Please turn on the big lamp in the HALL", "answer": "2"}]


def test_near_prompts_in_a_held_out_split_are_told_and_kept(make: Make) -> None:
    made, _, told = make({"train.jsonl": [*pairs(5), LIKE[0]], "v.jsonl": [LIKE[1]]}, validation=("v.jsonl",))
    assert (made.train, made.near) == (6, {"validation": 1})
    assert any("near_duplicates = 0.8" in (moment.note or "") for moment in told)


def test_near_prompts_are_left_out_where_the_recipe_says_so(make: Make) -> None:
    made, splits, _ = make({"train.jsonl": [*pairs(5), *LIKE], "v.jsonl": [LIKE[1]]}, validation=("v.jsonl",),
                           near_duplicates=0.8)
    assert (made.train, made.dropped) == (5, {"near_validation": 1, "in_validation": 1})
    assert prompts(splits["validation"]) == [LIKE[1]["prompt"]]


def test_a_limit_draws_by_the_seed(make: Make) -> None:
    drawn = [frozenset(everything(make({"train.jsonl": pairs(50)}, seed=seed, limit=20)[1]))
             for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 20


def test_prompts_alone_are_not_split_before_they_are_answered(make: Make) -> None:
    made, _, _ = make({"train.jsonl": [{"prompt": f"p{number}"} for number in range(10)]})
    assert (made.train, made.validation) == (10, 0)


def test_prompts_without_an_answer_are_all_for_training_and_shares_are_of_those_with_one(make: Make) -> None:
    unanswered = [{"prompt": f"p{number}"} for number in range(80)]
    made, splits, _ = make({"train.jsonl": pairs(20), "more.jsonl": unanswered}, train=("train.jsonl", "more.jsonl"),
                           validation_share=0.25)
    assert (made.train, made.validation) == (95, 5)
    assert all(example.answer is not None for example in splits["validation"])


@pytest.mark.parametrize(("rows", "told"), [
    ([], "nothing is left for train"), (pairs(1), "nothing is left for train"),
    ([{"prompt": "a", "answer": "x" * 99}] * 3, "2 |longer than max_tokens"),
])
def test_too_few_rows_are_told(make: Make, rows: Rows, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        make({"train.jsonl": rows}, max_tokens=80)


def test_columns_that_nobody_knows_are_told_with_those_that_are(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"train\.jsonl: nobody can tell.*\(text\)"):
        make({"train.jsonl": [{"text": "x"}]})


@pytest.fixture
def captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Eight answers, as the daemon writes them; what a recipe calls them."""
    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    layout = Store(tmp_path / "home").layout
    writer = CapturedFiles(layout, most_bytes=10**8, most_s=1e6)
    for number in range(8):
        thoughts = {"reasoning_content": "Hm."} if number == 0 else {}
        answer = Answer(
            id=str(number), at=1.0, model="small", version="0123456789ab", adapter=None, tools=[],
            messages=[{"role": "user", "content": f"light {number}"},
                      {"role": "assistant", "content": "on", **thoughts}],
            finish_reason="stop", prompt_tokens=3, completion_tokens=1, client=None)
        writer.append("small", msgspec.json.encode(answer) + b"\n")
    writer.close()
    return "captured:small"


def test_captured_answers_are_learned(make: Make, captured: str) -> None:
    made, splits, told = make({}, train=(captured,), stratum="version")
    assert (made.train, made.validation) == (7, 1)
    assert prompts(splits["train"]) == [f"light {number}" for number in range(8) if f"light {number}" != prompts(
        splits["validation"])[0]]
    assert made.strata["0123456789ab"]["train"] == 7
    assert any("1 answers come with thoughts" in (moment.note or "") for moment in told)


COMMANDS: Rows = [{"command": f"lamp {number}", "json": "{}", "kind": "lamp"} for number in range(4)]


@pytest.mark.parametrize("form", ["auto", "pairs"])
@pytest.mark.parametrize("stratum", ["kind", "{{ kind }}"])
def test_captured_answers_are_conversations_whatever_the_files_beside_them_are(
    make: Make, captured: str, form: str, stratum: str,
) -> None:
    made, splits, _ = make({"train.jsonl": COMMANDS}, train=("train.jsonl", captured), form=form, system="Say JSON.",
                           prompt="{{ command }}", answer="{{ json }}", stratum=stratum)
    found = {each.prompt[-1].content: each for name in SPLITS for each in splits[name]}
    assert len(found) == made.train + made.validation == 12
    assert {each.prompt[0] for each in found.values()} == {Message("system", "Say JSON.")}
    assert [(found[prompt].answer, found[prompt].stratum) for prompt in ("lamp 0", "light 0")] == [
        (Message("assistant", "{}"), "lamp"), (Message("assistant", "on"), None)]


def test_a_template_over_conversations_is_for_captured_ones_too(make: Make, captured: str) -> None:
    rows = [{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "off"}]}]
    _, splits, _ = make({"train.jsonl": rows}, train=("train.jsonl", captured),
                        answer="{{ messages[-1].content | upper }}")
    assert {each.answer.content for name in SPLITS for each in splits[name] if each.answer} == {"OFF", "ON"}


@pytest.mark.parametrize("said", [{"stratum": "kind"}, {"system": "{{ who }}"}, {"answer": "{{ json }}"}])
def test_of_captured_answers_alone_all_that_the_recipe_says_is_meant(
    make: Make, captured: str, said: dict[str, str],
) -> None:
    with pytest.raises(ConfigError, match="8 of 8 rows are no examples"):
        make({}, train=(captured,), **said)


def test_the_key_changes_with_the_files_the_recipe_and_the_base(make: Make, tmp_path: Path) -> None:
    make({"train.jsonl": pairs(5)})
    key = stage.key(run_of(tmp_path, train=("train.jsonl",)))
    assert stage.key(run_of(tmp_path, train=("train.jsonl",))) == key
    others = {stage.key(run_of(tmp_path, 1, train=("train.jsonl",))),
              stage.key(run_of(tmp_path, train=("train.jsonl",), max_tokens=9))}
    (tmp_path / "base" / "config.json").write_bytes(hf_files(x=1)["config.json"])
    others.add(stage.key(run_of(tmp_path, train=("train.jsonl",))))
    (tmp_path / "train.jsonl").write_text('{"prompt": "x", "answer": "y"}\n')
    others.add(stage.key(run_of(tmp_path, train=("train.jsonl",))))
    assert len(others | {key}) == 5


def test_the_report_is_a_file_for_machines_and_one_for_people(make: Make, tmp_path: Path) -> None:
    made, _, _ = make({"train.jsonl": pairs(20, kind="a")}, stratum="kind")
    assert json.loads((tmp_path / "run" / "data" / "report.json").read_bytes())["digest"] == made.digest
    text = (tmp_path / "run" / "data" / "report.txt").read_text()
    assert text == table(made)
    assert "stratum" in text
    assert max(map(len, text.splitlines())) <= 100


WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=6).map(" ".join)
TABLES = st.lists(
    st.fixed_dictionaries({"prompt": WORDS, "answer": WORDS, "kind": st.sampled_from("xyz")}), min_size=3, max_size=25)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=TABLES, test=TABLES, near=st.sampled_from([None, 0.5, 0.9]), seed=st.integers(0, 2))
def test_any_table_is_split_without_leaks_and_every_row_is_accounted_for(
    make: Make, train: Rows, test: Rows, near: float | None, seed: int,
) -> None:
    asked = {"test": ("test.jsonl",), "near_duplicates": near, "stratum": "kind", "validation_share": 0.2}
    enough = [{"prompt": f"only {number} here", "answer": "x", "kind": "x"} for number in range(2)]
    files = {"train.jsonl": train + enough, "test.jsonl": test}
    made, splits, _ = make(files, seed=seed, **asked)
    again, _, _ = make(files, seed=seed, **asked)
    assert again == made
    assert made.train + made.validation + made.test + sum(made.dropped.values()) == len(train) + len(test) + 2
    rest = made.train + made.validation
    assert made.validation == max(1, round(0.2 * rest))
    everywhere = [(name, example) for name in SPLITS for example in splits[name]]
    for index, (one, example) in enumerate(everywhere):
        for other, another in everywhere[index + 1:]:
            assert example.id != another.id
            if near is not None and one != other:
                assert similarity(words_of(example), words_of(another)) < near
