"""A version of a model as a folder of its own, for other runtimes: Foundry Local and onnxruntime-genai take an ONNX
folder as it is, llama.cpp and what is built on it the GGUF.

Copied or reflinked, never linked: what others write there is none of the store's. The folder appears whole, by rename:
until then it is hidden beside its place, locked by whoever makes it, and cleared by the next export to there where that
process was killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from edged.errors import Conflict, InsufficientStorage, RefusedFile
from edged.store import clone, files, locks, space, trained
from edged.store.entries import JobProgress, Manifest
from edged.store.lineage import Target
from edged.store.select import FOUNDRY_FILE, TRAINING_FILE
from edged.store.store import Store

#: The engine's entry file of a folder that onnxruntime-genai loads.
_GENAI_CONFIG = "genai_config.json"
#: How Foundry Local ends the names of models for a device.
_FOUNDRY_DEVICES: dict[Target, str] = {
    "cpu": "generic-cpu", "cuda": "cuda-gpu", "directml": "generic-gpu", "webgpu": "generic-gpu", "qnn": "qnn-npu",
    "openvino": "openvino-gpu", "tensorrt-rtx": "trtrtx-gpu",
}
_PART = ".edged-part"
_ADVICE = "Free some there, or export to another disk"


def export(store: Store, manifest: Manifest, to: Path, progress: Callable[[JobProgress], None]) -> list[Path]:
    """Returns the files. Raises Conflict where `to` is there, or is just being made; RefusedFile for a model of the
    fake engine; InsufficientStorage; ModelNotFound where it was removed meanwhile; CorruptFile."""
    if manifest.engine == "fake":
        raise RefusedFile(f"{manifest.name} is a model of the fake engine, which nothing else runs")
    to = to.absolute()
    if os.path.lexists(to):
        raise Conflict(f"{to} is there already; name a folder that is not")
    to.parent.mkdir(parents=True, exist_ok=True)
    space.require(to.parent, manifest.size, task="the export", advice=_ADVICE)
    with store.lease(manifest), _making(to) as making:
        _fill(making, store.folder(manifest), manifest, progress)
        _put(making, to)
    return sorted(path for path in to.rglob("*") if path.is_file())


def foundry_id(manifest: Manifest) -> str | None:
    """`<name>-<precision>-generic-cpu:1`, the form that Foundry Local gives the ids of its models; None of a model that
    it does not load."""
    device = _FOUNDRY_DEVICES.get(manifest.target)
    if manifest.file != _GENAI_CONFIG or device is None:
        return None
    name = "".join(each if each.isalnum() or each in ".-_" else "-" for each in manifest.name)
    return f"{name}-{manifest.precision}-{device}:1"


def _fill(making: Path, source: Path, manifest: Manifest, progress: Callable[[JobProgress], None]) -> None:
    done = 0
    for entry in manifest.files:
        target = making / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)

        def told(count: int = 0, path: str = entry.path) -> None:
            nonlocal done
            done += count
            progress(JobProgress(stage="copying", file=path, done_bytes=done, total_bytes=manifest.size))

        told()
        before = done
        clone.copy(source / entry.path, target, told)
        done = before + entry.size
        target.chmod(0o644)
        files.sync_file(target)
    if manifest.training is not None:
        (making / TRAINING_FILE).write_bytes(trained.encode(manifest.training))
    # Foundry Local's cache lists a folder only with this file; without a template in it, the folder's own is taken.
    if (name := foundry_id(manifest)) is not None:
        (making / FOUNDRY_FILE).write_bytes(msgspec.json.encode({"Name": name}))


def _put(making: Path, to: Path) -> None:
    try:
        files.rename(making, to)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise Conflict(f"{to} came to be meanwhile; name a folder that is not there") from error


@contextlib.contextmanager
def _making(to: Path) -> Iterator[Path]:
    """An empty folder beside `to`, which is gone in the end unless it was renamed."""
    making = to.with_name(f".{to.name}{_PART}")
    lock = locks.try_lock(making, folder=True)
    if lock is None:
        raise Conflict(f"another export writes {to} just now; wait for it, or name another folder")
    with lock:
        try:
            for left in making.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield making
        except BaseException as error:
            shutil.rmtree(making, ignore_errors=True)
            if isinstance(error, OSError) and space.is_full(error):
                raise InsufficientStorage(
                    f"the disk became full in the middle; what was written is removed. {_ADVICE}") from error
            raise
