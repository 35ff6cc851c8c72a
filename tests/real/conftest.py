"""Real models, made or fetched once for the whole run. SmolLM2-135M-Instruct travels as a package; its store is kept
between runs in the user's cache folder, so that it is downloaded once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from platformdirs import user_cache_path

from edged.engines import load
from edged.engines.base import Generator
from edged.store import Store
from edged.store.catalog import load_catalog
from edged.store.pull import pull
from edged.types import EngineName, LoadSpec
from tests.models import NO_HUB, ignore
from tests.real.chat_templates import templates_of_packages

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def real_home() -> Path:
    """A store that holds smollm2-135m, pulled as a user pulls it."""
    home = user_cache_path("edged-tests") / "store"
    store = Store(home)
    if "smollm2-135m" not in store.names():
        pull(store, load_catalog(None).current, "smollm2-135m", hub=NO_HUB, progress=ignore)
    return home


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return templates_of_packages(tmp_path_factory.mktemp("trl"))


@pytest.fixture(scope="session")
def smollm2(real_home: Path) -> LoadSpec:
    store = Store(real_home)
    manifest = store.manifest("smollm2-135m")
    return spec("llama", store.folder(manifest), manifest.file, context=2048, rows=8)


@dataclass(frozen=True)
class Served:
    url: str
    pid: int


@pytest.fixture(scope="session")
def served(real_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`edged serve` on a free port with the real model in its store, as a user starts it."""
    log = tmp_path_factory.mktemp("served") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "edged.cli.main", "serve", "--home", str(real_home), "--port", "0",
             "--log-format", "json", "--models-file", "off", "--temporary"],
            stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield Served(_listening(log, process), process.pid)
    finally:
        process.terminate()
        try:
            code = process.wait(30)
        finally:
            process.kill()
    assert code == 0, log.read_text()[-2000:]


def _listening(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return str(json.loads(line)["url"])
        time.sleep(0.05)
    raise AssertionError(f"edged serve did not start: {log.read_text()[-2000:]}")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes tiny models fastest so."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.real.tiny_model import make_hf

    return make_hf(tmp_path_factory.mktemp("tiny") / "hf")


@pytest.fixture(scope="session")
def tiny_onnx(tiny_hf: Path) -> LoadSpec:
    from tests.real.tiny_model import make_onnx

    return spec("ort", make_onnx(tiny_hf, tiny_hf.parent / "onnx"), "genai_config.json", context=256, rows=6)


@pytest.fixture(scope="session")
def tiny_positions(tiny_onnx: LoadSpec, tmp_path_factory: pytest.TempPathFactory) -> LoadSpec:
    """The same model with edged's graph beside the plain one, as a conversion leaves it."""
    from converters.positions import gather_positions

    folder = tmp_path_factory.mktemp("positions") / "onnx"
    shutil.copytree(tiny_onnx.path, folder)
    gather_positions(folder)
    return msgspec.structs.replace(tiny_onnx, path=str(folder))


@pytest.fixture(scope="session")
def tiny_genai(tiny_onnx: LoadSpec) -> LoadSpec:
    return msgspec.structs.replace(tiny_onnx, engine="genai")


@pytest.fixture(params=["fake", "tiny_onnx", "tiny_positions", "tiny_genai", "smollm2"],
                ids=["fake", "ort", "ort-positions", "genai", "llama"])
def generator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Generator]:
    """Each engine in turn, loaded fresh."""
    if request.param == "fake":
        (tmp_path / "fake.json").write_text("{}")
        loaded = load(spec("fake", tmp_path, "fake.json", context=256, rows=6), lambda fraction: None)
    else:
        loaded = load(request.getfixturevalue(request.param), lambda fraction: None)
    yield loaded.generator
    loaded.generator.close()


def spec(engine: EngineName, folder: Path, file: str, *, context: int, rows: int) -> LoadSpec:
    return LoadSpec(
        name="model", version="1", digest="0" * 64, engine=engine, path=str(folder), file=file, context=context,
        rows=rows, threads=2,
    )
