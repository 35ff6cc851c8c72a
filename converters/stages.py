"""The stages of a conversion, in order: source → merge → convert → reference → publish → gate → activate. Each is a
function of the job's folder, run in a process of its own; here stands what each hands to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from converters import bring, encoder_export, encoder_gate, reference, source
from converters.calibration import SHIPPED
from converters.child import Tell
from converters.job import StageKind
from converters.publish import publish
from converters.record import engine_of, runs_here
from converters.source import Sourced, model_folder
from converters.work import Work
from edged.errors import CorruptFile, ModelNotFound
from edged.hardware.place import places
from edged.hardware.probe import probe
from edged.store.adapters import left_behind
from edged.store.entries import JobProgress, Manifest, with_accepted_loss
from edged.store.lineage import Agreement, ConvertedSource, Quality, Verdict, agreement_words
from edged.types import LoadSpec

#: Tokens of each model's row in the gate; tasks are longer than windows of text.
GATE_CONTEXT = 1024
TASKS_CONTEXT = 4096

Fractions = Callable[[float, str | None], None]


class Published(Struct, frozen=True, kw_only=True):
    version: str


class Activated(Struct, frozen=True, kw_only=True):
    version: str
    active: bool


def made(work: Work) -> Manifest:
    """The version that the job made, once it has ended."""
    return work.store.manifest(work.spec.name, work.value("activate", Activated).version)


def merge(work: Work, tell: Tell) -> None:
    from converters.merge import merge as merge_adapters

    sourced = _sourced(work)
    adapters = [(adapter.reference, source.adapter_folder(work, number))
                for number, adapter in enumerate(sourced.source.adapters)]
    merge_adapters(model_folder(work), adapters, work.out("merge"), _doing("merge", tell))
    _still_the_same(work)


def convert(work: Work, tell: Tell) -> None:
    calibration = _calibration(work)
    if (task := _sourced(work).task) != "generate":
        encoder_export.export(_weights(work), work.out("convert"), task, _doing("convert", tell))
    elif work.recipe.format == "onnx":
        from converters import olive

        if calibration is None and work.recipe.calibrates:
            calibration = SHIPPED

        olive.convert(_weights(work), work.recipe, work.out("convert"), calibration=calibration,
                      work=work.scratch("convert") / "olive", progress=_doing("convert", tell))
    else:
        from converters import gguf

        gguf.convert(_weights(work), work.recipe, work.out("convert"), calibration=calibration,
                     work=work.scratch("convert"), progress=_noting("convert", tell))
    _still_the_same(work)


def build_reference(work: Work, tell: Tell) -> str:
    """Returns what it is, in words."""
    if (task := _sourced(work).task) != "generate":
        made = LoadSpec(name=work.spec.name, version="new", digest="0" * 64, engine="ort", task=task,
                        path=str(work.out("convert")), file=encoder_export.GRAPH)
        return encoder_gate.build_reference(
            _weights(work), made, work.out("reference"), _calibration(work), _doing("reference", tell))
    report = (_doing if work.recipe.format == "onnx" else _noting)("reference", tell)
    words = reference.build(
        _weights(work), work.recipe.format, work.out("reference"), work.scratch("reference"), report)
    _still_the_same(work)
    return words


def publish_it(work: Work, tell: Tell) -> Published:
    sourced = _sourced(work)
    ended = [work.record(name) for name in ("source", "merge", "convert", "reference") if work.is_done(name)]
    version = publish(
        work, tell, source=sourced.source, stages=ended, made=work.out("convert"), licences=_weights(work),
        parameters=sourced.parameters, license=sourced.license, never_run=not _runs_here(work),
        task=sourced.task, training=sourced.training)
    return Published(version=version)


def gate(work: Work, tell: Tell) -> Verdict:
    spec, sourced = work.spec, _sourced(work)
    manifest = work.store.manifest(spec.name, work.value("publish", Published).version)
    with work.store.lease(manifest):
        result = _load_spec(work, manifest, work.store.folder(manifest))
        if sourced.task != "generate":
            return encoder_gate.measure(
                result, work.out("reference"), work.value("reference", str), _doing("gate", tell))
        from converters.gate import measure

        if work.is_done("reference"):
            words = work.value("reference", str)
            compared = msgspec.structs.replace(
                result, version="reference", digest="0" * 64, path=str(work.out("reference")), provider="cpu",
                engine=engine_of(work.recipe))
        else:
            words, compared = reference.itself(work.recipe.format), result
        return measure(
            compared, result, work.recipe.limits,
            reference_words=", ".join(filter(None, (words, sourced.origin, _merged(sourced.source)))),
            text=_calibration(work),
            tasks=Path(spec.tasks) if spec.tasks is not None else None, progress=_doing("gate", tell))


def activate(work: Work, tell: Tell) -> Activated:
    """The manifest gets its figures, and serves where they pass, or where somebody accepts the loss."""
    spec, store = work.spec, work.store
    version = _sourced(work).made or work.value("publish", Published).version
    manifest = store.manifest(spec.name, version)
    conversion, quality, agreement = manifest.conversion, manifest.quality, manifest.agreement
    if work.is_done("gate") and manifest.task == "generate":
        quality = work.value("gate", Quality)
    elif work.is_done("gate"):
        agreement = work.value("gate", Agreement)
    if conversion is not None and work.is_done("publish"):
        ended = [stage for stage in conversion.stages if stage.name not in ("publish", "gate")]
        ended += [work.record(name) for name in ("publish", "gate") if work.is_done(name)]
        conversion = msgspec.structs.replace(conversion, stages=tuple(ended))
    known = msgspec.structs.replace(manifest, conversion=conversion, quality=quality, agreement=agreement)
    if known.verdict is not None and not known.verdict.passed and spec.accept_loss:
        known = with_accepted_loss(known)
    if known != manifest:
        store.amend(known)
    serves, words = decide(manifest.never_run, known.verdict, activate=spec.activate, named=f"{spec.name}@{version}",
                           target=manifest.target)
    if serves:
        with contextlib.suppress(ModelNotFound, CorruptFile):
            before = store.manifest(spec.name)
            if before.version != version and (note := left_behind(before)) is not None:
                tell(JobProgress(stage="activate", note=note))
        store.activate(spec.name, version, by="convert")
    tell(JobProgress(stage="activate", note=words))
    return Activated(version=version, active=serves)


def decide(
    never_run: bool, quality: Verdict | None, *, activate: bool, named: str, target: str,
) -> tuple[bool, str]:
    """Whether the version is to serve, and what to tell of it. Pure."""
    if never_run:
        return False, (f"{named} was built for {target}, never run: it is kept and not active. On a machine with "
                       f"{target}, `edged activate {named}`")
    if quality is None:
        return False, f"{named} was not measured: it is kept and not active"
    if not quality.passed and not quality.accepted_loss:
        return False, (f"{named} is kept and not active, it falls short of what its precision is held to: "
                       f"{'; '.join(quality.lacking)}. Another recipe may do better; --accept-loss activates it all "
                       "the same")
    figures = agreement_words(quality) if isinstance(quality, Agreement) else (
        f"perplexity ratio {quality.perplexity_ratio:.3f}, top-1 agreement {quality.top1_agreement:.1%}, "
        f"against {quality.reference}")
    if not activate:
        return False, f"{named} is kept and not active, as asked: {figures}"
    loss = "" if quality.passed else f" (its loss is accepted: {'; '.join(quality.lacking)})"
    return True, f"{named} is active: {figures}{loss}"


def _to_make(work: Work) -> bool:
    return _sourced(work).made is None


def _has_adapters(work: Work) -> bool:
    return _to_make(work) and bool(work.spec.adapters)


def _to_measure(work: Work) -> bool:
    return _to_make(work) and _runs_here(work)


def _needs_reference(work: Work) -> bool:
    """The result of the reference's own recipe is compared with itself: that shows that it runs, and its perplexity. Of
    an encoder the reference is what torch makes of the texts, while the original is here."""
    if _to_measure(work) and _sourced(work).task != "generate":
        return True
    return _to_measure(work) and not (work.recipe.format == "onnx" and work.recipe.precision == "fp32")


STAGES = (
    StageKind("source", source.run),
    StageKind("merge", merge, needed=_has_adapters, frees=("source",)),
    StageKind("convert", convert, needed=_to_make),
    StageKind("reference", build_reference, needed=_needs_reference),
    StageKind("publish", publish_it, needed=_to_make, frees=("source", "merge", "convert")),
    StageKind("gate", gate, needed=_to_measure, frees=("reference",)),
    StageKind("activate", activate),
)


def _sourced(work: Work) -> Sourced:
    return work.value("source", Sourced)


def _still_the_same(work: Work) -> None:
    """Asked once the last byte was read. Raises Conflict."""
    if not work.is_done("merge"):
        for linked in _sourced(work).linked:
            bring.changed(linked)


def _weights(work: Work) -> Path:
    """The Hugging Face folder that is converted."""
    return work.out("merge") if work.is_done("merge") else model_folder(work)


def _merged(converted: ConvertedSource) -> str | None:
    count = len(converted.adapters)
    return f"{count} adapter{'s' if count > 1 else ''} merged" if count else None


def _runs_here(work: Work) -> bool:
    return runs_here(work.recipe, probe())


def _load_spec(work: Work, manifest: Manifest, folder: Path) -> LoadSpec:
    """On the best place of this machine that the recipe was made for."""
    place = next(place for place in places(probe(), engine_of(work.recipe), manifest.target) if place.refused is None)
    return LoadSpec(
        name=manifest.name, version=manifest.version, digest=manifest.digest, engine=place.engine, path=str(folder),
        file=manifest.file, task=manifest.task, provider=place.provider, threads=place.threads, rows=1,
        context=_context(work))


def _calibration(work: Work) -> Path | None:
    return Path(work.spec.calibration) if work.spec.calibration is not None else None


def _context(work: Work) -> int:
    wanted = TASKS_CONTEXT if work.spec.tasks is not None else GATE_CONTEXT
    trained = _sourced(work).context
    return wanted if trained is None else min(wanted, trained)


def _doing(stage: str, tell: Tell) -> Fractions:
    return lambda fraction, words: tell(JobProgress(stage=stage, fraction=min(max(fraction, 0.0), 1.0), file=words))


def _noting(stage: str, tell: Tell) -> Fractions:
    return lambda fraction, words: tell(JobProgress(stage=stage, fraction=min(max(fraction, 0.0), 1.0), note=words))
