"""How large a fit is: of the model by headers and configuration, of the examples by what stage data counted. Nothing
is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from converters.tensors import TensorInfo, read_headers
from edged.errors import InvalidRequest
from training.data.made import DataMade
from training.examples import Example, Message
from training.models import base_folder, tokenizer_of
from training.recipe import Finetune, Fit, Preferences, Recipe, Student
from training.run import Run
from training.split import training_examples, validation_examples
from training.weigh import Shape

#: Of English in most vocabularies; more tokens than there are, for others.
_CHARACTERS_PER_TOKEN = 3
#: At most, of the template, for each message and for what it writes around all of them.
_TEMPLATE_TOKENS = 64


class ModelSize(Struct, frozen=True, kw_only=True):
    """parameters: all, trainable: those that change. hidden … vocabulary: as config.json names them, of the text model.
    context: positions that it has, None where nobody says. beside: parameters of teachers in memory meanwhile."""

    parameters: int
    trainable: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    context: int | None = None
    beside: int = 0


class Lesson(Struct, frozen=True, kw_only=True):
    """What is learned from, in one pass. tokens: of all examples; longest: of one. counted: where longest is a guess,
    the longest of those that were counted as the model reads them, 0 of none. checked_tokens: of validation.
    preferences: what is learned after that, each example two rows, of which longest is one and tokens are both."""

    examples: int
    tokens: int
    longest: int
    checked_tokens: int
    counted: int | None = None
    preferences: Lesson | None = None


def fit_of(recipe: Recipe) -> Finetune | Student | None:
    """What of the recipe fits weights."""
    if recipe.distil is not None and recipe.distil.student is not None:
        return recipe.distil.student
    return recipe.finetune


def model_size(run: Run, how: Fit) -> ModelSize:
    """Brings the base where it is not here yet, and raises as `training.models.base_folder` then; CorruptFile."""
    if isinstance(how, Student):
        return _of_student(run, how)
    folder = base_folder(run)
    tensors = {name: info for header in read_headers(folder).values() for name, info in header.items()}
    count = sum(info.count for info in tensors.values())
    trainable = _adapter_parameters(tensors, how) if isinstance(how, Finetune) and how.method != "full" else count
    return _of_config(_config(folder), count, trainable)


def lesson(run: Run) -> Lesson:
    """Raises InvalidRequest where the stages before have not ended, or there is nothing to learn from; ConfigError of
    files of preferences."""
    how = fit_of(run.recipe)
    first = _of_examples(run)
    if not isinstance(how, Finetune) or how.preferences is None:
        return first
    return msgspec.structs.replace(first, preferences=_of_preferences(run, how.preferences))


def _of_examples(run: Run) -> Lesson:
    made = run.value("data", DataMade)
    train, checked = training_examples(run), validation_examples(run)
    lengths, checked_lengths = made.lengths.get("train"), made.lengths.get("validation")
    if lengths is None:
        raise InvalidRequest("stage data has left nothing to train on; run it again")
    by_teachers = [example for example in train if example.teacher is not None]
    how = fit_of(run.recipe)
    # Stage data counts as the base reads, which other tokenizers do otherwise.
    alike = not isinstance(how, Student) or (how.init == "scratch" and how.tokenizer == "teacher")
    if not by_teachers:
        return Lesson(examples=len(train), tokens=lengths.tokens, longest=lengths.whole.most,
                      counted=None if alike else 0,
                      checked_tokens=checked_lengths.tokens if checked_lengths is not None else 0)
    own = len(train) - len(by_teachers)
    tokens = int(own * lengths.whole.mean + len(by_teachers) * lengths.prompt.mean + _tokens(by_teachers))
    longest = lengths.prompt.most + max(_tokens([example]) for example in by_teachers)
    longest_own = lengths.whole.most if own else 0
    return Lesson(examples=len(train), tokens=tokens, longest=max(longest, longest_own),
                  counted=longest_own if alike else 0, checked_tokens=int(len(checked) * tokens / len(train)))


def longest_of_teachers(run: Run, context: int) -> int:
    """Tokens of the longest training example that a teacher answered, as the base reads it; 0 where none can be longer
    than the context. Only what may be is counted. Raises InvalidRequest of an example that the chat template refuses.
    """
    from training.encode import token_counts

    doubtful = [example for example in training_examples(run)
                if example.teacher is not None and _most_tokens(example) > context]
    if not doubtful:
        return 0
    tokenizer = tokenizer_of(base_folder(run))
    return max(sum(token_counts(tokenizer, example)) for example in doubtful)


def _most_tokens(example: Example) -> int:
    """A token is a byte at least, and templates write some words around messages and tools."""
    said = (*example.prompt, example.answer)
    return len(msgspec.json.encode((said, example.tools))) + _TEMPLATE_TOKENS * (len(said) + 1)


def _of_preferences(run: Run, wanted: Preferences) -> Lesson:
    """By their characters, and validation among what is learned: nobody has counted them."""
    from training.finetune.preferred import candidates

    assert run.recipe.data is not None
    most = run.recipe.data.max_tokens
    longest, tokens, found = 0, 0, candidates(run, wanted)
    for example in found:
        assert example.rejected is not None
        prompt = sum(map(_in_tokens, example.prompt))
        # A longer example is left out; of the rejected answer nobody asks how long it is.
        rows = min(_tokens([example]) + prompt, most), min(prompt, most) + _in_tokens(example.rejected)
        longest, tokens = max(longest, *rows), tokens + sum(rows)
    return Lesson(examples=len(found), tokens=tokens, longest=longest, checked_tokens=0)


def _tokens(examples: Iterable[Example]) -> int:
    """Of their answers, which nobody has counted."""
    return sum(_in_tokens(example.answer) for example in examples if example.answer is not None)


def _in_tokens(message: Message) -> int:
    return len(message.content) // _CHARACTERS_PER_TOKEN + 1


def _adapter_parameters(tensors: dict[str, TensorInfo], how: Finetune) -> int:
    """A and B of every linear layer that gets them; DoRA has a magnitude for each row besides."""
    found = 0
    for name, info in tensors.items():
        module = name.removesuffix(".weight")
        if len(info.shape) != 2 or module == name or module.endswith(("embed_tokens", "lm_head", "wte", "wpe")):
            continue
        if how.targets == "all-linear" or module.rpartition(".")[2] in how.targets or module in how.targets:
            found += how.rank * sum(info.shape) + (info.shape[0] if how.method == "dora" else 0)
    return found


def _of_student(run: Run, how: Student) -> ModelSize:
    teachers = []
    if how.soft is not None or how.match is not None:
        named = how.soft.teachers if how.soft is not None else ()
        teachers = [base_folder(run, teacher.model) for teacher in named] or [base_folder(run)]
    beside = sum(_count(folder) for folder in teachers)
    if how.init != "scratch":
        folder = base_folder(run, how.init)
        count = _count(folder)
        return _of_config(_config(folder), count, count, beside)
    made = how.architecture
    vocabulary = made.vocabulary if how.tokenizer == "own" else _vocabulary(_config(base_folder(run)))
    count = Shape(
        vocab_size=vocabulary, hidden_size=made.hidden, intermediate_size=made.intermediate,
        num_hidden_layers=made.layers, num_attention_heads=made.heads, num_key_value_heads=made.kv_heads,
        tie_word_embeddings=True).parameters()
    return ModelSize(parameters=count, trainable=count, hidden=made.hidden, intermediate=made.intermediate,
                     layers=made.layers, heads=made.heads, vocabulary=vocabulary, context=made.context, beside=beside)


def _of_config(said: dict[str, Any], parameters: int, trainable: int, beside: int = 0) -> ModelSize:
    """Names differ by family; where one is missing, what most models of this kind have."""
    def number(*names: str) -> int | None:
        return next((value for name in names if isinstance(value := said.get(name), int) and value > 0), None)

    hidden = number("hidden_size", "n_embd", "d_model") or 1024
    return ModelSize(
        parameters=parameters, trainable=trainable, hidden=hidden, vocabulary=_vocabulary(said),
        intermediate=number("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
        layers=number("num_hidden_layers", "n_layer") or 24, heads=number("num_attention_heads", "n_head") or 16,
        context=number("max_position_embeddings", "n_positions"), beside=beside)


def _config(folder: Path) -> dict[str, Any]:
    said = json.loads((folder / "config.json").read_bytes())
    text = said.get("text_config")
    return text if isinstance(text, dict) else said


def _vocabulary(said: dict[str, Any]) -> int:
    found = said.get("vocab_size")
    return found if isinstance(found, int) else 32_000


def _count(folder: Path) -> int:
    return sum(info.count for header in read_headers(folder).values() for info in header.values())
