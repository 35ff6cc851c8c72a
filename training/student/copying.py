"""Heads that copy, there from the first step.

A small model fed with a few ten thousand commands has to copy what it reads into its answer. It learns that late and
suddenly, once two heads have found each other by chance: one in a layer that writes into each position which token came
before, and one in a later layer that looks for the position whose token before is the one just said, and says what
stands there (Olsson et al. 2022, In-context Learning and Induction Heads). Here both are built into the random weights
of the first two layers; the training is free to change every one of them. The idea of weights that imitate trained ones
is Trockman and Kolter's (2023, Mimetic Initialization of Self-Attention Layers).

How: every embedding has the same value in its first column, from which the queries and keys of the first layer are made
such that their rotary embeddings agree best one token back (a second head: two tokens back, a third: three). Their
values are written into directions of the residual stream of their own. The second layer compares the current token, and
what came before, with what came before every earlier position, in the slowly turning columns of a head, where position
hardly matters, and adds the embedding that it finds there.

Where several heads share keys, a second one peeks: it finds the position one further, and writes what stands there into
directions of its own, which say nothing yet. At the end of a word the next token is a blank, whether the name that is
copied goes on behind it or not: what comes after the blank tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

#: Of the first column of embeddings, where a column's mean square is 1 / columns.
_CONSTANT = 4.0
#: By how much the wanted token's score is above those of its neighbours (natural logarithm of how much likelier).
_SHARPNESS = 12.0
#: Of a match, before the softmax: a score above that of a random token, which is near 0.
_MATCH = 4.0
#: Length of what the copying head adds, where an embedding's is 1.
_SAID = 2.0
#: To compare one token by.
_LEAST_COLUMNS = 8
#: Radians a token: heads turn faster to tell neighbours apart, slower to compare contents.
_FAST, _SLOW = 0.15, 0.03


@dataclass(frozen=True, slots=True)
class _Heads:
    """Rows of the projections of one layer, by head."""

    attention: Any
    size: int
    group: int

    def query(self, head: int) -> Any:
        return self.attention.q_proj.weight[head * self.size:(head + 1) * self.size]

    def key(self, head: int) -> Any:
        """head: of the queries, which several share."""
        return self.attention.k_proj.weight[head // self.group * self.size:][:self.size]

    def value(self, head: int) -> Any:
        return self.attention.v_proj.weight[head // self.group * self.size:][:self.size]

    def written(self, head: int) -> Any:
        """Columns of the output projection."""
        return self.attention.o_proj.weight[:, head * self.size:(head + 1) * self.size]


def build(model: Any, source: Any) -> bool:
    """Changes a llama with random weights, in place. source: torch.Generator. False where it is too small for it: one
    layer, or heads without slow columns."""
    import torch

    config = model.config
    width, size = config.hidden_size, config.head_dim
    turning = config.rope_parameters["rope_theta"] ** -(torch.arange(size // 2) * 2 / size)
    slow = (turning < _SLOW).nonzero().flatten().tolist()
    columns = [*slow, *(index + size // 2 for index in slow)]
    group = config.num_attention_heads // config.num_key_value_heads
    peeks = group > 1 and config.num_attention_heads > 2 and len(columns) >= 3 * _LEAST_COLUMNS
    back = [1, 2, 3] if peeks else [1, 2][:config.num_attention_heads]
    if config.num_hidden_layers < 2 or len(columns) < _LEAST_COLUMNS * len(back):
        return False
    first, second = (_Heads(layer.self_attn, size, group) for layer in model.model.layers[:2])
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[:, 0] = 0.0
        table /= table.norm(dim=1, keepdim=True)
        table[:, 0] = _CONSTANT / math.sqrt(width)
        reading = _random(size, width, source)
        writing = [_random(width, size, source) / math.sqrt(size) for _ in back]
        for head, distance in enumerate(back):
            _look_back(first, head, distance, turning, width)
            first.value(head).copy_(reading)
            first.written(head).copy_(writing[head])
        # What the second layer reads: an embedding, and what each head of the first has written, each about 1 long.
        seen = math.sqrt(width / (1 + len(back) + _CONSTANT ** 2 / width))
        here = reading * math.sqrt(width) / seen
        before = [matrix.T * size / seen for matrix in writing]
        share = len(columns) // len(back)
        strength = _MATCH * math.sqrt(size) / share
        copiers = range(0, config.num_attention_heads, group)
        for number, head in enumerate(copiers):
            picked = [(number * share + each) % size for each in range(share)]
            parts = [columns[part * share:(part + 1) * share] for part in range(len(back))]
            second.key(head)[columns] = 0.0
            for rows, found in zip(parts, before, strict=True):
                second.key(head)[rows] = found[picked]
            for ahead in range(1 + peeks):
                query = second.query(head + ahead)
                query[columns] = 0.0
                for rows, asked in zip(parts[ahead:], [here, *before], strict=False):
                    query[rows] = strength * asked[picked]
            copying = _random(size, width, source)
            second.value(head).copy_(copying)
            second.written(head).copy_(copying.T * _SAID * width / size / seen / len(copiers))
            if peeks:
                second.written(head + 1).copy_(_random(width, size, source) * math.sqrt(width) / size / seen)
    return True


def _look_back(heads: _Heads, head: int, distance: int, turning: Any, width: int) -> None:
    """Queries and keys that are the same for every token, and turned against each other by so many tokens."""
    import torch

    fast = turning > _FAST
    constant = _CONSTANT / math.sqrt(1 / width * (width + _CONSTANT ** 2))
    apart = float((1 - torch.cos(turning))[fast].sum())
    length = fast * math.sqrt(_SHARPNESS * math.sqrt(heads.size) / apart) / constant
    query, key = heads.query(head), heads.key(head)
    query.zero_()
    key.zero_()
    query[:, 0] = torch.cat([length * torch.cos(distance * turning), -length * torch.sin(distance * turning)])
    key[:, 0] = torch.cat([length, torch.zeros_like(length)])


def _random(rows: int, columns: int, source: Any) -> Any:
    """Its product with a vector is about as long as the vector, each row apart; nothing of the first column."""
    import torch

    matrix = torch.randn(rows, columns, generator=source) / math.sqrt(columns if rows < columns else rows)
    if rows < columns:
        matrix[:, 0] = 0.0
    else:
        matrix[0] = 0.0
    return matrix
