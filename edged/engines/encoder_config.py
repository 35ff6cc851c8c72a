"""What the folder of an encoder says of itself: context, pooling, normalisation. Pure but for reading its files.

Formats: `modules.json`, `sentence_bert_config.json`, `1_Pooling/config.json` of sentence-transformers; `config.json`
and `tokenizer_config.json` of transformers. Prompts of `config_sentence_transformers.json` are for whoever writes the
texts: none is put before a text here.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edged.engines.hf_vocab import read_json
from edged.engines.pooling import MODES
from edged.errors import LoadFailed
from edged.types import LoadSpec

#: Position embeddings of RoBERTa's kin begin after the padding token's number.
_SHIFTED = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text", "xlm-roberta-xl"})
#: Tokenizers without a limit say a number as large as this or larger.
_NO_LIMIT = 10**6


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the operator says over the files. pooling: names of `edged.engines.pooling`, concatenated in their order."""

    pooling: str | tuple[str, ...] | None = None
    normalize: bool | None = None


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """pooling: modes whose vectors are concatenated; None where the folder does not say. dense: a layer comes after
    pooling, which only a graph with that layer inside gives. first_position: number of a text's first token. shorter:
    lengths of the beginnings of a vector that are vectors too."""

    context: int
    pooling: tuple[str, ...] | None
    dense: bool
    normalize: bool
    lower_case: bool
    shorter: Container[int]
    first_position: int

    def shorter_than(self, dimensions: int) -> Container[int]:
        return range(1, dimensions) if isinstance(self.shorter, range) else self.shorter


def read_config(folder: Path, spec: LoadSpec) -> EncoderConfig:
    """Raises LoadFailed naming the file, or the option."""
    try:
        options = msgspec.convert(spec.options, Options)
    except msgspec.ValidationError as error:
        raise LoadFailed(f"options of {spec.name}: {error}") from error
    config = read_json(folder / "config.json")
    sentence = read_json(folder / "sentence_bert_config.json")
    tokenizer = read_json(folder / "tokenizer_config.json")
    modules = _modules(folder)
    positions = _positions(config)
    trained = min((limit for limit in (
        _count(sentence.get("max_seq_length")), _count(tokenizer.get("model_max_length")), positions,
    ) if limit is not None), default=512)
    if spec.context is not None and positions is not None and spec.context > positions:
        raise LoadFailed(f"{spec.name} has positions for {positions} tokens; `context` cannot be {spec.context}")
    pooling = _said_pooling(options, spec)
    if pooling is None and "Pooling" in modules:
        pooling = _pooling_of(folder, modules["Pooling"])
    normalize = options.normalize if options.normalize is not None else "Normalize" in modules
    return EncoderConfig(
        context=spec.context or trained, pooling=pooling, dense="Dense" in modules,
        normalize=normalize, lower_case=bool(sentence.get("do_lower_case", False)),
        shorter=spec.dimensions or _matryoshka(config), first_position=_first_position(config),
    )


def _modules(folder: Path) -> dict[str, str]:
    """Kind of each module of sentence-transformers, and its folder."""
    file = folder / "modules.json"
    if not file.exists():
        return {}
    try:
        listed: list[dict[str, Any]] = msgspec.json.decode(file.read_bytes(), type=list[dict[str, Any]])
        return {str(one["type"]).rpartition(".")[2]: str(one.get("path", "")) for one in listed}
    except (msgspec.MsgspecError, KeyError) as error:
        raise LoadFailed(f"modules.json is not a list of modules: {error}") from error


def _pooling_of(folder: Path, module: str) -> tuple[str, ...]:
    file = (folder / module / "config.json")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise LoadFailed("modules.json leads out of the model's folder")
    said = read_json(file)
    # Newer ones name the mode, older ones have a switch for each.
    named = said.get("pooling_mode")
    modes = (named,) if isinstance(named, str) else tuple(named) if isinstance(named, list) else tuple(
        mode for mode in MODES if said.get(f"pooling_mode_{_SWITCHES.get(mode, mode)}"))
    if not modes or any(mode not in MODES for mode in modes):
        raise LoadFailed(f"{module}/config.json names no pooling that this engine knows ({', '.join(MODES)})")
    return modes


_SWITCHES = {
    "cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken",
}


def _said_pooling(options: Options, spec: LoadSpec) -> tuple[str, ...] | None:
    if options.pooling is None:
        return None
    said = (options.pooling,) if isinstance(options.pooling, str) else options.pooling
    if not said or any(mode not in MODES for mode in said):
        raise LoadFailed(f"options of {spec.name}: pooling is one of {', '.join(MODES)}")
    return said


def _positions(config: dict[str, Any]) -> int | None:
    count = _count(config.get("max_position_embeddings"))
    return None if count is None else count - _first_position(config)


def _first_position(config: dict[str, Any]) -> int:
    if config.get("model_type") not in _SHIFTED:
        return 0
    padding = config.get("pad_token_id")
    return (padding if isinstance(padding, int) else 1) + 1


def _count(said: object) -> int | None:
    return int(said) if isinstance(said, int | float) and 0 < said < _NO_LIMIT else None


def _matryoshka(config: dict[str, Any]) -> Container[int]:
    """As vLLM reads it from config.json: `matryoshka_dimensions`, or `is_matryoshka` for any."""
    lengths = config.get("matryoshka_dimensions")
    if isinstance(lengths, list) and all(isinstance(one, int) for one in lengths):
        return tuple(lengths)
    return range(1, 2**16) if config.get("is_matryoshka") is True else ()
