"""`edged quality`: what each version of a model costs and loses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import Struct

from edged.cli.exit_codes import ExitCode
from edged.cli.manifests import versions_of
from edged.cli.options import Home, Json
from edged.cli.output import answer, answer_json, size, styled, table
from edged.cli.target import store_of
from edged.hardware.fingerprint import fingerprint
from edged.hardware.measured import Measured, Speed
from edged.hardware.probe import probe_with
from edged.hardware.providers import CPU
from edged.store.entries import Manifest
from edged.store.lineage import Agreement, Quality

BAR_CHARACTERS = 28
NOTHING = "-"


class Line(Struct, frozen=True, kw_only=True):
    """One version. size and base_bytes (in 32-bit weights): bytes; share: of them. speed: the fastest measured here, on
    `provider`. gate: passed, lacking, loss accepted, not measured or never run."""

    version: str
    active: bool
    engine: str
    precision: str
    size: int
    base_bytes: int | None
    share: float | None
    provider: str | None
    speed: Speed | None
    gate: str
    perplexity_ratio: float | None
    quality: Quality | None
    agreement: Agreement | None = None


def quality(
    name: Annotated[str, Parameter(help="An installed model, or an alias.")], /, *, home: Home = None,
    json: Json = False,
) -> int:
    """Show what each version of a model costs and loses: size, speed here, and what the gate measured.

    As in:

    ```
    edged quality smollm2-135m
    edged quality smollm2-135m --json | jq '.[] | select(.active).perplexity_ratio'
    ```
    """
    target = store_of(home)
    found = versions_of(target, name)
    store_home = target.running.home if target.running is not None else target.settings.home
    speeds = _speeds(store_home, found.versions)
    lines = [line(manifest, active=manifest.version == found.active, speed=speeds.get(manifest.digest))
             for manifest in found.versions]
    if json:
        answer_json(lines)
        return ExitCode.OK
    answer(versions_table(lines))
    for each in lines:
        for verdict in (each.quality, each.agreement):
            if verdict is not None and verdict.lacking:
                answer(f"{each.version} lacks: {'; '.join(verdict.lacking)}")
    answer(plot(lines))
    return ExitCode.OK


def line(manifest: Manifest, *, active: bool, speed: tuple[str, Speed] | None) -> Line:
    """speed: with the provider that it was measured on."""
    base_bytes = manifest.conversion.base_bytes if manifest.conversion is not None else None
    return Line(
        version=manifest.version, active=active, engine=manifest.engine, precision=manifest.precision,
        size=manifest.size, base_bytes=base_bytes, share=manifest.size / base_bytes if base_bytes else None,
        provider=speed[0] if speed else None, speed=speed[1] if speed else None, gate=_gate(manifest),
        perplexity_ratio=manifest.quality.perplexity_ratio if manifest.quality is not None else None,
        quality=manifest.quality, agreement=manifest.agreement,
    )


def versions_table(lines: list[Line]) -> str:
    """Columns in which no version has anything are left out. What a version was measured against stands below, each
    reference once, since it takes a sentence."""
    references = _references(lines)
    columns: list[tuple[str, list[str]]] = [
        ("VERSION", [each.version for each in lines]),
        ("ENGINE", [f"{each.engine} {each.precision}" for each in lines]),
        ("SIZE", [size(each.size) for each in lines]),
        ("OF FP32", [f"{each.share:.1%}" if each.share is not None else NOTHING for each in lines]),
        ("TOKENS/S", [_speed(each) for each in lines]),
        ("PERPLEXITY", [f"x{each.perplexity_ratio:.3f}" if each.perplexity_ratio is not None else NOTHING
                        for each in lines]),
        ("TOP-1", [f"{each.quality.top1_agreement:.1%}" if each.quality else NOTHING for each in lines]),
        ("KL", [f"{each.quality.kl_divergence:.4f}" if each.quality else NOTHING for each in lines]),
        ("COSINE", [_cosine(each.agreement) for each in lines]),
        ("TASKS", [_tasks(each.quality) for each in lines]),
        ("AGAINST", [f"({references.index(_reference(each.quality)) + 1})" if each.quality else NOTHING
                     for each in lines]),
        ("GATE", [each.gate for each in lines]),
        ("ACTIVE", ["active" if each.active else NOTHING for each in lines]),
    ]
    kept = [(head, cells) for head, cells in columns if head in ("GATE", "ACTIVE") or set(cells) != {NOTHING}]
    rows = list(zip(*(cells for _, cells in kept), strict=True))
    notes = [f"({number}) {text}" for number, text in enumerate(references, 1)]
    return "\n".join([table([head for head, _ in kept], rows), *notes])


def plot(lines: list[Line]) -> str:
    """Two bars for each version, the smallest first: its size, and by how much its perplexity is greater than that of
    its reference. The longest bar is the greatest; the model in 32-bit weights is there where its size is known."""
    bars = [(f"{each.engine} {each.precision}", each.version, each.size,
             None if each.perplexity_ratio is None else each.perplexity_ratio - 1) for each in lines]
    if (base := max((each.base_bytes or 0 for each in lines), default=0)) and all(each.size < base for each in lines):
        bars.append(("32-bit weights", "", base, None))
    bars.sort(key=lambda bar: bar[2])
    largest, worst = max(bar[2] for bar in bars), max(bar[3] or 0.0 for bar in bars)
    wide = max(len(bar[0]) for bar in bars)
    told = [styled(f"{'':{wide + 16}}{'SIZE':{BAR_CHARACTERS + 11}}PERPLEXITY MORE BY", "1")]
    for label, version, bytes_, loss in bars:
        more = "" if loss is None else f"{_bar(loss, worst)} {loss:+.1%}".strip()
        big = f"{_bar(bytes_, largest)} {size(bytes_)}"
        told.append(f"{label:{wide}}  {version:14}{big:{BAR_CHARACTERS + 11}}{more}".rstrip())
    return "\n".join(["", *told])


def _bar(value: float, greatest: float) -> str:
    return "#" * (max(1, round(BAR_CHARACTERS * value / greatest)) if value > 0 else 0)


def _speeds(home: Path, manifests: list[Manifest]) -> dict[str, tuple[str, Speed]]:
    """By digest, the fastest of what was measured on this machine as it is now, with its place; nothing of a store
    that this user may not read."""
    measured = Measured(home, fingerprint(probe_with(home)))
    found = {}
    for manifest in manifests:
        speeds = [(place, record.speed) for place, record in measured.of(manifest.digest).items()
                  if record.speed is not None]
        if speeds:
            found[manifest.digest] = min(speeds, key=lambda pair: pair[1].seconds)
    return found


def _gate(manifest: Manifest) -> str:
    if manifest.verdict is None:
        return "never run" if manifest.never_run else "not measured"
    if manifest.verdict.passed:
        return "passed"
    return "loss accepted" if manifest.verdict.accepted_loss else "lacking"


def _speed(each: Line) -> str:
    if each.speed is None:
        return NOTHING
    return f"{each.speed.decode:.0f}" + (f" on {each.provider}" if each.provider != CPU else "")


def _cosine(agreement: Agreement | None) -> str:
    """The worst of all texts."""
    if agreement is None or agreement.least_cosine is None:
        return NOTHING
    return f"{agreement.least_cosine:.6f}"


def _tasks(quality: Quality | None) -> str:
    if quality is None or quality.task_accuracy is None or quality.reference_task_accuracy is None:
        return NOTHING
    right, before = (round(share * quality.tasks) for share in (quality.task_accuracy, quality.reference_task_accuracy))
    return f"{right} of {quality.tasks} ({before} before)"


def _reference(quality: Quality) -> str:
    return f"against {quality.reference}, over {quality.tokens:,} tokens of {quality.text}"


def _references(lines: list[Line]) -> list[str]:
    return list(dict.fromkeys(_reference(each.quality) for each in lines if each.quality is not None))
