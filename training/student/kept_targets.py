"""A teacher's soft targets of all training examples, computed once and kept on disk: a student learns for many epochs
from a teacher that is many times its size and always says the same.

    <folder>/<key>/part-00000.safetensors    tokens, logs, ends of PART examples

A part is whole or not there, so what a kill leaves is gone on with. The key is a digest of all that the targets depend
on; other keys are of earlier recipes and are removed.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edged.store import files, space
from training.batching import batches
from training.encode import NO_LOSS, Encoded
from training.fit.batches import Padded
from training.run import Moment, Tell, digest
from training.student.soft import TOP, Targets
from training.student.teachers import Teachers

PART = 256
_ROWS = 16
#: Of logits at once, of which the targets take several copies. A row is never split.
_LOGITS_BYTES = 128 << 20
_FORM = 2


class KeptTargets:
    """Of the examples that were given to `keep`, found by their tokens, so that it does not matter how a trainer
    shuffles or pads them. Owns the open files."""

    def __init__(self, parts: Sequence[Path], encodings: Sequence[Encoded]) -> None:
        from safetensors import safe_open

        self._open = ExitStack()
        self._places: dict[bytes, tuple[Any, int, int]] = {}
        for number, path in enumerate(parts):
            part = self._open.enter_context(safe_open(path, framework="pt"))
            start = 0
            for example, end in zip(_of_part(encodings, number), part.get_tensor("ends").tolist(), strict=True):
                self._places[_name(example.input_ids)] = (part, start, end)
                start = end

    def of(self, rows: Sequence[Sequence[int]]) -> Targets:
        """rows: tokens of examples without padding. One after another, as many positions as each has labels."""
        import torch

        found = [self._places[_name(row)] for row in rows]
        tokens = [part.get_slice("tokens")[start:end] for part, start, end in found]
        logs = [part.get_slice("logs")[start:end] for part, start, end in found]
        return Targets(torch.cat(tokens).long(), torch.cat(logs))

    def close(self) -> None:
        self._open.close()


def keep(
    teachers: Teachers, encodings: Sequence[Encoded], folder: Path, tell: Tell, *, of_teachers: object, pad: int,
) -> KeptTargets:
    """Computes what is not there yet. of_teachers: what tells these teachers from others, for the key. pad: any token.
    Raises InsufficientStorage."""
    seen = hashlib.sha256()
    for example in encodings:
        seen.update(_name(example.input_ids))
        # There is a target for each label, so other labels of the same tokens are other targets.
        seen.update(bytes(label != NO_LOSS for label in example.labels))
    key = digest(_FORM, TOP, PART, of_teachers, list(teachers.weights), teachers.temperature, seen.hexdigest())[:16]
    place = folder / key
    folder.mkdir(mode=files.FOLDER_MODE, parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other != place:
            files.remove_tree(other)
    files.make_folder(place)
    parts = [place / f"part-{number:05}.safetensors" for number in range(-(-len(encodings) // PART))]
    missing = [number for number, path in enumerate(parts) if not path.exists()]
    positions = sum(_wanted(each) for number in missing for each in _of_part(encodings, number))
    space.require(place, positions * TOP * 8, task="the teacher's soft targets")
    for done, number in enumerate(missing, len(parts) - len(missing)):
        tell(Moment(stage="student", what="the teacher reads", fraction=done / len(parts)))
        files.publish_bytes(parts[number], _part(teachers, _of_part(encodings, number), pad), place)
    return KeptTargets(parts, encodings)


def _part(teachers: Teachers, examples: Sequence[Encoded], pad: int) -> bytes:
    import torch
    from safetensors.torch import save

    from training.fit.trainer import wanted_positions

    collate = Padded(pad)
    tokens: list[Any] = [None] * len(examples)
    logs: list[Any] = [None] * len(examples)
    for numbers in _alike(examples, _LOGITS_BYTES // max(1, teachers.position_bytes)):
        rows = [examples[number] for number in numbers]
        batch = {name: values.to(teachers.device) for name, values in collate(
            [{"input_ids": row.input_ids, "labels": row.labels, "weight": 1.0} for row in rows]).items()}
        found = teachers.targets(teachers.read(batch, wanted_positions(batch["labels"]))).to("cpu")
        counts = [_wanted(row) for row in rows]
        apart = zip(found.tokens.to(torch.int32).split(counts), found.logs.split(counts), strict=True)
        for number, (of_row, logs_of_row) in zip(numbers, apart, strict=True):
            tokens[number], logs[number] = of_row, logs_of_row
    ends = torch.tensor([_wanted(example) for example in examples]).cumsum(0)
    return save({"tokens": torch.cat(tokens), "logs": torch.cat(logs).contiguous(), "ends": ends})


def _alike(examples: Sequence[Encoded], most: int) -> Iterator[list[int]]:
    """Numbers of examples in batches of nearly one length. most: positions of a batch that targets are wanted of."""
    order = sorted(range(len(examples)), key=lambda number: len(examples[number].input_ids))
    return batches(
        order, lambda batch: len(batch) <= _ROWS and sum(_wanted(examples[each]) for each in batch) <= most)


def _of_part(encodings: Sequence[Encoded], number: int) -> Sequence[Encoded]:
    return encodings[number * PART:(number + 1) * PART]


def _wanted(example: Encoded) -> int:
    return sum(label != NO_LOSS for label in example.labels[1:])


def _name(tokens: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("I", tokens).tobytes(), digest_size=16).digest()
