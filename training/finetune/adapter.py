"""The model that a fine-tuning starts with: the base whole, or frozen under a new adapter of peft."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from edged.errors import DeviceUnavailable, InvalidRequest
from training.fit.precision import Precision
from training.fit.quiet import quiet
from training.recipe import Finetune


@quiet()
def start(base: Path, how: Finetune, precision: Precision, seed: int) -> Any:
    """A causal language model of transformers, in a PeftModel unless the method is full. base: a Hugging Face folder.
    The first values of an adapter are drawn by the seed. Raises DeviceUnavailable, InvalidRequest."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    if how.method == "qlora":
        require_four_bits()
    # Frozen weights may be as coarse as the arithmetic; those that are trained lose small changes in 16 bits.
    kind = torch.float32 if how.method == "full" or precision == "fp32" else \
        torch.bfloat16 if precision == "bf16" else torch.float16
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=kind, local_files_only=True, use_safetensors=True, **_four_bits(how, kind))
    model.config.use_cache = False
    if how.method == "full":
        return model
    if how.method == "qlora":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=how.checkpointing)
    set_seed(seed)
    try:
        return get_peft_model(model, _lora(how))
    except ValueError as error:
        if "arget modules" not in str(error):
            raise
        raise InvalidRequest(f"finetune.targets: this model has no such modules; it has {', '.join(_linear(model))}") \
            from error


def require_four_bits() -> None:
    """Raises DeviceUnavailable where there is no CUDA device or no bitsandbytes."""
    import torch

    lacking = [what for what, there in (
        ("a CUDA device", torch.cuda.is_available()),
        ("bitsandbytes (pip install bitsandbytes)", importlib.util.find_spec("bitsandbytes") is not None)) if not there]
    if lacking:
        raise DeviceUnavailable(f"method = \"qlora\" computes in four bits, which needs {' and '.join(lacking)}; say "
                                "method = \"lora\", which learns the same adapter with the base in full")


def _lora(how: Finetune) -> Any:
    from peft import LoraConfig

    alpha = int(how.alpha) if how.alpha == int(how.alpha) else how.alpha
    return LoraConfig(
        r=how.rank, lora_alpha=alpha, lora_dropout=how.dropout, bias="none", task_type="CAUSAL_LM",
        target_modules=how.targets if isinstance(how.targets, str) else list(how.targets),
        use_dora=how.method == "dora")


def _four_bits(how: Finetune, kind: Any) -> dict[str, Any]:
    if how.method != "qlora":
        return {}
    from transformers import BitsAndBytesConfig

    return {"device_map": {"": 0}, "quantization_config": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=kind)}


def linear_modules(base: Path) -> list[str]:
    """Names of the linear layers but the head, without loading any weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return _linear(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, local_files_only=True)))


def _linear(model: Any) -> list[str]:
    import torch

    return sorted({name.rpartition(".")[2] for name, module in model.named_modules()
                   if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()})
