from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edged.engines.encoder_config import read_config
from edged.errors import LoadFailed
from edged.types import LoadSpec

pytestmark = pytest.mark.unit

TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def folder_with(path: Path, files: dict[str, Any]) -> Path:
    for name, said in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(said if isinstance(said, str) else json.dumps(said))
    return path


def spec(**said: Any) -> LoadSpec:
    return LoadSpec(name="m", version="1", digest="0", engine="ort", path="", file="model.onnx", task="embed", **said)


def test_the_smallest_of_all_limits_is_the_context(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {
        "config.json": {"max_position_embeddings": 512}, "sentence_bert_config.json": {"max_seq_length": 256},
        "tokenizer_config.json": {"model_max_length": 10**30}})
    assert read_config(folder, spec()).context == 256
    assert read_config(folder, spec(context=512)).context == 512
    with pytest.raises(LoadFailed, match="positions for 512"):
        read_config(folder, spec(context=513))


def test_positions_of_roberta_begin_after_its_padding(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {
        "config.json": {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}})
    config = read_config(folder, spec())
    assert (config.context, config.first_position) == (512, 2)


@pytest.mark.parametrize(("said", "modes"), [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
    ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
    ({"pooling_mode": "lasttoken"}, ("lasttoken",)), ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
])
def test_pooling_is_read_in_its_old_and_its_new_form(
        tmp_path: Path, said: dict[str, Any], modes: tuple[str, ...]) -> None:
    folder = folder_with(tmp_path, {"modules.json": [TRANSFORMER, POOLING], "1_Pooling/config.json": said})
    config = read_config(folder, spec())
    assert config.pooling == modes
    assert not config.normalize


def test_normalisation_and_what_comes_after_pooling_are_seen(tmp_path: Path) -> None:
    files = {"modules.json": [TRANSFORMER, POOLING, NORMALIZE], "1_Pooling/config.json": {"pooling_mode": "mean"}}
    assert read_config(folder_with(tmp_path / "a", files), spec()).normalize
    assert not read_config(tmp_path / "a", spec(options={"normalize": False})).normalize
    files["modules.json"] = [TRANSFORMER, POOLING, DENSE]
    assert read_config(folder_with(tmp_path / "b", files), spec()).dense


@pytest.mark.parametrize(("files", "words"), [
    ({"modules.json": "{}"}, "modules.json"), ({"modules.json": [{"path": "x"}]}, "modules.json"),
    ({"modules.json": [POOLING], "1_Pooling/config.json": {}}, "1_Pooling/config.json"),
    ({"modules.json": [POOLING], "1_Pooling/config.json": {"pooling_mode": "best"}}, "no pooling that"),
    ({"modules.json": [POOLING | {"path": "../.."}]}, "leads out"), ({"config.json": "["}, "config.json"),
])
def test_a_file_that_says_nothing_usable_is_named(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadFailed, match=words):
        read_config(folder_with(tmp_path, files), spec())


def test_lengths_that_a_vector_may_be_cut_to(tmp_path: Path) -> None:
    assert 64 not in read_config(tmp_path, spec()).shorter_than(384)
    assert 64 in read_config(tmp_path, spec(dimensions=(64, 128))).shorter_than(384)
    folder = folder_with(tmp_path, {"config.json": {"matryoshka_dimensions": [32]}})
    assert 32 in read_config(folder, spec()).shorter_than(384)
    any_of_them = read_config(folder_with(tmp_path, {"config.json": {"is_matryoshka": True}}), spec()).shorter_than(384)
    assert 383 in any_of_them
    assert 384 not in any_of_them


@pytest.mark.parametrize("options", [{"pooling": "best"}, {"pool": "mean"}, {"normalize": "yes"}])
def test_an_option_that_is_none_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(LoadFailed, match="options of m"):
        read_config(tmp_path, spec(options=options))
