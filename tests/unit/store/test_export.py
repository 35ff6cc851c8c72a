"""A version as a folder for other runtimes: whole or nothing, and the same version when it is pulled again."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import msgspec
import pytest

from edged.errors import Conflict, InsufficientStorage, RefusedFile
from edged.store import Store, files, locks, space
from edged.store.entries import JobProgress, Manifest
from edged.store.export import export, foundry_id
from edged.store.files import Operation
from tests.models import GRAPH, contents, fake_folder, gguf_bytes, ignore, install

pytestmark = pytest.mark.unit


def onnx_folder(path: Path) -> Path:
    """What a conversion makes, in miniature."""
    (path / "more").mkdir(parents=True)
    (path / "genai_config.json").write_text('{"model": {"decoder": {"filename": "model.onnx"}}}')
    (path / "model.onnx").write_bytes(GRAPH)
    (path / "edged.onnx").write_bytes(b"\x08\x09")
    (path / "tokenizer.json").write_text("{}")
    (path / "more" / "notes.md").write_text("n" * 5000)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def model(store: Store, tmp_path: Path) -> Manifest:
    return install(store, str(onnx_folder(tmp_path / "sources" / "mine")))


def around(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


def test_an_onnx_folder_is_written_whole_and_foundry_locals_cache_knows_its_name(
    store: Store, model: Manifest, tmp_path: Path,
) -> None:
    to = tmp_path / "new" / "out"
    written = export(store, model, to, ignore)
    found = contents(to)
    assert json.loads(found.pop("inference_model.json")) == {"Name": foundry_id(model)}
    assert found == contents(tmp_path / "sources" / "mine")
    assert written == sorted(to / path for path in (*found, "inference_model.json"))
    assert around(to) == ["out"]


def test_what_is_written_is_no_link_to_the_store(store: Store, model: Manifest, tmp_path: Path) -> None:
    for path in export(store, model, tmp_path / "out", ignore):
        path.write_text("rewritten by its owner")
    assert store.verify() == []


def test_a_gguf_is_a_folder_with_the_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "m-Q4_0.gguf").write_bytes(gguf_bytes(1, 10_000))
    manifest = install(store, str(tmp_path / "m-Q4_0.gguf"))
    export(store, manifest, tmp_path / "out", ignore)
    assert contents(tmp_path / "out") == {"m-Q4_0.gguf": gguf_bytes(1, 10_000)}
    assert foundry_id(manifest) is None


def test_an_export_that_is_pulled_again_is_the_version_that_it_was(
    store: Store, model: Manifest, tmp_path: Path,
) -> None:
    export(store, model, tmp_path / "out", ignore)
    assert install(Store(tmp_path / "another"), str(tmp_path / "out")).digest == model.digest


def test_a_version_that_is_not_the_active_one_is_exported(store: Store, model: Manifest, tmp_path: Path) -> None:
    (tmp_path / "sources" / "mine" / "LICENSE").write_text("l")
    assert install(store, str(tmp_path / "sources" / "mine")).version != model.version
    export(store, store.manifest("mine", model.version[:4]), tmp_path / "out", ignore)
    assert "LICENSE" not in contents(tmp_path / "out")


def test_a_model_of_the_fake_engine_is_refused(store: Store, tmp_path: Path) -> None:
    manifest = install(store, str(fake_folder(tmp_path / "tiny")))
    with pytest.raises(RefusedFile, match="fake engine"):
        export(store, manifest, tmp_path / "out", ignore)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link that leads nowhere"])
def test_what_is_there_already_is_left_as_it_is(store: Store, model: Manifest, tmp_path: Path, kind: str) -> None:
    to = tmp_path / "exports" / "out"
    to.parent.mkdir()
    match kind:
        case "folder":
            to.mkdir()
        case "file":
            to.write_text("mine")
        case _:
            to.symlink_to("nowhere")
    with pytest.raises(Conflict, match="there already"):
        export(store, model, to, ignore)
    assert around(to) == ["out"]


def test_a_folder_that_comes_to_be_meanwhile_is_left_as_it_is(store: Store, model: Manifest, tmp_path: Path) -> None:
    to = tmp_path / "exports" / "out"

    def somebody_else(moment: JobProgress) -> None:
        to.mkdir(exist_ok=True)
        (to / "theirs").write_text("t")

    with pytest.raises(Conflict, match="meanwhile"):
        export(store, model, to, somebody_else)
    assert around(to) == ["out"]
    assert contents(to) == {"theirs": b"t"}


def test_two_exports_to_one_place_do_not_mix(store: Store, model: Manifest, tmp_path: Path) -> None:
    to = tmp_path / "exports" / "out"
    refused: list[str] = []

    def second(moment: JobProgress) -> None:
        with pytest.raises(Conflict, match="another export") as caught:
            export(store, model, to, ignore)
        refused.append(caught.value.message)

    export(store, model, to, second)
    assert len(refused) >= len(model.files)
    assert len(contents(to)) == len(model.files) + 1


def test_what_a_killed_export_left_is_cleared_by_the_next(store: Store, model: Manifest, tmp_path: Path) -> None:
    to = tmp_path / "exports" / "out"
    left = to.with_name(".out.edged-part")
    (left / "a" / "b").mkdir(parents=True)
    (left / "half").write_text("h")
    (left / "link").symlink_to(tmp_path)
    export(store, model, to, ignore)
    assert around(to) == ["out"]
    assert len(contents(to)) == len(model.files) + 1


def test_no_room_is_told_before_the_first_byte_and_says_what_needs_it(
    store: Store, model: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(space, "MARGIN_BYTES", 1 << 60)
    with pytest.raises(InsufficientStorage, match=r"the export needs .* another disk"):
        export(store, model, tmp_path / "exports" / "out", ignore)
    assert list((tmp_path / "exports").iterdir()) == []


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename"])
def test_a_disk_that_becomes_full_leaves_nothing_and_a_retry_works(
    store: Store, model: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str,
) -> None:
    store.folder(model)
    to = tmp_path / "exports" / "out"

    def full(operation: Operation) -> None:
        if operation.kind == kind and "edged-part" in str(operation.path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files, "watch", full)
        with pytest.raises(InsufficientStorage, match="became full"):
            export(store, model, to, ignore)
    assert list(to.parent.iterdir()) == []
    export(store, model, to, ignore)
    assert len(contents(to)) == len(model.files) + 1


def test_an_interrupt_leaves_nothing_and_the_model_can_be_removed(
    store: Store, model: Manifest, tmp_path: Path,
) -> None:
    def interrupt(moment: JobProgress) -> None:
        if moment.done_bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store, model, tmp_path / "exports" / "out", interrupt)
    assert list((tmp_path / "exports").iterdir()) == []
    store.remove("mine")


def test_progress_counts_every_byte_once(store: Store, model: Manifest, tmp_path: Path) -> None:
    moments: list[JobProgress] = []
    export(store, model, tmp_path / "out", moments.append)
    counts = [moment.done_bytes for moment in moments]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert max(counts) <= model.size == moments[0].total_bytes


def test_a_folders_lock_is_not_taken_from_a_folder_that_was_renamed(tmp_path: Path) -> None:
    held = locks.try_lock(tmp_path / "part", folder=True)
    assert held is not None
    assert locks.try_lock(tmp_path / "part", folder=True) is None
    (tmp_path / "part").rename(tmp_path / "done")
    with held, locks.try_lock(tmp_path / "part", folder=True) or held as other:
        assert other is not held


@pytest.mark.parametrize(("name", "target", "expected"), [
    ("org/My Model:int4", "cpu", "org-My-Model-int4-unknown-generic-cpu:1"),
    ("tuned", "cuda", "tuned-unknown-cuda-gpu:1"),
    ("tuned", "webgpu", "tuned-unknown-generic-gpu:1"),
    ("tuned", "vulkan", None),
])
def test_foundry_locals_ids(model: Manifest, name: str, target: str, expected: str | None) -> None:
    named = msgspec.structs.replace(model, name=name, target=target, precision="unknown")
    assert foundry_id(named) == expected
