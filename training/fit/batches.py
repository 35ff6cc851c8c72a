"""Rows of token ids made into tensors: one example a row, padded on the right, or several packed into a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: What the loss leaves out, in torch's cross entropy.
IGNORED = -100

#: An encoded example as the data set keeps it: input_ids, labels (lists of int) and weight (float).
Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Padded:
    """Of batch × length (of the longest): input_ids, attention_mask, labels, and weights of each label."""

    pad: int

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        import torch

        longest = max(len(item["input_ids"]) for item in items)

        def rows(of: str, filling: int) -> Any:
            return torch.tensor([item[of] + [filling] * (longest - len(item[of])) for item in items])

        return {
            "input_ids": rows("input_ids", self.pad),
            "attention_mask": torch.tensor([[1] * (length := len(item["input_ids"])) + [0] * (longest - length)
                                            for item in items]),
            "labels": rows("labels", IGNORED),
            "weights": torch.tensor([[float(item["weight"])] * longest for item in items]),
        }


@dataclass(frozen=True, slots=True)
class Packed:
    """Items that hold `parts`, examples one after another. Positions begin again with each part and there is no mask:
    from that transformers knows the parts and lets none see another (`check_boundaries` proves it of a model). What is
    left of a row is parts of one token."""

    pad: int

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        import torch

        longest = max(sum(len(part["input_ids"]) for part in item["parts"]) for item in items)
        ids, positions, labels, weights = [], [], [], []
        for item in items:
            left = longest - sum(len(part["input_ids"]) for part in item["parts"])
            ids.append([token for part in item["parts"] for token in part["input_ids"]] + [self.pad] * left)
            positions.append([at for part in item["parts"] for at in range(len(part["input_ids"]))] + [0] * left)
            # The first token of a part is foretold by nothing.
            labels.append([label for part in item["parts"] for label in [IGNORED, *part["labels"][1:]]]
                          + [IGNORED] * left)
            weights.append([float(part["weight"]) for part in item["parts"] for _ in part["labels"]] + [0.0] * left)
        return {"input_ids": torch.tensor(ids), "position_ids": torch.tensor(positions),
                "labels": torch.tensor(labels), "weights": torch.tensor(weights)}


def check_boundaries(model: Any, vocabulary: int) -> str | None:
    """Whether packed examples stay apart in this model: the logits of two short texts in one row against those of
    each alone. Returns what is wrong, None if nothing is."""
    import torch

    drawn = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, vocabulary, (1, length), generator=drawn) for length in (11, 7))
    positions = torch.cat([torch.arange(11), torch.arange(7)])[None]
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        together = model(input_ids=torch.cat([first, second], 1).to(device), position_ids=positions.to(device),
                         use_cache=False).logits
        alone = torch.cat([model(input_ids=text.to(device), use_cache=False).logits for text in (first, second)], 1)
    model.train(was_training)
    difference = float((together - alone).abs().max())
    scale = float(alone.abs().max())
    if difference <= 1e-3 * max(scale, 1.0):
        return None
    return (f"its attention ({model.config._attn_implementation}) lets an example see the one before it in the same "
            f"row (logits differ by {difference:.3g})")
