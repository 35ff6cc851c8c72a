"""The gate of encoders: the same texts through transformers on torch, before the conversion, and through the serving
engine afterwards. Vectors are compared as they are served, pooled and normalised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from converters import calibration
from converters.encoder_export import encoder_of
from converters.quiet import quietly
from edged import engines
from edged.engines.base import Embedder, EngineError, Passage
from edged.errors import Conflict, Internal
from edged.store.lineage import Agreement
from edged.types import LoadSpec, Task

#: Passages compared at most, and tokens of each.
TEXTS = 64
TOKENS = 256
#: What a conversion in 32 bits is held to: it differs by the order of sums only.
LEAST_COSINE = 0.9999
MOST_DIFFERENCE = 1e-3

_FILE = "vectors.json"

Fractions = Callable[[float, str | None], None]


class _Reference(Struct, frozen=True):
    """text: name of the text; inputs: tokens and segments of each passage; vectors: what torch makes of each."""

    text: str
    inputs: list[tuple[list[int], list[int] | None]]
    vectors: list[list[float]]


def build_reference(hf_folder: Path, spec: LoadSpec, out: Path, text: Path | None, progress: Fractions) -> str:
    """Before the original goes: writes what torch makes of the texts into the folder `out`. spec: of the converted
    model, whose tokenizer and pooling are used. Returns what it is, in words."""
    said = calibration.read(text, "gate")
    embedder = engines.load_embedder(spec, lambda fraction: None).embedder
    passages = list(_passages([passage.plain() for passage in said.passages][:TEXTS], spec.task, embedder))
    with quietly(lambda line: None):
        vectors = list(_vectors(hf_folder, spec, passages, progress))
    out.mkdir(parents=True)
    (out / _FILE).write_bytes(msgspec.json.encode(_Reference(
        said.name, [(list(passage.tokens), None if passage.segments is None else list(passage.segments))
                    for passage in passages], vectors)))
    return "fp32 on torch"


def measure(spec: LoadSpec, reference: Path, words: str, progress: Fractions) -> Agreement:
    """reference: the folder that `build_reference` made. Raises Internal where the engine fails or its numbers are
    none, Conflict where the vectors have another length."""
    said = msgspec.json.decode((reference / _FILE).read_bytes(), type=_Reference)
    embedder = engines.load_embedder(spec, lambda fraction: None).embedder
    cosines, differences = [], []
    for number, ((tokens, segments), wanted) in enumerate(zip(said.inputs, said.vectors, strict=True)):
        try:
            (found,) = embedder.run([Passage(tokens, segments)]).tolist()
        except EngineError as error:
            raise Internal(f"the engine failed on the converted model: {error}") from error
        if len(found) != len(wanted):
            raise Conflict(f"the result's vectors have {len(found)} numbers and the original's {len(wanted)}")
        if not all(map(math.isfinite, found)):
            raise Internal("the converted model gives numbers that are none; convert it again")
        cosines.append(_cosine(found, wanted))
        differences.append(max(abs(one - other) for one, other in zip(found, wanted, strict=True)))
        progress((number + 1) / len(said.inputs), None)
    agreement = Agreement(
        reference=words, text=said.text, texts=len(said.inputs), most_difference=max(differences),
        least_cosine=min(cosines) if spec.task == "embed" else None)
    return msgspec.structs.replace(agreement, lacking=lacking(agreement))


def lacking(agreement: Agreement) -> tuple[str, ...]:
    """In words, by how much it misses each limit; empty where it passes."""
    found = []
    if agreement.least_cosine is not None and agreement.least_cosine < LEAST_COSINE:
        found.append(f"cosine {agreement.least_cosine:.6f}, at least {LEAST_COSINE:g}")
    if agreement.most_difference > MOST_DIFFERENCE:
        found.append(f"numbers {agreement.most_difference:.2g} apart, at most {MOST_DIFFERENCE:g}")
    return tuple(found)


def _passages(texts: Sequence[str], task: Task, embedder: Embedder) -> Iterator[Passage]:
    """Of a reranker each text with the one before as the query. Cut to a length in tokens, the same to both."""
    most = min(TOKENS, embedder.caps.context)
    for number, text in enumerate(texts):
        whole = embedder.passage(text) if task == "embed" else embedder.pair(texts[number - 1][:200], text)
        yield Passage(whole.tokens[:most], None if whole.segments is None else whole.segments[:most])


def _vectors(
    hf_folder: Path, spec: LoadSpec, passages: Sequence[Passage], progress: Fractions,
) -> Iterator[list[float]]:
    """Each alone, without padding."""
    import numpy as np
    import torch

    from edged.engines.encoder_config import read_config
    from edged.engines.pooling import pool
    from edged.engines.scores import sigmoid, unit_length

    model, output = encoder_of(hf_folder, spec.task)
    config = read_config(Path(spec.path), spec)
    for number, passage in enumerate(passages):
        inputs = {"input_ids": torch.tensor([list(passage.tokens)])}
        if passage.segments is not None:
            inputs["token_type_ids"] = torch.tensor([list(passage.segments)])
        with torch.no_grad():
            out: Any = model(**inputs)[output].numpy()
        if spec.task == "rerank":
            vector = sigmoid(out)[0]
        else:
            pooled = pool(out, np.ones((1, len(passage.tokens)), np.int64), config.pooling or ())
            vector = (unit_length(pooled) if config.normalize else pooled)[0]
        progress((number + 1) / len(passages), None)
        yield vector.tolist()


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(map(float.__mul__, one, other)) / (math.hypot(*one) * math.hypot(*other))
