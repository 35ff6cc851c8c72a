"""Frozen values that more than one layer speaks of. No behaviour beyond small derivations, no I/O."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

EngineName = Literal["llama", "ort", "genai", "fake"]
FinishReason = Literal["stop", "length"]


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


class ChatPrompt(Struct, frozen=True, tag="chat", tag_field="kind"):
    """`messages` and `tools` are plain JSON values in OpenAI's chat shape, already validated by the adapter."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = {}


class TextPrompt(Struct, frozen=True, tag="text", tag_field="kind"):
    text: str


class TokenPrompt(Struct, frozen=True, tag="tokens", tag_field="kind"):
    tokens: list[int]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class GenerateRequest(Struct, frozen=True, kw_only=True):
    """One generation, whatever wire it came over.

    id: unique in the daemon. client: key of fairness between clients. max_tokens None: to the end of the context.
    n choices share one prefill of the prompt. logprobs None: off; k ≥ 0: the chosen token's and the k most likely.
    echo: the prompt's tokens come back as the first text of each choice, with their logprobs if asked for.
    """

    id: str
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int | None = None
    echo: bool = False
    client: str = ""


class TokenLogprob(Struct, frozen=True, array_like=True):
    """`text` may hold U+FFFD where the token is a part of a character; `raw` is always the exact bytes.

    logprob is None for the first token of an echoed prompt, which nothing precedes."""

    token: int
    text: str
    raw: bytes
    logprob: float | None
    top: list[tuple[int, str, bytes, float]] = []


class Usage(Struct, frozen=True, array_like=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Started(Struct, frozen=True, tag="started", tag_field="kind"):
    """The request was admitted; comes before every Delta. queued_s: time it waited in the worker."""

    id: str
    prompt_tokens: int
    cached_tokens: int
    queued_s: float


class Delta(Struct, frozen=True, tag="delta", tag_field="kind"):
    """Text that may be shown now: whole characters only, stop strings already held back. `tokens` counts the tokens
    that this event accounts for (0 to many)."""

    id: str
    index: int
    text: str
    tokens: int = 1
    logprobs: list[TokenLogprob] = []


class ChoiceEnd(Struct, frozen=True, tag="choice_end", tag_field="kind"):
    id: str
    index: int
    reason: FinishReason
    stop: str | None = None


class Finished(Struct, frozen=True, tag="finished", tag_field="kind"):
    """Last event of a request that went well."""

    id: str
    usage: Usage


class Failed(Struct, frozen=True, tag="failed", tag_field="kind"):
    """Last event of a request that did not. The fields are those of `edged.errors.EdgedError`."""

    id: str
    status: int
    type: str
    message: str
    code: str | None = None
    param: str | None = None
    retry: bool = True


Event = Started | Delta | ChoiceEnd | Finished | Failed


class LoadSpec(Struct, frozen=True, kw_only=True):
    """All a worker needs to load one model. `path` is the model's folder in the store; `file` the engine's entry
    file in it. context, rows, threads None: the engine chooses within memory_bytes (0: no bound). provider: what must
    run it (`cpu`, `cuda`, …): an engine that cannot refuses to load."""

    name: str
    version: str
    digest: str
    engine: EngineName
    path: str
    file: str
    context: int | None = None
    rows: int | None = None
    threads: int | None = None
    provider: str = "cpu"
    memory_bytes: int = 0
    chat_template: str | None = None
    sampling: SamplingParams = SamplingParams()
    options: dict[str, Any] = {}
    log_prompts: bool = False


class ModelInfo(Struct, frozen=True, kw_only=True):
    """What a worker says of the model once it can serve."""

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


class WorkerStats(Struct, frozen=True, kw_only=True):
    """Sent about once a second and when the step loop goes idle. Counters grow for the life of the worker."""

    running: int = 0
    waiting: int = 0
    kv_used_tokens: int = 0
    kv_tokens: int = 0
    steps: int = 0
    step_rows: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    resident_bytes: int = 0
