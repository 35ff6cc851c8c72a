"""The vocabulary of a Hugging Face model folder: tokenizer.json through `tokenizers`, no transformers.

Files read: tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edged.errors import LoadFailed

_SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>\Z")


def _byte_of_character() -> dict[str, int]:
    """The table of GPT-2's byte-level BPE: printable bytes stand for themselves, the others for U+0100 onwards
    (openai/gpt-2, src/encoder.py, bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()


def read_json(file: Path) -> dict[str, Any]:
    """{} where the file is missing. Raises LoadFailed naming it where it is not a JSON object."""
    if not file.exists():
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise LoadFailed(f"{file.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise LoadFailed(f"{file.name} is not a JSON object")
    return value


class HfVocab:
    def __init__(self, folder: Path, size: int, end: frozenset[int]) -> None:
        """size: the model's vocabulary, which may be larger than the tokenizer's. end: from the model's own
        configuration, joined with generation_config.json and the tokenizer's eos_token."""
        source = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(source))
            self._plain = Tokenizer.from_file(str(source))
        except Exception as error:
            raise LoadFailed(f"{source.name} is missing or no tokenizer: {error}") from error
        self._plain.encode_special_tokens = True
        parts = read_json(source)
        config = read_json(folder / "tokenizer_config.json")
        self.size = size
        self.special = {name: text for name in _SPECIAL_NAMES if (text := _content(config.get(name))) is not None}
        self.bos = self._id("bos_token")
        ends = read_json(folder / "generation_config.json").get("eos_token_id", [])
        self.end = end | frozenset([ends] if isinstance(ends, int) else ends)
        if (eos := self._id("eos_token")) is not None:
            self.end |= {eos}
        self.chat_template = _chat_template(folder, config)
        self._byte_level = "ByteLevel" in _types(parts.get("decoder")) | _types(parts.get("pre_tokenizer"))
        decoder = parts.get("decoder")
        self._strips = not self._byte_level and bool({"Strip", "Metaspace"} & _types(decoder))
        self._added = {entry["id"]: entry for entry in parts.get("added_tokens", [])}
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        ids: list[int] = (self._tokenizer if special else self._plain).encode(text, add_special_tokens=bos).ids
        if len(ids) > 1 and ids[0] == ids[1] == self.bos:
            del ids[0]
        return ids

    def piece(self, token: int) -> bytes:
        if (known := self._pieces.get(token)) is None:
            known = self._pieces[token] = self._read_piece(token)
        return known

    def strips_first_space(self) -> bool:
        return self._strips

    def _read_piece(self, token: int) -> bytes:
        if (added := self._added.get(token)) is not None:
            content: str = added["content"]
            return b"" if added["special"] else content.encode()
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            return bytes(_BYTE_OF[character] for character in text if character in _BYTE_OF)
        if (match := _BYTE_FALLBACK.match(text)) is not None:
            return bytes([int(match[1], 16)])
        return str(text).replace("▁", " ").encode()

    def _id(self, name: str) -> int | None:
        text = self.special.get(name)
        token: int | None = None if text is None else self._tokenizer.token_to_id(text)
        return token


def _content(token: Any) -> str | None:
    """A special token is a text, or an object that holds it."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _types(part: Any) -> set[str]:
    """Every `type` in a part of tokenizer.json, however deep."""
    if isinstance(part, dict):
        found = {part["type"]} if isinstance(part.get("type"), str) else set()
        return found.union(*(_types(value) for value in part.values()))
    if isinstance(part, list):
        return set[str]().union(*(_types(value) for value in part))
    return set()
