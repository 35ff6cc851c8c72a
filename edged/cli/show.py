"""`edged show`: all that is known of one installed model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from edged.cli.client import model_path
from edged.cli.exit_codes import ExitCode
from edged.cli.loaded import CAPTURED
from edged.cli.manifests import versions_of
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, size
from edged.cli.target import Target, store_of
from edged.daemon.status import ModelStatus
from edged.store import trained
from edged.store.captured import is_captured
from edged.store.entries import Activation, Manifest, ModelEntry
from edged.store.lineage import Agreement, Quality, Training, agreement_words
from edged.types import Tuning

#: Of the history; `--json` has all.
SHOWN_ACTIVATIONS = 10


def show(
    name: Annotated[str, Parameter(help="An installed model, or an alias.")], /, *, home: Home = None,
    json: Json = False,
) -> int:
    """Show all that is known of an installed model: versions, files, source, quality, history, state, how it is served.

    As in:

    ```
    edged show smollm2-135m
    ```
    """
    target = store_of(home)
    entry = _entry(target, name)
    versions = versions_of(target, name)
    status = None
    if target.running is not None and versions.active is not None:
        status = target.running.client.get(model_path(name), ModelStatus)
    if json:
        answer_json({"active": versions.active, "versions": versions.versions, "history": versions.history,
                     "status": status, "catalog": entry})
        return ExitCode.OK
    tunings = _tunings(target)
    for manifest in versions.versions:
        _print_version(manifest, active=manifest.version == versions.active)
        for place, tuning in tunings(manifest):
            answer(f"  tuned        on {place}: {tuning.words()}")
    _print_history(versions.history)
    if status is not None:
        _print_fields({"state": status.state.value, "device": status.device, "context": status.context,
                       "memory": size(status.resident_bytes) if status.resident_bytes else None,
                       "kv": kv_told(status), "kept KV": _kept(status), "drafts": _drafts(status),
                       "error": status.error, "note": "; ".join(status.notes)})
    captured = status.captured if status is not None else is_captured(name, target.settings, entry)
    _print_fields({"captured": CAPTURED if captured else None})
    if entry is not None:
        _print_fields({"title": entry.title, "note": entry.note, "served with": _served_with(entry) or None,
                       "candidate": f"{entry.candidate} with {entry.share:.0%} of the requests" if entry.candidate
                       else None})
    return ExitCode.OK


def _drafts(status: ModelStatus) -> str | None:
    """Of tokens computed before they were chosen."""
    if not status.speculative_proposed_tokens:
        return None
    return f"{status.speculative_accepted_tokens} of {status.speculative_proposed_tokens} tokens came"


def _kept(status: ModelStatus) -> str | None:
    """Of earlier prompts."""
    if not (status.kv_ram_bytes or status.kv_disk_bytes):
        return None
    return f"{size(status.kv_ram_bytes)} in memory, {size(status.kv_disk_bytes)} in files"


def _entry(target: Target, name: str) -> ModelEntry | None:
    from edged.store.catalog import load_catalog

    return load_catalog(target.settings.models_file).entry(name.partition("@")[0])


def _tunings(target: Target) -> Callable[[Manifest], list[tuple[str, Tuning]]]:
    """Of a version on this machine, by where it runs."""
    from edged.hardware.fingerprint import fingerprint
    from edged.hardware.measured import Measured
    from edged.hardware.probe import probe_with

    measured = Measured(target.home, fingerprint(probe_with(target.home)))
    return lambda manifest: [(place, record.tuning) for place, record in sorted(measured.of(manifest.digest).items())
                             if record.tuning is not None]


def kv_told(status: ModelStatus) -> str | None:
    """What contexts of usual lengths take, up to its own; None unless it is loaded and has KV."""
    if not status.kv_bytes or status.context is None:
        return None
    token = status.kv_bytes_per_token
    lengths = [*(tokens for tokens in (1024, 4096, 16384, 65536) if tokens < status.context), status.context]
    return f"{size(round(token))} a token: " + ", ".join(
        f"{size(round(token * tokens))} for {tokens}" for tokens in lengths)


def _served_with(entry: ModelEntry) -> str:
    said: dict[str, Any] = {"context": entry.context, "keep_alive_s": entry.keep_alive_s, "pin": entry.pin or None,
                            **msgspec.to_builtins(entry.sampling), **entry.options}
    defaults = msgspec.to_builtins(type(entry.sampling)())
    return ", ".join(f"{key} {value}" for key, value in said.items()
                     if value is not None and defaults.get(key) != value)


def _print_version(manifest: Manifest, *, active: bool) -> None:
    answer(f"{manifest.name}@{manifest.version}{' (active)' if active else ''}")
    source = msgspec.to_builtins(manifest.source)
    _print_fields({
        "for": {"generate": None, "embed": "embeddings", "rerank": "reranking"}[manifest.task],
        "engine": f"{manifest.engine} {manifest.precision}", "size": size(manifest.size),
        "built for": None if manifest.target == "cpu" else f"{manifest.target}{', never run' * manifest.never_run}",
        "parameters": f"{manifest.parameters:,}" if manifest.parameters else None, "license": manifest.license,
        "pulled as": manifest.reference, "from": source.pop("from") + " " + _source(source),
        "made": _moment(manifest.created), "quality": _quality(manifest.quality) or _agreement(manifest.agreement),
    })
    _print_training(manifest.training)
    for adapter in manifest.adapters:
        answer(f"  adapter      {adapter.name}  from {adapter.reference}")
        _print_training(adapter.training)
    for entry in manifest.files:
        answer(f"  file         {entry.path}  {size(entry.size)}  sha256:{entry.sha256}")


def _print_training(training: Training | None) -> None:
    for line in trained.words(training) if training is not None else ():
        answer(f"  trained      {line}")


def _print_history(history: list[Activation]) -> None:
    for each in history[-SHOWN_ACTIVATIONS:]:
        answer(f"  activated    {_moment(each.at)}  {each.version}  by {each.by}")


def _quality(quality: Quality | None) -> str | None:
    if quality is None:
        return None
    figures = (f"perplexity x{quality.perplexity_ratio:.3f}, top-1 {quality.top1_agreement:.1%}, "
               f"KL {quality.kl_divergence:.3f} against {quality.reference}")
    if quality.passed:
        return figures
    return f"{figures}; {'; '.join(quality.lacking)}{' (accepted)' if quality.accepted_loss else ''}"


def _agreement(agreement: Agreement | None) -> str | None:
    if agreement is None:
        return None
    figures = agreement_words(agreement)
    if agreement.passed:
        return figures
    return f"{figures}; {'; '.join(agreement.lacking)}{' (accepted)' if agreement.accepted_loss else ''}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _source(said: dict[str, Any]) -> str:
    if "base" in said:
        return " + ".join([said["base"], *(adapter["reference"] for adapter in said["adapters"])])
    if "parts" in said:
        return ", ".join(f"{part['dist']}=={part['version']}" for part in said["parts"])
    return f"{said['repo']}@{said['revision']}" if "repo" in said else str(said.get("path", ""))


def _print_fields(fields: dict[str, object]) -> None:
    for key, value in fields.items():
        if value not in (None, ""):
            answer(f"  {key:<12} {value}")
