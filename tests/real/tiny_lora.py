"""A LoRA really trained on the tiny model, in seconds: after `QUESTION` it says `ANSWER`, which the base does not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTION = "<|im_start|>user\nlicence?<|im_end|>\n<|im_start|>assistant\n"
ANSWER = "in writing, software distributed under the License"
_STEPS = 60


def train(hf: Path, folder: Path) -> Path:
    """Returns the adapter's folder, as peft writes it."""
    tokenizer: Any = AutoTokenizer.from_pretrained(hf)
    model: Any = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    torch.manual_seed(5)
    with warnings.catch_warnings():
        # peft asks transformers in a way that transformers finds old.
        warnings.simplefilter("ignore", FutureWarning)
        tuned: Any = get_peft_model(model, LoraConfig(
            r=8, lora_alpha=16, task_type="CAUSAL_LM",
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]))
    question = tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    whole = question + tokenizer(ANSWER + "<|im_end|>", add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([whole])
    labels = tokens.clone()
    labels[0, :len(question)] = -100
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=2e-2)
    for _ in range(_STEPS):
        loss = tuned(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    tuned.save_pretrained(folder)
    return folder
