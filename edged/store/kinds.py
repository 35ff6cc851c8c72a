"""Which kinds of files edged takes from anywhere, and what it refuses inside them. Pure.

Weights and text only: nothing that a library would run (PROMISES T2, T4, T5).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from edged.errors import RefusedFile
from edged.store.paths import checked_relative

#: JSON up to this size is looked into; a tokenizer of a 256k vocabulary has 33 MB.
JSON_BYTES = 64 * 1024 * 1024

_WEIGHTS = (".gguf", ".onnx", ".onnx.data", ".onnx_data", ".safetensors")
_TEXTS = (".json", ".jinja", ".txt", ".model", ".md")
_BARE = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
#: Keys of genai_config.json under which onnxruntime takes a native library, or reads weights from another folder.
_NATIVE = ("custom_ops_library", "trt_extra_plugin_lib_paths", "session.model_external_initializers_file_folder_path")
_CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe", ".ipynb", ".js", ".wasm")


def why_not(path: str) -> str | None:
    """None for a kind that edged takes, else why it does not, in words."""
    name = path.rsplit("/", 1)[-1]
    lower = name.lower()
    if lower.endswith((*_WEIGHTS, *_TEXTS)) or name.upper() in _BARE:
        return None if not name.startswith(".") else "hidden files are not taken"
    if lower.endswith(_PICKLES):
        return "a pickle or a format that may hold one can run code; only safetensors, GGUF and ONNX are taken"
    if lower.endswith(_CODE):
        return "code that comes with a model is never run"
    return "edged has no use for this kind of file"


def is_weights(path: str) -> bool:
    return path.lower().endswith(_WEIGHTS)


def is_pickle(path: str) -> bool:
    return path.lower().endswith(_PICKLES)


def check_json(path: str, data: bytes) -> str | None:
    """Look into a JSON file of a model. Returns why the file is left out, None to take it, and raises RefusedFile
    where the model itself cannot be had without running its code.

    `auto_map` in config.json only names classes for transformers, which no engine here reads: the file is left out.
    In a tokenizer's configuration it means that the tokenizer is code."""
    name = path.rsplit("/", 1)[-1]
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RefusedFile(f"{path} is no valid JSON ({str(error)[:100]}); the model is refused") from error
    code = False
    for key, said in items(value):
        if key in _NATIVE:
            raise RefusedFile(f"{path} names a {key}: native code in a model is never loaded")
        if key == "backend_path" and isinstance(said, str) and ("/" in said or "\\" in said):
            raise RefusedFile(f"{path} names a library by its path ({key}): native code in a model is never loaded")
        if name == "genai_config.json" and key.endswith("filename") and isinstance(said, str):
            checked_relative(said)
        code = code or key == "auto_map"
    if not code:
        return None
    if name == "config.json":
        return "it names code (auto_map), which is never run; the engines here do not need it"
    raise RefusedFile(f"{path} needs code of its own (auto_map), and code that comes with a model is never run")


def look_into(path: str, size: int, read: Callable[[], bytes]) -> str | None:
    """`check_json` of files that are JSON and of a size to be read whole; None for all others."""
    if not path.lower().endswith(".json") or size > JSON_BYTES:
        return None
    return check_json(path, read())


def items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and what it says, at any depth, without recursion: a file may be 1,000 lists deep."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield from each.items()
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
