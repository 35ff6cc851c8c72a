"""A student whose layers are drawn to those of its teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.real.tiny_student import COMMANDS, rows, student, teacher_of, untrained
from training.finetune.stage import save
from training.fit.fit import fit
from training.recipe import Match
from training.student import match
from training.student.teachers import Teachers
from training.student.trainer import Lesson, trainer_of

pytestmark = pytest.mark.real


def test_layers_are_matched_through_maps_that_are_not_exported(tmp_path: Path) -> None:
    model, tokenizer = untrained()
    teacher = teacher_of(model)
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
