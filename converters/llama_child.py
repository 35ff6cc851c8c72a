"""llama.cpp in a process of its own: `python -m converters.llama_child`. What kills it (an assertion of the library
does, and an exception in C++) ends this process only; see `converters.llama_process` for the other side.

Standard input: one JSON line, the task (`Tokenize` or `Quantize`), then nothing until the other side is gone, upon
which this process ends too. Standard output: one JSON line, the answer. Standard error: llama.cpp's own words.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import Any

import msgspec
from msgspec import Struct


class Tokenize(Struct, frozen=True, kw_only=True, tag="tokenize"):
    """Token ids of each text under each rule (`tokenizer.ggml.pre`), None for a rule that llama.cpp refuses."""

    file: str
    rules: list[str]
    texts: list[str]


class Quantize(Struct, frozen=True, kw_only=True, tag="quantize"):
    """file → out as llama.cpp's `file_type` (LLAMA_FTYPE_…). importance: a safetensors file, a vector for each
    tensor."""

    file: str
    out: str
    file_type: int
    threads: int
    importance: str | None = None


class Tokenized(Struct, frozen=True, tag="tokenized"):
    tokens: dict[str, list[list[int]] | None]


class Quantized(Struct, frozen=True, tag="quantized"):
    """code: what llama.cpp returned, 0 where it went well."""

    code: int


Task = Tokenize | Quantize
Answer = Tokenized | Quantized


def main() -> None:
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import llama_cpp.llama_cpp as lib

    @lib.llama_log_callback  # type: ignore[untyped-decorator]
    def log(_level: int, text: bytes, _data: Any) -> None:
        os.write(2, text)

    os.environ["GGML_NO_BACKTRACE"] = "1"
    lib.llama_log_set(log, ctypes.c_void_p(0))
    lib.llama_backend_init()
    answer = _tokenize(lib, task) if isinstance(task, Tokenize) else _quantize(lib, task)
    os.write(1, msgspec.json.encode(answer) + b"\n")


def _end_with_parent() -> None:
    # Not sys.stdin: the interpreter could not end while a thread holds its lock.
    while os.read(0, 4096):
        pass
    os._exit(1)


def _tokenize(lib: Any, task: Tokenize) -> Tokenized:
    return Tokenized({rule: _under(lib, task, rule) for rule in task.rules})


def _under(lib: Any, task: Tokenize, rule: str) -> list[list[int]] | None:
    overrides = (lib.llama_model_kv_override * 2)()
    overrides[0].tag = lib.LLAMA_KV_OVERRIDE_TYPE_STR
    overrides[0].key = b"tokenizer.ggml.pre"
    overrides[0].value.val_str = rule.encode()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    params.kv_overrides = overrides
    model = lib.llama_model_load_from_file(task.file.encode(), params)
    if not model:
        return None
    vocab = lib.llama_model_get_vocab(model)
    found = []
    for text in task.texts:
        data = text.encode()
        room = len(data) + 8
        tokens = (lib.llama_token * room)()
        count = lib.llama_tokenize(vocab, data, len(data), tokens, room, False, False)
        found.append(list(tokens[:max(count, 0)]))
    lib.llama_model_free(model)
    return found


def _quantize(lib: Any, task: Quantize) -> Quantized:
    params = lib.llama_model_quantize_default_params()
    params.ftype = task.file_type
    params.nthread = task.threads
    kept = []
    if task.importance is not None:
        from safetensors.numpy import load_file

        vectors = load_file(task.importance)
        # The list ends with an entry without a name.
        entries = (lib.llama_model_imatrix_data * (len(vectors) + 1))()
        for entry, (name, values) in zip(entries, vectors.items(), strict=False):
            kept.append(values)
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
        params.imatrix = entries
    return Quantized(lib.llama_model_quantize(task.file.encode(), task.out.encode(), ctypes.byref(params)))


if __name__ == "__main__":
    main()
