"""A Hugging Face folder, with an adapter beside it or without, that answers on this machine through transformers.

Everything is computed in 32 bits. Prompts of a batch are padded on the left, so that what a model says greedily does
not depend on what else was in the batch. Sampling is counter-based, as in the daemon: a draw depends on the seed, the
example's id, the number of the sample and the position, so a run that goes on after a kill says what it would have
said.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from converters import refuse
from converters.merge import attach
from converters.quiet import quietly
from converters.spoken import Listener
from converters.tensors import read_header, read_headers
from edged.errors import CorruptFile, InvalidRequest
from training.batching import batches
from training.encode import NO_LOSS, encoded, prompt_ids
from training.examples import Example, Message
from training.reply import Reply
from training.sampling import Draw, processors

if TYPE_CHECKING:
    import torch

#: Logits of a batch, in 32 bits, when likelihoods are taken.
LOGITS_BYTES = 128 << 20


class Likelihood(Struct, frozen=True):
    """Of an example's answer, with the tokens that end it: nats is the sum of -log p over so many tokens."""

    nats: float
    tokens: int


class _Row(Struct, frozen=True):
    """One answer that is wanted. room: tokens that it may have."""

    example: int
    sample: int
    prompt: list[int]
    room: int


class LocalModel:
    """For one thread. The folders are checked first: safetensors only, no code, an adapter that fits.

    Raises RefusedFile, CorruptFile, ConversionFailed where transformers or peft cannot load them.
    """

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        with quietly():
            self._tokenizer: Any = load_tokenizer(folder, adapter)
            self._model: Any = _model(folder, adapter)
        self._end = _end_tokens(folder, self._tokenizer)
        template = self._tokenizer.chat_template
        self._listener = Listener(template if isinstance(template, str) else "")
        self._kept = {
            token for token in self._tokenizer.all_special_ids
            if self._tokenizer.convert_ids_to_tokens(token) in self._listener.marks}

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        return int(getattr(self._model.config, "max_position_embeddings", None) or 1 << 30)

    @property
    def weights_bytes(self) -> int:
        """As they lie in memory; weights that are tied count once."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._model.parameters())

    def answers(
        self, examples: Sequence[Example], *, max_tokens: int, batch_size: int = 8, temperature: float = 0.0,
        top_p: float = 1.0, seed: int = 0, samples: int = 1, told: Callable[[float], None] | None = None,
    ) -> list[tuple[Reply, ...]]:
        """`samples` replies for each example, in their order. temperature 0 says the likeliest token. told: the share
        that is done, after each batch. Raises InvalidRequest for a prompt that the context does not hold."""
        rows = []
        for number, example in enumerate(examples):
            prompt = prompt_ids(self._tokenizer, example)
            room = self._room(example, prompt, max_tokens)
            rows += [_Row(number, sample, prompt, room) for sample in range(samples)]
        # Alike lengths together: less padding. Rows with less room than others would run on beyond the context.
        rows.sort(key=lambda row: (row.room, len(row.prompt), row.example, row.sample))
        found: dict[tuple[int, int], Reply] = {}
        for batch in _batches(rows, batch_size):
            draws = [Draw(temperature, top_p, seed, examples[row.example].id, row.sample) for row in batch]
            started = time.perf_counter()
            said = self._generate([row.prompt for row in batch], batch[0].room, draws)
            seconds = (time.perf_counter() - started) / len(batch)
            for row, tokens in zip(batch, said, strict=True):
                found[row.example, row.sample] = self._reply(examples[row.example], row.prompt, tokens, seconds)
            if told is not None:
                told(len(found) / len(rows))
        return [tuple(found[number, sample] for sample in range(samples)) for number in range(len(examples))]

    def answer_timed(self, example: Example, max_tokens: int) -> Reply:
        """One answer, greedily and alone, with the time to its first token. The times begin with the messages, as those
        of a request to a server do: template, tokenizer and all. Raises as `answers`."""
        started = time.perf_counter()
        prompt = prompt_ids(self._tokenizer, example)
        clock = _FirstToken()
        room = self._room(example, prompt, max_tokens)
        [tokens] = self._generate([prompt], room, [Draw(0.0, 1.0, 0, example.id, 0)], clock)
        seconds = time.perf_counter() - started
        return self._reply(example, prompt, tokens, seconds, None if clock.at is None else clock.at - started)

    def likelihoods(
        self, examples: Sequence[Example], *, batch_size: int = 8, told: Callable[[float], None] | None = None,
    ) -> list[Likelihood]:
        """Of each example's answer after its prompt. Raises InvalidRequest for one that the context does not hold."""
        import torch
        from torch.nn.functional import cross_entropy

        items = [encoded(self._tokenizer, example, completion_only=True) for example in examples]
        for example, item in zip(examples, items, strict=True):
            if len(item.input_ids) > self.context:
                raise InvalidRequest(f"example {example.id} has {len(item.input_ids)} tokens, and the model a context "
                                     f"of {self.context}; leave it out (data.max_tokens)")
        order = sorted(range(len(items)), key=lambda number: len(items[number].input_ids))
        found: dict[int, Likelihood] = {}
        vocabulary = int(self._model.config.get_text_config().vocab_size)
        for batch in _batches_within(order, batch_size, lambda number: _said(items[number].labels) * vocabulary * 4):
            keep = max(_said(items[number].labels) for number in batch)
            ids, mask = self._padded([items[number].input_ids for number in batch])
            labels, _ = self._padded([items[number].labels for number in batch], fill=NO_LOSS)
            with torch.inference_mode():
                logits = self._model(
                    input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                    use_cache=False, logits_to_keep=keep).logits
                wanted = labels[:, -(keep - 1):]
                losses = cross_entropy(
                    logits[:, -keep:-1].float().transpose(1, 2), wanted, ignore_index=NO_LOSS, reduction="none")
            for number, nats, tokens in zip(
                    batch, losses.double().sum(-1).tolist(), (wanted != NO_LOSS).sum(-1).tolist(), strict=True):
                found[number] = Likelihood(nats, tokens)
            if told is not None:
                told(len(found) / len(items))
        return [found[number] for number in range(len(items))]

    def perplexity(self, examples: Sequence[Example], *, batch_size: int = 8) -> float:
        """Of the answers, by token: e to the mean of -log p over all their tokens."""
        found = self.likelihoods(examples, batch_size=batch_size)
        return math.exp(sum(one.nats for one in found) / sum(one.tokens for one in found))

    def _room(self, example: Example, prompt: list[int], max_tokens: int) -> int:
        """Tokens that the answer may have. Raises InvalidRequest."""
        room = min(max_tokens, self.context - len(prompt))
        if room < 1:
            raise InvalidRequest(f"example {example.id} has a prompt of {len(prompt)} tokens, and the model a context "
                                 f"of {self.context}; leave it out (data.max_tokens)")
        return room

    def _generate(
        self, prompts: list[list[int]], room: int, draws: list[Draw], streamer: _FirstToken | None = None,
    ) -> list[list[int]]:
        """The tokens of each answer, up to the one that ends it."""
        import torch
        from transformers import GenerationConfig

        ids, mask = self._padded(prompts)
        config = GenerationConfig(
            max_new_tokens=room, do_sample=False, num_beams=1, use_cache=True, eos_token_id=sorted(self._end),
            pad_token_id=min(self._end))
        with torch.inference_mode(), quietly():
            out = self._model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, streamer=streamer,
                logits_processor=processors(draws, ids.shape[1]))
        return [self._until_end(row) for row in out[:, ids.shape[1]:].tolist()]

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = next((at for at, token in enumerate(tokens) if token in self._end), len(tokens))
        return tokens[:end + 1]

    def _reply(
        self, example: Example, prompt: list[int], tokens: list[int], seconds: float,
        first_token_s: float | None = None,
    ) -> Reply:
        ended = bool(tokens) and tokens[-1] in self._end
        special = set(self._tokenizer.all_special_ids) - self._kept
        text = self._decoded([token for token in (tokens[:-1] if ended else tokens) if token not in special])
        functions = [str(tool.get("function", {}).get("name")) for tool in example.tools]
        spoken = self._listener.read(text, prompt=self._decoded(prompt[-32:]), functions=functions)
        calls = tuple(
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(spoken.calls))
        return Reply(
            message=Message("assistant", spoken.content, tool_calls=calls),
            finish_reason="length" if not ended else "tool_calls" if calls else "stop", prompt_tokens=len(prompt),
            completion_tokens=len(tokens), seconds=seconds, first_token_s=first_token_s)

    def _decoded(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _padded(self, rows: list[list[int]], fill: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """On the left. Returns values and mask, both [rows, longest]."""
        import torch

        longest = max(map(len, rows))
        filling = min(self._end) if fill is None else fill
        values = [[filling] * (longest - len(row)) + row for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        device = self._model.device
        return torch.tensor(values, device=device), torch.tensor(mask, device=device)


class _FirstToken:
    """A streamer of transformers: gets the prompt, and then each token as soon as it is known."""

    def __init__(self) -> None:
        self.at: float | None = None
        self._prompted = False

    def put(self, value: object) -> None:
        if self._prompted and self.at is None:
            self.at = time.perf_counter()
        self._prompted = True

    def end(self) -> None: ...


def _said(labels: list[int]) -> int:
    """Positions at the end, from the one that predicts the answer's first token to the last: two at least."""
    first = next(at for at, label in enumerate(labels) if label != NO_LOSS)
    return len(labels) - max(first, 1) + 1


def _batches(rows: list[_Row], size: int) -> Iterator[list[_Row]]:
    """Of rows with one room each."""
    at = 0
    while at < len(rows):
        batch = [row for row in rows[at:at + size] if row.room == rows[at].room]
        yield batch
        at += len(batch)


def _batches_within(order: list[int], size: int, need_bytes: Callable[[int], int]) -> Iterator[list[int]]:
    return batches(
        order, lambda batch: len(batch) <= size and max(map(need_bytes, batch)) * len(batch) <= LOGITS_BYTES)


def load_tokenizer(folder: Path, adapter: Path | None = None) -> Any:
    """The adapter's own where it has one: it was trained with it."""
    from transformers import AutoTokenizer

    own = adapter is not None and (adapter / "tokenizer_config.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(adapter if own else folder, local_files_only=True)
    if adapter is not None and not own and (template := adapter / refuse.TEMPLATE).exists():
        tokenizer.chat_template = template.read_text()
    return tokenizer


def _model(folder: Path, adapter: Path | None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    refuse.model_files([file.name for file in folder.iterdir()])
    refuse.check_config(refuse.CONFIG, (folder / refuse.CONFIG).read_bytes())
    if adapter is not None:
        refuse.adapter_files([file.name for file in adapter.iterdir()])
        refuse.check_adapter_config(refuse.ADAPTER_CONFIG, (adapter / refuse.ADAPTER_CONFIG).read_bytes())
        known = {name: info for header in read_headers(folder).values() for name, info in header.items()}
        refuse.check_fits(read_header(adapter / refuse.ADAPTER_WEIGHTS), known, adapter.name)
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True)
    if missing := sorted(loading["missing_keys"]):
        raise CorruptFile(f"{folder} lacks {len(missing)} of its weights ({missing[0]}, …); make it again")
    if adapter is not None:
        model = attach(model, adapter, adapter.name)
    # The folder's own would add what it says of sampling and penalties to what is asked for.
    model.generation_config = GenerationConfig()
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _end_tokens(folder: Path, tokenizer: Any) -> frozenset[int]:
    """The tokenizer's, and those that the folder's configurations name."""
    found = {tokenizer.eos_token_id}
    for name in ("generation_config.json", refuse.CONFIG):
        if (folder / name).exists():
            said = json.loads((folder / name).read_bytes()).get("eos_token_id")
            found.update(said if isinstance(said, list) else [said])
    found.discard(None)
    if not found:
        raise InvalidRequest(f"{folder} names no token that ends an answer; set eos_token in tokenizer_config.json")
    return frozenset(found)
