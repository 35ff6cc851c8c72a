import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import RefusedFile
from edged.store.select import choose, entry_of, precision_of, quant_of

pytestmark = pytest.mark.unit

REPOSITORY = [
    "README.md", "LICENSE", "config.json", "model-Q4_0.gguf", "model-Q4_K_M.gguf", "model-Q8_0.gguf", "model-f16.gguf",
    "model-IQ2_XXS.gguf", "mmproj-model-f16.gguf", "big-Q6_K/big-Q6_K-00001-of-00003.gguf",
    "big-Q6_K/big-Q6_K-00002-of-00003.gguf", "big-Q6_K/big-Q6_K-00003-of-00003.gguf",
]


@pytest.mark.parametrize(("path", "quant"), [
    ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"), ("gemma-3-270m-q4_k_m.gguf", "Q4_K_M"), ("x-IQ3_XXS.gguf", "IQ3_XXS"),
    ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"), ("Qwen-BF16.gguf", "BF16"), ("a/Q8_0/b-00001-of-00002.gguf", "Q8_0"),
    ("x.f16.gguf", "F16"), ("model.gguf", None), ("gpt-oss-MXFP4.gguf", "MXFP4"), ("equal4.gguf", None),
])
def test_the_quantization_is_read_from_the_name(path: str, quant: str | None) -> None:
    assert quant_of(path) == quant


@pytest.mark.parametrize("quant", ["Q8_0", "q8_0"])
def test_a_quantization_picks_its_file_in_any_case(quant: str) -> None:
    chosen = choose(REPOSITORY, quant)
    assert (chosen.engine, chosen.precision, chosen.file) == ("llama", "Q8_0", "model-Q8_0.gguf")
    assert chosen.files == ("model-Q8_0.gguf", "LICENSE")


def test_a_split_model_comes_whole_and_in_order() -> None:
    chosen = choose(random.Random(1).sample(REPOSITORY, len(REPOSITORY)), "Q6_K")
    assert chosen.files == tuple(f"big-Q6_K/big-Q6_K-0000{piece}-of-00003.gguf" for piece in (1, 2, 3))
    assert (chosen.file, chosen.root) == (chosen.files[0], "big-Q6_K/")


def test_a_split_model_with_a_piece_missing_is_refused() -> None:
    with pytest.raises(RefusedFile, match="missing"):
        choose([path for path in REPOSITORY if "00002" not in path], "Q6_K")


@pytest.mark.parametrize(("there", "taken"), [
    (["x-Q8_0.gguf", "x-Q4_0.gguf", "x-Q4_K_M.gguf"], "x-Q4_K_M.gguf"),
    (["x-Q8_0.gguf", "x-Q4_0.gguf", "x-Q2_K.gguf"], "x-Q4_0.gguf"),
    (["x-Q8_0.gguf", "x-Q2_K.gguf"], "x-Q8_0.gguf"),
    (["x-Q2_K.gguf"], "x-Q2_K.gguf"),
])
def test_without_a_word_the_usual_quantization_is_taken(there: list[str], taken: str) -> None:
    assert choose(there).file == taken


def test_an_onnx_folder_for_the_cpu_is_taken_and_stands_at_the_top() -> None:
    chosen = choose([
        "README.md", "cuda/cuda-int4/genai_config.json", "cuda/cuda-int4/model.onnx",
        "cpu_and_mobile/cpu-int4-block-32/genai_config.json", "cpu_and_mobile/cpu-int4-block-32/model.onnx",
        "cpu_and_mobile/cpu-int4-block-32/model.onnx.data", "cpu_and_mobile/cpu-int4-block-32/tokenizer.json",
    ])
    assert (chosen.engine, chosen.precision) == ("ort", "int4")
    assert chosen.file == "cpu_and_mobile/cpu-int4-block-32/genai_config.json"
    assert chosen.root == "cpu_and_mobile/cpu-int4-block-32/"
    assert len(chosen.files) == 4


def test_a_genai_config_without_a_graph_is_no_model() -> None:
    with pytest.raises(RefusedFile, match=r"there is: genai_config\.json"):
        choose(["genai_config.json"])


@pytest.mark.parametrize("quant", ["Q5_K_S", "int4", "q4"])
def test_a_quantization_that_is_not_there_is_told_what_is(quant: str) -> None:
    with pytest.raises(RefusedFile, match=r"there is no .*Q4_K_M.*Q8_0"):
        choose(REPOSITORY, quant)


def test_several_unusual_quantizations_and_no_word_is_told_what_is() -> None:
    with pytest.raises(RefusedFile, match=r"Q2_K, Q3_K_M.*colon"):
        choose(["x-Q2_K.gguf", "x-Q3_K_M.gguf"])


def test_no_model_at_all_lists_what_is_there() -> None:
    with pytest.raises(RefusedFile, match=r"README\.md"):
        choose(["README.md", "model.safetensors"])


def test_the_fake_engines_file_is_a_model() -> None:
    assert choose(["fake.json"]).engine == "fake"


def test_a_catalogs_files_must_be_one_model() -> None:
    assert entry_of("llama", ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "LICENSE"]) == "a-00001-of-00002.gguf"
    with pytest.raises(RefusedFile, match="2 GGUF models"):
        entry_of("llama", ["a.gguf", "b.gguf"])
    assert entry_of("ort", ["x/genai_config.json", "x/model.onnx"]) == "x/genai_config.json"
    assert precision_of("ort", "cpu-int8/genai_config.json", ["cpu-int8/model.onnx"]) == "int8"


@given(st.lists(st.text(max_size=20), max_size=8), st.one_of(st.none(), st.text(max_size=5)))
def test_any_listing_is_a_model_of_its_own_files_or_refused(paths: list[str], quant: str | None) -> None:
    try:
        chosen = choose(paths, quant)
    except RefusedFile:
        return
    assert chosen.file in chosen.files
    assert set(chosen.files) <= set(paths)
    assert all(path.startswith(chosen.root) for path in chosen.files)
