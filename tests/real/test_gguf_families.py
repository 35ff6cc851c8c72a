"""Every family that becomes GGUF computes in llama.cpp what it computes in transformers, and reads text as it does."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from converters.gguf import convert, unquantized
from converters.gguf_split_rule import PROBES
from edged.engines.hf_vocab import HfVocab
from edged.engines.llama_vocab import LlamaVocab, metadata
from edged.errors import CorruptFile, InvalidRequest
from tests.real.tiny_families import (
    FAMILIES,
    FOREIGN,
    LLAMA3,
    QWEN2,
    SMOLLM,
    VOCABULARY,
    byte_level,
    make,
    sentencepiece,
)
from tests.real.tiny_model import TEMPLATE

pytestmark = pytest.mark.real

#: Longer than the windows of the models that have one.
TOKENS = [(index * 37 + 5) % (VOCABULARY - 30) + 3 for index in range(40)]


class Recipe:
    name = "mine"
    precision = "Q4_K_M"
    imatrix = False


@pytest.fixture
def to_gguf(tmp_path: Path) -> Callable[[Path], tuple[Path, list[str]]]:
    """Returns the file and the notes."""

    def run(folder: Path) -> tuple[Path, list[str]]:
        (tmp_path / "work").mkdir()
        notes: list[str] = []
        file = unquantized(folder, tmp_path / "out", work=tmp_path / "work",
                           progress=lambda done, note: notes.append(note) if note else None)
        assert not list((tmp_path / "work").iterdir())
        return file, notes

    return run


class Llama:
    """llama.cpp in 32 bits: KV too, which edged's engine keeps in fewer."""

    def __init__(self, file: Path) -> None:
        @lib.llama_log_callback  # type: ignore[untyped-decorator]
        def quiet(_level: int, _text: bytes, _data: Any) -> None:
            pass

        self._quiet = quiet
        lib.llama_log_set(quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(file).encode(), lib.llama_model_default_params())
        assert self.model, "llama.cpp does not load it"
        self.metadata = metadata(self.model)
        self.vocab = LlamaVocab(self.model, self.metadata)

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = 256, 2, 2
        params.type_k = params.type_v = lib.GGML_TYPE_F32
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = lib.llama_init_from_model(self.model, params)
        array = (lib.llama_token * len(tokens))(*tokens)
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        for index, token in enumerate(array):
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, index, 1
            batch.seq_id[index][0], batch.logits[index] = 0, 1
        batch.n_tokens = len(tokens)
        assert lib.llama_decode(context, batch) == 0
        found = np.ctypeslib.as_array(lib.llama_get_logits(context), (len(tokens), self.vocab.size)).copy()
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        return np.asarray(found, np.float32)

    def close(self) -> None:
        lib.llama_model_free(self.model)


def torch_logits(folder: Path, tokens: list[int]) -> NDArray[np.float32]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        return np.asarray(model(torch.tensor([tokens])).logits[0].numpy(), np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_the_same_in_llama_cpp_as_in_transformers(
    family: str, tmp_path: Path, to_gguf: Callable[[Path], tuple[Path, list[str]]],
) -> None:
    folder = make(tmp_path / "hf", FAMILIES[family]())
    llama = Llama(to_gguf(folder)[0])
    wanted, found = torch_logits(folder, TOKENS), llama.logits(TOKENS)
    assert np.abs(wanted).max() > 1, "a test that could not fail"
    # ggml's GELU is a table of 16-bit floats.
    np.testing.assert_allclose(found, wanted, atol=3e-3 if "gemma" in family else 1e-3, rtol=1e-3)
    assert llama.metadata["tokenizer.chat_template"] == TEMPLATE
    llama.close()


def test_weights_in_16_bits_stay_as_they_are(
    tmp_path: Path, to_gguf: Callable[[Path], tuple[Path, list[str]]],
) -> None:
    import gguf
    from safetensors import safe_open

    folder = make(tmp_path / "hf", FAMILIES["qwen 2"](), dtype=torch.bfloat16)
    file, _ = to_gguf(folder)
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.0.ffn_down.weight"].tensor_type == gguf.GGMLQuantizationType.BF16
    assert tensors["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    with safe_open(folder / "model.safetensors", framework="pt") as source:
        wanted = source.get_tensor("model.layers.0.mlp.down_proj.weight").view(torch.int16).numpy()
    np.testing.assert_array_equal(tensors["blk.0.ffn_down.weight"].data.view(np.int16), wanted)


@pytest.mark.parametrize(("tokenizer", "rule"), [
    (byte_level, "gpt-2"), (lambda: byte_level(LLAMA3, gpt2=False, begins=True), "dbrx"),
    (lambda: byte_level(QWEN2, gpt2=False), "qwen2"), (lambda: byte_level(SMOLLM), "smollm"),
    (lambda: sentencepiece(space=True), "default"), (lambda: sentencepiece(space=False), "default"),
], ids=["gpt-2", "llama 3", "qwen 2", "smollm", "llama 2", "gemma"])
def test_text_becomes_the_same_tokens_on_both_engines(
    tokenizer: Callable[[], Tokenizer], rule: str, tmp_path: Path,
    to_gguf: Callable[[Path], tuple[Path, list[str]]],
) -> None:
    """A tokenizer that nobody has seen before, so llama.cpp's rule for it is found by trial."""
    folder = make(tmp_path / "hf", FAMILIES["llama"](), tokenizer())
    file, _ = to_gguf(folder)
    llama, hf = Llama(file), HfVocab(folder, VOCABULARY, frozenset({2}))
    assert llama.metadata["tokenizer.ggml.pre"] == rule
    unk, bos, eos = (hf.special[name] for name in ("unk_token", "bos_token", "eos_token"))
    for text in (*PROBES, f"{bos}user\nwhat is EDGED 42?{eos}\n{bos}assistant\n", f"an {unk} token"):
        for special, begins in ((True, False), (False, True), (False, False)):
            assert llama.vocab.tokenize(text, special=special, bos=begins) == hf.tokenize(
                text, special=special, bos=begins), (text, special, begins)
    assert llama.vocab.bos == hf.bos
    # llama.cpp ends an answer at <|endoftext|> wherever there is one.
    assert llama.vocab.end - {0} == hf.end
    assert llama.vocab.chat_template == hf.chat_template
    assert llama.vocab.strips_first_space() == hf.strips_first_space()
    pieces = [token for token in range(VOCABULARY) if hf.piece(token) != llama.vocab.piece(token)]
    assert all(llama.metadata["tokenizer.ggml.model"] == "gpt2" and token >= 582 for token in pieces), pieces
    llama.close()


def test_further_tokens_that_end_an_answer_are_taken_over(
    tmp_path: Path, to_gguf: Callable[[Path], tuple[Path, list[str]]],
) -> None:
    folder = make(tmp_path / "hf", FAMILIES["llama"]())
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 77]}')
    llama = Llama(to_gguf(folder)[0])
    assert {2, 77} <= llama.vocab.end
    llama.close()


def test_a_window_that_llama_cpp_does_not_compute_bounds_the_context_and_is_said(
    tmp_path: Path, to_gguf: Callable[[Path], tuple[Path, list[str]]],
) -> None:
    config = FAMILIES["mistral"]()
    config.sliding_window = 128
    file, notes = to_gguf(make(tmp_path / "hf", config))
    llama = Llama(file)
    assert llama.metadata["llama.context_length"] == "128"
    assert len(notes) == 1
    assert "128 instead of 512" in notes[0]
    llama.close()


def refused(folder: Path, tmp_path: Path) -> str:
    (tmp_path / "work").mkdir()
    with pytest.raises((InvalidRequest, CorruptFile)) as caught:
        convert(folder, Recipe(), tmp_path / "out", calibration=None, work=tmp_path / "work",
                progress=lambda done, note: None)
    assert not (tmp_path / "out").exists()
    return caught.value.message


def test_another_architecture_is_refused_by_name_with_what_to_do(tmp_path: Path) -> None:
    said = refused(make(tmp_path / "hf", FOREIGN()), tmp_path)
    assert "GPT2LMHeadModel" in said
    assert "convert to ONNX" in said


def test_what_llama_cpp_would_leave_out_in_silence_is_refused(tmp_path: Path) -> None:
    config = FAMILIES["llama"]()
    config.hidden_act = "gelu"
    assert "activation is gelu" in refused(make(tmp_path / "hf", config), tmp_path)


def test_positions_scaled_as_llama_cpp_does_not_are_refused(tmp_path: Path) -> None:
    config = FAMILIES["qwen 2, yarn"]()
    config.rope_parameters["beta_fast"] = 24.0
    assert "yarn with beta_fast" in refused(make(tmp_path / "hf", config), tmp_path)


def test_layers_in_another_order_of_windows_are_refused(tmp_path: Path) -> None:
    config = FAMILIES["gemma 2"]()
    config.layer_types = ["full_attention", "sliding_attention"] * 2
    assert "alternate" in refused(make(tmp_path / "hf", config), tmp_path)


def test_a_tokenizer_that_splits_as_nothing_in_llama_cpp_does_is_refused(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    odd = byte_level(pre_tokenizers.Split("e", behavior="isolated"), gpt2=False)
    said = refused(make(tmp_path / "hf", FAMILIES["llama"](), odd), tmp_path)
    assert "no rule that splits text as this tokenizer does" in said


def test_a_precision_that_llama_cpp_has_not_is_refused_with_those_it_has(tmp_path: Path) -> None:
    recipe = Recipe()
    recipe.precision = "Q4_K_X"
    with pytest.raises(InvalidRequest, match=r"Q4_K_X.*Q4_K_M"):
        convert(tmp_path, recipe, tmp_path / "out", calibration=None, work=tmp_path, progress=lambda done, note: None)
