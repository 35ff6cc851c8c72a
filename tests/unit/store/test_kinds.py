import json

import pytest

from edged.errors import RefusedFile
from edged.store.kinds import check_json, why_not

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("path", [
    "m.gguf", "a/b/model.onnx", "model.onnx.data", "model.onnx_data", "model.safetensors", "config.json",
    "chat_template.jinja", "vocab.txt", "tokenizer.model", "README.md", "LICENSE", "notice", "LICENSE.txt", "M.GGUF",
])
def test_weights_and_texts_are_taken(path: str) -> None:
    assert why_not(path) is None


@pytest.mark.parametrize(("path", "why"), [
    ("pytorch_model.bin", "pickle"), ("x.pt", "pickle"), ("x.pth", "pickle"), ("x.pkl", "pickle"), ("x.ckpt", "pickle"),
    ("modeling_x.py", "code"), ("lib.so", "code"), ("LICENSE.py", "code"), ("x.tar.gz", "no use"), ("noext", "no use"),
    (".hidden.json", "hidden"), ("x.gguf.exe", "code"), ("x.json.pkl", "pickle"),
])
def test_what_could_run_code_is_not_taken_and_says_why(path: str, why: str) -> None:
    assert why in (why_not(path) or "")


def test_a_native_library_named_anywhere_in_genai_config_is_refused() -> None:
    deep = {"model": {"decoder": [{"session_options": {"custom_ops_library": "libevil.so"}}]}}
    with pytest.raises(RefusedFile, match="custom_ops_library"):
        check_json("genai_config.json", json.dumps(deep).encode())


def test_remote_code_named_in_config_leaves_the_file_out() -> None:
    assert "auto_map" in (check_json("config.json", b'{"auto_map": {"AutoModel": "modeling_x.X"}}') or "")


def test_a_tokenizer_that_is_code_is_refused() -> None:
    with pytest.raises(RefusedFile, match="auto_map"):
        check_json("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": "tok.T"}}')


def test_plain_configuration_is_taken() -> None:
    assert check_json("config.json", b'{"hidden_size": 4, "text": "auto_map"}') is None


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_broken_or_bottomless_json_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedFile, match=r"x\.json"):
        check_json("x.json", data)


@pytest.mark.parametrize("said", [
    {"provider_options": [{"qnn": {"backend_path": "/tmp/libevil.so"}}]},
    {"provider_options": [{"NvTensorRtRtx": {"trt_extra_plugin_lib_paths": "libevil.so"}}]},
    {"session_options": {"session.model_external_initializers_file_folder_path": "/etc"}},
    {"decoder": {"filename": "../../other/model.onnx"}}, {"vision": {"config_filename": "/etc/passwd"}},
])
def test_a_genai_config_that_leads_out_of_the_folder_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(RefusedFile):
        check_json("m/genai_config.json", json.dumps({"model": said}).encode())


def test_a_genai_config_as_the_builder_writes_it_is_taken() -> None:
    said = {"decoder": {"filename": "model.onnx", "session_options": {
        "provider_options": [{"qnn": {"backend_path": "QnnHtp.dll"}}]}}}
    assert check_json("genai_config.json", json.dumps({"model": said}).encode()) is None
