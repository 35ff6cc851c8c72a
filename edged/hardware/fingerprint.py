"""A short name for all that decides how fast, and how rightly, this machine computes: what was measured under one
fingerprint says nothing of another. Pure."""

from __future__ import annotations

import hashlib
import math

import msgspec

from edged.hardware.facts import Facts, Memory, Software

#: Of the installed distributions, those that compute.
_ENGINES = ("llama-cpp-python", "onnxruntime")


def fingerprint(facts: Facts) -> str:
    """12 hex digits. A new driver, engine, processor or amount of memory makes another; memory counts in steps of about
    half as much again, because what firmware keeps for itself changes."""
    decisive = {
        "architecture": facts.architecture,
        "cpu": (facts.cpu.model, facts.cpu.usable, facts.cpu.fast, sorted(facts.cpu.features)),
        "memory": _memory_class(facts.memory),
        "gpus": sorted((gpu.vendor, gpu.name, gpu.driver or "", gpu.memory_bytes or 0) for gpu in facts.gpus),
        "accelerators": sorted((one.vendor, one.driver or "") for one in facts.accelerators),
        "engines": {name: _engines(software) for name, software in [("", facts.software), *facts.environments.items()]},
    }
    return hashlib.sha256(msgspec.json.encode(decisive, order="sorted")).hexdigest()[:12]


def _engines(software: Software) -> tuple[object, ...]:
    versions = sorted((name, version) for name, version in software.versions.items() if name.startswith(_ENGINES))
    return versions, sorted(software.llama_backends), sorted(software.ort_providers)


def _memory_class(memory: Memory) -> int:
    whole = memory.total if memory.limit is None else min(memory.total, memory.limit)
    return round(2 * math.log2(max(1, whole)))
