"""The vocabulary of a GGUF: llama.cpp's own tokenizer, and the file's metadata."""

from __future__ import annotations

import ctypes
from typing import Any

from edged.engines.base import Fill
from edged.engines.llama_library import lib

_SPECIAL = {
    "bos_token": lib.llama_vocab_bos, "eos_token": lib.llama_vocab_eos, "pad_token": lib.llama_vocab_pad,
    "sep_token": lib.llama_vocab_sep,
}


def metadata(model: Any) -> dict[str, str]:
    """Scalar keys of the GGUF header as text. Values are read at their full length (chat templates are long)."""
    values = {}
    for index in range(lib.llama_model_meta_count(model)):
        key = _string(lib.llama_model_meta_key_by_index, model, index)
        values[key] = _string(lib.llama_model_meta_val_str_by_index, model, index)
    return values


def _string(read: Any, model: Any, index: int) -> str:
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = read(model, index, buffer, size)
        if length < size:
            return buffer.value.decode(errors="replace")
        size = length + 1


class LlamaVocab:
    def __init__(self, model: Any, meta: dict[str, str]) -> None:
        vocab = self._vocab = lib.llama_model_get_vocab(model)
        self.size: int = lib.llama_vocab_n_tokens(vocab)
        bos = lib.llama_vocab_bos(vocab)
        self.bos: int | None = bos if bos >= 0 else None
        self.end = frozenset(token for token in range(self.size) if lib.llama_vocab_is_eog(vocab, token))
        self.special = {
            name: lib.llama_vocab_get_text(vocab, token).decode(errors="replace")
            for name, read in _SPECIAL.items() if (token := read(vocab)) >= 0
        }
        self.chat_template: str | None = meta.get("tokenizer.chat_template")
        gap = (lib.llama_vocab_fim_pre(vocab), lib.llama_vocab_fim_suf(vocab), lib.llama_vocab_fim_mid(vocab))
        self.fill = Fill(*gap) if min(gap) >= 0 else None
        self._adds_space = meta.get("tokenizer.ggml.add_space_prefix", "true") == "true" and (
            lib.llama_vocab_type(vocab) in (lib.LLAMA_VOCAB_TYPE_SPM, lib.LLAMA_VOCAB_TYPE_UGM))
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        while True:
            tokens = (lib.llama_token * room)()
            count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, bos, special)
            if count >= 0:
                break
            room = -count
        result: list[int] = tokens[:count]
        if len(result) > 1 and result[0] == result[1] == self.bos:
            del result[0]
        return result

    def piece(self, token: int) -> bytes:
        if (known := self._pieces.get(token)) is not None:
            return known
        piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def written(self, token: int) -> bytes:
        return self._read_piece(token, special=True)

    def strips_first_space(self) -> bool:
        return self._adds_space

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if length >= 0:
                return bytes(buffer.raw[:length])
            size = -length
