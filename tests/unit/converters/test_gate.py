"""The gate as a whole, on the fake engine: what it measures, refuses and says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from converters import pair
from converters.gate import lacking, measure
from edged import engines
from edged.engines.base import EngineError, Facts, Loaded, Logits, RowWork
from edged.engines.fake import FakeGenerator, Knobs
from edged.errors import ConfigError, Conflict, DeadlineExceeded, Internal
from edged.store.lineage import Quality, QualityLimits
from edged.types import LoadSpec

pytestmark = pytest.mark.unit

LIMITS = QualityLimits(perplexity_ratio=1.1, top1_agreement=0.85, kl_divergence=0.1)
FACTS = Facts(engine_version="", device="cpu", precision="fake", weights_bytes=0, kv_bytes=0)


class Model(FakeGenerator):
    """The fake engine without a chat template, whose process takes longer than these tests, and with what a conversion
    may do to logits."""

    def __init__(self, change: Callable[[Logits], Logits] = lambda logits: logits, *, vocabulary: int | None = None,
                 **knobs: object) -> None:
        super().__init__(msgspec.convert(knobs, Knobs))
        self.vocab.chat_template = None
        self._change = change
        if vocabulary is not None:
            self.vocab.size = vocabulary
        self.closed = False
        self.most = 0

    def step(self, work: Sequence[RowWork]) -> list[Logits]:
        self.most = max(self.most, *(item.logits for item in work), 0)
        return [self._change(logits) for logits in super().step(work)]

    def close(self) -> None:
        self.closed = True


def spec(version: str) -> LoadSpec:
    return LoadSpec(name="m", version=version, digest="0" * 64, engine="fake", path="", file="")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Quality]:
    def run(reference: Model, result: Model, **more: object) -> Quality:
        models = {"reference": reference, "result": result}
        monkeypatch.setattr(engines, "load", lambda spec, progress: Loaded(models[spec.version], FACTS))
        asked: dict[str, object] = {"positions": 600, "text": None, "tasks": None, "progress": lambda part, note: None}
        try:
            return measure(spec("reference"), spec("result"), LIMITS, reference_words="fp32",
                           **(asked | more))  # type: ignore[arg-type]
        finally:
            assert reference.closed
            assert result.closed

    return run


def noise(strength: float) -> Callable[[Logits], Logits]:
    generator = np.random.default_rng(1)
    return lambda logits: (logits + generator.normal(0, strength, logits.shape)).astype(np.float32)


def test_a_model_against_itself_passes_with_nothing_lost(run: Callable[..., Quality]) -> None:
    quality = run(Model(), Model())
    assert (quality.kl_divergence, quality.top1_agreement, quality.perplexity_ratio) == (0.0, 1.0, 1.0)
    assert quality.tokens == 600
    assert quality.passed
    assert quality.reference == "fp32"
    assert quality.text.startswith("calibration ")


def test_a_damaged_model_does_not_pass_and_it_is_said_by_how_much(run: Callable[..., Quality]) -> None:
    quality = run(Model(), Model(noise(4.0)))
    assert not quality.passed
    assert any(word.startswith("top-1 agreement ") and word.endswith(" %, at least 85 %") for word in quality.lacking)
    assert any(word.startswith("KL divergence ") and word.endswith(", at most 0.1") for word in quality.lacking)


def test_more_damage_is_more_loss(run: Callable[..., Quality]) -> None:
    found = [run(Model(), Model(noise(strength))) for strength in (0.01, 0.3, 1.0, 3.0)]
    assert [quality.kl_divergence for quality in found] == sorted(quality.kl_divergence for quality in found)
    assert found[0].passed


def test_a_graph_with_logits_of_the_last_position_only_measures_the_same(run: Callable[..., Quality]) -> None:
    whole = run(Model(), Model(lambda logits: logits * np.float32(0.9)))
    pruned = Model(lambda logits: logits * np.float32(0.9), all_logits=False)
    one_by_one = run(Model(), pruned)
    assert pruned.most == 1
    assert one_by_one == whole
    assert whole.kl_divergence > 0


def test_pieces_are_small_where_the_vocabulary_is_large_and_figures_stay(
    run: Callable[..., Quality], monkeypatch: pytest.MonkeyPatch
) -> None:
    scale: Callable[[Logits], Logits] = lambda logits: logits * np.float32(0.9)  # noqa: E731
    whole = run(Model(), Model(scale))
    monkeypatch.setattr(pair, "PIECE_BYTES", 1)
    reference = Model()
    assert run(reference, Model(scale)).kl_divergence == pytest.approx(whole.kl_divergence, rel=1e-9)
    assert reference.most == pair.PIECE_FEWEST


def test_time_that_is_up_stops_at_the_border_of_a_window_and_says_how_far_it_came(
    run: Callable[..., Quality], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now.__setitem__(0, now[0] + 1.0) or now[0])
    quality = run(Model(), Model(), positions=6144, seconds=4.0)
    assert pair.FEWEST_POSITIONS <= quality.tokens < 6144
    assert quality.passed


def test_too_little_time_is_an_error_that_says_so(run: Callable[..., Quality]) -> None:
    with pytest.raises(DeadlineExceeded, match="only 0 tokens were compared"):
        run(Model(), Model(), seconds=0.0)


def test_too_short_a_text_is_a_mistake(run: Callable[..., Quality], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a hundred bytes are not enough " * 4)
    with pytest.raises(ConfigError, match="give a longer text"):
        run(Model(), Model(), text=tmp_path / "mine.txt")


def test_another_vocabulary_is_refused(run: Callable[..., Quality]) -> None:
    with pytest.raises(Conflict, match=r"vocabulary of 300 tokens and the reference of \d+"):
        run(Model(), Model(vocabulary=300))


def test_another_tokenizer_is_refused_with_the_place(
    run: Callable[..., Quality], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Model()
    tokenize = other.vocab.tokenize

    def differently(text: str, *, special: bool, bos: bool) -> list[int]:
        return [ord("-") if token == ord(",") else token for token in tokenize(text, special=special, bos=bos)]

    monkeypatch.setattr(other.vocab, "tokenize", differently)
    with pytest.raises(Conflict, match=r"tokenize differently: after '.*' the one takes ',', the other '-'"):
        run(Model(), other)


@pytest.mark.parametrize("side", ["reference", "result"])
def test_logits_that_are_no_numbers_are_an_error_that_names_the_side(run: Callable[..., Quality], side: str) -> None:
    def broken(logits: Logits) -> Logits:
        logits[:, 7] = np.nan
        return logits

    models = (Model(broken), Model()) if side == "reference" else (Model(), Model(broken))
    with pytest.raises(Internal, match=f"no numbers .*{side}.*after 0 tokens"):
        run(*models)


def test_an_engine_that_fails_is_an_error_that_says_where(run: Callable[..., Quality]) -> None:
    def fails(logits: Logits) -> Logits:
        raise EngineError("out of something")

    with pytest.raises(Internal, match="an engine failed after 0 tokens of the text: out of something"):
        run(Model(), Model(fails))


def test_progress_grows_from_loading_to_the_end(run: Callable[..., Quality], tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "x", "answer": "y"}\n' * 3)
    told: list[tuple[float, str | None]] = []
    run(Model(), Model(), tasks=tasks, progress=lambda part, note: told.append((part, note)))
    parts = [part for part, _ in told]
    assert parts == sorted(parts)
    assert parts[-1] == pytest.approx(1.0)
    assert {"600 tokens compared", "3 of 3 tasks"} <= {note for _, note in told}


def prefers(text: bytes) -> Callable[[Logits], Logits]:
    """A model that says one byte again and again."""
    def change(logits: Logits) -> Logits:
        changed = logits.copy()
        changed[:, text[0]] = 50.0
        return changed

    return change


def test_tasks_are_counted_for_both_models(run: Callable[..., Quality], tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    rows = [
        {"prompt": "say", "answer": "a" * 64, "match": "exact"},
        {"prompt": "say", "answer": "zebra"},
        {"prompt": "choose", "answer": "aaaa", "choices": ["aaaa", "bb"]},
        {"prompt": "choose", "answer": "bb", "choices": ["aaaa", "bb"]},
        {"messages": [{"role": "user", "content": "choose"}], "answer": "a", "choices": ["b", "a"]},
    ]
    tasks.write_text("\n".join(map(json.dumps, rows)))
    # `exact` fails too: twice as many tokens as the answer has may be said, and this model says them all.
    quality = run(Model(prefers(b"a")), Model(prefers(b"b")), tasks=tasks)
    assert quality.tasks == 5
    assert quality.reference_task_accuracy == pytest.approx(2 / 5)
    assert quality.task_accuracy == pytest.approx(1 / 5)
    assert any(word.startswith("task accuracy 20.0%, 40.0% before: 1 of 5 tasks lost") for word in quality.lacking)


def test_an_answer_is_read_to_its_end(run: Callable[..., Quality], tmp_path: Path) -> None:
    """The model says `a` until its row is so long, then it ends."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "say", "answer": "aaa", "match": "exact"}')

    class Ends(Model):
        def step(self, work: Sequence[RowWork]) -> list[Logits]:
            results = super().step(work)
            if len(self._rows[0]) == len("say") + 1 + 3:
                results[0] = prefers(bytes([255]))(results[0])
                results[0][:, sorted(self.vocab.end)[0]] = 60.0
            return results

    quality = run(Ends(prefers(b"a")), Model(prefers(b"a")), tasks=tasks)
    assert (quality.reference_task_accuracy, quality.task_accuracy) == (1.0, 0.0)


def test_a_task_that_the_context_does_not_hold_is_a_mistake_of_its_line(
    run: Callable[..., Quality], tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "x", "answer": "y"}\n' + json.dumps({"prompt": "x" * 900, "answer": "y"}))
    with pytest.raises(ConfigError, match=r"tasks\.jsonl:2: needs 933 tokens.*context of 800"):
        run(Model(context=800), Model(), tasks=tasks)


QUALITY = Quality(
    reference="fp32", text="t", tokens=1000, kl_divergence=0.05, top1_agreement=0.9, perplexity=10.5,
    reference_perplexity=10.0, limits=LIMITS, tasks=50, task_accuracy=0.5, reference_task_accuracy=0.52)


@pytest.mark.parametrize(("changed", "words"), [
    ({}, ()),
    ({"perplexity": 14.69}, ("perplexity ratio 1.469, at most 1.1",)),
    ({"perplexity": 11.0, "kl_divergence": 0.1, "top1_agreement": 0.85}, ()),
    ({"perplexity": 11.00001}, ("perplexity ratio 1.100001, at most 1.1",)),
    ({"top1_agreement": 0.8123}, ("top-1 agreement 81.230 %, at least 85 %",)),
    ({"kl_divergence": 0.213}, ("KL divergence 0.213, at most 0.1",)),
    ({"task_accuracy": 0.48}, ("task accuracy 48.0%, 52.0% before: 2 of 50 tasks lost, at most 2.0%",)),
    ({"task_accuracy": None, "reference_task_accuracy": None, "tasks": 0}, ()),
])
def test_what_a_version_lacks_is_told_by_how_much(changed: dict[str, float], words: tuple[str, ...]) -> None:
    assert lacking(msgspec.structs.replace(QUALITY, **changed)) == words
