"""`edged hardware`: what this machine has, and how the versions of a model rank on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from cyclopts import Parameter
from msgspec import Struct

from edged.cli.exit_codes import ExitCode
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, styled, table
from edged.cli.subject import Subject, subject
from edged.cli.target import store_of
from edged.hardware import fit
from edged.hardware.choose import Row
from edged.hardware.facts import Facts, Gpu, Software
from edged.hardware.fingerprint import fingerprint
from edged.hardware.measured import Speed
from edged.hardware.probe import probe_with
from edged.hardware.providers import PROVIDERS
from edged.store.entries import Manifest
from edged.types import Tuning


class Ranked(Struct, frozen=True, kw_only=True):
    """One version at one place of this machine. speed, tuning: where it was measured here."""

    version: str
    engine: str
    precision: str
    provider: str
    environment: str | None
    threads: int
    size: int
    active: bool
    fits: bool
    reason: str
    speed: Speed | None
    tuning: Tuning | None = None


class Hardware(Struct, frozen=True, kw_only=True):
    """fingerprint: what figures are kept under. providers: by name, the device that each would run on."""

    fingerprint: str
    facts: Facts
    providers: dict[str, str]
    ranking: list[Ranked] | None = None


def hardware(
    name: Annotated[str | None, Parameter(help="Rank the installed versions of this model.")] = None, /, *,
    home: Home = None, json: Json = False,
) -> int:
    """Show what this machine has that can compute a model.

    With NAME, where each version of it could run: the choice first, the rejected ones too, each with the reason.

    As in:

    ```
    edged hardware
    edged hardware smollm2-135m
    ```
    """
    target = store_of(home)
    if name is not None:
        found = subject(target, name)
        facts, ranking = found.facts, ranked(found, found.ranking())
    else:
        facts, ranking = probe_with(target.home), None
    if json:
        answer_json(Hardware(fingerprint=fingerprint(facts), facts=facts, providers=_providers(facts),
                             ranking=ranking))
    elif ranking is None:
        for line in _describe(facts):
            answer(line)
    else:
        print_ranking(ranking)
    return ExitCode.OK


def machine(facts: Facts) -> Iterator[str]:
    """What computes and remembers, one a line."""
    cpu = facts.cpu
    features = " ".join(sorted(cpu.features)) or "no features known"
    yield f"processor    {cpu.model}: {cpu.physical} cores, {cpu.usable} processors usable, {cpu.threads} threads " \
        f"for a model ({features})"
    limit = f", limited to {fit.readable(facts.memory.limit)}" if facts.memory.limit else ""
    yield f"memory       {fit.readable(facts.memory.total)}{limit}"
    for gpu in facts.gpus:
        yield f"graphics     {gpu.name}, {_graphics_memory(gpu)}{f', driver {gpu.driver}' if gpu.driver else ''}"
    for npu in facts.accelerators:
        yield f"accelerator  {npu.vendor} /dev/{npu.node}{f', driver {npu.driver}' if npu.driver else ''}"


def _describe(facts: Facts) -> Iterator[str]:
    yield f"system       {facts.system} {facts.architecture}" + (f", {facts.board}" if facts.board else "")
    yield from machine(facts)
    for engine, software in [("engines", facts.software), *facts.environments.items()]:
        yield f"{engine.ljust(12)} {_engines(software)}"
    for provider, device in _providers(facts).items():
        yield f"can use      {provider} on {device}"
    yield f"fingerprint  {fingerprint(facts)} (figures are kept under it)"


def ranked(found: Subject, rows: Sequence[Row[Manifest]]) -> list[Ranked]:
    known = found.measured.known()
    return [
        Ranked(version=row.variant.version, engine=row.engine, precision=row.variant.precision, provider=row.provider,
               environment=row.place.environment, threads=row.place.threads, size=row.variant.size,
               active=row.variant.version == found.active, fits=row.fits, reason=row.reason, speed=row.speed,
               tuning=known(row.variant.digest, row.place.key).tuning)
        for row in rows
    ]


def print_ranking(rows: Sequence[Ranked]) -> None:
    """The choice is marked with an arrow, what cannot be taken with a cross."""
    marks = ["→" if number == 0 and row.fits else " " if row.fits else "✗" for number, row in enumerate(rows)]
    answer(table(
        ("", "VERSION", "PRECISION", "ENGINE", "RUNS ON", "", "REASON"),
        [(mark, row.version, row.precision, row.engine + (f" ({row.environment})" if row.environment else ""),
          row.provider, "active" if row.active else "", row.reason) for mark, row in zip(marks, rows, strict=True)],
    ))
    for row in rows:
        if row.fits and row.tuning is not None:
            answer(f"{row.version} on {row.provider} is served with {row.tuning.words()}")
    if not any(row.fits for row in rows):
        answer(styled("none of them can be served here", "31"))


def _providers(facts: Facts) -> dict[str, str]:
    """Those whose device is here and that some installed engine has, by name."""
    softwares = [facts.software, *facts.environments.values()]
    return {
        provider.name: device.name for provider in PROVIDERS.values()
        if (device := provider.device(facts)) is not None
        and any(provider.llama in one.llama_backends or provider.ort in one.ort_providers for one in softwares)
    }


def _engines(software: Software) -> str:
    told = [
        f"llama.cpp {software.versions.get('llama-cpp-python', '?')} ({', '.join(software.llama_backends)})"
        if software.llama_backends else "",
        f"ONNX Runtime {_version(software, 'onnxruntime')} ({', '.join(software.ort_providers)})"
        if software.ort_providers else "",
        f"onnxruntime-genai {_version(software, 'onnxruntime-genai')}" if software.runs("genai") else "",
    ]
    return ", ".join(filter(None, told)) or "none"


def _version(software: Software, distribution: str) -> str:
    """Of the distribution, or of the build of it that is installed in its place."""
    builds = [version for name, version in software.versions.items() if name.startswith(f"{distribution}-")]
    return software.versions.get(distribution) or (builds[0] if builds else "?")


def _graphics_memory(gpu: Gpu) -> str:
    if gpu.integrated:
        return "in the machine's memory"
    return f"{fit.readable(gpu.memory_bytes)} of its own" if gpu.memory_bytes else "memory not known"
