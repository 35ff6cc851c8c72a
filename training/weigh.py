"""What a model takes of memory: bytes of its weights as they are stored, and of the keys and values of one token.

Told from headers and configurations; nothing is loaded. Three forms are known: a Hugging Face folder, a GGUF, and the
ONNX folder of a conversion.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from converters.tensors import read_headers
from edged.errors import CorruptFile, RefusedFile
from edged.store import gguf_header

_CONFIG, _BUILT = "config.json", "genai_config.json"


class Shape(Struct, frozen=True, kw_only=True):
    """The sizes that decide. Names as in config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool = False

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def key_value_width(self) -> int:
        return (self.num_key_value_heads or self.num_attention_heads) * self.head_size

    def parameters(self) -> int:
        """Of a llama: four matrices of attention, three of the gated layer, two norms; a tied head counts once."""
        attention = 2 * self.hidden_size * (self.num_attention_heads * self.head_size + self.key_value_width)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        tables = 1 if self.tie_word_embeddings else 2
        return (self.num_hidden_layers * layer + self.hidden_size
                + tables * self.vocab_size * self.hidden_size)

    def kv_bytes_per_token(self, element_bytes: float) -> int:
        """element_bytes: 4 of fp32, 2 of 16 bits, 34/32 of Q8_0."""
        return int(2 * self.num_hidden_layers * self.key_value_width * element_bytes)


class Weight(Struct, frozen=True, kw_only=True):
    """parameters: each counted once, None of an ONNX folder, where weights and scales cannot be told apart.
    kv_bytes_per_token: of one sequence, in the precision that the model is computed in (`weigh` says which)."""

    parameters: int | None
    weights_bytes: int
    kv_bytes_per_token: int


def weigh(path: Path, *, kv_element_bytes: float | None = None) -> Weight:
    """path: a folder or a .gguf file. kv_element_bytes: of one key or value; None: what the form's engine keeps where
    nobody asks for another: that of the weights for a Hugging Face folder (as transformers computes), 2 for a GGUF, 4
    for ONNX on CPU. Raises RefusedFile where it is none of
    the three, CorruptFile where it is damaged."""
    if path.suffix == ".gguf":
        return _of_gguf(path, kv_element_bytes or 2)
    if (path / _BUILT).exists():
        return _of_onnx(path, kv_element_bytes or 4)
    if (path / _CONFIG).exists():
        return _of_hugging_face(path, kv_element_bytes)
    raise RefusedFile(f"{path} is no model: neither {_CONFIG} nor {_BUILT} is there, nor is it a .gguf")


def shape_of(folder: Path) -> Shape:
    """Of a Hugging Face folder. Raises CorruptFile."""
    return _decoded(_json(folder / _CONFIG), folder / _CONFIG)


def _of_hugging_face(folder: Path, element_bytes: float | None) -> Weight:
    tensors = [tensor for header in read_headers(folder).values() for tensor in header.values()]
    count, size = sum(tensor.count for tensor in tensors), sum(tensor.size_bytes for tensor in tensors)
    each = element_bytes or round(size / max(1, count))
    return Weight(parameters=count, weights_bytes=size, kv_bytes_per_token=shape_of(folder).kv_bytes_per_token(each))


def _of_onnx(folder: Path, element_bytes: float) -> Weight:
    built = _json(folder / _BUILT)
    decoder = built.get("model", {}).get("decoder", {})
    try:
        files = [folder / decoder["filename"], folder / f"{decoder['filename']}.data"]
        per_token = 2 * decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"]
        size = sum(file.stat().st_size for file in files if file.exists())
    except (KeyError, TypeError) as error:
        raise CorruptFile(f"{folder / _BUILT} lacks {error}; convert the model again") from None
    return Weight(parameters=None, weights_bytes=size, kv_bytes_per_token=int(per_token * element_bytes))


def _of_gguf(file: Path, element_bytes: float) -> Weight:
    import gguf

    try:
        tensors = gguf.GGUFReader(file).tensors
        values = gguf_header.read(file)
    # The package raises whatever it stumbles over.
    except Exception as error:
        raise CorruptFile(f"{file.name} is damaged or no GGUF ({str(error)[:200]}); make it again") from error
    family = values.get("general.architecture")

    def number(key: str, otherwise: int = 0) -> int:
        found = values.get(f"{family}.{key}")
        return found if isinstance(found, int) else otherwise

    heads = number("attention.head_count")
    head = number("embedding_length") // heads if heads else 0
    width = number("attention.head_count_kv", heads) * (
        number("attention.key_length", head) + number("attention.value_length", head))
    return Weight(
        parameters=sum(int(tensor.n_elements) for tensor in tensors),
        weights_bytes=sum(int(tensor.n_bytes) for tensor in tensors),
        kv_bytes_per_token=int(number("block_count") * width * element_bytes))


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{file} is missing or damaged ({error}); make the model again") from error
    return found if isinstance(found, dict) else {}


def _decoded(said: dict[str, Any], file: Path) -> Shape:
    try:
        return msgspec.convert(said, Shape)
    except msgspec.ValidationError as error:
        raise CorruptFile(f"{file}: {error}; make the model again") from None
