# mypy: disable-error-code="import-untyped"
"""Examples that are tokens already, in Olive's shape of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from olive.data.registry import Registry

_NAME = "edged_examples"


def data_config(file: Path) -> dict[str, Any]:
    """For `train_data_config` of a pass. file: JSON, a list of objects with input_ids and labels."""
    return {"name": _NAME, "load_dataset_config": {"type": _NAME, "params": {"file": str(file)}}}


@Registry.register_dataset(_NAME)  # type: ignore[untyped-decorator]
def examples(file: str, **_: Any) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Each item: one example, and the labels of its tokens."""
    read = msgspec.json.decode(Path(file).read_bytes(), type=list[dict[str, list[int]]])
    return [({"input_ids": (ids := torch.tensor(each["input_ids"])), "attention_mask": torch.ones_like(ids)},
             torch.tensor(each["labels"])) for each in read]
