"""The first weights of a student from scratch."""

from __future__ import annotations

import math
from typing import Any

#: Matrices that write into the residual stream.
_WRITERS = ("o_proj", "down_proj")


def draw(model: Any, seed: int) -> None:
    """Normal weights: of each matrix with variance 1/columns, so that what it computes is as large as what it reads,
    whatever its width. Those that write into the residual stream are smaller, so that all of them together add no more
    than an embedding is long (about 1), and words stay words through all layers of the untrained model. Then
    `training.student.copying`.

    model: transformers' LlamaForCausalLM, changed in place. The same seed gives the same weights on any machine.
    """
    import torch

    from training.student import copying

    source = torch.Generator().manual_seed(seed)
    config = model.config
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                weight.fill_(1.0)
                continue
            spread = 1 / math.sqrt(weight.shape[1])
            if any(writer in name for writer in _WRITERS):
                spread /= math.sqrt(2 * config.num_hidden_layers * config.hidden_size)
            weight.normal_(0.0, spread, generator=source)
    copying.build(model, source)
