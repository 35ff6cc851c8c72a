"""Which files make up an encoder (embeddings, reranking) as ONNX: a Hugging Face folder with a graph in it, or beside
it in `onnx/`, as sentence-transformers and Optimum lay it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NEEDED = ("config.json", "tokenizer.json")
#: Only these words of a file's name say that it holds something else than 32-bit weights.
_WORDS = {"quantized": "int8", "qint8": "int8", "quint8": "uint8", "fp16": "fp16", "int8": "int8", "uint8": "uint8",
          "q4": "q4", "q4f16": "q4f16", "bnb4": "bnb4", "int4": "int4"}
_GENERATOR = "genai_config.json"


def roots(paths: Iterable[str]) -> list[str]:
    """Folders ("" or "a/b/") that hold such a model."""
    there = set(paths)
    found = [path.removesuffix(_NEEDED[0]) for path in there if path.rsplit("/", 1)[-1] == _NEEDED[0]]
    return sorted(root for root in found if all(root + name in there for name in _NEEDED)
                  and root + _GENERATOR not in there and graphs(root, there))


def graphs(root: str, paths: Iterable[str]) -> list[str]:
    """The plain one first, `model.onnx`, then by name."""
    found = [path for path in paths if path.lower().endswith(".onnx")
             and path.startswith(root) and path[len(root):].count("/") == path[len(root):].startswith("onnx/")]
    return sorted(found, key=lambda path: (path.rsplit("/", 1)[-1] != "model.onnx", path.count("/"), path))


def precision_of(graph: str) -> str:
    words = re.split(r"[-._/]", graph.lower().rsplit("/", 1)[-1])
    return next((_WORDS[word] for word in words if word in _WORDS), "fp32")


def with_precision(root: str, paths: Iterable[str], precision: str) -> str | None:
    """The graph that a reference names, as in `org/repo:int8`, or by a word of its name."""
    wanted = precision.lower()
    listed = graphs(root, paths)
    return next((graph for graph in listed if precision_of(graph) == wanted), None) or next(
        (graph for graph in listed if wanted in re.split(r"[-._/]", graph.lower().rsplit("/", 1)[-1])), None)


def members(root: str, graph: str, paths: Sequence[str]) -> tuple[str, ...]:
    """What is stored: the graph with its weights, texts at the top, configurations of modules."""
    def belongs(path: str) -> bool:
        inner = path[len(root):]
        if path.startswith(graph):
            return True
        if inner.count("/") == 0:
            return inner.lower().endswith((".json", ".txt", ".model")) or inner.split(".")[0].upper() in (
                "LICENSE", "LICENCE", "NOTICE")
        return inner.count("/") == 1 and inner.endswith("/config.json")

    return tuple(path for path in paths if path.startswith(root) and belongs(path))
