"""One example of a data set, in the one form that stages after `data` read and write: JSON lines of `Example`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from edged.errors import CorruptFile
from edged.store.files import publish_bytes

Role = Literal["system", "user", "assistant", "tool"]


class Message(Struct, frozen=True, omit_defaults=True):
    """tool_calls: as OpenAI writes them, of the assistant; name and tool_call_id of a tool's result."""

    role: Role
    content: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class Example(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """prompt: all that the model reads, ending with what it must answer. answer: what it should say; None of a prompt
    that a teacher is to answer. rejected: a worse answer, of a preference. tools: as OpenAI describes them, for the
    chat template. id: `identity` of the prompt. stratum: the group that a split keeps in equal shares, and by which
    figures are told. weight: how much its loss counts. teacher: the name of the one that answered, None of the
    original data."""

    id: str
    prompt: tuple[Message, ...]
    answer: Message | None = None
    rejected: Message | None = None
    tools: tuple[dict[str, Any], ...] = ()
    stratum: str | None = None
    weight: float = 1.0
    teacher: str | None = None


def identity(prompt: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = ()) -> str:
    """The first 16 hex digits of the sha256 of the prompt's JSON: equal prompts are one example."""
    return hashlib.sha256(msgspec.json.encode((prompt, tools), order="sorted")).hexdigest()[:16]


def read_examples(path: Path) -> Iterator[Example]:
    """Raises CorruptFile with the line that is none."""
    decoder = msgspec.json.Decoder(Example)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield decoder.decode(line)
            except msgspec.MsgspecError as error:
                raise CorruptFile(f"{path}, line {number} is no example ({error}); run the stage that wrote it again") \
                    from error


def write_examples(path: Path, examples: Iterable[Example]) -> str:
    """By rename, so that the file is whole or not there. Returns the sha256 of what was written, in hex."""
    data = b"".join(msgspec.json.encode(example) + b"\n" for example in examples)
    publish_bytes(path, data, path.parent)
    return hashlib.sha256(data).hexdigest()
