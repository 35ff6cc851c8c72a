"""A student from scratch copies before it has learned anything, and never less surely by its sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training.recipe import Architecture
from training.student import copying, initial, shape

pytestmark = pytest.mark.real

VOCABULARY, LENGTH = 1000, 30


def drawn(said: Architecture, seed: int = 0) -> Any:
    model = LlamaForCausalLM(LlamaConfig(**shape.llama(said, VOCABULARY), attn_implementation="eager"))
    initial.draw(model, seed)
    return model.eval()


def told_twice(model: Any) -> tuple[Any, Any]:
    """Random texts, each said twice: what the model makes of them."""
    once = torch.randint(3, VOCABULARY, (4, LENGTH), generator=torch.Generator().manual_seed(9))
    ids = torch.cat([once, once], 1)
    with torch.no_grad():
        return ids, model(input_ids=ids, output_attentions=True)


@pytest.mark.parametrize(("said", "least"), [
    (Architecture(), 0.3), (Architecture(hidden=192, heads=3, kv_heads=3, intermediate=384), 0.3),
    (Architecture(hidden=384, heads=6, kv_heads=2, layers=6), 0.4),
    (Architecture(hidden=128, heads=2, kv_heads=1, layers=2), 0.1),
])
def test_a_text_that_is_said_again_is_foretold(said: Architecture, least: float) -> None:
    ids, output = told_twice(drawn(said))
    right = output.logits[:, LENGTH:-1].argmax(-1) == ids[:, LENGTH + 1:]
    assert float(right.float().mean()) > least
    of_chance = output.logits[:, :LENGTH - 1].argmax(-1) == ids[:, 1:LENGTH]
    assert float(of_chance.float().mean()) < 0.05


def test_three_heads_look_one_two_and_three_tokens_back() -> None:
    _, output = told_twice(drawn(Architecture()))
    for head, distance in ((0, 1), (1, 2), (2, 3)):
        looked = output.attentions[0][:, head].diagonal(offset=-distance, dim1=-2, dim2=-1)
        assert float(looked.min()) > 0.9


def test_a_student_that_is_too_small_for_it_is_random_as_ever() -> None:
    model = LlamaForCausalLM(LlamaConfig(**shape.llama(Architecture(layers=1), VOCABULARY)))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    assert not copying.build(model, torch.Generator().manual_seed(0))
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_the_same_seed_draws_the_same_weights_and_another_others() -> None:
    one, same, other = (drawn(Architecture(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.layers.1.mlp.up_proj.weight"], other["model.layers.1.mlp.up_proj.weight"])


def test_a_second_head_of_those_that_share_keys_peeks_one_token_further() -> None:
    _, output = told_twice(drawn(Architecture()))
    for head in (1, 3):
        at = output.attentions[1][:, head]
        found = [float(at.diagonal(offset=ahead - LENGTH, dim1=-2, dim2=-1)[:, :-2].mean()) for ahead in (1, 2)]
        assert found[1] > max(0.3, 5 * found[0])
