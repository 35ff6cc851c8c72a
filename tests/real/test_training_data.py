"""Data with real tokenizers, real templates and the libraries that keep data: what is counted and learned is what they
say."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
import torch

from converters.gguf import unquantized
from converters.spoken import Listener
from edged.engines.hf_vocab import HfVocab
from edged.errors import CorruptFile, DeviceUnavailable, InvalidRequest
from edged.hardware.probe import probe
from edged.store import Store
from edged.store.entries import Catalog
from edged.store.pull import pull
from edged.toml_file import TomlFile
from edged.types import ChatPrompt, GenerateRequest, ToolFunction, ToolUse
from edged.worker.chat import Chat
from tests.models import NO_HUB, ignore
from training.data.files import Source, read_rows
from training.data.mistakes import Mistakes
from training.data.stage import DATA
from training.encode import NO_LOSS, encoded, prompt_ids
from training.estimate import require_machine
from training.examples import Example, Message, identity, read_examples
from training.models import base_facts, base_folder, base_key, tokenizer_of
from training.recipe import Data, Finetune, Recipe
from training.rendering import as_chat
from training.run import Run
from training.split import SPLITS, split_file

pytestmark = pytest.mark.real

#: Templates that a text model is trained through here; the others of trl are for images, or think before every answer.
TRAINED = ("llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "qwen3_instruct_2507", "gemma", "gemma3", "phi3",
           "phi3_5", "cohere", "glm4moe", "gptoss", "lfm2")
TURNS = (Message("user", "What is the capital of France?"), Message("assistant", "Paris."),
         Message("user", "And of Spain?"))
MADRID = Example(id=identity(TURNS), prompt=TURNS, answer=Message("assistant", "Madrid, of course."))


def run_of(folder: Path, base: str, **data: Any) -> Run:
    (folder / "run").mkdir(parents=True, exist_ok=True)
    return Run(folder / "run", Recipe(name="x", base=base, data=Data(**data)),
               TomlFile(folder / "recipe.toml", "", {}))


def rows(count: int) -> list[dict[str, Any]]:
    return [{"messages": [{"role": "user", "content": f"Say {number}."}, {"role": "assistant", "content": str(number)}],
             "kind": "even" if number % 2 == 0 else "odd"} for number in range(count)]


@pytest.fixture(scope="module")
def gguf(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-gguf")
    (folder / "work").mkdir()
    return unquantized(tiny_hf, folder / "out", work=folder / "work", progress=lambda done, note: None)


def test_folders_of_datasets_and_parquet_become_splits_counted_as_the_tokenizer_counts(
    tiny_hf: Path, tmp_path: Path,
) -> None:
    both = datasets.DatasetDict({
        "train": datasets.Dataset.from_list(rows(40)), "validation": datasets.Dataset.from_list(rows(50)[40:])})
    both.save_to_disk(str(tmp_path / "set"))
    datasets.Dataset.from_list(rows(60)[45:]).to_parquet(tmp_path / "test.parquet")
    run = run_of(tmp_path, str(tiny_hf), train=("set",), validation=("set",), test=("test.parquet",), stratum="kind")
    run.begin("data")
    made = DATA.run(run, lambda moment: None)
    splits = {name: list(read_examples(split_file(run, name))) for name in SPLITS}
    assert [len(splits[name]) for name in SPLITS] == [40, 5, 15]
    tokenizer = tokenizer_of(base_folder(run))
    # The template's line break behind the end of the turn is not learned.
    counted = sum(len(tokenizer.apply_chat_template(row["messages"])["input_ids"]) - 1 for row in rows(40))
    assert made.lengths["train"].tokens == counted  # type: ignore[attr-defined]
    assert made.dropped == {"in_test": 5}  # type: ignore[attr-defined]


def test_an_installed_gguf_is_the_folder_it_was_made_of(
    tiny_hf: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("EDGED_HOME", str(tmp_path / "home"))
    manifest = pull(Store(tmp_path / "home"), Catalog(), str(gguf), hub=NO_HUB, progress=ignore)
    run = run_of(tmp_path, manifest.name, train=("x",))
    folder = base_folder(run)
    weights = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    for name, weight in AutoModelForCausalLM.from_pretrained(tiny_hf).named_parameters():
        assert weight.equal(weights[name])
    assert base_facts(run).digest == manifest.digest
    assert prompt_ids(tokenizer_of(folder), MADRID) == prompt_ids(tokenizer_of(tiny_hf), MADRID)
    key = base_key(run)
    assert base_folder(run_of(tmp_path, f"{manifest.name}@{manifest.version}", train=("x",))) == folder
    assert base_key(run_of(tmp_path, str(gguf), train=("x",))) != key


def templates() -> dict[str, str]:
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return {file.stem: file.read_text() for file in (Path(spec.origin).parent / "chat_templates").glob("*.jinja")}


def test_through_every_template_of_text_models_the_answer_is_learned_and_the_prompt_is_not(tiny_hf: Path) -> None:
    tokenizer = tokenizer_of(tiny_hf)
    known = templates()
    for name in TRAINED:
        tokenizer.chat_template = known[name]
        found = encoded(tokenizer, MADRID, completion_only=True)
        prompt = prompt_ids(tokenizer, MADRID)
        learned = tokenizer.decode([label for label in found.labels if label != NO_LOSS])
        assert found.input_ids[:len(prompt)] == prompt, name
        assert "Madrid, of course." in learned, name
        assert "Spain" not in learned, name
        assert found.input_ids[-1] == tokenizer.eos_token_id, name


TOOL = {"type": "function", "function": {
    "name": "set_light", "description": "Switches a lamp.", "parameters": {
        "type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]}}}
CALL = {"id": "call_00001", "type": "function", "function": {"name": "set_light", "arguments": '{"room": "hall"}'}}
ASKED = (Message("user", "Light in the hall, please."),)
RESULT = (*ASKED, Message("assistant", tool_calls=(CALL,)), Message("tool", "done", tool_call_id="call_00001"))
CALLS = (
    Example(id="1", prompt=ASKED, answer=Message("assistant", tool_calls=(CALL,)), tools=(TOOL,)),
    Example(id="2", prompt=RESULT, answer=Message("assistant", "It is on."), tools=(TOOL,)),
    Example(id="3", prompt=(Message("system", "Be brief."), *ASKED), answer=Message("assistant", "In which house?"),
            tools=(TOOL,)),
)
#: Of these the tiny tokenizer has the special tokens; None: a template that shows no tools at all.
WITH_TOOLS = (None, "qwen2_5", "qwen3", "qwen3_instruct_2507", "lfm2_2_5", "nemotron_3_nano")


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_chat_with_tools_is_learned_as_it_is_served_and_read(tiny_hf: Path, name: str | None) -> None:
    tokenizer = tokenizer_of(tiny_hf)
    tokenizer.chat_template = templates()[name] if name is not None else tokenizer.chat_template
    chat = Chat(tokenizer.chat_template, HfVocab(tiny_hf, 512, frozenset()))
    listener = Listener(tokenizer.chat_template)
    try:
        for example in CALLS:
            function = TOOL["function"]
            assert isinstance(function, dict)
            served = chat(GenerateRequest(
                id="1", prompt=ChatPrompt([as_chat(message) for message in example.prompt]),
                tools=ToolUse(functions=[ToolFunction(
                    name=function["name"], description=function["description"],
                    parameters=json.dumps(function["parameters"]))]))).text
            found = encoded(tokenizer, example, completion_only=True)
            said = [label for label in found.labels if label != NO_LOSS]
            assert tokenizer.decode(found.input_ids[:-len(said)]) == served
            assert said[-1] == tokenizer.eos_token_id
            heard = listener.read(tokenizer.decode(said[:-1]), prompt=served, functions=["set_light"])
            assert example.answer is not None
            assert heard.content.strip() == example.answer.content
            assert [name for name, _ in heard.calls] == ["set_light"] * len(example.answer.tool_calls)
            assert all(json.loads(arguments) == {"room": "hall"} for _, arguments in heard.calls)
    finally:
        chat.close()


@pytest.mark.parametrize("name", ["nemotron_3_nano", "nemotron_3_super"])
def test_of_a_template_that_begins_a_thought_the_answer_ends_it(tiny_hf: Path, name: str) -> None:
    tokenizer = tokenizer_of(tiny_hf)
    tokenizer.chat_template = templates()[name]
    found = encoded(tokenizer, MADRID, completion_only=True)
    prompt = prompt_ids(tokenizer, MADRID)
    assert found.input_ids[:len(prompt)] == prompt
    said = tokenizer.decode(found.input_ids[len(prompt):-1])
    heard = Listener(tokenizer.chat_template).read(said, prompt=tokenizer.decode(prompt), functions=())
    assert (heard.reasoning.strip(), heard.content.strip()) == ("", "Madrid, of course.")


def test_an_answer_that_would_not_be_read_back_is_refused(tiny_hf: Path) -> None:
    tokenizer = tokenizer_of(tiny_hf)
    written = Message("assistant", '<tool_call>\n{"name": "set_light", "arguments": {}}\n</tool_call>')
    with pytest.raises(InvalidRequest, match="read back"):
        encoded(tokenizer, Example(id="1", prompt=ASKED, answer=written, tools=(TOOL,)), completion_only=True)


def test_without_tools_the_prompt_is_the_served_one_through_every_template(tiny_hf: Path) -> None:
    tokenizer = tokenizer_of(tiny_hf)
    compared = 0
    for template in templates().values():
        tokenizer.chat_template = template
        try:
            mine = tokenizer.decode(prompt_ids(tokenizer, MADRID))
        except InvalidRequest:
            continue
        chat = Chat(template, HfVocab(tiny_hf, 512, frozenset()))
        try:
            served = chat(GenerateRequest(id="1", prompt=ChatPrompt([as_chat(each) for each in TURNS]))).text
        finally:
            chat.close()
        assert mine == served
        compared += 1
        if compared == 12:
            break
    assert compared == 12


def test_no_template_drops_words_without_a_word(tiny_hf: Path) -> None:
    tokenizer = tokenizer_of(tiny_hf)
    refused = 0
    for template in templates().values():
        tokenizer.chat_template = template
        try:
            found = encoded(tokenizer, MADRID, completion_only=True)
        except InvalidRequest:
            refused += 1
            continue
        text = tokenizer.decode(found.input_ids)
        assert "Spain?" in text
        assert "Madrid, of course." in text
    assert refused < len(templates()) / 2


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_template_that_drops_turns_is_refused_in_chats_with_tools_too(tiny_hf: Path, role: str) -> None:
    tokenizer = tokenizer_of(tiny_hf)
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role != '" + role + "' or loop.last %}<|im_start|>"
        "{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    prompt = (Message("system", "Be brief."), *TURNS)
    with pytest.raises(InvalidRequest, match=f"does not write what the {role} says"):
        prompt_ids(tokenizer, Example(id="1", prompt=prompt, tools=(TOOL,)))


def test_a_text_of_datasets_that_is_not_utf8_is_told_with_its_row(tmp_path: Path) -> None:
    texts = pyarrow.array([b"x", b"\xed\xa0\xbd", b"y"]).view(pyarrow.string())
    datasets.Dataset(pyarrow.table({"a": texts})).save_to_disk(str(tmp_path / "set"))
    mistakes = Mistakes()
    found = list(read_rows(Source("set", tmp_path / "set", "datasets"), mistakes))
    assert [row.values for row in found] == [{"a": "x"}, {"a": "y"}]
    assert [str(place) for place, _ in mistakes.found] == ["set, row 2"]


def test_a_damaged_folder_of_datasets_is_told(tiny_hf: Path, tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(4)).save_to_disk(str(tmp_path / "set"))
    state = json.loads((tmp_path / "set" / "state.json").read_bytes())
    (tmp_path / "set" / state["_data_files"][0]["filename"]).write_bytes(b"no arrow")
    run = run_of(tmp_path, str(tiny_hf), train=("set",))
    run.begin("data")
    with pytest.raises(CorruptFile, match="set is no folder that `datasets` can load"):
        DATA.run(run, lambda moment: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a card")
@pytest.mark.parametrize(("how", "told"), [
    (Finetune(method="qlora"), 'method = "lora"'), (Finetune(precision="fp16"), 'precision = "auto"')])
def test_what_needs_a_card_is_refused_before_any_data_are_read(how: Finetune, told: str) -> None:
    with pytest.raises(DeviceUnavailable, match=told):
        require_machine(Recipe(name="x", base="./base", finetune=how), probe())
