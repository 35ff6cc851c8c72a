"""A GGUF as a Hugging Face folder with weights in 32 bits: transformers reads it, with the tokenizer and the chat
template that lie in it. What the quantization has lost is lost: whoever compares with the result is told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from edged.errors import ConversionFailed, CorruptFile

#: File types of llama.cpp that lose nothing.
_WHOLE = ("F32", "F16", "BF16")


class GgufFacts(Struct, frozen=True, kw_only=True):
    """What a GGUF says of itself. precision: as llama.cpp names its file type, None where it names none.
    split_rule: by which its tokenizer splits text (`tokenizer.ggml.pre`)."""

    parameters: int
    architecture: str
    precision: str | None
    license: str | None
    split_rule: str

    @property
    def origin(self) -> str | None:
        """In words; None where nothing was lost."""
        if self.precision in _WHOLE:
            return None
        return f"dequantized from {self.precision or 'a quantized GGUF'}"


def read_facts(file: Path) -> GgufFacts:
    """Raises CorruptFile."""
    import gguf

    try:
        reader = gguf.GGUFReader(file)
        parameters = sum(int(tensor.n_elements) for tensor in reader.tensors)
        architecture, license = _text(reader, "general.architecture"), _text(reader, "general.license")
        rule = _text(reader, "tokenizer.ggml.pre")
        file_type = reader.fields.get("general.file_type")
        precision = None if file_type is None else gguf.LlamaFileType(int(file_type.contents())).name
    except Exception as error:
        raise CorruptFile(f"{file.name} is damaged or no GGUF ({str(error)[:200]}); get the model again") from error
    if not parameters or architecture is None:
        raise CorruptFile(f"{file.name} holds no weights; get the model again")
    return GgufFacts(
        parameters=parameters, architecture=architecture, license=license, split_rule=rule or "default",
        precision=None if precision is None else precision.removeprefix("MOSTLY_").removeprefix("ALL_"))


def dequantize(file: Path, facts: GgufFacts, out: Path, scratch: Path) -> str | None:
    """Makes the folder `out`. Returns what a person should know of the result, None where that is nothing. Raises
    ConversionFailed where transformers does not know the architecture. The scratch folder holds a link to the file
    alone: transformers looks at what lies beside it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from converters.gguf_tokenizer import mend

    folder = scratch / "gguf"
    folder.mkdir()
    (folder / "model.gguf").symlink_to(file)
    # Without dequantize=True save_pretrained says that the quantization cannot be written.
    config: Any = GgufConfig(gguf_file="model.gguf", dequantize=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file="model.gguf", dtype=torch.float32, quantization_config=config)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ConversionFailed(
            f"transformers cannot read this GGUF ({str(error)[:300]}); convert the model from its Hugging Face original"
        ) from error
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return mend(out, file, facts.split_rule)


def _text(reader: Any, key: str) -> str | None:
    field = reader.fields.get(key)
    return None if field is None else str(field.contents())
