"""The vocabulary of a Hugging Face model folder: tokenizer.json through `tokenizers`, no transformers.

Files read: tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edged.engines.fill import fill_of
from edged.errors import LoadFailed

_SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>\Z")
#: Decoders under which the text of a list of tokens is the texts of the tokens, joined.
_DECODERS = frozenset({"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"})


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
        self._source = folder / "tokenizer.json"
        self._tokenizer = self._read()
        parts = read_json(self._source)
        config = read_json(folder / "tokenizer_config.json")
        self.size = size
        self.special = {name: text for name in _SPECIAL_NAMES if (text := _content(config.get(name))) is not None}
        self.bos = self._id("bos_token")
        ends = read_json(folder / "generation_config.json").get("eos_token_id")
        self.end = end | frozenset([ends] if isinstance(ends, int) else ends or ())
        if (eos := self._id("eos_token")) is not None:
            self.end |= {eos}
        self.fill, ends_of_fill = fill_of(self._tokenizer.token_to_id)
        self.end |= ends_of_fill
        self.chat_template = _chat_template(folder, config)
        self._decoder = _steps(parts.get("decoder"))
        if unknown := sorted({step["type"] for step in self._decoder} - _DECODERS):
            raise LoadFailed(f"tokenizer.json: text cannot be streamed through its decoder {unknown[0]}")
        kinds = {step["type"] for step in self._decoder or _steps(parts.get("pre_tokenizer"))}
        self._byte_level = "ByteLevel" in kinds
        self._byte_fallback = "ByteFallback" in kinds
        self._strips = any(map(_strips, self._decoder))
        self._added = {entry["id"]: entry for entry in parts.get("added_tokens", [])}
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        tokenizer = self._tokenizer if special else self._plain
        ids: list[int] = tokenizer.encode(text, add_special_tokens=bos).ids
        if len(ids) > 1 and ids[0] == ids[1] == self.bos:
            del ids[0]
        return ids

    def piece(self, token: int) -> bytes:
        if (known := self._pieces.get(token)) is None:
            known = self._pieces[token] = self._read_piece(token)
        return known

    def written(self, token: int) -> bytes:
        added = self._added.get(token)
        return self.piece(token) if added is None else str(added["content"]).encode()

    def strips_first_space(self) -> bool:
        return self._strips

    @cached_property
    def _plain(self) -> Any:
        """A second one, since this switch is not for threads."""
        tokenizer = self._read()
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _read(self) -> Any:
        try:
            tokenizer = Tokenizer.from_file(str(self._source))
        except Exception as error:
            raise LoadFailed(f"{self._source.name} is missing or no tokenizer: {error}") from error
        # Some files carry those of their training: a prompt would be cut to fit, in silence.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _read_piece(self, token: int) -> bytes:
        if (added := self._added.get(token)) is not None:
            content: str = added["content"]
            return b"" if added["special"] else content.encode()
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            known = all(character in _BYTE_OF for character in text)
            return bytes(_BYTE_OF[character] for character in text) if known else str(text).encode()
        if self._byte_fallback and (match := _BYTE_FALLBACK.match(text)) is not None:
            return bytes([int(match[1], 16)])
        for step in self._decoder:
            if step["type"] == "Metaspace":
                text = text.replace(step["replacement"], " ")
            elif step["type"] == "Replace":
                text = text.replace(step["pattern"]["String"], step["content"])
        return str(text).encode()

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


def _steps(part: Any) -> list[dict[str, Any]]:
    """A decoder or pre-tokenizer of tokenizer.json without its nesting."""
    if not isinstance(part, dict):
        return []
    if part["type"] == "Sequence":
        inside = part["decoders"] if "decoders" in part else part["pretokenizers"]
        return [step for inner in inside for step in _steps(inner)]
    if part["type"] == "Replace" and "String" not in part["pattern"]:
        return [{"type": "Replace by a pattern"}]
    return [part]


def _strips(step: dict[str, Any]) -> bool:
    """Whether this step of a decoder takes away the space that the tokenizer put before the text."""
    match step["type"]:
        case "Strip":
            return bool(step["content"] == " " and step["start"])
        case "Metaspace":
            return bool(step.get("add_prefix_space", True) and step.get("prepend_scheme") != "never")
        case _:
            return False
