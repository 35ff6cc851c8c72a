"""Which files of a repository or folder make up a model, and which engine runs them. Pure.

*.gguf → llama, genai_config.json beside *.onnx → ort, another ONNX graph in a Hugging Face folder → ort too, an encoder
(`select_encoder`), fake.json → fake.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edged.errors import RefusedFile
from edged.store import select_encoder
from edged.types import EngineName

#: Without a word from the user: what most edge boxes run well, first.
PREFERRED_QUANTS = ("Q4_K_M", "Q4_0", "Q8_0")

_QUANT = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d+(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|BF16|F16|FP16|F32|FP32))(?=[-._/]|$)",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_ONNX_PRECISION = re.compile(r"(?:^|[-._/])(int4|int8|uint8|fp16|bf16|fp32)(?=[-._/]|$)", re.IGNORECASE)
_CONFIG = "genai_config.json"
#: By which Foundry Local's cache knows a folder. No part of the model, so that an export that is pulled again, perhaps
#: on another machine, is the version that it was.
FOUNDRY_FILE = "inference_model.json"
#: How a folder says what its weights were trained from (`edged.store.trained`). No part of the model either.
TRAINING_FILE = "edged-training.json"
_FAKE = "fake.json"
#: Where the adapters of a version are, and its graph that takes them: no part of the model, so that an export that is
#: pulled again is the model alone.
ADAPTERS_FOLDER = "adapters/"
ADAPTERS_GRAPH = "adapters.onnx"


@dataclass(frozen=True, slots=True)
class Choice:
    """files: as the source names them; file: the engine's entry file among them; root: the folder, "" or "a/b/", that
    falls away when they are stored."""

    engine: EngineName
    precision: str
    file: str
    files: tuple[str, ...]
    root: str


def quant_of(path: str) -> str | None:
    """The quantization that a GGUF's name says, upper case; the last one where a folder says it too."""
    found = _QUANT.findall(re.sub(r"-\d{5}-of-\d{5}", "", path).removesuffix(".gguf"))
    return found[-1].upper() if found else None


def choose(paths: Iterable[str], quant: str | None = None) -> Choice:
    """The model that these files make up. Raises RefusedFile, which lists what is there."""
    everything = sorted(path for path in paths if path != ADAPTERS_GRAPH and not path.startswith(ADAPTERS_FOLDER)
                        and path.rpartition("/")[2] != TRAINING_FILE)
    ggufs = _gguf_sets([path for path in everything if path.lower().endswith(".gguf") and not _is_projector(path)])
    onnx = _genai_folders(everything)
    if quant is not None:
        return _with_quant(ggufs, onnx, quant, everything)
    if len(ggufs) == 1:
        return _gguf(ggufs[0], everything)
    for preferred in PREFERRED_QUANTS:
        for group in ggufs:
            if quant_of(group[0]) == preferred:
                return _gguf(group, everything)
    if onnx:
        return _onnx(_preferred_folder(onnx), everything)
    if encoders := select_encoder.roots(everything):
        return _encoder(encoders[0], select_encoder.graphs(encoders[0], everything)[0], everything)
    if _FAKE in everything:
        return Choice("fake", "none", _FAKE, (_FAKE, *_licences(everything, "")), "")
    raise RefusedFile(_what_is_there(ggufs, onnx, everything))


def entry_of(engine: EngineName, paths: Iterable[str]) -> str:
    """The entry file among files that were chosen by hand (a catalog's patterns). Raises RefusedFile."""
    everything = sorted(paths)
    if engine == "llama":
        found = [path for path in everything if path.lower().endswith(".gguf") and not _is_projector(path)]
        groups = _gguf_sets(found)
        if len(groups) == 1:
            return groups[0][0]
        raise RefusedFile(
            f"{len(groups)} GGUF models match, not one: " + (", ".join(found[:20]) or "there is no .gguf file")
        )
    wanted = _CONFIG if engine == "ort" else _FAKE
    for path in sorted(everything, key=lambda path: path.count("/")):
        if path.rsplit("/", 1)[-1] == wanted:
            return path
    if engine == "ort" and (encoders := select_encoder.roots(everything)):
        return select_encoder.graphs(encoders[0], everything)[0]
    raise RefusedFile(f"there is no {wanted} among the files: " + ", ".join(everything[:20]))


def precision_of(engine: EngineName, entry: str, paths: Iterable[str]) -> str:
    if engine == "llama":
        return quant_of(entry) or "unknown"
    if engine == "fake":
        return "none"
    if entry.lower().endswith(".onnx"):
        return select_encoder.precision_of(entry)
    found = [match for path in (entry, *sorted(paths)) for match in _ONNX_PRECISION.findall(path)]
    return str(found[0]).lower() if found else "unknown"


def _with_quant(
    ggufs: list[tuple[str, ...]], onnx: list[str], quant: str, everything: list[str],
) -> Choice:
    matching = [group for group in ggufs if quant_of(group[0]) == quant.upper()]
    if matching:
        return _gguf(min(matching, key=lambda group: (group[0].count("/"), len(group[0]), group[0])), everything)
    folders = [folder for folder in onnx if quant.lower() in re.split(r"[-._/]", folder.lower())]
    if folders:
        return _onnx(_preferred_folder(folders), everything)
    for root in select_encoder.roots(everything):
        if (graph := select_encoder.with_precision(root, everything, quant)) is not None:
            return _encoder(root, graph, everything)
    raise RefusedFile(f"there is no {quant} here. " + _what_is_there(ggufs, onnx, everything))


def _gguf_sets(paths: list[str]) -> list[tuple[str, ...]]:
    """Each model's files: one, or all pieces of a split one in order. Raises RefusedFile where a piece is missing."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(_SPLIT.sub("", path), []).append(path)
    for group in groups.values():
        if (split := _SPLIT.search(group[0])) is not None:
            numbers = [int(match[1]) for path in group if (match := _SPLIT.search(path))]
            if numbers != list(range(1, int(split[2]) + 1)):
                raise RefusedFile(f"pieces of {group[0]} are missing: {numbers} of {int(split[2])} are there")
    return [tuple(group) for group in groups.values()]


def _is_projector(path: str) -> bool:
    """The image half of a vision model, and importance matrices: no models by themselves."""
    name = path.rsplit("/", 1)[-1].lower()
    return name.startswith("mmproj") or "imatrix" in name


def _genai_folders(paths: list[str]) -> list[str]:
    """Folders ("" or "a/b/") that hold genai_config.json and a graph."""
    folders = [path.removesuffix(_CONFIG) for path in paths if path.rsplit("/", 1)[-1] == _CONFIG]
    return [folder for folder in folders if any(
        path.startswith(folder) and path.lower().endswith(".onnx") for path in paths
    )]


def _preferred_folder(folders: list[str]) -> str:
    """For the CPU and small, where a repository has several."""
    def rank(folder: str) -> tuple[bool, bool, str]:
        words = re.split(r"[-._/]", folder.lower())
        return ("cpu" not in words, "int4" not in words, folder)

    return min(folders, key=rank)


def _gguf(group: tuple[str, ...], everything: list[str]) -> Choice:
    root = group[0][: group[0].rfind("/") + 1]
    licences = _licences(everything, root)
    return Choice("llama", quant_of(group[0]) or "unknown", group[0], (*group, *licences), root)


def _onnx(root: str, everything: list[str]) -> Choice:
    files = tuple(path for path in everything if path.startswith(root) and path != root + FOUNDRY_FILE)
    entry = root + _CONFIG
    return Choice("ort", precision_of("ort", entry, files), entry, files, root)


def _encoder(root: str, graph: str, everything: list[str]) -> Choice:
    files = select_encoder.members(root, graph, everything)
    return Choice("ort", select_encoder.precision_of(graph), graph, files, root)


def _licences(everything: list[str], root: str) -> tuple[str, ...]:
    return tuple(
        path for path in everything
        if path.startswith(root) and path[len(root):].split(".")[0].upper() in ("LICENSE", "LICENCE", "NOTICE")
    )


def _what_is_there(ggufs: list[tuple[str, ...]], onnx: list[str], everything: list[str]) -> str:
    if ggufs:
        quants = sorted({quant_of(group[0]) or group[0] for group in ggufs})
        return f"GGUF models here: {', '.join(quants)}. Name one after a colon, as in org/repo:{quants[0]}"
    if onnx:
        return "ONNX folders here: " + ", ".join(folder or "." for folder in onnx)
    listed = ", ".join(everything[:20]) or "nothing"
    if any(path.lower().endswith(".safetensors") for path in everything):
        return ("weights as transformers trains them (safetensors), which nothing serves as they are; `edged convert` "
                f"makes a model of them (--recipe cpu-fp32 of one for embeddings); there is: {listed}")
    return f"no GGUF file, no genai_config.json with an ONNX graph; there is: {listed}"
