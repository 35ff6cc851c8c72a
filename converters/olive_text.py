# mypy: disable-error-code="import-untyped"
"""Text for those of Olive's passes that calibrate, in Olive's shape of a data set. Left alone they ask a hub for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from olive.data.registry import Registry

from converters import calibration

_NAME = "edged_text"
TOKENS = 16384
_WINDOW = 512
#: Passages shorter than this are not worth a window.
_SHORTEST = 32


def data_config(hf_folder: Path, text: Path | None) -> dict[str, Any]:
    """For `data_config` of a pass. text: the user's, None for the one that ships; of either the half that the gate does
    not measure on."""
    parameters = {"folder": str(hf_folder), "text": None if text is None else str(text)}
    return {"name": _NAME, "load_dataset_config": {"type": _NAME, "params": parameters}}


@Registry.register_dataset(_NAME)  # type: ignore[untyped-decorator]
def windows(folder: str, text: str | None, **_: Any) -> list[tuple[dict[str, torch.Tensor], int]]:
    """Each item: one window of tokens and a label that nobody reads."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[tuple[dict[str, torch.Tensor], int]] = []
    left = TOKENS
    for passage in calibration.read(None if text is None else Path(text), "calibrate").passages:
        if passage.messages is not None and tokenizer.chat_template is not None:
            ids = tokenizer.apply_chat_template(passage.messages, tokenize=True, return_dict=True)["input_ids"]
        else:
            ids = tokenizer(passage.plain())["input_ids"]
        for first in range(0, len(ids), _WINDOW):
            window = torch.tensor(ids[first:first + min(_WINDOW, left)])
            if len(window) < _SHORTEST:
                break
            found.append(({"input_ids": window, "attention_mask": torch.ones_like(window)}, 0))
            left -= len(window)
    return found
