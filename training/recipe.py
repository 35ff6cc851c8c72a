"""The recipe of a training: one TOML file, read whole and checked before anything is computed.

    name = "home"                 # of the model that is served in the end
    base = "smollm2-135m"         # an installed model, ./folder, ./file.gguf or org/repo

    [data]
    train = ["commands.jsonl"]

    [finetune]
    method = "lora"

Paths are read from the recipe's own folder. A table that is not there is a stage that is not wanted, but for `data`,
`evaluate` and `export`, which have defaults. `edged/TRAINING.md` describes every key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edged.store.catalog_errors import explain
from edged.toml_file import KeyPath, TomlFile, read_toml

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
AboveZero = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]
#: The name of a served model, and of folders.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Data(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """train, validation, test: files (JSONL, CSV, Parquet), folders of `datasets`, or `captured:NAME`, answers that
    edged kept of a model. form: how a row tells prompt and answer; auto looks at its columns. prompt, answer, rejected,
    system: Jinja templates over a row's columns. stratum: a column, or a template. Shares are of `train` where
    validation or test have no files of their own. max_tokens: longer examples are left out, and counted.
    limit: prompts of `train`, drawn by the seed. max_invalid_share: of the rows, which are left out and counted.
    near_duplicates: prompts whose similarity (Jaccard of word trigrams) reaches it count as one; None: equal ones only.
    """

    train: tuple[Text, ...]
    validation: tuple[Text, ...] = ()
    test: tuple[Text, ...] = ()
    form: Literal["auto", "chat", "pairs", "preferences", "prompts"] = "auto"
    prompt: Text | None = None
    answer: Text | None = None
    rejected: Text | None = None
    system: Text | None = None
    stratum: Text | None = None
    validation_share: Annotated[float, Meta(ge=0.05, le=0.5)] = 0.15
    test_share: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    max_tokens: Positive = 1024
    limit: Positive | None = None
    near_duplicates: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_invalid_share: Share = 0.0


class Teacher(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who answers: an OpenAI-compatible `endpoint` (`http://127.0.0.1:8343/v1`) with `model`, or a local `model`
    (folder, GGUF, installed name) where there is no endpoint. api_key_env: the name of the variable that holds its key.
    prices: for a million tokens, in any currency. weight: of its answers, and of its soft targets, among several."""

    model: Text
    endpoint: Text | None = None
    name: Name | None = None
    api_key_env: Text | None = None
    temperature: NotNegative = 0.7
    top_p: Share = 1.0
    max_tokens: Positive = 512
    concurrency: Positive = 4
    price_in: NotNegative = 0.0
    price_out: NotNegative = 0.0
    weight: AboveZero = 1.0

    @property
    def title(self) -> str:
        return self.name or self.model.rstrip("/").rpartition("/")[2]


class Filters(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an answer must be, to be learned from. pattern: a regular expression found in it. schema: path of a JSON
    Schema that it must satisfy. agreement: the share of a prompt's wanted samples that must say the same (after
    blanks and, for JSON, its spelling are set aside). validator: `file.py:function`, called with prompt and answer,
    which returns None or the reason against it."""

    min_characters: Positive = 1
    max_characters: Positive | None = None
    pattern: Text | None = None
    json: bool = False
    schema: Text | None = None
    agreement: Share = 0.0
    validator: Text | None = None
    finished_only: bool = True


class Answers(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Stage one of distillation: teachers answer prompts. prompts: as `data.train`; none: the prompts of the training
    split. samples: answers a prompt and teacher. logprobs: alternatives kept a token, where the teacher gives them.
    keep_data: learn from the original answers too."""

    teachers: Annotated[tuple[Teacher, ...], Meta(min_length=1)]
    prompts: tuple[Text, ...] = ()
    samples: Positive = 1
    logprobs: Annotated[int, Meta(ge=0, le=20)] = 0
    filters: Filters = Filters()
    keep_data: bool = True
    max_cost: AboveZero | None = None


class Fit(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How weights are fitted. batch_size: examples a step and device; accumulation: such batches before the weights
    change. evaluations: times that the validation loss is taken, and a checkpoint written, in the whole run. patience:
    evaluations without a better loss before it ends early; 0 never does. precision: of the arithmetic; auto is bf16 or
    fp16 on a CUDA device, else fp32. checkpointing: of activations, which halves memory for a third
    more time. completion_only: the loss is of the answer alone."""

    epochs: AboveZero = 3.0
    max_steps: Positive | None = None
    learning_rate: AboveZero = 2e-4
    batch_size: Positive = 8
    accumulation: Positive = 1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: Share = 0.05
    weight_decay: NotNegative = 0.0
    max_grad_norm: AboveZero = 1.0
    packing: bool = False
    checkpointing: bool = False
    completion_only: bool = True
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    evaluations: Positive = 10
    patience: Annotated[int, Meta(ge=0)] = 3
    devices: Positive = 1


class Preferences(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Direct preference optimisation behind the first training. data: as `data.train`, of form preferences; none: the
    rows of the training split that have a rejected answer."""

    data: tuple[Text, ...] = ()
    beta: AboveZero = 0.1
    learning_rate: AboveZero = 5e-6
    epochs: AboveZero = 1.0


class Finetune(Fit, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """targets: names of the modules that get an adapter, or all linear layers."""

    method: Literal["full", "lora", "qlora", "dora"] = "lora"
    rank: Positive = 16
    alpha: AboveZero = 32.0
    dropout: Share = 0.0
    targets: tuple[Text, ...] | Literal["all-linear"] = "all-linear"
    through: Literal["trl", "olive"] = "trl"
    preferences: Preferences | None = None


class Architecture(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A llama that is trained from scratch. vocabulary: of a tokenizer of its own."""

    hidden: Positive = 256
    layers: Positive = 4
    heads: Positive = 4
    kv_heads: Positive = 2
    intermediate: Positive = 768
    context: Positive = 1024
    vocabulary: Positive = 4096


class Soft(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Soft targets: KL(teacher ‖ student) of distributions at `temperature`, times its square (Hinton et al. 2015).
    share: of the loss; the rest is that of the text. teachers: local models with the student's tokenizer; none: the
    recipe's base."""

    temperature: AboveZero = 2.0
    share: Share = 0.5
    teachers: tuple[Teacher, ...] = ()


class Match(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Matching within: mean squared error between hidden states (through a learned map where widths differ), KL between
    attention maps. Layers of the student are spread evenly over the teacher's."""

    hidden: NotNegative = 0.0
    attention: NotNegative = 0.0


class Student(Fit, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Stage two of distillation. init: scratch, or a model to start from. tokenizer: the base's, or one trained on the
    data (only from scratch; soft targets need the teacher's)."""

    init: Text = "scratch"
    architecture: Architecture = Architecture()
    tokenizer: Literal["teacher", "own"] = "teacher"
    soft: Soft | None = None
    match: Match | None = None
    learning_rate: AboveZero = 1e-3
    batch_size: Positive = 16


class Distil(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    answers: Answers | None = None
    student: Student | None = None


class Judge(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """criteria: what the judge is asked to grade by, in words."""

    model: Text
    endpoint: Text
    api_key_env: Text | None = None
    criteria: Text = "Is the answer correct and complete, and does it say nothing that is wrong?"
    concurrency: Positive = 4


Metric = Literal["perplexity", "exact_match", "accuracy", "f1", "bleu", "rouge", "json_valid", "json_match", "judge"]


class Beside(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another model that answers the same items once there is something served: an installed `model` of the daemon that
    serves (a teacher, say), or one at an OpenAI-compatible `endpoint`. adapter: of edged. name: in the report."""

    model: Text
    endpoint: Text | None = None
    adapter: Text | None = None
    api_key_env: Text | None = None
    name: Name | None = None


class Evaluate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """metrics: auto takes those that fit the answers. primary: what stages are compared by. limit: test items. labels:
    for accuracy and F1, the answers that are classes; none: those of the training split. resamples: of the paired
    bootstrap. performance: latency, throughput and memory too. tolerance: points that a step may lose before the chain
    says that it lost. beside: others that stage `served` measures, between what training began from and what it
    made."""

    metrics: tuple[Metric, ...] | Literal["auto"] = "auto"
    primary: Metric | None = None
    limit: Positive | None = None
    max_tokens: Positive = 256
    labels: tuple[Text, ...] = ()
    judge: Judge | None = None
    resamples: Positive = 10_000
    performance: bool = True
    batch_size: Positive = 8
    tolerance: NotNegative = 2.0
    beside: tuple[Beside, ...] = ()


class Range(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of one key of `finetune` or `distil.student`: numbers between low and high, or one of the choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: AboveZero | None = None
    choices: tuple[str | float | int | bool, ...] = ()


class Search(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """ranges: by key, `finetune.learning_rate`. share: of the training prompts that a trial sees. jobs: trials at once.
    objective: validation_loss and perplexity are least, other metrics are most. prune: end trials early that are worse
    than half of the others."""

    ranges: Annotated[dict[str, Range], Meta(min_length=1)]
    trials: Positive = 12
    jobs: Positive = 1
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    max_steps: Positive | None = None
    objective: Literal["validation_loss"] | Metric = "validation_loss"
    prune: bool = True


class Export(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """adapter: merged into the base, or kept beside it."""

    adapter: Literal["merge", "keep"] = "merge"


class Deploy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """conversion: names or paths of conversion recipes; the first serves. adapter_of: the installed model that a kept
    adapter is for; none: the base. accept_loss: as `edged convert --accept-loss`. activate: serve it."""

    conversion: tuple[Text, ...] = ("cpu-int8",)
    adapter_of: Text | None = None
    accept_loss: bool = False
    activate: bool = True


class Recipe(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """folder: where runs are kept; none: `runs/<file name>` beside the recipe. members: recipes of other adapters over
    the same base, trained and deployed with it; such a recipe has nothing of its own that is trained or measured."""

    name: Name
    base: Text
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    folder: Text | None = None
    data: Data | None = None
    search: Search | None = None
    distil: Distil | None = None
    finetune: Finetune | None = None
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    deploy: Deploy | None = None
    members: tuple[Text, ...] = ()


def load_recipe(path: Path) -> tuple[Recipe, TomlFile]:
    """Raises ConfigError with file, line, column and key, and what would be right."""
    file = read_toml(path)
    return decoded(file, file.values), file


def decoded(file: TomlFile, values: dict[str, Any]) -> Recipe:
    """values: those of the file, or with some of them changed by a search."""
    try:
        recipe = msgspec.convert(values, Recipe)
    except msgspec.ValidationError as error:
        raise explain(error, file, (), Recipe) from None
    for key, message in _contradictions(recipe):
        raise file.mistake(key, message)
    return recipe


def beyond_olive(how: Finetune) -> list[str]:
    """What of it Olive's pass cannot do, in words."""
    return [what for what, there in (
        (f"method = \"{how.method}\" (it knows lora and dora)", how.method not in ("lora", "dora")),
        ("packing", how.packing), ("preferences", how.preferences is not None),
        ("devices above 1", how.devices > 1)) if there]


def _contradictions(recipe: Recipe) -> list[tuple[KeyPath, str]]:
    found: list[tuple[KeyPath, str]] = []
    if recipe.members and recipe.data is not None:
        found.append((("members",), "has members and data of its own; a recipe has one of them"))
    if recipe.members:
        own = {"search": recipe.search is not None, "distil": recipe.distil is not None,
               "finetune": recipe.finetune is not None, "evaluate": recipe.evaluate != Evaluate()}
        found += [((key,), "is for a recipe with data of its own; members are trained and measured as their own "
                           "recipes say: say it there") for key, there in own.items() if there]
    if not recipe.members and recipe.data is None:
        found.append((("data",), "lacks [data], what to learn from"))
    student = recipe.distil.student if recipe.distil is not None else None
    if student is not None:
        if recipe.finetune is not None:
            found.append((("finetune",), "trains a student and fine-tunes the base; a recipe has one of them (the "
                                         "teacher's recipe is another file)"))
        if student.tokenizer == "own" and student.init != "scratch":
            found.append((("distil", "student", "tokenizer"), "own needs init = \"scratch\""))
        if student.tokenizer == "own" and (student.soft is not None or student.match is not None):
            found.append((("distil", "student", "tokenizer"),
                          "own has no tokens in common with a teacher: soft targets and matching need tokenizer = "
                          "\"teacher\""))
    if recipe.finetune is not None and recipe.finetune.through == "olive" and (beyond := beyond_olive(recipe.finetune)):
        found.append((("finetune", "through"), f"olive cannot be had with {', '.join(beyond)}; say \"trl\""))
    if recipe.deploy is not None and not recipe.members and recipe.finetune is None and student is None:
        found.append((("deploy",), "has nothing that could be deployed: nothing is trained; add [finetune] or "
                                   "[distil.student]"))
    trains_adapter = recipe.finetune is not None and recipe.finetune.method != "full"
    if recipe.export.adapter == "keep" and not recipe.members and not trains_adapter:
        found.append((("export", "adapter"), "keeps an adapter, and none is trained here; leave it out, or add "
                                             "[finetune] with method lora, qlora or dora"))
    evaluate = recipe.evaluate
    if evaluate.judge is None:
        found += [(("evaluate", key), "needs to know who judges; add [evaluate.judge] with model and endpoint")
                  for key, named in (("metrics", "judge" in evaluate.metrics), ("primary", evaluate.primary == "judge"))
                  if named]
    if recipe.search is not None:
        for key, value in recipe.search.ranges.items():
            if (value.low is None or value.high is None or value.low >= value.high) and not value.choices:
                found.append((("search", "ranges", key), "needs low below high, or choices"))
            if not key.startswith(("finetune.", "distil.student.")):
                found.append((("search", "ranges", key), "must be a key of finetune or distil.student, as in "
                                                         "\"finetune.learning_rate\""))
    return found
