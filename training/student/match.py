"""Matching within: hidden states and attention maps of a student's layers against those of layers of its teacher.

Layers are spread evenly, the last on the last (TinyBERT, Jiao et al. 2020). The maps between widths are trained with
the student, lie in its checkpoints as modules of their own, and are taken off before it is saved.
"""

from __future__ import annotations

from typing import Any

from training.recipe import Match

#: Name of the module within the student.
MAPS = "edged_matching"


def layers(student: int, teacher: int) -> list[int]:
    """For each layer of the student the layer of the teacher, both from 1."""
    return [max(1, round(number * teacher / student)) for number in range(1, student + 1)]


def attach_maps(model: Any, teacher_width: int, seed: int) -> None:
    """A matrix for each layer from the student's width to the teacher's; nothing where they are the same."""
    import torch

    config = model.config
    if config.hidden_size == teacher_width:
        return
    source = torch.Generator().manual_seed(seed)
    maps = torch.nn.ModuleList(
        torch.nn.Linear(config.hidden_size, teacher_width, bias=False) for _ in range(config.num_hidden_layers))
    for one in maps:
        torch.nn.init.normal_(one.weight, std=config.hidden_size ** -0.5, generator=source)
    model.add_module(MAPS, maps)


def take_maps_off(model: Any) -> None:
    if hasattr(model, MAPS):
        delattr(model, MAPS)


def difference(model: Any, student: Any, teacher: Any, mask: Any, how: Match) -> Any:
    """Mean over layers and tokens. Hidden states: squared error over the mean square of the teacher's layer, since its
    later layers are many times larger than its first. Attention: KL(teacher ‖ student) of each token's attention, mean
    over heads, which the two may have different numbers of.

    model: the student, with its maps. student, teacher: outputs of transformers with hidden_states and attentions.
    mask: bool [rows, tokens], true where there is a token.
    """
    import torch

    loss = torch.zeros(())
    count = model.config.num_hidden_layers
    maps = getattr(model, MAPS, None)
    pairs = list(enumerate(layers(count, len(teacher.hidden_states) - 1), 1))
    for own, other in pairs:
        if how.hidden:
            right = teacher.hidden_states[other][mask].float()
            said = student.hidden_states[own][mask]
            said = (said if maps is None else maps[own - 1](said)).float()
            loss = loss + how.hidden / count * (said - right).pow(2).mean() / right.pow(2).mean().clamp(min=1e-12)
        if how.attention:
            right = teacher.attentions[other - 1].float().mean(1)[mask]
            said = student.attentions[own - 1].float().mean(1)[mask]
            each = (right * (right.clamp(min=1e-9).log() - said.clamp(min=1e-9).log())).sum(-1)
            loss = loss + how.attention / count * each.mean()
    return loss
