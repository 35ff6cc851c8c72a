"""What the files of a version say of its model, told without an engine."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.store import Store, gguf_header
from edged.store.metadata import Metadata, metadata, takes_tools, thinks
from tests.models import gguf_bytes, install

pytestmark = pytest.mark.unit

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}{% if tools %}{{ tools }}{% endif %}"


def gguf_file(path: Path) -> Path:
    """A GGUF with every kind of value and no tensor, by the format's own library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_token_list(["<unk>", "a", "✓"])
    writer.add_token_scores([0.0, -1.5, -2.5])
    writer.add_chat_template(TEMPLATE)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_float32("llama.rope.freq_base", 0.5)
    writer.add_int8("test.int8", -8)
    writer.add_uint8("test.uint8", 8)
    writer.add_int16("test.int16", -16)
    writer.add_uint16("test.uint16", 16)
    writer.add_int32("test.int32", -32)
    writer.add_int64("test.int64", -64)
    writer.add_uint64("test.uint64", 64)
    writer.add_float64("test.float64", 0.25)
    writer.add_uint32("tokenizer.ggml.fim_pre_token_id", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_a_gguf_tells_its_keys_and_passes_over_arrays(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "m.gguf")
    told = gguf_header.read(path)
    theirs = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()
              if not key.startswith("GGUF.")}
    assert [*told] == [*theirs]
    assert told == {key: None if isinstance(value, list) else value for key, value in theirs.items()}
    assert type(told["tokenizer.ggml.add_bos_token"]) is bool


def test_a_gguf_in_the_store_tells_family_template_and_sizes(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    told = metadata(store.layout, install(store, str(gguf_file(tmp_path / "in" / "m-Q8_0.gguf"))))
    assert (told.family, told.chat_template, told.infills) == ("llama", TEMPLATE, True)
    assert told.values["llama.context_length"] == 8192
    assert "tokenizer.chat_template" not in told.values


def test_what_is_no_gguf_tells_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    (tmp_path / "m-Q8_0.gguf").write_bytes(gguf_bytes(1, 1000))
    assert metadata(store.layout, install(store, str(tmp_path / "m-Q8_0.gguf"))) == Metadata(family="")


@pytest.mark.parametrize("jinja", [True, False])
def test_an_onnx_folder_tells_what_its_configuration_says(tmp_path: Path, jinja: bool) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "genai_config.json").write_text(json.dumps(
        {"model": {"type": "llama", "context_length": 4096, "decoder": {"filename": "model.onnx"}}}))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "hidden_size": 64, "vocab_size": 9}))
    (folder / "model.onnx").write_bytes(b"\x08\x0a")
    said = {} if jinja else {"chat_template": [{"name": "default", "template": TEMPLATE}, {"name": "x"}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    if jinja:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    store = Store(tmp_path / "home")
    assert metadata(store.layout, install(store, str(folder))) == Metadata(
        family="qwen3", chat_template=TEMPLATE,
        values={"general.architecture": "qwen3", "qwen3.embedding_length": 64, "qwen3.vocab_size": 9,
                "qwen3.context_length": 4096},
    )


def test_templates_tell_what_they_were_made_for() -> None:
    assert takes_tools(TEMPLATE)
    assert not takes_tools("{{ messages }} with toolset")
    assert thinks("{% if enable_thinking %}<think>{% endif %}")
    assert not thinks(TEMPLATE)


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_file(tmp_path_factory.mktemp("whole") / "m.gguf")


@given(data=st.data())
def test_no_damage_of_the_header_raises_anything_else(data: st.DataObject, whole_file: Path) -> None:
    whole = bytearray(whole_file.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    damaged = whole_file.with_name("damaged.gguf")
    damaged.write_bytes(whole[:cut])
    try:
        told = gguf_header.read(damaged)
    except gguf_header.NotGguf:
        return
    assert all(isinstance(key, str) for key in told)
