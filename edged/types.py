"""Frozen values that more than one layer speaks of. No behaviour beyond small derivations, no I/O."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from msgspec import Struct

EngineName = Literal["llama", "ort", "genai", "fake"]
FinishReason = Literal["stop", "length", "tool_calls"]
#: What a model is for: it writes text, makes vectors of texts, or scores texts against a query.
Task = Literal["generate", "embed", "rerank"]


class SamplingParams(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None means "not said": the model's defaults of the catalog apply, then `DEFAULT_SAMPLING`.

    temperature 0 is greedy. top_k 0 is off. Penalties as OpenAI defines them (presence, frequency: subtracted from
    logits of tokens generated so far); repetition as CTRL defines it (arXiv:1909.05858), over prompt and answer.
    logit_bias is added to the logits, by token id.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None

    def over(self, defaults: SamplingParams) -> SamplingParams:
        """Every field said here, else the one of `defaults`."""
        return SamplingParams(**{
            name: mine if (mine := getattr(self, name)) is not None else getattr(defaults, name)
            for name in self.__struct_fields__
        })


DEFAULT_SAMPLING = SamplingParams(
    temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, typical_p=1.0,
    repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0,
)


class JsonObject(Struct, frozen=True, tag="json_object", tag_field="kind"):
    """Any JSON object."""


class JsonSchema(Struct, frozen=True, tag="json_schema", tag_field="kind"):
    """schema: a JSON Schema as JSON text, its properties in the order in which they are to be written."""

    schema: str


class Regex(Struct, frozen=True, tag="regex", tag_field="kind"):
    """The whole answer matches it, as llguidance writes regular expressions (Rust's, without look-around)."""

    pattern: str


class Lark(Struct, frozen=True, tag="lark", tag_field="kind"):
    """A grammar in llguidance's variant of Lark."""

    grammar: str


class Gbnf(Struct, frozen=True, tag="gbnf", tag_field="kind"):
    """A grammar as llama.cpp writes it."""

    grammar: str


#: What an answer must be, enforced token by token; never the reasoning before it.
Constraint = JsonObject | JsonSchema | Regex | Lark | Gbnf


class ToolFunction(Struct, frozen=True, kw_only=True):
    """parameters: a JSON Schema as JSON text, None for a function without arguments. strict: arguments are held to it;
    else to JSON objects only."""

    name: str
    description: str = ""
    parameters: str | None = None
    strict: bool = False


class ToolUse(Struct, frozen=True, kw_only=True):
    """Functions that the answer may call. choice: `none` shows them to the model and forbids calls, `auto` leaves it to
    the model, `required` makes it call at least one; one name in `allowed` with `required` is a named choice. allowed:
    names that may be called, empty for all. parallel: more than one call in an answer."""

    functions: list[ToolFunction]
    choice: Literal["none", "auto", "required"] = "auto"
    allowed: tuple[str, ...] = ()
    parallel: bool = True


class Reasoning(Struct, frozen=True, kw_only=True):
    """How much a model may think before it answers. effort: `none` (no thinking at all), `minimal`, `low`, `medium`,
    `high`, for its template; None leaves it to the template. budget: tokens of thinking at most, after which the
    answer is made to begin. optional: a model that does not think answers without; else it refuses."""

    effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    budget: int | None = None
    optional: bool = False


class ChatPrompt(Struct, frozen=True, tag="chat", tag_field="kind"):
    """`messages` are plain JSON values in OpenAI's chat shape, already validated by the adapter: content as a string,
    arguments of calls as an object where they are one, the result of a call in a message of role `tool`. continued: the
    last message, the assistant's, is the beginning of the answer, which goes on from there."""

    messages: list[dict[str, Any]]
    template_kwargs: dict[str, Any] = {}
    continued: bool = False


class TextPrompt(Struct, frozen=True, tag="text", tag_field="kind"):
    """suffix: what comes after the answer, for models with fill-in-the-middle tokens. bos: after the model's beginning
    token, if it was trained with one."""

    text: str
    suffix: str | None = None
    bos: bool = True


class TokenPrompt(Struct, frozen=True, tag="tokens", tag_field="kind"):
    tokens: list[int]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class GenerateRequest(Struct, frozen=True, kw_only=True, tag="generate", tag_field="kind"):
    """One generation, whatever wire it came over.

    id: unique in the daemon. client: key of fairness between clients. max_tokens None: to the end of the context.
    to_context_end: max_tokens may reach over the context, and the answer then ends with it; else that is an error.
    n choices share one prefill of the prompt. logprobs None: off; k ≥ 0: the chosen token's and the k most likely.
    echo: the prompt's tokens come back as the first text of each choice, with their logprobs if asked for. tools and
    reasoning: of chats. adapter: name of a LoRA of the loaded model, to compute prompt and answer with. prompt_only:
    nothing is generated; the one event before Finished is `Rendered`. context: the most tokens that prompt and answer
    may have together (Ollama's `num_ctx`), None for the model's own; a model that has fewer refuses it.
    constraint_field: the field of the wire that the constraint came in, which an error names. cache_scope: KV of a
    prompt is reused among requests of the same scope only; empty for one that all share. capture: False where its
    client will not have it kept for training, though the operator may keep others.
    """

    id: str
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    to_context_end: bool = False
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int | None = None
    echo: bool = False
    constraint: Constraint | None = None
    constraint_field: str = "response_format"
    tools: ToolUse | None = None
    reasoning: Reasoning | None = None
    adapter: str | None = None
    prompt_only: bool = False
    context: int | None = None
    client: str = ""
    cache_scope: str = ""
    capture: bool = True


class EmbedRequest(Struct, frozen=True, kw_only=True, tag="embed", tag_field="kind"):
    """Vectors of texts, or their scores against a query, whatever wire it came over.

    inputs: texts, or token ids that are taken as they are. query: of a reranker, which scores each input with it.
    dimensions: of the vectors, where the model allows fewer than it has; None for all of them. context: as of a
    GenerateRequest, for each input alone.
    """

    prompt_only: ClassVar[bool] = False
    adapter: ClassVar[str | None] = None

    id: str
    inputs: list[str | list[int]]
    query: str | None = None
    dimensions: int | None = None
    context: int | None = None
    client: str = ""


Request = GenerateRequest | EmbedRequest


class TokenLogprob(Struct, frozen=True, array_like=True):
    """`text` may hold U+FFFD where the token is a part of a character; `raw` is always the exact bytes.

    logprob is that of the model's own distribution, before any sampling parameter. Under a constraint it is that of the
    distribution over the tokens that the constraint allows, so a token that it forces has 0 (a probability of one) and
    no alternatives. None for the first token of an echoed prompt, which nothing precedes."""

    token: int
    text: str
    raw: bytes
    logprob: float | None
    top: list[tuple[int, str, bytes, float]] = []


class Usage(Struct, frozen=True, array_like=True):
    """completion_tokens: reasoning included."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Started(Struct, frozen=True, tag="started", tag_field="kind", array_like=True):
    """The request was admitted; comes before every Delta. queued_s: time it waited in the worker."""

    id: str
    prompt_tokens: int
    cached_tokens: int
    queued_s: float


class Rendered(Struct, frozen=True, tag="rendered", tag_field="kind", array_like=True):
    """The prompt as the model reads it, of any length. text: what the template made of messages, the text that was
    sent, or that of tokens. pieces: the bytes that each token stands for, control tokens too (`<|im_end|>`)."""

    id: str
    tokens: list[int]
    text: str
    pieces: list[bytes]


class CallPiece(Struct, frozen=True, array_like=True):
    """A piece of a tool call. call: its number within the choice, from 0. The first piece of each has id and name, the
    others neither; `arguments` joined are its arguments as JSON text."""

    call: int
    arguments: str
    id: str = ""
    name: str = ""


class Delta(Struct, frozen=True, tag="delta", tag_field="kind", array_like=True):
    """Text that may be shown now: whole characters only, stop strings already held back. `tokens` counts the tokens
    that this event accounts for (0 to many). reasoning: text of thinking, which comes before `text`; calls: pieces of
    tool calls, after it."""

    id: str
    index: int
    text: str
    tokens: int = 1
    logprobs: list[TokenLogprob] = []
    reasoning: str = ""
    calls: list[CallPiece] = []


class ChoiceEnd(Struct, frozen=True, tag="choice_end", tag_field="kind", array_like=True):
    id: str
    index: int
    reason: FinishReason
    stop: str | None = None


class Embedded(Struct, frozen=True, tag="embedded", tag_field="kind", array_like=True):
    """Vectors of some of a request's inputs, whose numbers are `indexes`; each input comes once, in any order. data:
    the vectors one after another, float32, little-endian; of a reranker one score each."""

    id: str
    indexes: list[int]
    data: bytes


class Finished(Struct, frozen=True, tag="finished", tag_field="kind", array_like=True):
    """Last event of a request that went well. prompt_s: from its start to its first token; answer_s: from then to its
    end; both as the worker measured them, 0 of vectors."""

    id: str
    usage: Usage
    prompt_s: float = 0.0
    answer_s: float = 0.0


class Failed(Struct, frozen=True, tag="failed", tag_field="kind", array_like=True):
    """Last event of a request that did not. The fields are those of `edged.errors.EdgedError`."""

    id: str
    status: int
    type: str
    message: str
    code: str | None = None
    param: str | None = None
    retry: bool = True


Event = Started | Rendered | Delta | ChoiceEnd | Embedded | Finished | Failed


class AdapterSpec(Struct, frozen=True, kw_only=True):
    """A LoRA that a worker is to have beside its model. digest: sha256 of its file; path: of it, in the engine's own
    form."""

    name: str
    digest: str
    path: str
    scale: float = 1.0


class KvCacheSpec(Struct, frozen=True, kw_only=True):
    """Where KV of prompts outlives the engine's rows. ram_bytes: held in the worker at most. folder: of the store, for
    what is worth a file; empty for none. disk_bytes: of all files of all models at most; write_bytes_per_day: written
    at most, for the sake of flash; ttl_s: no file is kept longer after its last use."""

    ram_bytes: int = 256 << 20
    folder: str = ""
    disk_bytes: int = 0
    write_bytes_per_day: int = 0
    ttl_s: float = 0.0


class DraftSpec(Struct, frozen=True, kw_only=True):
    """A smaller model with the same vocabulary, which proposes tokens for the one that is served. path, file: as of a
    LoadSpec."""

    name: str
    engine: EngineName
    path: str
    file: str


class Tuning(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What measurement chose over an engine's defaults, on one machine. threads: None for the default; options: of the
    engine, as in models.toml. by: `tune` where it was asked for, `load` in short at the first load. gain: how many
    times as fast as the defaults, as of `edged.hardware.tuning`. taken: seconds since 1970."""

    threads: int | None = None
    options: dict[str, Any] = {}
    by: Literal["tune", "load"] = "tune"
    gain: float = 1.0
    taken: float = 0.0

    @property
    def chosen(self) -> dict[str, Any]:
        return {"threads": self.threads, **self.options} if self.threads is not None else self.options

    def words(self) -> str:
        how = "measured by `edged tune`" if self.by == "tune" else "measured at its first load"
        if not self.chosen:
            return f"the engine's own options ({how})"
        told = ", ".join(f"{name} {str(value).lower() if isinstance(value, bool) else value}"
                         for name, value in self.chosen.items())
        return f"{told} ({how}, {self.gain:.2f} x the defaults)"


class LoadSpec(Struct, frozen=True, kw_only=True):
    """All a worker needs to load one model. `path` is the model's folder in the store; `file` the engine's entry
    file in it. context, rows, threads None: the engine chooses within memory_bytes (0: no bound). warm_prompts: system
    prompts whose KV is there before the first client. speculation: answers that repeat their prompt may be computed
    several tokens at a time, where measurement shows a gain; draft: a model that helps with it. provider: what must
    run it (`cpu`, `cuda`, …): an engine that cannot refuses to load. dimensions: of an embedding model that was trained
    so that the beginnings of its vectors are vectors too, their lengths; more than its own files say.
    try_threads: measure in a moment how many threads are best, since nothing says."""

    name: str
    version: str
    digest: str
    engine: EngineName
    path: str
    file: str
    task: Task = "generate"
    context: int | None = None
    rows: int | None = None
    threads: int | None = None
    provider: str = "cpu"
    memory_bytes: int = 0
    chat_template: str | None = None
    sampling: SamplingParams = SamplingParams()
    options: dict[str, Any] = {}
    dimensions: tuple[int, ...] = ()
    adapters: tuple[AdapterSpec, ...] = ()
    kv_cache: KvCacheSpec = KvCacheSpec()
    warm_prompts: tuple[str, ...] = ()
    draft: DraftSpec | None = None
    speculation: bool = True
    try_threads: bool = False
    log_prompts: bool = False


class ModelInfo(Struct, frozen=True, kw_only=True):
    """What a worker says of the model once it can serve. dimensions: of its vectors, where it makes such. Of models
    that keep no KV: rows is how many inputs are computed together, kv_tokens and kv_bytes are 0. tuning: what it
    measured because it was told to, to be kept; None where the machine was too busy to tell."""

    engine: EngineName
    engine_version: str
    device: str
    precision: str
    context: int
    rows: int
    kv_tokens: int
    vocab_size: int
    kv_bytes: int
    weights_bytes: int
    load_s: float
    chat: bool
    task: Task = "generate"
    dimensions: int | None = None
    tuning: Tuning | None = None


class WorkerStats(Struct, frozen=True, kw_only=True):
    """Sent about once a second and when the step loop goes idle. Counters grow for the life of the worker.
    adapter_switches: steps that computed with another adapter than the one before them. prompt_computed_tokens: of
    prompts, those that were computed, again after a loss too. prefix_restored_tokens: of prefix_hit_tokens those that
    came from RAM, prefix_disk_tokens those from disk. speculative_*: tokens. kv_ram_bytes, kv_disk_bytes: held now.
    kv_write_failures: files that the disk refused. notes: what the operator should know of how the model is set up.
    threads: that decode now, 0 where the engine does not tell."""

    running: int = 0
    waiting: int = 0
    kv_used_tokens: int = 0
    kv_tokens: int = 0
    steps: int = 0
    step_rows: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    adapter_switches: int = 0
    prompt_computed_tokens: int = 0
    prefix_restored_tokens: int = 0
    prefix_disk_tokens: int = 0
    speculative_proposed_tokens: int = 0
    speculative_accepted_tokens: int = 0
    kv_ram_bytes: int = 0
    kv_disk_bytes: int = 0
    kv_write_failures: int = 0
    notes: tuple[str, ...] = ()
    threads: int = 0
    resident_bytes: int = 0
