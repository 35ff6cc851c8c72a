"""Files of this machine on their way into a job's folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from converters import bring, refuse
from converters.bring import Brought
from edged.errors import Conflict, RefusedFile
from edged.store.entries import JobProgress
from edged.store.manifests import digest_of
from tests.hf_folders import hf_files, put
from tests.models import contents

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return put(tmp_path / "model", hf_files())


def brought(folder: Path, out: Path) -> Brought:
    listing = bring.list_folder(folder, refuse.model_files)
    return bring.bring_folder(listing, out, refuse.check_config, lambda moment: None)


def test_texts_are_copied_and_weights_are_linked_to(folder: Path, tmp_path: Path) -> None:
    got = brought(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == hf_files()
    assert (tmp_path / "out" / "model.safetensors").is_symlink()
    assert not (tmp_path / "out" / "config.json").is_symlink()
    assert [Path(linked.path).name for linked in got.linked] == ["model.safetensors"]
    assert [entry.path for entry in got.files] == sorted(hf_files())
    (folder / "config.json").write_bytes(b"evil")
    assert (tmp_path / "out" / "config.json").read_bytes() == hf_files()["config.json"]


def test_nothing_else_of_the_folder_is_seen(folder: Path, tmp_path: Path) -> None:
    for name in ("modeling_evil.py", "pytorch_model.bin", "optimizer.pt", "README.md", ".hidden.json"):
        (folder / name).write_bytes(b"x")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"x")
    brought(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == hf_files()


def test_the_digest_is_that_of_the_files_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    other = put(tmp_path / "elsewhere", hf_files())
    digests = {digest_of(brought(each, tmp_path / f"out-{each.name}").files) for each in (folder, other)}
    assert len(digests) == 1


@pytest.mark.parametrize("how", ["written", "replaced", "removed", "linked"])
def test_weights_that_change_while_they_are_converted_are_noticed(folder: Path, tmp_path: Path, how: str) -> None:
    [linked] = brought(folder, tmp_path / "out").linked
    bring.changed(linked)
    path = folder / "model.safetensors"
    if how == "written":
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(1, 1))
    elif how == "replaced":
        (folder / "new").write_bytes(path.read_bytes())
        (folder / "new").replace(path)
    else:
        path.unlink()
        if how == "linked":
            path.symlink_to("tokenizer.json")
    with pytest.raises(Conflict, match=r"model\.safetensors was changed"):
        bring.changed(linked)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("odd", ["link out", "fifo", "folder", "dangling"])
def test_odd_files_are_refused_and_never_block(folder: Path, tmp_path: Path, name: str, odd: str) -> None:
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    if odd == "fifo":
        os.mkfifo(path)
    elif odd == "folder":
        path.mkdir()
    elif odd == "dangling":
        path.symlink_to(folder / "nowhere")
    else:
        (tmp_path / "outside").write_bytes(data)
        path.symlink_to(tmp_path / "outside")
    with pytest.raises(RefusedFile, match=name):
        brought(folder, tmp_path / "out")


def test_a_link_within_the_folder_is_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "real").mkdir()
    (folder / "model.safetensors").rename(folder / "real" / "weights")
    (folder / "model.safetensors").symlink_to("real/weights")
    brought(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == hf_files()


def test_a_text_that_is_far_too_long_is_refused(folder: Path, tmp_path: Path) -> None:
    os.truncate(folder / "tokenizer.json", 1 << 30)
    with pytest.raises(RefusedFile, match=r"tokenizer\.json has 1073741824 bytes"):
        brought(folder, tmp_path / "out")


def test_code_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", hf_files(auto_map={"AutoModel": "modeling_canary.Model"}))
    told: list[JobProgress] = []
    with pytest.raises(RefusedFile, match="auto_map"):
        bring.bring_folder(bring.list_folder(folder, refuse.model_files), tmp_path / "out", refuse.check_config,
                           told.append)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_what_is_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedFile, match="no folder"):
        bring.list_folder(tmp_path / "nowhere", refuse.model_files)
