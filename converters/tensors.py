"""What lies in safetensors files, read from their headers alone.

Format: https://huggingface.co/docs/safetensors: eight bytes with the header's length, the header (JSON: name → dtype,
shape, data_offsets), then the bytes of all tensors without gaps. The package checks it (offsets, overlaps, that the
file is exactly as long as the header says); this module says which file it was.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from msgspec import Struct

from edged.errors import CorruptFile

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"


class TensorInfo(Struct, frozen=True, kw_only=True):
    """dtype: as safetensors writes it (F32, F16, BF16, F8_E4M3, I32, …)."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Tensors of one file by name, in the order of their bytes. Raises CorruptFile naming it where it is cut short,
    longer than it says, or not safetensors at all."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
    except FileNotFoundError:
        raise CorruptFile(f"{file.name} is missing; get the model again") from None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CorruptFile(
            f"{file.name} is damaged or no safetensors file ({str(error)[:200]}); get the model again") from error
    entries = {name: value for name, value in header.items() if name != "__metadata__"}
    return {
        name: TensorInfo(dtype=value["dtype"], shape=tuple(value["shape"]),
                         size_bytes=value["data_offsets"][1] - value["data_offsets"][0])
        for name, value in sorted(entries.items(), key=lambda item: item[1]["data_offsets"][0])
    }


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder: all that its index names, or the one. Raises CorruptFile where
    one of them is missing."""
    index = folder / INDEX
    if not index.exists():
        files = [folder / WHOLE]
    else:
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
            files = sorted(folder / name for name in names if Path(name).name == name)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptFile(f"{index.name} is damaged ({str(error)[:200]}); get the model again") from error
        if not files or len(files) != len(names):
            raise CorruptFile(f"{index.name} names no files of this folder; get the model again")
    for file in files:
        if not file.is_file():
            raise CorruptFile(f"{file.name} is missing; get the model again")
    return files


def read_headers(folder: Path) -> dict[Path, dict[str, TensorInfo]]:
    """`read_header` of all weights of a folder, by file."""
    return {file: read_header(file) for file in weight_files(folder)}
