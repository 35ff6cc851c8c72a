"""How a folder of weights says what they were trained from: `edged-training.json`, one `Training`. Pure but for `read`.

It is written by `training.export`, is read by conversions, adapters and pulls, goes into the manifest, and is written
again into an export.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from edged.errors import RefusedFile
from edged.store.damaged import DAMAGED
from edged.store.lineage import Training
from edged.store.select import TRAINING_FILE

MOST_BYTES = 1 << 20
#: Metrics, packages or parents; and characters of each text.
MOST_ENTRIES = 256
MOST_TEXT = 4096
#: Past the year 2096: dates that people are shown.
_LAST_AT = 4e9


def encode(training: Training) -> bytes:
    return msgspec.json.format(msgspec.json.encode(training), indent=2) + b"\n"


def decode(data: bytes) -> Training:
    """Raises RefusedFile."""
    try:
        training = msgspec.json.decode(data, type=Training)
    except DAMAGED as error:
        raise RefusedFile(f"{TRAINING_FILE} does not say how this was trained ({error}); take it out of the folder, or "
                          "export the training again") from None
    if not all(_is_plain(said) for said in _texts(training)):
        raise RefusedFile(f"{TRAINING_FILE} holds control characters; take it out of the folder")
    if not 0 <= training.at <= _LAST_AT:
        raise RefusedFile(f"{TRAINING_FILE} has a date that is none (at = {training.at:g}); take it out of the folder")
    if (max(len(training.metrics), len(training.packages), len(training.parents)) > MOST_ENTRIES
            or max(map(len, _texts(training))) > MOST_TEXT):
        raise RefusedFile(f"{TRAINING_FILE} has over {MOST_ENTRIES} metrics, packages or parents, or a text of over "
                          f"{MOST_TEXT} characters; take it out of the folder")
    return training


def read(folder: Path) -> Training | None:
    """None where the folder does not say. Raises RefusedFile."""
    try:
        with (folder / TRAINING_FILE).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MOST_BYTES:
        raise RefusedFile(f"{TRAINING_FILE} has over {MOST_BYTES} bytes, which no training has to say")
    return decode(data)


def words(training: Training) -> list[str]:
    """For people: from what, how well, with what. One line each."""
    counts = f"{training.train} examples"
    if training.validation:
        counts += f", {training.validation} for validation"
    if training.test:
        counts += f", {training.test} for testing"
    base = f"{training.base}{_short(training.base_digest)}" if training.base is not None else "nothing (from scratch)"
    said = [f"by {training.recipe}{_short(training.recipe_digest)}, {training.method}, seed {training.seed}, "
            f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(training.at))}",
            f"from {base} on {counts}{_short(training.data_digest)}"]
    if training.parents:
        said.append(f"taught by {', '.join(training.parents)}")
    if training.metrics:
        said.append(", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in training.metrics.items()))
    if training.packages:
        said.append("with " + ", ".join(f"{name} {version}" for name, version in training.packages.items()))
    return said


def _short(digest: str | None) -> str:
    return f" ({digest[:12]})" if digest else ""


def _texts(training: Training) -> list[str]:
    return [training.recipe, training.recipe_digest, training.base or "", training.base_digest or "", training.method,
            training.data_digest, *training.parents, *training.metrics, *training.packages,
            *training.packages.values()]


def _is_plain(text: str) -> bool:
    """A terminal shows it and does nothing else with it."""
    return all(each.isprintable() for each in text)
