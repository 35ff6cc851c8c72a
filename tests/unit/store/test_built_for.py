from __future__ import annotations

import json
from pathlib import Path

import pytest

from edged.store import Store
from edged.store.built_for import target_of
from tests.models import install

pytestmark = pytest.mark.unit


def config(*providers: str) -> bytes:
    options = {"log_id": "x", "provider_options": [{name: {}} for name in providers]}
    return json.dumps({"model": {"decoder": {"session_options": options, "filename": "model.onnx"}}}).encode()


@pytest.mark.parametrize(
    ("providers", "target"),
    [((), "cpu"), (("cuda",), "cuda"), (("dml",), "directml"), (("WebGPU",), "webgpu"), (("QNN",), "qnn"),
     (("OpenVINO",), "openvino"), (("NvTensorRtRtx",), "tensorrt-rtx"), (("rocm",), "cpu")],
)
def test_the_provider_of_its_configuration_is_the_device_it_was_built_for(
    providers: tuple[str, ...], target: str
) -> None:
    assert target_of(config(*providers)) == target


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"model": 3}', b"\xff"])
def test_what_says_nothing_is_for_the_processor(data: bytes) -> None:
    assert target_of(data) == "cpu"


@pytest.mark.parametrize(("providers", "target"), [((), "cpu"), (("cuda",), "cuda")])
def test_a_folder_that_is_pulled_keeps_the_device_it_was_built_for(
    tmp_path: Path, providers: tuple[str, ...], target: str
) -> None:
    folder = tmp_path / "phi-int4"
    folder.mkdir()
    (folder / "genai_config.json").write_bytes(config(*providers))
    (folder / "model.onnx").write_bytes(b"")
    manifest = install(Store(tmp_path / "home"), str(folder))
    assert (manifest.engine, manifest.target) == ("ort", target)
