"""GET /api/tags and /api/ps, POST /api/show: what is installed, what is loaded, and what is known of one model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from edged.api.exchange import Services
from edged.api.fields import Table, later, served, text
from edged.api.ollama.answer import timestamp
from edged.api.ollama.names import installed, shown
from edged.daemon.spec import task_of
from edged.daemon.status import ModelState, ModelStatus
from edged.errors import CorruptFile, ModelNotFound
from edged.store.entries import Manifest, ModelEntry
from edged.store.gguf_header import Scalar
from edged.store.metadata import Metadata, metadata, takes_tools, thinks
from edged.types import Task

SHOW: Table = {
    "model": served(text(512)), "name": served(text(512)),
    "system": later(""), "template": later(""), "options": later({}),
    "verbose": later(False, instead="Vocabularies are not told; leave it out."),
}
#: Of models that are to stay.
_FOR_EVER = "9999-12-31T23:59:59Z"
#: Which of the catalog's sampling Ollama calls otherwise.
_OLLAMAS = {"repetition_penalty": "repeat_penalty"}
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
_FORMATS = {"llama": "gguf", "ort": "onnx", "genai": "onnx"}


class Details(Struct, frozen=True):
    """family: the architecture. quantization_level: the form's precision, as edged calls it."""

    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    parent_model: str = ""


class Tag(Struct, frozen=True):
    """size: bytes on disk."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(Struct, frozen=True):
    models: list[Tag]


class Loaded(Struct, frozen=True):
    """size: bytes in memory, of which size_vram on a device that is not the processor: at least its weights."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class Processes(Struct, frozen=True):
    models: list[Loaded]


class Shown(Struct, frozen=True):
    """license: its name, as the source tells it. parameters: what the catalog sets where a request does not say."""

    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Scalar | None]
    capabilities: list[str]
    modified_at: str
    license: str = ""


class Cards:
    """Owner of what was read of each version's files: they never change, so once is enough."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._read: dict[str, Metadata] = {}

    async def of(self, manifest: Manifest) -> Metadata:
        if (known := self._read.get(manifest.digest)) is None:
            known = await asyncio.to_thread(metadata, self._services.store.layout, manifest)
            self._read[manifest.digest] = known
        return known

    async def tags(self) -> Tags:
        found = []
        for name, status in _named(self._services.router.models()):
            if (details := await self._details(status)) is not None:
                found.append(Tag(name, name, timestamp(status.created), status.size, status.digest, details))
        return Tags(found)

    async def processes(self) -> Processes:
        found = []
        for name, status in _named(self._services.router.models()):
            if status.alias_of is None and status.state in (ModelState.READY, ModelState.LOADING, ModelState.STOPPING):
                details = await self._details(status)
                if details is not None:
                    found.append(_loaded(name, status, details))
        return Processes(found)

    async def show(self, said: str) -> Shown:
        """Raises ModelNotFound, CorruptFile."""
        manifest, entry = self._services.router.described(installed(said, self._services.router))
        card = await self.of(manifest)
        template = entry.chat_template or card.chat_template or ""
        parameters = manifest.parameters or entry.parameters
        counted = {} if parameters is None else {"general.parameter_count": parameters}
        return Shown(
            modelfile=f"# edged: `edged show {manifest.name}` tells more.\nFROM {manifest.name}@{manifest.version}\n",
            parameters=_parameters(entry), template=template,
            details=_details(manifest.engine, card.family, parameters, manifest.precision),
            model_info=card.values | counted, capabilities=_capabilities(task_of(manifest, entry), template, card),
            modified_at=timestamp(manifest.created), license=manifest.license or entry.license or "",
        )

    async def _details(self, status: ModelStatus) -> Details | None:
        """None where it was removed meanwhile."""
        try:
            manifest, _ = self._services.router.described(
                status.name if status.alias_of else f"{status.name}@{status.version}")
        except (ModelNotFound, CorruptFile):
            return None
        card = await self.of(manifest)
        return _details(status.engine, card.family, status.parameters, status.precision)


def _named(models: Iterable[ModelStatus]) -> list[tuple[str, ModelStatus]]:
    """As Ollama lists them. A version that is loaded though another answers to the name goes by its version."""
    found: dict[str, ModelStatus] = {}
    for status in models:
        name = shown(status.name)
        found[f"{status.name}@{status.version}" if name in found else name] = status
    return [*found.items()]


def _loaded(name: str, status: ModelStatus, details: Details) -> Loaded:
    on_device = 0 if status.device is None or status.device.lower().startswith("cpu") else status.size
    return Loaded(
        name=name, model=name, size=status.resident_bytes + on_device, digest=status.digest, details=details,
        expires_at=_expires_at(status), size_vram=on_device, context_length=status.context or 0,
    )


def _expires_at(status: ModelStatus) -> str:
    if status.pinned or status.keep_alive_s < 0:
        return _FOR_EVER
    return timestamp(time.time() + max(0.0, status.keep_alive_s - (status.idle_s or 0.0)))


def _details(engine: str, family: str, parameters: int | None, precision: str) -> Details:
    return Details(
        format=_FORMATS.get(engine, engine), family=family, families=[family] if family else [],
        parameter_size=_size(parameters), quantization_level=precision,
    )


def _size(parameters: int | None) -> str:
    """134515008 is 134.52M, as Ollama writes it; empty where nobody knows."""
    if parameters is None:
        return ""
    for unit, letter in _UNITS:
        if parameters >= unit:
            return f"{parameters / unit:.4g}{letter}"
    return str(parameters)


def _parameters(entry: ModelEntry) -> str:
    sampling: dict[str, Any] = {name: getattr(entry.sampling, name) for name in entry.sampling.__struct_fields__}
    return "\n".join(f"{_OLLAMAS.get(name, name):<30} {value}" for name, value in sampling.items()
                     if isinstance(value, int | float))


def _capabilities(task: Task, template: str, card: Metadata) -> list[str]:
    if task != "generate":
        # Ollama has no word for a reranker.
        return ["embedding"] if task == "embed" else []
    told = {"completion": True, "tools": takes_tools(template), "thinking": thinks(template), "insert": card.infills}
    return [name for name, has in told.items() if has]
