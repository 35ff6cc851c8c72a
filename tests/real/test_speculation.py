"""Several tokens a step on real models in fp32, both engines: whatever is drafted, each text is the one without; and
where the answer repeats its prompt, or the draft model is the model, steps are spared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from converters.gguf import unquantized
from edged import engines
from edged.engines.base import Generator, Loaded
from edged.errors import LoadFailed
from edged.ipc.messages import FromWorker
from edged.types import DraftSpec, Event, GenerateRequest, LoadSpec, Regex
from edged.worker.draft import DraftRows
from edged.worker.loop import Loop
from edged.worker.orders import Closed, Queued
from edged.worker.outbox import Outbox
from edged.worker.prepare import Prepare
from edged.worker.sequence import Sequence
from edged.worker.service import speculation_for
from edged.worker.speculation import Speculation
from tests.real.conftest import spec
from tests.unit.worker.played import Outcome, request
from tests.unit.worker.test_speculative_loop import Answers, Watching, Wild

pytestmark = pytest.mark.real

EXACT = {"key_type": "f32", "value_type": "f32", "flash_attention": False}


@pytest.fixture(scope="module")
def tiny_gguf(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadSpec:
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "work").mkdir()
    unquantized(tiny_hf, folder / "model", work=folder / "work", progress=lambda done, note: None)
    [file] = (folder / "model").glob("*.gguf")
    return msgspec.structs.replace(spec("llama", file.parent, file.name, context=256, rows=6), options=EXACT, threads=1)


@pytest.fixture(params=["tiny_positions", "tiny_gguf"], ids=["ort", "llama"])
def model(request: pytest.FixtureRequest) -> LoadSpec:
    found: LoadSpec = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def loaded(model: LoadSpec) -> Iterator[Loaded]:
    loaded = engines.load(model, lambda fraction: None)
    yield loaded
    loaded.generator.close()


class Kept(Outbox):
    def __init__(self, requests: list[GenerateRequest]) -> None:
        self.outcomes = {one.id: Outcome() for one in requests}
        self.loop: Loop

    def send(self, message: FromWorker) -> None:
        pass

    def events(self, events: list[Event]) -> None:
        for event in events:
            self.outcomes[event.id].add(msgspec.structs.replace(event))
        if all(outcome.over for outcome in self.outcomes.values()):
            self.loop.inbox.put(Closed())


def answers(model: LoadSpec, generator: Generator, requests: list[GenerateRequest],
            speculation: Speculation | None) -> tuple[dict[str, list[tuple[str, int]]], int]:
    """Text and tokens of each choice, and the steps it took."""
    kept, prepare = Kept(requests), Prepare(model, generator.caps, generator.vocab)
    loop = kept.loop = Loop(generator, kept, stash_limit_bytes=1 << 30, tokens_per_s=1000.0, speculation=speculation)
    for one in requests:
        loop.inbox.put(Queued(prepare(one), 0.0))
    loop.run()
    prepare.close()
    for row in range(generator.caps.rows):
        generator.trim(row, 0)
    texts = {id: [(choice.text, choice.tokens) for _, choice in sorted(outcome.choices.items())]
             for id, outcome in kept.outcomes.items()}
    return texts, loop._steps


def crowd() -> list[GenerateRequest]:
    random = Random(3)
    prompts = [[random.randrange(300, 500) for _ in range(length)] for length in (12, 30, 45, 20)]
    bias = {0: -100.0, 1: -100.0, 2: -100.0}
    return [
        request(prompts[0] * 2, id="greedy", max_tokens=60, logit_bias=bias),
        request(prompts[1], id="drawn", max_tokens=60, temperature=0.9, seed=11, n=2, logit_bias=bias),
        request(prompts[2], id="logprobs", max_tokens=40, temperature=0.5, seed=12, logprobs=2),
        request(prompts[3], id="held", max_tokens=60, temperature=1.0, seed=13, constraint=Regex("(the|a) [a-z ]{30}")),
    ]


def test_whatever_is_drafted_the_texts_are_the_same(model: LoadSpec, loaded: Loaded) -> None:
    generator, requests, known = loaded.generator, crowd(), Answers()
    plain, steps = answers(model, generator, requests, Watching(generator, known))
    for seed in range(3):
        wild = Wild(generator, known, Random(seed))
        assert answers(model, generator, requests, wild)[0] == plain
        assert 30 < wild.accepted_tokens < wild.proposed_tokens
    lookup = speculation_for(model, loaded, tokens_per_s=1000.0)
    texts, fewer = answers(model, generator, requests, lookup)
    assert texts == plain
    assert fewer <= steps + 10


def test_a_model_that_drafts_for_itself_is_always_right(model: LoadSpec, loaded: Loaded) -> None:
    [greedy] = [one for one in crowd() if one.id == "greedy"]
    plain_of = msgspec.structs.replace(greedy.sampling, logit_bias=None)
    known = Answers()
    answers(model, loaded.generator, [msgspec.structs.replace(greedy, sampling=plain_of)],
            Watching(loaded.generator, known))
    tokens = known["greedy", 0]
    itself = engines.load(model, lambda fraction: None).generator
    drafts = DraftRows(itself, loaded.generator.vocab.size, token_s=0.001)
    sequence = Sequence("greedy", 0, "", tokens[:24], len(tokens), row=0)
    while len(tokens) - len(sequence.tokens) > 1:
        count = min(9, len(tokens) - len(sequence.tokens))
        [draft] = drafts.propose([(sequence, count)])
        assert draft == tokens[len(sequence.tokens):][:count]
        # All of it accepted, and one more after it; or some.
        sequence.tokens += tokens[len(sequence.tokens):][:count + 1 if len(sequence.tokens) % 2 else 4]
    drafts.close()


def test_a_draft_model_is_loaded_beside_its_model_and_heard(model: LoadSpec, loaded: Loaded) -> None:
    itself = DraftSpec(name="itself", engine=model.engine, path=model.path, file=model.file)
    requests = crowd()
    plain, _ = answers(model, loaded.generator, requests, None)
    speculation = speculation_for(msgspec.structs.replace(model, draft=itself), loaded, tokens_per_s=1000.0)
    assert speculation is not None
    assert answers(model, loaded.generator, requests, speculation)[0] == plain
    speculation.close()
    assert speculation.accepted_tokens > 0


def test_a_draft_model_of_another_vocabulary_is_refused_by_name(
    model: LoadSpec, loaded: Loaded, tmp_path: Path
) -> None:
    (tmp_path / "fake.json").write_text("{}")
    other = DraftSpec(name="stranger", engine="fake", path=str(tmp_path), file="fake.json")
    with pytest.raises(LoadFailed, match="stranger cannot draft for model: "):
        speculation_for(msgspec.structs.replace(model, draft=other), loaded, tokens_per_s=1000.0)
