import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from edged.errors import BadReference, InsufficientStorage, ModelNotFound, RefusedFile
from edged.store import Store, clone
from edged.store.entries import Catalog, JobProgress
from edged.store.pull import pull
from tests.models import GRAPH, NO_HUB, contents, fake_folder, gguf_bytes, install

pytestmark = pytest.mark.unit


def usage(free: int) -> SimpleNamespace:
    return SimpleNamespace(free=free)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def test_a_single_gguf_is_a_model_named_after_it(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "My Model.Q4_K_M.gguf"
    path.write_bytes(gguf_bytes(1, 5000))
    manifest = install(store, str(path))
    assert (manifest.name, manifest.engine, manifest.precision) == ("My-Model.Q4_K_M", "llama", "Q4_K_M")
    assert contents(store.folder(manifest)) == {"My Model.Q4_K_M.gguf": gguf_bytes(1, 5000)}


def test_an_onnx_folder_keeps_its_shape_and_leaves_code_out(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "onnx-int4"
    folder.mkdir()
    for name in ("genai_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.M"}}')
    (folder / "model.onnx").write_bytes(GRAPH)
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / ".git").mkdir()
    told: list[JobProgress] = []
    manifest = pull(store, Catalog(), str(folder), hub=NO_HUB, progress=told.append)
    assert (manifest.engine, manifest.file) == ("ort", "genai_config.json")
    assert set(contents(store.folder(manifest))) == {"genai_config.json", "tokenizer.json", "model.onnx"}
    notes = " ".join(moment.note for moment in told if moment.note)
    assert all(word in notes for word in ("modeling.py", "optimizer.pt", "config.json", "auto_map"))


def test_native_code_in_a_folder_is_refused_and_nothing_is_left(store: Store, tmp_path: Path) -> None:
    folder = fake_folder(tmp_path / "evil")
    (folder / "genai_config.json").write_text('{"model": {"custom_ops_library": "libcanary.so"}}')
    (folder / "model.onnx").write_bytes(GRAPH)
    (folder / "libcanary.so").write_bytes(b"canary")
    with pytest.raises(RefusedFile, match="custom_ops_library"):
        install(store, str(folder))
    assert list((store.home / "blobs").iterdir()) == []
    assert store.names() == []


@pytest.mark.parametrize("odd", ["fifo", "socket", "folder", "device", "dangling"])
def test_odd_files_end_in_a_clear_error_and_never_block(
    store: Store, tmp_path: Path, odd: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = fake_folder(tmp_path / "odd")
    path = folder / "model.gguf"
    if odd == "fifo":
        os.mkfifo(path)
    elif odd == "socket":
        monkeypatch.chdir(folder)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("model.gguf")
    elif odd == "folder":
        path.mkdir()
    elif odd == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(folder / "nowhere.gguf")
    with pytest.raises(RefusedFile, match=r"model\.gguf"):
        install(store, str(folder))
    with pytest.raises(RefusedFile):
        install(store, str(path))
    assert store.names() == []


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    folder = fake_folder(tmp_path / "linked")
    (folder / "LICENSE").symlink_to("real.txt")
    (folder / "real.txt").write_text("a licence")
    (folder / "model.gguf").write_bytes(b"GGUF")
    manifest = install(store, str(folder))
    assert contents(store.folder(manifest))["LICENSE"] == b"a licence"
    (folder / "leak.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(RefusedFile, match=r"leak\.json is a link that leads out"):
        install(store, str(folder))


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.py"])
def test_a_pickle_or_code_by_name_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(RefusedFile, match="code"):
        install(store, str(tmp_path / name))


def test_what_is_not_there_is_said(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RefusedFile, match="no file or folder"):
        install(store, str(tmp_path / "nowhere"))
    with pytest.raises(ModelNotFound, match="edged models"):
        install(store, "nobody-knows-me")
    with pytest.raises(BadReference):
        install(store, "what is this")


def test_too_little_disk_is_said_before_the_first_byte(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = fake_folder(tmp_path / "big")
    (folder / "model.gguf").touch()
    os.truncate(folder / "model.gguf", 3_000_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(free=3_000_000_000))
    with pytest.raises(InsufficientStorage, match=r"needs 3\.0 GB and 67\.1 MB to spare.* 3\.0 GB free.*edged gc"):
        install(store, str(folder))
    assert list((store.home / "blobs").iterdir()) == list((store.home / "tmp").iterdir()) == []


def test_pulling_the_same_folder_again_is_the_same_version_and_one_blob(store: Store, tmp_path: Path) -> None:
    folder = fake_folder(tmp_path / "same")
    assert install(store, str(folder)) == install(store, str(folder))
    assert len(list((store.home / "blobs").iterdir())) == 1


def test_a_copy_is_whole_whether_or_not_the_file_system_shares_blocks(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(gguf_bytes(2, 3_000_000))
    clone.copy(source, target)
    assert target.read_bytes() == source.read_bytes()


def test_progress_ends_at_the_whole_size(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(3, 3_000_000))
    told: list[JobProgress] = []
    pull(store, Catalog(), str(path), hub=NO_HUB, progress=told.append)
    assert (told[-1].stage, told[-1].done_bytes, told[-1].total_bytes) == ("done", 3_000_000, 3_000_000)
    done = [moment.done_bytes for moment in told]
    assert done == sorted(done)
