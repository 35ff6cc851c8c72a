"""What a trained or converted version came from and how good it is: frozen structs, no I/O. Manifests hold them,
`training` and `converters` write them, everyone may read them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

#: Execution providers and back ends that a form of a model is built for.
Target = Literal["cpu", "cuda", "directml", "webgpu", "qnn", "openvino", "tensorrt-rtx", "metal", "vulkan"]


class AdapterSource(Struct, frozen=True, kw_only=True):
    """A PEFT adapter that was merged. reference: as the user named it; sha256: of its adapter_model.safetensors."""

    reference: str
    sha256: str


class ConvertedSource(Struct, frozen=True, kw_only=True, tag="converted", tag_field="from"):
    """Made on this machine from another model. base: the reference that the user named, with its revision pinned;
    base_digest: sha256 over its files as `edged.store.manifests.digest_of` counts them."""

    base: str
    base_digest: str
    adapters: tuple[AdapterSource, ...] = ()


class ConversionSpec(Struct, frozen=True, kw_only=True):
    """A conversion as it is asked for; two that are equal are the same job.

    name: of the model that gets the new version. source: an installed `name[@version]`, `org/repo[@revision]`, an
    absolute path of a Hugging Face folder or of a GGUF file. adapters: PEFT adapters, merged in this order. recipe: the
    name of a shipped recipe or the absolute path of a TOML file. calibration: absolute path of a text, or JSONL with
    `text` or `messages`, for recipes that calibrate and for the gate; tasks: absolute path of a JSONL with `prompt` and
    `answer`. accept_loss: activate it though the gate refuses it. activate: False keeps what serves as it is.
    """

    name: str
    source: str
    adapters: tuple[str, ...] = ()
    recipe: str = "cpu-int4"
    calibration: str | None = None
    tasks: str | None = None
    accept_loss: bool = False
    activate: bool = True


class Stage(Struct, frozen=True, kw_only=True):
    """One stage of a conversion that ended. seconds: wall time; peak_bytes: most resident memory of its process."""

    name: str
    seconds: float
    peak_bytes: int = 0


class Conversion(Struct, frozen=True, kw_only=True):
    """How a version was made. recipe: its name; settings: all it says, as JSON values; tools: versions by distribution;
    base_bytes: size of the model in 32-bit weights."""

    recipe: str
    settings: dict[str, object] = {}
    tools: dict[str, str] = {}
    stages: tuple[Stage, ...] = ()
    base_bytes: int | None = None


class Training(Struct, frozen=True, kw_only=True):
    """How weights came to be, of a model or an adapter that edged's training companion made.

    recipe: its name; recipe_digest: sha256 of its text. base: as the recipe says, of a path the last name alone, or
    None from scratch; base_digest: of its files, as `edged.store.manifests.digest_of` counts them. method: in words
    (`lora of rank 16`). data_digest: of all examples and how they were split; train, validation, test: how many there
    are of each. parents: teachers whose answers or distributions it learned from. metrics: by name, as measured before
    it was converted. packages: versions by distribution. at: seconds since 1970, for people to read only.
    """

    recipe: str
    recipe_digest: str
    base: str | None
    base_digest: str | None = None
    method: str
    seed: int
    data_digest: str
    train: int
    validation: int = 0
    test: int = 0
    parents: tuple[str, ...] = ()
    steps: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = {}
    packages: dict[str, str] = {}
    at: float = 0.0


class QualityLimits(Struct, frozen=True, kw_only=True):
    """What the gate asks of a precision. perplexity_ratio and kl_divergence at most, top1_agreement at least.
    task_accuracy_drop: share of tasks that the result may lose, at most."""

    perplexity_ratio: float
    top1_agreement: float
    kl_divergence: float
    task_accuracy_drop: float = 0.02


class Agreement(Struct, frozen=True, kw_only=True):
    """How well a converted encoder agrees with what it was made from, over the same texts on the serving engine.

    reference: in words (`fp32 on torch`). text: the name of the text and 12 digits of its sha256; texts: passages
    compared. least_cosine: of the vectors of the passage where they differ most, None of a reranker; most_difference:
    between two numbers, of vectors or of scores. lacking: in words, what falls short, empty where it passed.
    accepted_loss: somebody activated it all the same.
    """

    reference: str
    text: str
    texts: int
    least_cosine: float | None
    most_difference: float
    lacking: tuple[str, ...] = ()
    accepted_loss: bool = False

    @property
    def passed(self) -> bool:
        return not self.lacking


class Quality(Struct, frozen=True, kw_only=True):
    """What the gate measured over the same text on the logits of the serving engines.

    reference: the model compared with, in words (`fp32 on onnxruntime, dequantized from Q4_1`). text: the name of the
    text and 12 digits of its sha256. tokens: positions compared. kl_divergence: mean of KL(reference ‖ result), in nats
    a token. top1_agreement: share of positions where both like the same token best. perplexity: of the result.
    Accuracies: share of tasks answered right, None without tasks. lacking: in words, what the result falls short of,
    empty where it passed. accepted_loss: somebody activated it all the same.
    """

    reference: str
    text: str
    tokens: int
    kl_divergence: float
    top1_agreement: float
    perplexity: float
    reference_perplexity: float
    limits: QualityLimits
    lacking: tuple[str, ...] = ()
    tasks: int = 0
    task_accuracy: float | None = None
    reference_task_accuracy: float | None = None
    accepted_loss: bool = False

    @property
    def perplexity_ratio(self) -> float:
        return self.perplexity / self.reference_perplexity

    @property
    def passed(self) -> bool:
        return not self.lacking


#: What a gate says, of a model that writes text or of an encoder.
Verdict = Quality | Agreement


def agreement_words(agreement: Agreement) -> str:
    """In one clause, for people."""
    cosine = f"cosine {agreement.least_cosine:.6f} at least, " if agreement.least_cosine is not None else ""
    return (f"{cosine}numbers {agreement.most_difference:.1e} apart at most, against {agreement.reference}, over "
            f"{agreement.texts} passages of {agreement.text}")
