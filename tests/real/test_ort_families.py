"""Graphs of every family that onnxruntime-genai's builder takes, at fp32: the engine gives, token for token, the text
of onnxruntime-genai's own generator, many rows of different lengths at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime_genai
import pytest

from converters.positions import gather_positions
from edged.engines import load
from edged.engines.base import Generator, RowWork
from edged.errors import LoadFailed
from edged.types import LoadSpec
from tests.real.conftest import spec
from tests.real.tiny_families import FAMILIES, make
from tests.real.tiny_model import make_onnx

pytestmark = pytest.mark.real

ANSWER_TOKENS = 24
PIECE_TOKENS = 17
#: Lengths 4 … 61: on both sides of the windows of 16 tokens and of the pieces.
PROMPTS = [[(index * 31 + salt * 57) % 500 + 5 for index in range(4 + 3 * salt)] for salt in range(20)]


@dataclass(frozen=True)
class Family:
    name: str
    spec: LoadSpec
    texts: list[list[int]]


def greedy_of_genai(folder: Path) -> list[list[int]]:
    model = onnxruntime_genai.Model(str(folder))
    texts = []
    for prompt in PROMPTS:
        parameters = onnxruntime_genai.GeneratorParams(model)
        end = len(prompt) + ANSWER_TOKENS
        parameters.set_search_options(max_length=end, min_length=end, do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(np.array(prompt, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        texts.append([int(token) for token in generator.get_sequence(0)[len(prompt):]])
    return texts


def greedy(generator: Generator, prompts: Sequence[list[int]], *, kept: int = 0) -> list[list[int]]:
    """All rows decode in one batch, each after a prefill in pieces. kept: tokens that they have already. Ending tokens
    are passed over, as the peer does below its min_length."""
    forbidden = sorted(generator.vocab.end)

    def best(logits: np.ndarray) -> int:
        scores = logits[-1].copy()
        scores[forbidden] = -np.inf
        return int(scores.argmax())

    texts = []
    for row, prompt in enumerate(prompts):
        for first in range(kept, len(prompt), PIECE_TOKENS):
            piece = prompt[first:first + PIECE_TOKENS]
            [logits] = generator.step([RowWork(row, piece, first + len(piece) == len(prompt))])
        texts.append([best(logits)])
    for _ in range(ANSWER_TOKENS - 1):
        work = [RowWork(row, text[-1:], 1) for row, text in enumerate(texts)]
        for text, logits in zip(texts, generator.step(work), strict=True):
            text.append(best(logits))
    return texts


@pytest.fixture(scope="module", params=["llama", "llama 3", "mistral", "qwen 2", "qwen 3", "phi 3", "gemma", "gemma 2"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    config = FAMILIES[request.param]()
    if request.param == "phi 3":
        # Without it the builder looks for a second rotary table.
        config.original_max_position_embeddings = config.max_position_embeddings
    hf = make(tmp_path_factory.mktemp("family") / "hf", config)
    folder = make_onnx(hf, hf.parent / "onnx")
    plain = spec("ort", folder, "genai_config.json", context=256, rows=len(PROMPTS))
    return Family(request.param, plain, greedy_of_genai(folder))


def loaded(spec: LoadSpec) -> Generator:
    return load(spec, lambda fraction: None).generator


def test_twenty_greedy_texts_in_one_ragged_batch_are_those_of_onnxruntime_genai(family: Family) -> None:
    if family.name == "gemma 2":
        with pytest.raises(LoadFailed, match=r"sliding windows in rings.*`engine = .genai.`"):
            loaded(family.spec)
    else:
        assert greedy(loaded(family.spec), PROMPTS) == family.texts
    gather_positions(Path(family.spec.path))
    narrowed = loaded(family.spec)
    assert narrowed.caps.all_logits
    assert greedy(narrowed, PROMPTS) == family.texts
    # Behind every window: what a ring would have thrown away.
    assert [narrowed.trim(row, 3) for row in range(len(PROMPTS))] == [3] * len(PROMPTS)
    assert greedy(narrowed, PROMPTS, kept=3) == family.texts


def test_a_batch_of_eight_rows_of_different_lengths_equals_each_row_alone(tiny_positions: LoadSpec) -> None:
    generator = loaded(msgspec.structs.replace(tiny_positions, rows=8))
    prompts = PROMPTS[2:18:2]
    together = greedy(generator, prompts)
    for row in range(8):
        generator.trim(row, 0)
    alone = []
    for prompt in prompts:
        alone += greedy(generator, [prompt])
        generator.trim(0, 0)
    assert together == alone


def test_a_context_smaller_than_the_sliding_window_is_served(tmp_path: Path) -> None:
    """The builder's rings have to be as large as the window; edged's graph has none."""
    hf = make(tmp_path / "hf", FAMILIES["gemma 2"]())
    folder = make_onnx(hf, tmp_path / "onnx")
    gather_positions(folder)
    wide, narrow = (loaded(spec("ort", folder, "genai_config.json", context=context, rows=1)) for context in (64, 12))
    for generator in (wide, narrow):
        generator.step([RowWork(0, [7, 8, 9], 0)])
    one, other = (generator.step([RowWork(0, [10], 1)])[0] for generator in (wide, narrow))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_graph_with_wanted_positions_gives_the_logits_of_the_plain_one(
    tiny_onnx: LoadSpec, tiny_positions: LoadSpec,
) -> None:
    plain, narrowed = loaded(tiny_onnx), loaded(tiny_positions)
    prompt = PROMPTS[9]
    for wanted in (1, 3, len(prompt), 0):
        for generator in (plain, narrowed):
            generator.trim(1, 0)
        work = [RowWork(1, prompt, wanted)]
        [expected], [found] = plain.step(work), narrowed.step(work)
        assert found.shape == (wanted, 512)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_tokens_beyond_one_rotary_table_are_not_taken(tmp_path: Path) -> None:
    """With positions scaled by `longrope` the graph turns to other tables there, for keys that it has turned before."""
    hf = make(tmp_path / "hf", FAMILIES["phi 3, long"]())
    config = json.loads((hf / "config.json").read_text())
    config["rope_scaling"] = {**config.pop("rope_parameters"), "type": "longrope"}
    (hf / "config.json").write_text(json.dumps(config))
    folder = make_onnx(hf, tmp_path / "onnx")
    gather_positions(folder)
    wanted = spec("ort", folder, "genai_config.json", context=256, rows=2)
    assert loaded(msgspec.structs.replace(wanted, context=None)).caps.context == 256
    with pytest.raises(LoadFailed, match="takes a context of 256 tokens"):
        loaded(msgspec.structs.replace(wanted, context=257))


def change_graph(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change the plain graph of a folder."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def copy_of(spec: LoadSpec, folder: Path) -> LoadSpec:
    for file in Path(spec.path).iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return msgspec.structs.replace(spec, path=str(folder))


def test_a_graph_with_an_input_that_nobody_fills_is_refused_by_its_name(tiny_onnx: LoadSpec, tmp_path: Path) -> None:
    def add_input(model: onnx.ModelProto) -> None:
        model.graph.input.append(onnx.helper.make_tensor_value_info("lora_A", onnx.TensorProto.FLOAT, [1]))
        model.graph.node.append(onnx.helper.make_node("Identity", ["lora_A"], ["lora_out"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info("lora_out", onnx.TensorProto.FLOAT, [1]))

    copied = copy_of(tiny_onnx, tmp_path)
    change_graph(tmp_path, add_input)
    with pytest.raises(LoadFailed, match="input lora_A"):
        loaded(copied)


def test_a_graph_whose_head_cannot_be_narrowed_is_left_as_it_was(
    tiny_hf: Path, tiny_onnx: LoadSpec, tmp_path: Path,
) -> None:
    def hide_head(model: onnx.ModelProto) -> None:
        head = next(node for node in model.graph.node if "logits" in node.output)
        head.output[0] = "hidden"
        model.graph.node.append(onnx.helper.make_node("Softmax", ["hidden"], ["logits"]))

    copy_of(tiny_onnx, tmp_path)
    change_graph(tmp_path, hide_head)
    pruned = make_onnx(tiny_hf, tmp_path / "pruned", prune_lm_head="true")
    for folder, reason in ((tmp_path, "logits come from Softmax"), (pruned, "prune_lm_head")):
        before = sorted(folder.iterdir())
        with pytest.raises(LoadFailed, match=reason):
            gather_positions(folder)
        assert sorted(folder.iterdir()) == before
