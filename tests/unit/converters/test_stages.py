"""What a conversion decides and tells, without converting."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import pytest

from converters import record
from converters.child import explained
from converters.job import keeps
from converters.publish import entry_file
from converters.recipe import load_recipe
from converters.stages import STAGES, decide
from converters.work import Work
from edged.errors import (
    ConversionFailed,
    EdgedError,
    InsufficientMemory,
    InsufficientStorage,
    Internal,
    RefusedFile,
    SourceUnavailable,
)
from edged.store import Store, job_folders
from edged.store.entries import FileEntry, JobFailed, Manifest
from edged.store.lineage import (
    AdapterSource,
    Conversion,
    ConversionSpec,
    ConvertedSource,
    Quality,
    QualityLimits,
)
from edged.store.manifests import digest_of
from edged.store.sources.transfer import HubSettings
from tests.models import GRAPH

pytestmark = pytest.mark.unit

LIMITS = QualityLimits(perplexity_ratio=1.1, top1_agreement=0.85, kl_divergence=0.15)
GOOD = Quality(
    reference="fp32 on llama.cpp", text="t", tokens=9, kl_divergence=0.1, top1_agreement=0.9, perplexity=10.5,
    reference_perplexity=10.0, limits=LIMITS)
BAD = msgspec.structs.replace(GOOD, lacking=("perplexity ratio 1.490, at most 1.1",))


def wrapped(inner: BaseException) -> Exception:
    outer = RuntimeError("a library failed")
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(("error", "kind"), [
    (OSError(errno.ENOSPC, "No space left on device"), InsufficientStorage),
    (wrapped(OSError(errno.ENOSPC, "x")), InsufficientStorage),
    (RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"), InsufficientStorage),
    (MemoryError(), InsufficientMemory),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), InsufficientMemory),
    (wrapped(MemoryError()), InsufficientMemory),
    (RuntimeError("std::bad_alloc"), InsufficientMemory),
    (wrapped(RefusedFile("it is refused")), RefusedFile),
    (ValueError("odd"), Internal),
    (OSError(errno.EIO, "Input/output error"), Internal),
])
def test_whatever_a_library_raises_is_told_as_what_it_is(error: Exception, kind: type[EdgedError]) -> None:
    told = explained("convert", error)
    assert type(told) is kind
    assert told.message


def test_what_is_kept_after_an_error_is_what_a_retry_uses() -> None:
    def said(error: EdgedError) -> JobFailed:
        return JobFailed(status=error.status, type=error.type, message="", code=error.code, retry=error.retry)

    assert [keeps(said(kind(""))) for kind in (
        SourceUnavailable, InsufficientMemory, Internal, InsufficientStorage, RefusedFile, ConversionFailed,
    )] == [True, True, True, False, False, False]


@pytest.mark.parametrize(("never_run", "quality", "activate", "serves", "words"), [
    (False, GOOD, True, True, r"m@1 is active: perplexity ratio 1\.050, top-1 agreement 90\.0%, against fp32"),
    (False, GOOD, False, False, "kept and not active, as asked"),
    (False, BAD, True, False, r"falls short.*perplexity ratio 1\.490, at most 1\.1.*--accept-loss"),
    (False, msgspec.structs.replace(BAD, accepted_loss=True), True, True, "active.*its loss is accepted"),
    (False, None, True, False, "was not measured"),
    (True, None, True, False, "was built for cuda, never run"),
])
def test_what_serves_passed_the_gate_or_its_loss_was_accepted(
    never_run: bool, quality: Quality | None, activate: bool, serves: bool, words: str,
) -> None:
    decided, told = decide(never_run, quality, activate=activate, named="m@1", target="cuda")
    assert decided is serves
    assert pytest.raises(AssertionError, match=words).matches(AssertionError(told))


def test_the_same_request_is_the_same_job_and_another_is_another() -> None:
    spec = ConversionSpec(name="m", source="org/m", adapters=("a", "b"))
    assert job_folders.identity(spec) == job_folders.identity(msgspec.json.decode(
        msgspec.json.encode(spec), type=ConversionSpec))
    others = [msgspec.structs.replace(spec, **change) for change in (
        {"name": "n"}, {"source": "org/n"}, {"adapters": ("b", "a")}, {"recipe": "cpu-int8"}, {"calibration": "/t"},
        {"tasks": "/t"}, {"accept_loss": True}, {"activate": False})]
    identities = {job_folders.identity(each) for each in (spec, *others)}
    assert len(identities) == len(others) + 1
    assert all(len(identity) == 16 for identity in identities)


def test_each_stage_frees_only_what_no_later_one_reads() -> None:
    reads = {"merge": {"source"}, "convert": {"source", "merge"}, "reference": {"source", "merge"},
             "publish": {"source", "merge", "convert"}, "gate": {"reference"}, "activate": set[str]()}
    freed = set[str]()
    for stage in STAGES:
        # Of source and merge, the last one that there is.
        wanted = reads.get(stage.name, set()) - ({"source"} if stage.name not in ("merge", "source") else set())
        assert not wanted & freed, stage.name
        freed |= set(stage.frees)
    assert freed == {"source", "merge", "convert", "reference"}


def work(tmp_path: Path, recipe: str = "cpu-int4") -> Work:
    spec = ConversionSpec(name="m", source="/base", recipe=recipe)
    return Work(folder=tmp_path / "job", spec=spec, recipe=load_recipe(recipe), store=Store(tmp_path / "home"),
                hub=HubSettings())


def install(job: Work, source: ConvertedSource, **said: object) -> None:
    data = b"weights"
    with job.store.receiver() as receiver:
        blob = receiver.receive("0" * 64, lambda part: part.write(data))
        entry = FileEntry(path="fake.json", size=blob.size, sha256=blob.sha256)
        digest = digest_of([entry])
        manifest = Manifest(
            name="m", version=digest[:12], digest=digest, engine="ort", precision="int4", file="fake.json",
            files=(entry,), source=source, reference="/base", created=1.0, quality=GOOD, conversion=Conversion(
                recipe=job.recipe.name, settings=record.settings_of(job.recipe, job.spec),
                tools=record.tools_of(job.recipe)))
        job.store.publish(msgspec.structs.replace(manifest, **said), activate=False)


SOURCE = ConvertedSource(base="/base", base_digest="1" * 64, adapters=(AdapterSource(reference="a", sha256="2" * 64),))


def test_an_equal_conversion_that_was_measured_is_not_made_again(tmp_path: Path) -> None:
    job = work(tmp_path)
    assert record.already_made(job, SOURCE) is None
    install(job, SOURCE)
    assert record.already_made(job, SOURCE) == job.store.versions("m")[0].version
    elsewhere = msgspec.structs.replace(SOURCE, base="/moved")
    assert record.already_made(job, elsewhere) is not None


def test_other_weights_adapters_tools_settings_or_no_figures_are_another_conversion(tmp_path: Path) -> None:
    job = work(tmp_path)
    install(job, SOURCE)
    assert record.already_made(job, msgspec.structs.replace(SOURCE, base_digest="3" * 64)) is None
    assert record.already_made(job, msgspec.structs.replace(SOURCE, adapters=())) is None
    assert record.already_made(work(tmp_path, "cpu-int8"), SOURCE) is None
    made = job.store.versions("m")[0].conversion
    assert made is not None
    install(job, SOURCE, conversion=msgspec.structs.replace(made, tools={"olive-ai": "0.0"}))
    assert record.already_made(job, SOURCE) is None
    install(job, SOURCE, conversion=made, quality=None)
    assert record.already_made(job, SOURCE) is None


def test_what_was_converted_is_looked_at_as_what_comes_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(GRAPH)
    assert entry_file(tmp_path, ["genai_config.json", "model.onnx"]) == "genai_config.json"
    assert entry_file(tmp_path, ["LICENSE", "model.gguf"]) == "model.gguf"
    assert entry_file(tmp_path, ["config.json", "model.onnx"], "embed") == "model.onnx"
    for paths in (["model.py", "genai_config.json"], ["model.onnx"], [], ["a.gguf", "b.gguf"]):
        with pytest.raises(ConversionFailed):
            entry_file(tmp_path, paths)
    (tmp_path / "model.onnx").write_bytes(b"broken")
    with pytest.raises(RefusedFile):
        entry_file(tmp_path, ["genai_config.json", "model.onnx"])
