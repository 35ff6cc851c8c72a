"""An evaluation of tiny models from the folder to the page, and metrics against the libraries that define them."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from edged.errors import InvalidRequest
from training.evaluate import race
from training.evaluate.evaluation import evaluate
from training.evaluate.items import Item
from training.evaluate.measure import read_items
from training.evaluate.metrics import METRICS
from training.evaluate.results import Memory
from training.evaluate.stage import EVALUATE, subjects_here
from training.evaluate.subject import Subject
from training.examples import Example, Message, identity, write_examples
from training.local_model import LocalModel
from training.recipe import Deploy, load_recipe
from training.reply import Reply
from training.run import Moment, Run, Trained
from training.split import test_examples as examples_of

pytestmark = pytest.mark.real


def example(text: str, answer: str, stratum: str) -> Example:
    prompt = (Message("user", text),)
    return Example(id=identity(prompt), prompt=prompt, answer=Message("assistant", answer), stratum=stratum)


@pytest.fixture
def run(tiny_hf: Path, tmp_path: Path) -> Run:
    """As stages data and finetune leave it: a test split whose every second answer the trained model says, since that
    is what it said."""
    torch.set_num_threads(1)
    (tmp_path / "recipe.toml").write_text(
        'name = "tiny"\nbase = "./hf"\n[data]\ntrain = ["rows.jsonl"]\n[finetune]\nmethod = "full"\n'
        '[evaluate]\nmetrics = ["exact_match", "perplexity", "rouge"]\nmax_tokens = 6\nresamples = 200\n'
        'batch_size = 4\n')
    recipe, file = load_recipe(tmp_path / "recipe.toml")
    made = Run(tmp_path / "run", recipe, file)
    trained = made.folder / "finetune" / "model"
    shutil.copytree(tiny_hf, trained)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(0.5)
    model.save_pretrained(trained)

    texts = [f"{word} <b>&amp; {number}" for number, word in enumerate(("the", "work", "of", "any", "form", "in"))]
    said = LocalModel(trained).answers([example(text, "", "") for text in texts], max_tokens=6)
    examples = [example(text, reply.message.content if number % 2 else "something else", f"kind <{number % 2}>")
                for number, (text, (reply,)) in enumerate(zip(texts, said, strict=True))]
    (made.folder / "data").mkdir()
    for split in ("train", "validation", "test"):
        write_examples(made.folder / "data" / f"{split}.jsonl", examples if split == "test" else examples[:2])
    made.mark("data", "d", 0.0, {})
    made.mark("finetune", "f", 0.0, Trained(
        kind="weights", folder="finetune/model", base=str(tiny_hf), steps=1, seconds=1.0))
    return made


def test_times_are_left_to_stage_served_where_the_recipe_deploys(run: Run) -> None:
    moments: list[Moment] = []
    run.begin("evaluate")
    evaluated = EVALUATE.run(
        replace(run, recipe=msgspec.structs.replace(run.recipe, deploy=Deploy())), moments.append)
    assert [each.speed for each in evaluated.results] == [None, None]  # type: ignore[attr-defined]
    assert not (run.folder / "evaluate" / "rounds.json").exists()
    assert any("stage served" in (moment.note or "") for moment in moments)


def test_an_evaluation_tells_what_a_training_gained(run: Run) -> None:
    moments: list[Moment] = []
    key = EVALUATE.key(run)
    run.begin("evaluate")
    evaluated = EVALUATE.run(run, moments.append)
    before, after = evaluated.results  # type: ignore[attr-defined]
    assert (before.subject.name, after.subject.name) == ("before", "trained")
    assert after.figures["exact_match"].value == 50
    assert before.figures["exact_match"].value < 50
    assert after.strata["kind <1>"]["exact_match"].value == 100
    assert after.strata["kind <0>"]["exact_match"].value == 0
    change = evaluated.comparison("before", "trained").differences["exact_match"]  # type: ignore[attr-defined]
    assert change.points == 50 - before.figures["exact_match"].value
    assert change.better > 0 == change.worse
    assert before.failed == after.failed == 0
    assert after.figures["perplexity"].value > 1

    assert after.speed.rounds == 5
    assert 0 < after.speed.first_token_s.median < after.speed.answer_s.median
    stored = (run.folder / "finetune/model/model.safetensors").stat().st_size
    assert 0.9 * stored < after.memory.weights_bytes < stored
    assert after.memory.resident_bytes > after.memory.runtime_bytes > after.memory.weights_bytes
    assert after.memory.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
    assert moments[-1].note is not None
    assert key == EVALUATE.key(run)

    page = (run.folder / evaluated.report).read_text()  # type: ignore[attr-defined]
    reader = _Page()
    reader.feed(page)
    assert reader.outside == []
    assert len(reader.ids) == len(set(reader.ids))
    assert "the <b>&amp; 0" not in page
    assert "the &lt;b&gt;&amp;amp; 0" in page
    assert "kind &lt;1&gt;" in page
    assert "#01020" not in page
    assert page.count("<svg") >= 5
    table = (run.folder / "evaluate/table.txt").read_text()
    assert re.search(r"exact match\s+\S+ % \[.*\]\s+50\.0 % \[", table)


class _Page(HTMLParser):
    """outside: whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.outside.append(f"{tag} {name}={value}")
            if name == "id" and value is not None:
                self.ids.append(value)
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.outside.append(tag)


def test_what_was_answered_is_not_asked_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed among the answers of the second subject, it goes on behind them; half a line is none."""
    quick = msgspec.structs.replace(run.recipe.evaluate, performance=False)
    run = Run(run.folder, msgspec.structs.replace(run.recipe, evaluate=quick), run.file)
    run.begin("evaluate")
    whole = evaluate(run, lambda moment: None, subjects_here(run))
    said = run.folder / "evaluate/trained/said.jsonl"
    lines = said.read_bytes().splitlines(keepends=True)
    said.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    asked: list[int] = []
    answers = LocalModel.answers

    def counted(model: LocalModel, examples: list[Example], **how: Any) -> Any:
        asked.append(len(examples))
        return answers(model, examples, **how)

    monkeypatch.setattr(LocalModel, "answers", counted)
    again = evaluate(run, lambda moment: None, subjects_here(run))
    assert asked == [len(lines) - 3]
    assert again.comparisons == whole.comparisons
    shorter = msgspec.structs.replace(quick, max_tokens=3)
    other = Run(run.folder, msgspec.structs.replace(run.recipe, evaluate=shorter), run.file)
    evaluate(other, lambda moment: None, subjects_here(run))
    assert sum(asked) == len(lines) - 3 + 2 * len(lines)
    assert {item.completion_tokens for item in read_items(run.folder / "evaluate/trained")} <= {1, 2, 3}


def test_a_subject_with_another_ones_name_is_refused(run: Run) -> None:
    first, _ = subjects_here(run)
    with pytest.raises(InvalidRequest, match="one name"):
        evaluate(run, lambda moment: None, [first, first])


PAIRS = [("the cat sat on the mat", "the cat sat on a mat"), ("a dog ran away from home today", "a dog went away"),
         ("positive", "positive"), ("Größe пять", "größe ПЯТЬ"), ("nothing of it here", ""), ("yes", "no")]
ITEMS = [Item(id=str(at), expected=Message("assistant", expected), said=Message("assistant", said))
         for at, (expected, said) in enumerate(PAIRS)]


def test_bleu_is_sacrebleus() -> None:
    from sacrebleu.metrics.bleu import BLEU

    [kind] = METRICS["bleu"]
    expected = BLEU().corpus_score([said for _, said in PAIRS], [[right for right, _ in PAIRS]]).score
    assert float(kind.figure(kind.statistics(ITEMS, ()).sum(axis=0))) == pytest.approx(expected)


def test_rouge_is_that_of_rouge_score_and_knows_all_letters() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rougeL"])
    for kind, name in zip(METRICS["rouge"], ("rougeL", "rouge1"), strict=True):
        found = kind.figure(kind.statistics(ITEMS, ()))
        for at in (0, 1, 2, 4, 5):
            assert found[at] == pytest.approx(100 * scorer.score(*PAIRS[at])[name].fmeasure)
        assert found[3] == 100


def test_f1_is_sklearns() -> None:
    from sklearn.metrics import f1_score

    labels = ("a", "b", "c", "d")
    generator = np.random.default_rng(3)
    right, said = (generator.choice(labels[:3], 200) for _ in range(2))
    said[:20] = "none of them"
    items = [Item(id=str(at), expected=Message("assistant", str(one)), said=Message("assistant", str(other)))
             for at, (one, other) in enumerate(zip(right, said, strict=True))]
    for kind, average in zip(METRICS["f1"], ("macro", "micro"), strict=True):
        found = float(kind.figure(kind.statistics(items, labels).sum(axis=0)))
        assert found == pytest.approx(100 * f1_score(right, said, labels=labels[:3], average=average))


def test_subjects_that_memory_does_not_hold_together_run_one_after_the_other(
    run: Run, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stand-in for the processes tells when each is there."""
    there: list[str] = []

    @contextlib.contextmanager
    def stand_in(subject: Subject) -> Iterator[StandIn]:
        there.append(subject.name)
        yield StandIn(list(there))
        there.remove(subject.name)

    class StandIn:
        def __init__(self, beside: list[str]) -> None:
            self._beside = beside

        def answer(self, example: Example, max_tokens: int) -> Reply:
            return Reply(message=Message("assistant", "x"), completion_tokens=len(self._beside), seconds=1.0,
                         first_token_s=0.5)

        def memory(self) -> Memory:
            return Memory()

    monkeypatch.setattr(race, "racer", stand_in)
    examples = examples_of(run)
    (run.folder / "evaluate").mkdir()
    notes: list[Moment] = []
    for available, most in ((1 << 40, 2), (race.need_bytes(subjects_here(run)) - 1, 1)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda known=available: SimpleNamespace(available=known))
        found = race.race(subjects_here(run), examples, 6, run.folder / "evaluate", notes.append, key="k")
        assert found.turn_about == (most == 2)
        assert {one.tokens for one in found.rounds["trained"]} == {most}
        assert len(found.rounds["before"]) == len(found.rounds["trained"]) == len(examples) - 1
        (run.folder / "evaluate/rounds.json").unlink()
    assert ["one after the other" in (moment.note or "") for moment in notes if moment.note] == [True]
