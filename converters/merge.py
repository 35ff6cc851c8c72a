"""PEFT adapters merged into the weights, one after another, by peft on the processor in 32 bits.

The result stays in 32 bits, whatever the base had: rounding to 16 would lose small changes, and quantization follows
anyway. The files were checked by `converters.refuse`: safetensors only, and nothing that names a module.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from converters.quiet import quietly
from converters.refuse import ADAPTER_WEIGHTS, TEMPLATE, check_fits
from converters.tensors import INDEX, read_header, read_headers
from edged.errors import ConversionFailed, RefusedFile
from edged.store.kinds import is_weights


def merge(
    base: Path, adapters: Sequence[tuple[str, Path]], out: Path, progress: Callable[[float, str | None], None],
) -> None:
    """Makes the folder `out`. adapters: each with the name that the user knows it by. Raises RefusedFile where one was
    trained for another model, ConversionFailed where transformers or peft cannot."""
    known = {name: info for header in read_headers(base).values() for name, info in header.items()}
    for title, folder in adapters:
        check_fits(read_header(folder / ADAPTER_WEIGHTS), known, title)
    with quietly():
        _merge(base, adapters, out, progress)
    _carry_along(base, out, [folder for _, folder in adapters])


def _merge(
    base: Path, adapters: Sequence[tuple[str, Path]], out: Path, progress: Callable[[float, str | None], None],
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ConversionFailed(f"transformers cannot load the base model: {str(error)[:300]}") from error
    for number, (title, folder) in enumerate(adapters):
        progress((number + 0.5) / (len(adapters) + 1), title)
        wrapped = attach(model, folder, title)
        try:
            model = wrapped.merge_and_unload(progressbar=False, safe_merge=True)
        except (ValueError, KeyError, NotImplementedError, RuntimeError, TypeError) as error:
            raise ConversionFailed(f"peft cannot merge the adapter {title}: {str(error)[:300]}") from error
    model.save_pretrained(out)


def attach(model: Any, folder: Path, title: str) -> Any:
    """The model with the adapter beside its weights, as a PeftModel. Raises RefusedFile where the adapter was trained
    for another model, ConversionFailed where peft cannot load it."""
    from peft import PeftConfig, PeftModel

    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        wrapped: Any = PeftModel(model, config)
        # What `PeftModel.from_pretrained` does, which hides what did not fit.
        loaded = wrapped.load_adapter(folder, "default", is_trainable=False)
    except (ValueError, KeyError, NotImplementedError, RuntimeError, TypeError) as error:
        raise ConversionFailed(f"peft cannot load the adapter {title}: {str(error)[:300]}") from error
    if loaded.missing_keys or loaded.unexpected_keys:
        raise RefusedFile(
            f"the adapter {title} was trained for another model: {len(loaded.unexpected_keys)} of its weights "
            f"have no place in this base, and {len(loaded.missing_keys)} places are left empty")
    return wrapped


def _carry_along(base: Path, out: Path, adapters: Sequence[Path]) -> None:
    """Tokenizer, template and licence of the base; the last adapter's template where one has its own, since that is
    what it was trained with."""
    for file in base.iterdir():
        if not is_weights(file.name) and file.name != INDEX and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)
    for folder in adapters:
        if (folder / TEMPLATE).exists():
            shutil.copyfile(folder / TEMPLATE, out / TEMPLATE)
