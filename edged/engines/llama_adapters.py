"""LoRA adapters of a llama.cpp model: loaded beside it, and set for a whole context, so one at a time.

A GGUF LoRA holds pairs `<tensor>.lora_a`, `<tensor>.lora_b` and the keys `general.type` = adapter, `adapter.type` =
lora, `adapter.lora.alpha`; llama.cpp checks it against the model (src/llama-adapter.cpp). The model owns what it has
loaded and frees it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edged.engines.base import EngineError
from edged.engines.llama_library import lib
from edged.errors import LoadFailed
from edged.types import AdapterSpec


class LlamaAdapters:
    """Owner of which one the context computes with. To be made before the context, which reserves its graph for all
    of them."""

    def __init__(self, model: Any, specs: Sequence[AdapterSpec], last_words: Callable[[], str]) -> None:
        """last_words: of llama.cpp, for the message. Raises LoadFailed naming the adapter."""
        self._loaded: dict[str | None, Any] = {}
        self._set: str | None = None
        self.size_bytes = 0
        for spec in specs:
            path = Path(spec.path)
            adapter = lib.llama_adapter_lora_init(model, str(path).encode())
            if not adapter:
                said = last_words().replace(str(path), path.name)
                raise LoadFailed(f"llama.cpp cannot load the adapter {spec.name}: {said}; `edged pull` it again with "
                                 "--adapter-of, or remove it with `edged rm --adapter`")
            self._loaded[spec.name] = adapter
            self.size_bytes += path.stat().st_size

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._loaded if name is not None)

    def use(self, context: Any, name: str | None) -> None:
        """From now on the context computes with it, or with none. A change makes llama.cpp build its graph anew. Raises
        EngineError."""
        if name == self._set:
            return
        if name is None:
            code = lib.llama_set_adapters_lora(context, None, 0, None)
        else:
            pointer = lib.llama_adapter_lora_p_ctypes
            one = (pointer * 1)(ctypes.cast(self._loaded[name], pointer))
            code = lib.llama_set_adapters_lora(context, one, 1, (ctypes.c_float * 1)(1.0))
        if code != 0:
            raise EngineError(f"llama.cpp could not set the adapter {name}")
        self._set = name
