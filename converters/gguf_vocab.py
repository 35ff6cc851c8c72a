"""The tokenizer of a Hugging Face folder in the words of a GGUF (keys `tokenizer.ggml.*`,
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Source is tokenizer.json. Two kinds are known to llama.cpp and to this module: byte-level BPE ("gpt2": merges, and a
rule named `tokenizer.ggml.pre` by which text is split before) and BPE of SentencePiece with bytes as the way out
("llama": a score for each token instead of merges).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gguf import GGUFWriter, SpecialVocab, TokenType

from edged.errors import CorruptFile, InvalidRequest

_NO_SCORE = -1000.0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """tokens, scores, types: by token id, as many as the model has rows of embeddings. adds_space: a text gets a space
    before its first word. patterns: regular expressions by which text is split before the merges; digits: and between
    any two digits. whole_words: a word that is a token is taken as it is. ending: tokens that end an answer, besides
    the tokenizer's own."""

    kind: Literal["gpt2", "llama"]
    tokens: list[str]
    scores: list[float]
    types: list[TokenType]
    adds_space: bool
    patterns: tuple[str, ...]
    digits: bool
    whole_words: bool
    ending: tuple[int, ...]
    special: SpecialVocab

    def write(self, writer: GGUFWriter, pre: str) -> None:
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.kind == "llama":
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.adds_space)
        self.special.add_to_gguf(writer, quiet=True)
        for token, add in zip(self.ending, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
            add(token)


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """rows: how many tokens the model has embeddings for; more than the tokenizer knows are filled up with unused ones.
    Raises InvalidRequest where llama.cpp has no such tokenizer, CorruptFile where the file is damaged or missing."""
    parts, tokenizer = _read(folder)
    model = parts["model"]
    kinds = {step["type"] for part in ("pre_tokenizer", "decoder") for step in _steps(parts.get(part))}
    kind: Literal["gpt2", "llama"] = "gpt2" if "ByteLevel" in kinds else "llama"
    if model.get("type") != "BPE" or (kind == "llama" and not model.get("byte_fallback")):
        raise InvalidRequest(
            f"tokenizer.json is of a kind ({model.get('type')}, {', '.join(sorted(kinds))}) that edged cannot write "
            "into a GGUF; convert to ONNX instead")
    tokens = [f"[PAD{token}]" for token in range(rows)]
    scores = [_NO_SCORE * 10] * rows
    types = [TokenType.UNUSED] * rows
    rank = _ranks(model) if kind == "llama" else {}
    for text, token in model["vocab"].items():
        if token < rows:
            tokens[token], scores[token] = text, rank.get(text, _NO_SCORE)
            types[token] = _type(text, model, kind)
    for added in parts.get("added_tokens", []):
        # Some tokenizers know tokens that their model has no embedding of (Gemma 3's image token).
        if (token := added["id"]) < rows:
            tokens[token], scores[token] = added["content"], _NO_SCORE
            types[token] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if kind == "llama" and (unknown := model["vocab"].get(model.get("unk_token"))) is not None and unknown < rows:
        types[unknown] = TokenType.UNKNOWN
    special = SpecialVocab(folder, load_merges=kind == "gpt2", n_vocab=rows)
    begins, ends = _around(tokenizer)
    special.add_special_token = {"bos": begins, "eos": ends}
    before = list(_steps(parts.get("pre_tokenizer")))
    return Vocabulary(
        kind, tokens, scores, types, adds_space=_adds_space(parts),
        patterns=tuple(step["pattern"].get("Regex", "") for step in before if step["type"] == "Split"),
        digits=any(step["type"] == "Digits" and step.get("individual_digits") for step in before),
        whole_words=bool(model.get("ignore_merges")), ending=_ending(folder, special), special=special)


def splits(folder: Path, texts: list[str]) -> list[list[int]]:
    """Token ids of each text by the folder's own tokenizer, without tokens around it."""
    _, tokenizer = _read(folder)
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def _read(folder: Path) -> tuple[dict[str, Any], Any]:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.exists():
        raise CorruptFile(
            "tokenizer.json is missing; save the tokenizer with AutoTokenizer.from_pretrained(…).save_pretrained(…)")
    try:
        text = file.read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_str(text)
        parts = json.loads(text)
    # The package raises plain Exception for whatever it cannot read.
    except Exception as error:
        raise CorruptFile(f"tokenizer.json is damaged ({str(error)[:200]}); get the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return parts, tokenizer


def _type(text: str, model: dict[str, Any], kind: str) -> TokenType:
    is_byte = kind == "llama" and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
    return TokenType.BYTE if is_byte else TokenType.NORMAL


def _ranks(model: dict[str, Any]) -> dict[str, float]:
    """Scores such that merging the best scored pair first, as SentencePiece does, is merging by rank: the merge that
    comes first in the list has the highest score. Only the result of a merge is looked up."""
    ranks: dict[str, float] = {}
    for rank, pair in enumerate(model["merges"]):
        left, right = pair if isinstance(pair, list) else pair.split(" ")
        ranks.setdefault(left + right, -float(rank))
    return ranks


def _adds_space(parts: dict[str, Any]) -> bool:
    """As two kinds of files say it: a Metaspace pre-tokenizer, or a normalizer that prepends."""
    for step in (*_steps(parts.get("pre_tokenizer")), *_steps(parts.get("normalizer"))):
        if step["type"] == "Prepend":
            return True
        if step["type"] == "Metaspace":
            return bool(step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True))
    return False


def _around(tokenizer: Any) -> tuple[bool, bool]:
    """Whether a text gets a token before it and one after it: found out, not read, since it may be said in three
    places that contradict each other."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    return full[:1] != plain[:1], full[-1:] != plain[-1:]


def _ending(folder: Path, special: SpecialVocab) -> tuple[int, ...]:
    """Tokens that generation_config.json ends an answer with, besides the tokenizer's."""
    file = folder / "generation_config.json"
    if not file.exists():
        return ()
    try:
        ends = json.loads(file.read_bytes()).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise CorruptFile(f"{file.name} is damaged ({str(error)[:200]}); get the model again") from error
    known = special.special_token_ids.get("eos")
    return tuple(end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int) and end != known)


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder of tokenizer.json without its nesting."""
    if isinstance(part, dict):
        inside = next((part[key] for key in ("normalizers", "pretokenizers", "decoders") if key in part), None)
        if inside is None:
            yield part
        else:
            for inner in inside:
                yield from _steps(inner)
