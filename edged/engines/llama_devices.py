"""The devices that llama.cpp's back ends found, and which of them a provider means.

ggml's functions (ggml-backend.h) are not bound by llama-cpp-python, but its library brings them along.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edged.engines.llama_library import lib
from edged.errors import DeviceUnavailable

#: ggml's registry of each provider, in lower case.
_REGISTRIES = {"cuda": ("cuda",), "metal": ("metal", "mtl"), "rocm": ("rocm", "hip"), "sycl": ("sycl",),
               "opencl": ("opencl",), "vulkan": ("vulkan",)}
#: enum ggml_backend_dev_type: a card with memory of its own, and graphics in the machine's.
_CARD, _INTEGRATED = 1, 2


@dataclass(frozen=True, slots=True)
class LlamaDevice:
    """pointer: ggml_backend_dev_t. registry: name of its back end. kind: ggml_backend_dev_type. free_bytes: of its
    memory, or of the machine's where it is integrated."""

    pointer: int
    registry: str
    kind: int
    description: str
    free_bytes: int

    @property
    def has_own_memory(self) -> bool:
        return self.kind == _CARD


def devices() -> list[LlamaDevice]:
    """Call it after llama_backend_init."""
    return [_described(_ggml("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t(number)))
            for number in range(_ggml("ggml_backend_dev_count", ctypes.c_size_t))]


def device_of(provider: str, found: Iterable[LlamaDevice]) -> LlamaDevice | None:
    """None for the processor. A card goes before integrated graphics, then the one with most memory free. Raises
    DeviceUnavailable where llama.cpp has none for the provider."""
    if provider == "cpu":
        return None
    own = [one for one in found
           if one.registry.lower() in _REGISTRIES.get(provider, ()) and one.kind in (_CARD, _INTEGRATED)]
    if not own:
        raise DeviceUnavailable(f"llama.cpp has found no device for {provider}; nothing is served on another one")
    return max(own, key=lambda one: (one.has_own_memory, one.free_bytes))


def only(chosen: LlamaDevice | None) -> Any:
    """For llama_model_params.devices, which must outlive the load: a list that ends with NULL. Without it llama.cpp
    takes every device that it has found, also for what is to run on the processor."""
    pointers: Sequence[int | None] = [None] if chosen is None else [chosen.pointer, None]
    return (ctypes.c_void_p * len(pointers))(*pointers)


def _described(pointer: int) -> LlamaDevice:
    handle = ctypes.c_void_p(pointer)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _ggml("ggml_backend_dev_memory", None, handle, ctypes.byref(free), ctypes.byref(total))
    registry = ctypes.c_void_p(_ggml("ggml_backend_dev_backend_reg", ctypes.c_void_p, handle))
    return LlamaDevice(
        pointer=pointer, registry=_text(_ggml("ggml_backend_reg_name", ctypes.c_char_p, registry)),
        kind=_ggml("ggml_backend_dev_type", ctypes.c_int, handle),
        description=_text(_ggml("ggml_backend_dev_description", ctypes.c_char_p, handle)), free_bytes=free.value,
    )


def _ggml(name: str, returns: Any, *arguments: Any) -> Any:
    function = getattr(lib._lib, name)
    function.restype = returns
    return function(*arguments)


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")
