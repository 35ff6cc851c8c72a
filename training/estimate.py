"""What a fit will take of memory, disk and time, told before it starts, and refused where it cannot fit.

Memory and disk are upper bounds, by up to a half, of what was measured (SmolLM2-135M: full, LoRA, DoRA, with
checkpointing and without); the time is a guess by the machine's rate of matrix products, which a busy machine makes
wrong.
"""

from __future__ import annotations

import importlib.metadata
import math
import shutil
import time
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from edged.errors import DeviceUnavailable, InsufficientMemory, InsufficientStorage, InvalidRequest
from edged.hardware.facts import Facts
from edged.hardware.probe import probe
from edged.store.space import MARGIN_BYTES, in_words
from training.recipe import Finetune, Fit, Recipe
from training.run import Moment, Run, StageName, Tell
from training.sizes import Lesson, ModelSize, fit_of, lesson, longest_of_teachers, model_size

_FP32_BYTES = 4
#: Interpreter, torch, transformers, trl and peft, before any weights.
_LIBRARIES_BYTES = 600_000_000
#: A gradient, and AdamW's two moments, of each trainable weight.
_GRADIENT_BYTES, _OPTIMIZER_BYTES = 4, 8
#: What backward needs of each layer and token, in sizes of the hidden and the intermediate width, at 32 bits; and of
#: the matrices of attention, which processors keep.
_HIDDEN_KEPT, _INTERMEDIATE_KEPT, _ATTENTION_KEPT = 8, 4, 2
#: DoRA keeps more of each matrix, and twice the weights that it composes.
_DORA_KEPT, _DORA_WEIGHTS = 1.5, 2
#: Copies of the logits at one time: themselves, their log-probabilities, gradients.
_LOGITS_KEPT = 4
#: Checkpoints at one time: the newest, the best, and one that is being written.
_CHECKPOINTS = 3
#: Of the rate of a matrix product, what a training step reaches, measured (LoRA of SmolLM2-135M, small students).
_EFFICIENCY = 0.65
#: Rows of packed examples are as long, where no example is longer.
_PACKED_TOKENS = 1024
#: Padding to the longest of a batch.
_PADDING = 1.15

Device = Literal["cpu", "cuda"]


class Needs(Struct, frozen=True, kw_only=True):
    """Bytes of each part at the moment of most memory, of one process; processes: so many at once. seconds: None where
    the rate is not known."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    disk_bytes: int
    processes: int = 1
    steps: int
    seconds: float | None = None
    parameters: int
    trainable: int

    @property
    def memory_bytes(self) -> int:
        """Of all processes, with their libraries."""
        return self.processes * (
            _LIBRARIES_BYTES + self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
            + self.activations_bytes + self.logits_bytes)


def check(run: Run, tell: Tell, *, facts: Facts | None = None) -> Needs:
    """What the recipe's fit needs, told in a sentence. Raises InsufficientMemory, InsufficientStorage,
    DeviceUnavailable, InvalidRequest with the reason and what to change; InvalidRequest where stages before have not
    ended, ConfigError of files of preferences; what `training.models.base_folder` raises. Takes no heavy library but
    the base's tokenizer, and that only where a teacher's answer may make an example longer than the model reads."""
    how = fit_of(run.recipe)
    if how is None:
        raise InvalidRequest("the recipe fits nothing; it needs [finetune] or [distil.student]")
    known = facts or probe()
    size, learned = model_size(run, how), lesson(run)
    if learned.counted is not None and size.context is not None:
        if isinstance(how, Finetune):
            _require_answers(run, size.context)
        # What is longer is refused: above, or as the student reads it (`training.student.stage.require_room`).
        learned = msgspec.structs.replace(learned, longest=min(learned.longest, size.context))
    needs = estimate(size, learned, how, device=device_of(known), flops_per_s=measured_flops_per_s())
    stage: StageName = "student" if how is not run.recipe.finetune else "finetune"
    tell(Moment(stage=stage, note=in_sentence(needs)))
    # What an earlier start of this fit has written is a part of what it needs, or goes before anything else is written.
    require(size, learned, how, known,
            free_disk_bytes=shutil.disk_usage(run.folder).free + _written(run.path(stage)))
    return needs


def _written(folder: Path) -> int:
    """Bytes of the checkpoints and the model in the folder of a fit, which is all that `disk_bytes` is of."""
    from training.finetune.stage import MODEL, PREFERENCES
    from training.fit.checkpoints import FOLDER

    return sum(each.stat().st_size for name in (FOLDER, MODEL, PREFERENCES) for each in (folder / name).rglob("*")
               if each.is_file())


def require_machine(recipe: Recipe, facts: Facts) -> None:
    """What a recipe asks of the machine whatever its data are; for before the first stage. Raises DeviceUnavailable for
    more devices than there are, qlora without CUDA and bitsandbytes, a precision that is not computed well here. Takes
    torch only where the recipe names such a method or precision."""
    how = fit_of(recipe)
    if how is None:
        return
    _require_devices(how, facts, device_of(facts))
    if isinstance(how, Finetune) and how.method == "qlora":
        from training.finetune.adapter import require_four_bits

        require_four_bits()
    if how.precision in ("bf16", "fp16"):
        from training.fit.precision import precision

        precision(how.precision)


def estimate(
    size: ModelSize, learned: Lesson, how: Fit, *, device: Device = "cpu", flops_per_s: float | None = None,
) -> Needs:
    """Pure. flops_per_s: of a large matrix product in the precision of the fit. Of preferences too, where how has some
    and learned knows them."""
    first = _of_fit(size, learned, how, device, flops_per_s)
    if not isinstance(how, Finetune) or how.preferences is None or learned.preferences is None:
        return first
    settled = msgspec.structs.replace(how, epochs=how.preferences.epochs, packing=False)
    then = _of_fit(size, learned.preferences, settled, device, flops_per_s, pairs=True)
    most = max(first, then, key=lambda needs: needs.memory_bytes)
    seconds = None if first.seconds is None or then.seconds is None else first.seconds + then.seconds
    return msgspec.structs.replace(
        most, disk_bytes=first.disk_bytes + then.disk_bytes, steps=first.steps + then.steps, seconds=seconds)


def _of_fit(
    size: ModelSize, learned: Lesson, how: Fit, device: Device, flops_per_s: float | None, *, pairs: bool = False,
) -> Needs:
    """pairs: each example is two rows, and a copy of what is trained reads them besides, as it was before."""
    method = how.method if isinstance(how, Finetune) else "full"
    row_tokens = max(learned.longest, _PACKED_TOKENS) if how.packing else learned.longest
    batch_tokens = how.batch_size * row_tokens * (2 if pairs else 1)
    width = _HIDDEN_KEPT * size.hidden + _INTERMEDIATE_KEPT * size.intermediate
    width += _ATTENTION_KEPT * size.heads * row_tokens if device == "cpu" else 0
    layer_bytes = int(batch_tokens * width * _FP32_BYTES * (_DORA_KEPT if method == "dora" else 1))
    activations = size.layers * layer_bytes
    if how.checkpointing:
        activations = layer_bytes + size.layers * batch_tokens * size.hidden * _FP32_BYTES
    frozen_bytes = 1 if method == "qlora" else _FP32_BYTES * (1 + _DORA_WEIGHTS if method == "dora" else 1)
    frozen = size.parameters - size.trainable if method == "full" else size.parameters
    trained_bytes = size.trainable * _FP32_BYTES
    processes = how.devices if device == "cpu" else 1
    steps = _steps(learned, how)
    copied_bytes = trained_bytes if pairs else 0
    return Needs(
        weights_bytes=frozen * frozen_bytes + trained_bytes + copied_bytes + size.beside * _FP32_BYTES,
        gradients_bytes=size.trainable * _GRADIENT_BYTES, optimizer_bytes=size.trainable * _OPTIMIZER_BYTES,
        activations_bytes=activations, logits_bytes=batch_tokens * size.vocabulary * _FP32_BYTES * _LOGITS_KEPT,
        disk_bytes=size.trainable * (_FP32_BYTES + _OPTIMIZER_BYTES) * _CHECKPOINTS + trained_bytes,
        processes=processes, steps=steps, parameters=size.parameters, trainable=size.trainable,
        seconds=_seconds(size, learned, how, steps, flops_per_s, adapter=method != "full", pairs=pairs))


def require(size: ModelSize, learned: Lesson, how: Fit, facts: Facts, *, free_disk_bytes: int) -> None:
    """Raises what `check` raises. Pure."""
    device = device_of(facts)
    counted = learned.longest if learned.counted is None else learned.counted
    if size.context is not None and counted > size.context:
        raise InvalidRequest(
            f"the longest example has {counted} tokens, and the model reads {size.context} at most; "
            f"data.max_tokens = {size.context} leaves longer ones out")
    _require_devices(how, facts, device)
    needs = estimate(size, learned, how, device=device)
    if needs.disk_bytes + MARGIN_BYTES > free_disk_bytes:
        raise InsufficientStorage(
            f"the training writes up to {in_words(needs.disk_bytes)} of checkpoints at a time, and "
            f"{in_words(free_disk_bytes)} are free where the run is; free some, or name a folder on another disk "
            "(folder in the recipe, or --folder)")
    free_bytes = _free_memory(facts, device)
    if free_bytes is not None and needs.memory_bytes > free_bytes:
        ways = _ways(size, learned, how, device, free_bytes)
        raise InsufficientMemory(
            f"the training needs about {in_words(needs.memory_bytes)} of memory ({_parts(needs)}), and "
            f"{in_words(free_bytes)} are free. "
            + ("It would fit with " + ", or with ".join(ways) if ways else
               "No setting makes it fit: take a smaller base, or another machine (the run folder goes along)"))


def _require_answers(run: Run, context: int) -> None:
    """Raises InvalidRequest where what a teacher answered is too long."""
    if (longest := longest_of_teachers(run, context)) > context:
        raise InvalidRequest(
            f"the longest example that a teacher answered has {longest} tokens, and the model reads {context} at most; "
            "distil.answers.filters.max_characters leaves long answers out, without asking again")


def device_of(facts: Facts) -> Device:
    """What torch will compute on: CUDA needs an NVIDIA card and a torch that was built for it."""
    try:
        built = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "cpu"
    has_card = any(gpu.vendor == "nvidia" for gpu in facts.gpus)
    return "cuda" if has_card and not built.endswith("+cpu") else "cpu"


def measured_flops_per_s() -> float:
    """Of a matrix product like those of small models, in 32 bits on the processor: some 50 ms, best of several."""
    import numpy as np

    left, right = (np.ones(shape, dtype=np.float32) for shape in ((512, 768), (768, 2048)))
    best_s = math.inf
    for _ in range(5):
        began = time.perf_counter()
        left @ right
        best_s = min(best_s, time.perf_counter() - began)
    return 2 * 512 * 768 * 2048 / best_s


def in_sentence(needs: Needs) -> str:
    share = f"{needs.trainable / 1e6:,.1f} of {needs.parameters / 1e6:,.1f} million weights are trained"
    several = f" in {needs.processes} processes" if needs.processes > 1 else ""
    lasts = f", about {_time(needs.seconds)}" if needs.seconds is not None else ""
    return (f"{share}, in {needs.steps:,} steps: about {in_words(needs.memory_bytes)} of memory{several} "
            f"({_parts(needs)}), up to {in_words(needs.disk_bytes)} of disk{lasts}")


def _steps(learned: Lesson, how: Fit) -> int:
    an_epoch = max(1, math.ceil(learned.examples / (how.batch_size * how.accumulation * how.devices)))
    steps = math.ceil(how.epochs * an_epoch)
    return steps if how.max_steps is None else min(steps, how.max_steps)


def _seconds(
    size: ModelSize, learned: Lesson, how: Fit, steps: int, flops_per_s: float | None, *, adapter: bool, pairs: bool,
) -> float | None:
    """Two operations a weight and token forward, two for the gradient of what it read, two for its own (Kaplan et al.
    2020); an adapter needs no gradient of the frozen weights, checkpointing one more pass forward, and so do pairs."""
    if flops_per_s is None:
        return None
    an_epoch = max(1, math.ceil(learned.examples / (how.batch_size * how.accumulation * how.devices)))
    tokens = learned.tokens * _PADDING * steps / an_epoch
    passes = 2 + (2 if adapter else 4) + (2 if how.checkpointing else 0) + (2 if pairs else 0)
    teachers = 2 * size.beside
    trained = tokens * (passes * size.parameters + teachers) / how.devices
    checked = how.evaluations * learned.checked_tokens * _PADDING * 2 * size.parameters
    return (trained + checked) / (flops_per_s * _EFFICIENCY)


def _require_devices(how: Fit, facts: Facts, device: Device) -> None:
    """Raises DeviceUnavailable."""
    if device == "cpu":
        if how.devices > max(1, facts.cpu.usable):
            raise DeviceUnavailable(f"devices = {how.devices}, and this process may use {facts.cpu.usable} cores; say "
                                    "devices = 1")
        return
    cards = sum(gpu.vendor == "nvidia" for gpu in facts.gpus)
    if how.devices > cards:
        raise DeviceUnavailable(f"devices = {how.devices}, and there are {cards} cards; say devices = {cards}")


def _free_memory(facts: Facts, device: Device) -> int | None:
    if device == "cpu":
        return facts.memory.available
    return min((gpu.memory_bytes for gpu in facts.gpus if gpu.vendor == "nvidia" and gpu.memory_bytes), default=None)


def _ways(size: ModelSize, learned: Lesson, how: Fit, device: Device, free_bytes: int) -> list[str]:
    """Settings that would make it fit, the mildest first."""
    def fits(changed: Fit) -> bool:
        return estimate(size, learned, changed, device=device).memory_bytes <= free_bytes

    found = []
    if not how.checkpointing and fits(msgspec.structs.replace(how, checkpointing=True)):
        found.append("checkpointing = true")
    batch = how.batch_size
    while batch > 1:
        batch //= 2
        if fits(msgspec.structs.replace(how, batch_size=batch)):
            more = how.accumulation * how.batch_size // batch
            found.append(f"batch_size = {batch} and accumulation = {more}")
            break
    if not found and fits(msgspec.structs.replace(how, batch_size=1, checkpointing=True)):
        found.append(f"checkpointing = true, batch_size = 1 and accumulation = {how.accumulation * how.batch_size}")
    if how.devices > 1 and fits(msgspec.structs.replace(how, devices=1)):
        found.append("devices = 1")
    if isinstance(how, Finetune) and how.method == "full":
        # An adapter of rank 16 on all linear layers has some hundredths of the weights.
        small = msgspec.structs.replace(size, trainable=size.parameters // 25)
        lora = estimate(small, learned, msgspec.structs.replace(how, method="lora"), device=device)
        if lora.memory_bytes <= free_bytes:
            found.append('method = "lora"')
    return found


def _parts(needs: Needs) -> str:
    parts = {"weights": needs.weights_bytes, "gradients and optimizer": needs.gradients_bytes + needs.optimizer_bytes,
             "activations": needs.activations_bytes, "logits": needs.logits_bytes}
    return ", ".join(f"{name} {in_words(count)}" for name, count in parts.items())


def _time(seconds: float) -> str:
    if seconds < 90:
        return "a minute"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
