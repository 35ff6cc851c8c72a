"""Where one form of a model can run on this machine: engine and provider, with the reason where it cannot. Pure.

A GGUF runs on the processor, or on a device that the installed build of llama.cpp has a back end for. A folder of ONNX
runs on the provider that it was built for and on no other: through a plain session of ONNX Runtime on the processor,
through onnxruntime-genai elsewhere, which keeps KV on the device. A model of the fake engine runs where it was built
for, and on the processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edged.hardware.environments import KNOWN, install_command
from edged.hardware.facts import Facts, Software
from edged.hardware.providers import CPU, CPU_BYTES_PER_S, PROVIDERS, Device, Provider
from edged.types import EngineName

#: By the engine that a manifest names: how its files are written.
_FORMATS = {"llama": "gguf", "ort": "onnx", "genai": "onnx", "fake": "fake"}


@dataclass(frozen=True, slots=True)
class Place:
    """device: what it would run on, None where that is lacking. threads: of the processor, for the engine. environment:
    the engine environment whose interpreter it needs, None for edged's own. refused: why it cannot run here, one clause
    for people; None where it can."""

    engine: EngineName
    provider: str
    threads: int
    device: Device | None
    environment: str | None = None
    refused: str | None = None

    @property
    def key(self) -> str:
        """What its figures are kept by: another build of the engine is another place."""
        return self.provider if self.environment is None else f"{self.provider}@{self.environment}"

    @property
    def bytes_per_s(self) -> float:
        return self.device.bytes_per_s if self.device is not None else 0.0

    @property
    def own_bytes(self) -> int | None:
        """Memory of the device itself; None where it computes in the machine's."""
        return self.device.memory_bytes if self.device is not None else None


def places(
    facts: Facts, engine: EngineName, target: str, *, require: str | None = None, environment: str | None = None,
) -> list[Place]:
    """Best guess first, then the refused ones. engine, target: of the form, as its manifest says. require: the only
    provider that may serve. environment: the engine environment that is to run it, rather than the first that can.

    Providers of a GGUF that neither this machine nor its llama.cpp has anything to do with are left out, unless
    required."""
    softwares = _softwares(facts, environment)
    found = [_place(facts, provider, _engine(engine, provider), softwares, environment) for provider in _considered(
        facts, _FORMATS[engine], target, require)]
    if require is not None:
        found = [place if place.refused or place.provider == require else
                 replace(place, refused=f"runs on {place.provider}, and {require} is required") for place in found]
    return sorted(found, key=lambda place: (
        place.refused is not None, place.provider != require, -place.bytes_per_s, place.provider))


def on_processor_only(found: Sequence[Place]) -> list[Place]:
    """Of models for embeddings and reranking: nothing proves here yet what a device makes of them."""
    return [place if place.refused or place.provider == CPU else replace(
        place, refused="embeddings and scores are computed on the processor") for place in found]


def _considered(facts: Facts, form: str, target: str, require: str | None) -> list[Provider]:
    if form == "onnx":
        return [PROVIDERS[target]]
    if form == "fake":
        return [PROVIDERS[name] for name in dict.fromkeys((target, CPU))]
    backends = {backend for software in _softwares(facts, None).values() for backend in software.llama_backends}
    missed = _missed(facts)
    return [provider for provider in PROVIDERS.values() if provider.llama is not None and (
        provider.name in (CPU, require, missed)
        or (provider.llama in backends and provider.device(facts) is not None))]


def _missed(facts: Facts) -> str | None:
    """The back end of llama.cpp that the owner of this machine's graphics wants to hear of, where it is lacking."""
    for name in ("cuda", "metal", "vulkan"):
        device = PROVIDERS[name].device(facts)
        if device is not None and device.bytes_per_s > CPU_BYTES_PER_S:
            return name
    return None


def _softwares(facts: Facts, environment: str | None) -> dict[str | None, Software]:
    """By environment, edged's own first; where one is named, that one or none."""
    if environment is not None:
        return {name: software for name, software in facts.environments.items() if name == environment}
    return dict([(None, facts.software), *facts.environments.items()])


def _engine(engine: EngineName, provider: Provider) -> EngineName:
    if _FORMATS[engine] == "onnx":
        return "ort" if provider.name == CPU else "genai"
    return engine


def _place(
    facts: Facts, provider: Provider, engine: EngineName, softwares: dict[str | None, Software], wanted: str | None,
) -> Place:
    place = Place(engine, provider.name, facts.cpu.threads, provider.device(facts))
    if place.device is None:
        return replace(place, refused=f"needs {provider.needs}, and there is none here")
    if wanted is not None and wanted not in softwares:
        return replace(place, refused=f"the engine environment {wanted}, which models.toml names, is not there or "
                                      f"cannot be used; `{install_command(wanted)}` makes it, `edged engine list` "
                                      "tells what is wrong")
    for environment, software in softwares.items():
        if _lacking(software, provider, engine) is None:
            return replace(place, environment=environment)
    refused = _lacking(next(iter(softwares.values())), provider, engine)
    name = f"llama-{provider.name}" if engine == "llama" else provider.name
    hint = f"; `edged engine install {name}` brings it" if name in KNOWN else ""
    return replace(place, refused=f"{refused}{hint}")


def _lacking(software: Software, provider: Provider, engine: str) -> str | None:
    if not software.runs(engine):
        return f"the {engine} engine is not installed"
    if engine == "llama" and provider.llama not in software.llama_backends:
        has = ", ".join(software.llama_backends)
        return f"this build of llama.cpp has no {provider.title} back end (it has {has})"
    if engine in ("ort", "genai") and provider.ort not in software.ort_providers:
        return f"the {provider.title} provider of ONNX Runtime is not installed"
    return None
