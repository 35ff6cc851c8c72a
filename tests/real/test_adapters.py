"""LoRAs beside the tiny model in each engine that serves them: what each says is what torch and peft make of it in 32
bits, alone and among the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from converters.adapter import install
from converters.gguf import unquantized
from edged.daemon.spec import load_spec
from edged.engines import load
from edged.engines.base import Generator, RowWork
from edged.errors import RefusedFile
from edged.hardware.place import Place
from edged.store import Store
from edged.store.catalog import load_catalog
from edged.store.entries import Catalog, Manifest, ModelEntry
from edged.store.pull import pull
from edged.types import Delta, Event, Finished, GenerateRequest, LoadSpec, SamplingParams, TokenPrompt
from edged.worker.loop import Loop
from edged.worker.orders import Closed, Queued
from edged.worker.outbox import Outbox
from edged.worker.prepare import Prepare
from tests.lora_folders import LINEAR, lora_folder
from tests.models import NO_HUB, ignore

# peft asks transformers in a way that transformers finds old.
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")]

ADAPTERS = ("one", "two")
#: The last of the special tokens, which are the first of the vocabulary.
END = 2
#: Two logits of the reference are farther apart than that: of 32-bit sums in another order, none comes near.
CLEAR = 0.005
TOKENS = 12
#: So that llama.cpp computes in 32 bits throughout.
EXACT = {"key_type": "f32", "value_type": "f32", "flash_attention": False}


@dataclass(frozen=True)
class Made:
    """The base and its adapters as transformers and peft have them, and what these make of a prompt, greedily."""

    hf: Path
    loras: dict[str, Path]
    prompt: list[int]
    said: dict[str | None, list[int]]


@pytest.fixture(scope="module")
def made(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A random model's likeliest tokens are often near to each other; the prompt is one after which they are not."""
    # So small a model is slower on several threads, and much slower beside other programs.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("loras")
    loras = {name: random_lora(tiny_hf, folder / name, seed) for seed, name in enumerate(ADAPTERS)}
    model: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_hf, dtype=torch.float32), loras["one"], adapter_name="one")
    model.load_adapter(loras["two"], "two")
    model.eval()
    try:
        return next(found for salt in range(100) if (found := _clear(model, tiny_hf, loras, salt)) is not None)
    finally:
        torch.set_num_threads(threads)


def _clear(model: Any, hf: Path, loras: dict[str, Path], salt: int) -> Made | None:
    prompt = [(place * 37 + salt * 101) % 450 + 30 for place in range(24)]
    said: dict[str | None, list[int]] = {}
    for adapter in (None, *ADAPTERS):
        said[adapter] = by_torch(model, prompt, adapter)
        if not said[adapter]:
            return None
    return Made(hf, loras, prompt, said)


def random_lora(hf: Path, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    base: Any = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    tuned: Any = get_peft_model(base, LoraConfig(
        r=4 + 4 * seed, lora_alpha=12, init_lora_weights=False, use_rslora=bool(seed), task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]))
    tuned.save_pretrained(folder)
    return folder


def by_torch(model: Any, prompt: list[int], adapter: str | None) -> list[int]:
    """Empty where two tokens come near to each other, or the answer ends."""
    said: list[int] = []
    with torch.no_grad(), model.disable_adapter() if adapter is None else nullcontext():
        if adapter is not None:
            model.set_adapter(adapter)
        while len(said) < TOKENS:
            best = model(input_ids=torch.tensor([prompt + said])).logits[0, -1].topk(2)
            if best.values[0] - best.values[1] < CLEAR or int(best.indices[0]) <= END:
                return []
            said.append(int(best.indices[0]))
    return said


@pytest.fixture(scope="module")
def gguf(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-gguf")
    (folder / "work").mkdir()
    return unquantized(tiny_hf, folder / "out", work=folder / "work", progress=lambda done, note: None)


@dataclass(frozen=True)
class Installed:
    """A base in a store of its own."""

    store: Store
    name: str
    options: dict[str, Any]

    @property
    def manifest(self) -> Manifest:
        return self.store.manifest(self.name)

    def add(self, reference: Path, name: str | None = None) -> Manifest:
        return install(self.store, load_catalog(None), self.name, str(reference), name=name, hub=NO_HUB, tell=ignore)

    def spec(self) -> LoadSpec:
        place = Place(engine=self.manifest.engine, provider="cpu", threads=2, device=None)
        return load_spec(self.manifest, ModelEntry(name=self.name, context=256, rows=6, options=self.options), place,
                         folder=str(self.store.folder(self.manifest)), memory_bytes=0, serving=None)


@pytest.fixture(scope="module", params=["gguf", "tiny_onnx", "tiny_positions"], ids=["llama", "ort", "ort-positions"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    source = request.getfixturevalue(request.param)
    store = Store(tmp_path_factory.mktemp("home") / "home")
    path = source.path if isinstance(source, LoadSpec) else str(source)
    manifest = pull(store, Catalog(), path, hub=NO_HUB, progress=ignore)
    return Installed(store, manifest.name, EXACT if manifest.engine == "llama" else {})


@pytest.fixture(scope="module")
def generator(installed: Installed, made: Made) -> Iterator[Generator]:
    for folder in made.loras.values():
        installed.add(folder)
    loaded = load(installed.spec(), lambda fraction: None)
    yield loaded.generator
    loaded.generator.close()


def empty(generator: Generator) -> None:
    for row in range(generator.caps.rows):
        generator.trim(row, 0)


def greedy(generator: Generator, row: int, tokens: list[int], adapter: str | None) -> list[int]:
    """Goes on from what the row holds."""
    said: list[int] = []
    while len(said) < TOKENS:
        said.append(int(generator.step([RowWork(row, tokens, 1, adapter)])[0][-1].argmax()))
        tokens = said[-1:]
    return said


class Record(Outbox):
    """Texts by request; closes the loop after the last one."""

    def __init__(self, count: int) -> None:
        self.texts: dict[str, dict[int, str]] = {}
        self.loop: Loop | None = None
        self._left = count

    def send(self, message: object) -> None: ...

    def events(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Delta():
                    choices = self.texts.setdefault(event.id, {})
                    choices[event.index] = choices.get(event.index, "") + event.text
                case Finished():
                    self._left -= 1
        if not self._left and self.loop is not None:
            self.loop.inbox.put(Closed())


def said_by_loop(
    generator: Generator, spec: LoadSpec, asked: dict[str, tuple[list[int], str | None]], n: int = 1,
) -> dict[str, dict[int, str]]:
    """All at once, from empty rows. asked: prompt and adapter by id."""
    empty(generator)
    record = Record(len(asked))
    record.loop = Loop(generator, record, stash_limit_bytes=1 << 20, tokens_per_s=100.0)
    prepare = Prepare(spec, generator.caps, generator.vocab)
    for id, (prompt, adapter) in asked.items():
        request = GenerateRequest(id=id, prompt=TokenPrompt(prompt), sampling=SamplingParams(temperature=0.0, seed=1),
                                  max_tokens=TOKENS, n=n, adapter=adapter)
        record.loop.inbox.put(Queued(prepare(request), 0.0))
    record.loop.run()
    prepare.close()
    return record.texts


def test_each_says_what_torch_and_peft_make_of_it(generator: Generator, made: Made) -> None:
    empty(generator)
    assert {adapter: greedy(generator, row, made.prompt, adapter)
            for row, adapter in enumerate((None, *ADAPTERS))} == made.said


def test_the_base_and_both_among_each_other_say_what_each_says_alone(
    generator: Generator, installed: Installed, made: Made,
) -> None:
    texts = {adapter: b"".join(map(generator.vocab.piece, said)).decode(errors="replace")
             for adapter, said in made.said.items()}
    assert len(set(texts.values())) == 3
    order = [None, "two", "one", "one", None, "two", "one", "two"]
    for n in (1, 2):  # two choices fork one prompt, and who waits for a row finds prefixes of those before
        said = said_by_loop(
            generator, installed.spec(), {str(at): (made.prompt, adapter) for at, adapter in enumerate(order)}, n)
        assert said == {str(at): dict.fromkeys(range(n), texts[adapter]) for at, adapter in enumerate(order)}


def test_rows_keep_their_adapters_kv_through_fork_trim_and_stash(generator: Generator, made: Made) -> None:
    empty(generator)
    prompt, half = made.prompt, len(made.prompt) // 2
    for row, adapter in enumerate(ADAPTERS):
        generator.step([RowWork(row, prompt[:-1], 0, adapter)])
    states = [generator.stash(row) for row in range(2)]
    for row in range(2):
        assert generator.fork(row, row + 2, len(prompt) - 1) == len(prompt) - 1
        assert generator.trim(row, half) == half
        assert generator.unstash(row + 4, states[row]) == len(prompt) - 1
    for row, adapter in enumerate(ADAPTERS):
        assert greedy(generator, row, prompt[half:], adapter) == made.said[adapter]
        assert greedy(generator, row + 2, prompt[-1:], adapter) == made.said[adapter]
        assert greedy(generator, row + 4, prompt[-1:], adapter) == made.said[adapter]


def test_one_of_another_model_is_refused_and_nothing_changes(installed: Installed, tmp_path: Path) -> None:
    before = installed.manifest
    for title, shapes in {"wide": {LINEAR: (128, 128)}, "deep": {LINEAR.replace("0", "7"): (64, 64)}}.items():
        with pytest.raises(RefusedFile, match="trained for another model"):
            installed.add(lora_folder(tmp_path / title, shapes=shapes))
    assert installed.manifest == before
