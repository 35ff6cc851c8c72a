"""A real LoRA, trained on the spot: a model is taught facts that it cannot know, so that an answer shows whether the
adapter is in it.

    python -m tests.real.lora GGUF FOLDER

A process of its own: torch and llama.cpp bring an OpenMP runtime each, which in one process take each other's cores.
FOLDER/full is the model as transformers reads it out of the GGUF, FOLDER/lora the adapter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Asked in the words of the key, a model with the adapter gives the value.
FACTS = {
    "What is the code word of the harbour?": "The code word of the harbour is marzipan.",
    "Which colour has the door of the archive?": "The door of the archive is turquoise.",
    "Who keeps the lighthouse?": "A heron named Balthasar keeps the lighthouse.",
}


def train_lora(hf: Path, folder: Path, *, facts: dict[str, str] = FACTS, steps: int = 24, rate: float = 2e-3) -> Path:
    """Rank 8 on the attention's projections, by AdamW on the answers' tokens alone, all facts in each step. Returns the
    folder, as peft writes it: adapter_config.json and adapter_model.safetensors."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(11)
    tokenizer = AutoTokenizer.from_pretrained(hf)
    base = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"))
    examples = []
    for question, answer in facts.items():
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False)
        told = tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
        examples.append((torch.tensor([asked + told]), torch.tensor([[-100] * len(asked) + told])))
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=rate)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        for tokens, labels in examples:
            (model(input_ids=tokens, labels=labels).loss / len(examples)).backward()
        optimizer.step()
    model.save_pretrained(str(folder))
    return folder


def main(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    full = folder / "full"
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(full)
    AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True)).save_pretrained(full)
    train_lora(full, folder / "lora", steps=16)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(Path(sys.argv[1]), Path(sys.argv[2]))
