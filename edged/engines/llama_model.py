"""What every use of llama.cpp shares: its log, its back ends, loading a file, and what it says of it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edged.engines.base import Progress
from edged.engines.llama_devices import LlamaDevice, device_of, devices, only
from edged.engines.llama_library import lib, library_version
from edged.errors import LoadFailed

#: More than any model has.
ALL_LAYERS = 999

FLASH = {None: lib.LLAMA_FLASH_ATTN_TYPE_AUTO, True: lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
         False: lib.LLAMA_FLASH_ATTN_TYPE_DISABLED}

_log_lines: list[str] = []
_log_lock = threading.Lock()


@lib.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _data: Any) -> None:
    """llama.cpp's own words are kept for the message of a failed load, and not printed."""
    if level >= 3:
        with _log_lock:
            _log_lines.append(text.decode(errors="replace").strip())
            del _log_lines[:-20]


def last_words() -> str:
    with _log_lock:
        return "; ".join(_log_lines[-3:])


def begin(provider: str) -> LlamaDevice | None:
    """Before anything is loaded. Returns the device that the provider means, None for the processor. Raises
    DeviceUnavailable."""
    # It would start gdb, where there is one, to tell of a failed assertion.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    lib.llama_log_set(_log, ctypes.c_void_p(0))
    lib.llama_backend_init()
    return device_of(provider, devices())


def device_name(provider: str, device: LlamaDevice | None) -> str:
    """As `Facts.device` tells it."""
    return "cpu" if device is None else f"{provider} {device.description}"


def rope_of(meta: Mapping[str, str], context: int) -> str:
    """Part of a state's format: models with factors for long contexts rotate keys by other ones once the context that
    they were loaded with is longer than the one they were first trained with (llama.cpp's `get_rope_factors`)."""
    original = next((int(text) for key, text in meta.items() if key.endswith(".rope.scaling.original_context_length")),
                    None)
    return "" if original is None else f" rope={'long' if context > original else 'short'}"


def load_model(file: Path, device: LlamaDevice | None, progress: Progress, *, mlock: bool) -> Any:
    """Raises LoadFailed."""

    @lib.llama_progress_callback  # type: ignore[untyped-decorator]
    def on_progress(fraction: float, _data: Any) -> bool:
        progress(fraction)
        return True

    params = lib.llama_model_default_params()
    params.progress_callback = on_progress
    on_device = only(device)
    params.devices = ctypes.addressof(on_device)
    # All layers or none: a device that does not hold all of them refuses the load.
    params.n_gpu_layers = 0 if device is None else ALL_LAYERS
    if mlock:
        params.load_mode = lib.LLAMA_LOAD_MODE_MLOCK
    model = lib.llama_model_load_from_file(str(file).encode(), params)
    if not model:
        raise LoadFailed(f"llama.cpp cannot load {file.name}: {_cause(file)}; if the file is damaged, `edged verify` "
                         "tells, and pulling the model again mends it")
    return model


def _cause(file: Path) -> str:
    """What llama.cpp says when it gives up on a file, without the path; it says several times that it failed."""
    with _log_lock:
        said = [line.replace(str(file), file.name) for line in _log_lines]
    telling = [line for line in said if not line.endswith(("failed to load model", f"from {file.name}"))]
    return "; ".join(line.partition("error loading model: ")[2] or line for line in telling[-2:]) or "it said nothing"


def engine_version() -> str:
    return f"llama-cpp-python {library_version()}"


def precision_of(model: Any) -> str:
    """llama.cpp's one-line description, such as `llama ?B Q4_1`: its last word is the file type."""
    buffer = ctypes.create_string_buffer(256)
    lib.llama_model_desc(model, buffer, 256)
    words = buffer.value.decode(errors="replace").replace(" - Small", "_S").replace(" - Medium", "_M").replace(
        " - Large", "_L").split()
    return words[-1] if words else "unknown"
