"""The loss of a student, as a trainer for `training.fit`: of the text, of soft targets, of layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training.recipe import Match, Soft
from training.student.kept_targets import KeptTargets
from training.student.match import difference
from training.student.soft import divergence
from training.student.teachers import Teachers


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned besides the text. kept: the teachers' targets of all training examples; teachers: themselves,
    where layers are matched. One of the two is there where there is soft or match."""

    soft: Soft | None = None
    match: Match | None = None
    kept: KeptTargets | None = None
    teachers: Teachers | None = None


def trainer_of(lesson: Lesson, key: str) -> type:
    """For `fit`. While it trains its loss is (1 - share) · text + share · divergence + matching; the validation loss is
    that of the text alone, so that students with and without a teacher compare. key: tells lessons apart. It is in the
    name of the class, by which `fit` among others knows whether checkpoints are of this very fit."""
    from torch.nn.functional import cross_entropy

    from training.fit.trainer import FitTrainer, wanted_positions

    class StudentTrainer(FitTrainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
                         num_items_in_batch: Any = None) -> Any:
            also = _asked(lesson.match)
            scored = self.scored(model, inputs, **also)
            losses = cross_entropy(scored.logits.float(), scored.labels, reduction="none")
            read = lesson.teachers.read(inputs, wanted_positions(inputs["labels"]), **also) \
                if lesson.teachers is not None else []
            if (soft := lesson.soft) is not None:
                right = lesson.teachers.targets(read) if lesson.teachers is not None else \
                    _kept(lesson).of(list(sequences(inputs)))
                far = divergence(scored.logits, right.to(scored.logits.device), soft.temperature)
                losses = (1 - soft.share) * losses + soft.share * far
            loss = self.mean(losses * scored.weights, num_items_in_batch)
            if lesson.match is not None:
                # With the number of labels given, the trainer leaves the mean over accumulated batches to the loss.
                parts = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
                within = difference(self.accelerator.unwrap_model(model), scored.outputs, read[0],
                                    inputs["attention_mask"].bool(), lesson.match)
                loss = loss + within / parts
            return loss

    StudentTrainer.__name__ = f"StudentTrainer{key}"
    return StudentTrainer


def sequences(inputs: dict[str, Any]) -> Iterator[list[int]]:
    """The examples of a batch, in the order of its positions: rows without their padding, or what is packed in them."""
    ids = inputs["input_ids"].tolist()
    if "attention_mask" in inputs:
        for row, length in zip(ids, inputs["attention_mask"].sum(1).tolist(), strict=True):
            yield row[:length]
        return
    for row, positions in zip(ids, inputs["position_ids"].tolist(), strict=True):
        starts = [at for at, position in enumerate(positions) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
            # What fills a row are parts of one token, which foretell nothing.
            if end - start > 1:
                yield row[start:end]


def _kept(lesson: Lesson) -> KeptTargets:
    assert lesson.kept is not None
    return lesson.kept


def _asked(match: Match | None) -> dict[str, bool]:
    if match is None:
        return {}
    return {"output_hidden_states": bool(match.hidden), "output_attentions": bool(match.attention)}
