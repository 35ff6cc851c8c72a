"""What a student learns of its teachers' distributions: the divergence, targets that are kept, and where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.real.tiny_student import COMMANDS, command, rows, saved, student, teacher_of, untrained
from training.encode import Encoded
from training.fit.fit import fit
from training.recipe import Soft
from training.student import teachers as of_teachers
from training.student.kept_targets import PART, keep
from training.student.soft import Targets, divergence, targets
from training.student.teachers import Teachers
from training.student.trainer import Lesson, sequences, trainer_of

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def made() -> tuple[Any, Any]:
    return untrained()


@pytest.fixture(scope="module")
def teacher(made: tuple[Any, Any]) -> Any:
    return teacher_of(made[0])


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
    made: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.fit.precision.device", lambda: "meta")
    found = of_teachers.load([(saved(made, tmp_path / "model"), 1.0)], 1.0)
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
    teacher: Any, tmp_path: Path, packing: bool,
) -> None:
    model, tokenizer = untrained()
    how = student(soft=Soft(temperature=1.0, share=1.0), epochs=8, learning_rate=5e-3, packing=packing, evaluations=1)
    examples = rows(tokenizer, COMMANDS)
    before = far(model, teacher, examples[:4])
    kept = keep(Teachers((teacher,), (1.0,), 1.0), examples, tmp_path / "targets", lambda moment: None, of_teachers="",
                pad=0)
    fit(model, tokenizer, COMMANDS, COMMANDS[:4], how, tmp_path, seed=1, tell=lambda moment: None,
        trainer=trainer_of(Lesson(how.soft, kept=kept), "one"))
    kept.close()
    assert far(model, teacher, examples[:4]) < 0.6 * before
