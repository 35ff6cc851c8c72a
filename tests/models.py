"""Small models for tests of the store, and the shortest ways to install and look at them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from edged.store import Store
from edged.store.entries import Catalog, JobProgress, Manifest
from edged.store.pull import pull
from edged.store.sources.transfer import HubSettings

#: An ONNX file that says its version and nothing else.
GRAPH = b"\x08\x0a"
NO_HUB = HubSettings(endpoint="http://127.0.0.1:9", backoff_s=0.001)


#: A store as each earlier schema wrote it: two versions of `tiny`, the newer one active, and one of them under a name
#: with slashes; the fake engine serves them.
PAST_STORES = {int(path.name.removeprefix("schema-")): path for path in (Path(__file__).parent / "stores").iterdir()}


def past_store(schema: int, home: Path) -> Path:
    """A copy of it at `home`."""
    return shutil.copytree(PAST_STORES[schema], home)


def fake_folder(path: Path, **said: object) -> Path:
    """A folder that the fake engine serves; `said` goes into fake.json and makes it another model."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "fake.json").write_text(json.dumps(said))
    return path


def gguf_bytes(seed: int, size: int) -> bytes:
    """Bytes of a made-up GGUF, the same for the same seed. Only the store's eyes: no engine loads it."""
    counter = hashlib.shake_256(f"gguf {seed}".encode())
    return (b"GGUF" + counter.digest(size))[:size]


def install(store: Store, reference: str, catalog: Catalog | None = None) -> Manifest:
    """Pull from this machine."""
    return pull(store, catalog or Catalog(), reference, hub=NO_HUB, progress=ignore)


def ignore(moment: JobProgress) -> None:
    pass


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
