"""A damaged model is a clear error that names the file (PROMISES R4): GGUF and ONNX through a worker as the daemon
starts it, safetensors where they are converted. What kills llama.cpp kills a worker, and the daemon says so."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from converters.gguf import unquantized
from edged.errors import CorruptFile, EdgedError, LoadFailed
from edged.hardware.probe import probe
from edged.ipc.messages import Load, LoadRefused
from edged.store import Store
from edged.store.entries import FileEntry, LocalSource, Manifest
from edged.store.manifests import digest_of
from edged.types import LoadSpec
from tests import gguf_damage
from tests.real.attempts import Attempts
from tests.real.conftest import spec
from tests.real.tiny_families import FAMILIES, make
from tests.worker.daemon.rig import Rig
from tests.worker.worker import Worker

pytestmark = pytest.mark.real

#: What a client may not see: where things lie, and how the library was built.
NOT_FOR_CLIENTS = re.compile(r"/\w+/|0x[0-9a-f]{4}|Traceback")
FLIPS = 120


@pytest.fixture(scope="module")
def good_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    (folder / "work").mkdir()
    config = FAMILIES["llama"]()
    config.num_hidden_layers = 1
    file = unquantized(make(folder / "hf", config), folder / "out", work=folder / "work",
                       progress=lambda done, note: None)
    return file.read_bytes()


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempts]:
    with Attempts() as attempts:
        yield attempts


def refusal(wanted: LoadSpec) -> str:
    """What a worker says that cannot load it. It ends by itself, and in good order."""
    folder = Path(wanted.path).parent / "worker"
    folder.mkdir(exist_ok=True)
    worker = Worker(folder, said={}, load=False)
    worker.spec = wanted
    try:
        worker.send(Load(wanted))
        while not isinstance(frame := worker.receive(), LoadRefused):
            assert frame is not None, f"the worker died: {worker.stderr}"
        assert worker.exit_code() == 0
    finally:
        worker.end()
    assert frame.code in ("load_failed", "corrupt_file")
    assert not frame.retry
    assert not NOT_FOR_CLIENTS.search(frame.message), frame.message
    return frame.message


def llama(folder: Path, data: bytes) -> LoadSpec:
    folder.mkdir(exist_ok=True)
    (folder / "damaged.gguf").write_bytes(data)
    return spec("llama", folder, "damaged.gguf", context=256, rows=1)


def test_a_gguf_cut_at_any_sixteenth_is_named(good_gguf: bytes, tmp_path: Path) -> None:
    for sixteenth in range(16):
        said = refusal(llama(tmp_path / "model", good_gguf[:len(good_gguf) * sixteenth // 16]))
        assert "damaged.gguf" in said, sixteenth
        assert "edged verify" in said


def test_every_kind_of_malformed_gguf_is_refused_by_name(
    good_gguf: bytes, attempt: Attempts, tmp_path: Path,
) -> None:
    """Some of them through a worker."""
    outcomes = {name: attempt(llama(tmp_path / "model", data)) for name, data in gguf_damage.kinds(good_gguf)}
    assert len(outcomes) > 25
    wrong = {name: said for name, said in outcomes.items() if not said.startswith("LoadFailed: llama.cpp cannot load "
                                                                                 "damaged.gguf: ")}
    assert not wrong
    chosen = {"another kind", "a huge count of keys", "a huge list", "an offset behind the end"}
    for name, data in gguf_damage.kinds(good_gguf):
        if name in chosen:
            assert "damaged.gguf" in refusal(llama(tmp_path / "model", data)), name


def test_a_flipped_bit_of_the_header_never_hangs_and_never_goes_unnamed(
    good_gguf: bytes, attempt: Attempts, tmp_path: Path,
) -> None:
    """All bits of the numbers it begins with, and some of keys and tensors. A flip in a word of the vocabulary is just
    another word; where two are the same then, llama.cpp ends the process."""
    places = gguf_damage._Places(good_gguf)
    chance = random.Random(4)
    bits = [*range(8 * gguf_damage.FIRST_KEY),
            *(chance.randrange(8 * gguf_damage.FIRST_KEY, 8 * places.end) for _ in range(FLIPS))]
    ends: Counter[str] = Counter()
    for bit in bits:
        data = bytearray(good_gguf)
        data[bit // 8] ^= 1 << bit % 8
        said = attempt(llama(tmp_path / "model", bytes(data)))
        assert said in ("loaded", "died of SIGABRT") or "damaged.gguf" in said, (bit, said)
        ends[said.partition(":")[0]] += 1
    assert ends["LoadFailed"] > len(bits) / 3
    assert ends["died of SIGABRT"] < len(bits) / 50


async def test_a_file_that_kills_its_worker_is_named_by_the_daemon_and_others_do_not_notice(
    good_gguf: bytes, attempt: Attempts, tmp_path: Path,
) -> None:
    """Two tokens with the same text: llama.cpp asserts that there are none."""
    one, other = re.findall(rb"\x05\0{7}\xc4\xa0[a-z]{3}", good_gguf)[:2]
    twice = good_gguf.replace(one, other, 1)
    assert attempt(llama(tmp_path / "model", twice)) == "died of SIGABRT"
    async with Rig(tmp_path, facts=probe()) as rig:
        rig.install("beside")
        install(rig.store, "broken", twice)
        install(rig.store, "cut", good_gguf[:-1000])
        answers = [asyncio.create_task(rig.answer("beside", f"{number}")) for number in range(4)]
        with pytest.raises(EdgedError) as killed:
            await rig.generate("broken")
        with pytest.raises(LoadFailed, match=r"damaged\.gguf.*not within the file bounds.*edged verify"):
            await rig.generate("cut")
        assert re.search(r"died while it loaded damaged\.gguf.*SIGABRT.*GGML_ASSERT", killed.value.message)
        assert not NOT_FOR_CLIENTS.search(killed.value.message)
        assert [answer.tokens for answer in await asyncio.gather(*answers)] == [8] * 4


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_an_onnx_model_cut_at_any_sixteenth_is_named(name: str, tiny_onnx: LoadSpec, tmp_path: Path) -> None:
    size = (Path(tiny_onnx.path) / name).stat().st_size
    for sixteenth in range(16):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_onnx.path, folder)
        os.truncate(folder / name, size * sixteenth // 16)
        said = refusal(msgspec.structs.replace(tiny_onnx, path=str(folder)))
        assert "model.onnx" in said, (sixteenth, said)


def test_flipped_bits_of_an_onnx_graph_never_kill_and_never_go_unnamed(
    tiny_onnx: LoadSpec, attempt: Attempts, tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_onnx.path, folder)
    good = (folder / "model.onnx").read_bytes()
    chance = random.Random(5)
    refused = 0
    for _ in range(60):
        bit = chance.randrange(8 * len(good))
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        (folder / "model.onnx").write_bytes(data)
        said = attempt(msgspec.structs.replace(tiny_onnx, path=str(folder)))
        assert said == "loaded" or "model.onnx" in said, (bit, said)
        refused += said != "loaded"
    assert refused > 5


@pytest.mark.parametrize("name", ["genai_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_json_file_is_named(name: str, tiny_onnx: LoadSpec, tmp_path: Path) -> None:
    shutil.copytree(tiny_onnx.path, tmp_path / "model")
    os.truncate(tmp_path / "model" / name, 30)
    assert name in refusal(msgspec.structs.replace(tiny_onnx, path=str(tmp_path / "model")))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_with_a_damaged_file_is_not_converted_and_the_file_is_named(
    name: str, tiny_hf: Path, tmp_path: Path,
) -> None:
    for sixteenth in range(0, 16, 3):
        folder, work = tmp_path / f"{sixteenth}", tmp_path / f"work {sixteenth}"
        shutil.copytree(tiny_hf, folder)
        work.mkdir()
        os.truncate(folder / name, (folder / name).stat().st_size * sixteenth // 16)
        with pytest.raises(CorruptFile, match=re.escape(name)) as caught:
            unquantized(folder, tmp_path / "out", work=work, progress=lambda done, note: None)
        assert str(tmp_path) not in caught.value.message
        assert not (tmp_path / "out").exists()


def install(store: Store, name: str, data: bytes) -> Manifest:
    with store.receiver() as receiver:
        blob = receiver.receive("cd" * 32, lambda part: part.write(data))
        files = (FileEntry(path="damaged.gguf", size=blob.size, sha256=blob.sha256),)
        digest = digest_of(files)
        manifest = Manifest(
            name=name, version=digest[:12], digest=digest, engine="llama", precision="F32", file="damaged.gguf",
            files=files, source=LocalSource(path="x"), reference=f"./{name}", created=0.0)
        store.publish(manifest)
    return manifest

