"""Fits of a tiny random model: it learns, through each method, and the figures are what they say they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from edged.errors import DeviceUnavailable, InvalidRequest, TrainingFailed
from tests.training_examples import number, numbers
from training.examples import Example, Message
from training.finetune.adapter import start
from training.fit import checkpoints, history
from training.fit.fit import Fitted, fit, load_weights
from training.models import tokenizer_of
from training.recipe import Finetune, Preferences
from training.run import Moment

pytestmark = pytest.mark.real


TRAIN, VALIDATION = numbers(0, 48), numbers(48, 60)
HOW = Finetune(epochs=2.0, batch_size=8, learning_rate=5e-3, evaluations=4, patience=0)

FitTiny = Callable[..., tuple[Any, Fitted, list[Moment]]]


@pytest.fixture
def fit_tiny(tiny_hf: Path, tmp_path: Path, one_thread: None) -> FitTiny:
    """(model, what it came to, what was told)"""
    tokenizer = tokenizer_of(tiny_hf)

    def fitted(how: Finetune, folder: str = "out", **more: Any) -> tuple[Any, Fitted, list[Moment]]:
        how = msgspec.structs.replace(how, precision="fp32")
        model = start(tiny_hf, how, "fp32", 0)
        told: list[Moment] = []
        arguments: dict[str, Any] = {"train": TRAIN, "validation": VALIDATION, "seed": 0, "tell": told.append} | more
        return model, fit(model, tokenizer, how=how, folder=tmp_path / folder, **arguments), told

    return fitted


def test_a_lora_learns_and_tells_its_loss(fit_tiny: FitTiny, tmp_path: Path) -> None:
    _, fitted, told = fit_tiny(HOW)
    assert fitted.steps == 12
    assert fitted.examples == 48
    losses = [row.loss for row in fitted.history if row.loss is not None]
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 1.5
    assert [step for step, _ in history.validation(fitted.history)] == [3, 6, 9, 12]
    assert [moment.figures["loss"] for moment in told if "loss" in moment.figures] == losses
    assert told[-1].fraction == 1.0
    assert all(moment.stage == "out" for moment in told)
    assert history.read(tmp_path / "out") == fitted.history
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "out" / "logs").glob("events.out.tfevents.*"))
    assert sorted(each.name for each in (tmp_path / "out" / "checkpoints").glob("checkpoint-*")) == ["checkpoint-12"]


def test_the_loss_is_of_the_answers_tokens_as_transformers_counts_it(fit_tiny: FitTiny, tiny_hf: Path) -> None:
    """With a learning rate that changes nothing, the validation loss is that of the base."""
    import torch
    from transformers import AutoModelForCausalLM

    from training.encode import encoded

    tokenizer = tokenizer_of(tiny_hf)
    base = AutoModelForCausalLM.from_pretrained(tiny_hf)
    total, tokens = 0.0, 0
    for each in VALIDATION:
        one = encoded(tokenizer, each, completion_only=True)
        with torch.no_grad():
            loss = base(input_ids=torch.tensor([one.input_ids]), labels=torch.tensor([one.labels])).loss.item()
        labels = sum(label != -100 for label in one.labels)
        total, tokens = total + loss * labels, tokens + labels
    _, fitted, _ = fit_tiny(Finetune(epochs=1.0, batch_size=5, learning_rate=1e-12, evaluations=1))
    assert fitted.validation_loss == pytest.approx(total / tokens, rel=1e-4)


def test_accumulated_batches_are_one_large_batch(fit_tiny: FitTiny) -> None:
    """Of answers of different lengths: the mean is over the step's tokens, not over its batches."""
    weighted = [number(value, weight=1.0 + value % 3) for value in range(48)]
    _, whole, _ = fit_tiny(Finetune(epochs=1.0, batch_size=48, learning_rate=5e-3), "whole", train=weighted)
    _, parts, _ = fit_tiny(Finetune(epochs=1.0, batch_size=8, accumulation=6, learning_rate=5e-3), "parts",
                           train=weighted)
    assert parts.steps == whole.steps == 1
    assert parts.history[0].loss == pytest.approx(whole.history[0].loss, rel=1e-4)
    assert parts.history[0].grad_norm == pytest.approx(whole.history[0].grad_norm, rel=1e-3)


def test_packed_examples_have_the_loss_that_they_have_alone(fit_tiny: FitTiny) -> None:
    _, alone, _ = fit_tiny(Finetune(epochs=1.0, batch_size=48, learning_rate=5e-3, completion_only=False), "alone")
    _, packed, _ = fit_tiny(
        Finetune(epochs=1.0, batch_size=48, learning_rate=5e-3, completion_only=False, packing=True), "packed")
    assert packed.steps == alone.steps == 1
    assert packed.history[0].loss == pytest.approx(alone.history[0].loss, rel=1e-3)
    assert packed.history[0].grad_norm == pytest.approx(alone.history[0].grad_norm, rel=1e-2)


def test_packing_is_refused_where_the_attention_would_mix_examples(
    fit_tiny: FitTiny, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of an attention that knows nothing of positions that begin again."""
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(InvalidRequest, match="lets an example see the one before it"):
        fit_tiny(Finetune(packing=True))


def test_the_best_weights_are_those_that_stay_and_it_ends_early(fit_tiny: FitTiny, tmp_path: Path) -> None:
    """A learning rate far too high for validation examples that say the opposite of the training's."""
    opposite = [Example(id=each.id, prompt=each.prompt, answer=Message(role="assistant", content="no, none at all"))
                for each in VALIDATION]
    model, fitted, told = fit_tiny(
        Finetune(method="full", epochs=20.0, batch_size=8, learning_rate=1e-2, evaluations=40, patience=2),
        validation=opposite)
    losses = dict(history.validation(fitted.history))
    assert fitted.stopped_early
    assert fitted.steps < 120
    assert fitted.best_step < fitted.steps
    assert fitted.validation_loss == min(losses.values()) == losses[fitted.best_step]
    assert any(moment.note is not None and "ends early" in moment.note for moment in told)
    kept = {checkpoints.step_of(each) for each in (tmp_path / "out" / "checkpoints").glob("checkpoint-*")}
    assert kept == {fitted.best_step, fitted.steps}
    again, same, _ = fit_tiny(
        Finetune(method="full", epochs=20.0, batch_size=8, learning_rate=1e-2, evaluations=40, patience=2),
        validation=opposite)
    assert same == fitted
    assert all((one == other).all() for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_what_an_evaluation_is_told_to_ends_the_fit(fit_tiny: FitTiny) -> None:
    class Pruned(Exception):
        pass

    seen: list[tuple[int, float]] = []

    def prune(step: int, loss: float) -> None:
        seen.append((step, loss))
        if len(seen) == 2:
            raise Pruned

    with pytest.raises(Pruned):
        fit_tiny(HOW, on_evaluation=prune)
    assert [step for step, _ in seen] == [3, 6]
    assert all(math.isfinite(loss) for _, loss in seen)


def test_a_dora_learns_too(fit_tiny: FitTiny) -> None:
    model, fitted, _ = fit_tiny(Finetune(method="dora", epochs=1.0, batch_size=16, learning_rate=5e-3))
    assert model.peft_config["default"].use_dora
    assert fitted.history[-1].validation_loss is not None


def test_modules_that_the_model_lacks_are_named_with_those_it_has(fit_tiny: FitTiny) -> None:
    with pytest.raises(InvalidRequest, match=r"finetune\.targets.*down_proj.*q_proj"):
        fit_tiny(Finetune(targets=("query",)))


def test_qlora_is_refused_without_its_hardware(fit_tiny: FitTiny) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(DeviceUnavailable, match=r"needs a CUDA device.*say method = \"lora\""):
        fit_tiny(Finetune(method="qlora"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_preferred_answers_become_more_likely_than_rejected_ones(
    tiny_hf: Path, tmp_path: Path, one_thread: None, method: Literal["lora", "full"],
) -> None:
    """And a second call, as after a kill before the stage said that it had ended, makes nothing anew."""
    from training.fit.preferences import pair, prefer

    examples = [msgspec.structs.replace(each, rejected=Message(role="assistant", content="no idea")) for each in TRAIN]
    how = Finetune(method=method, batch_size=8, evaluations=2, patience=0, precision="fp32")
    tokenizer = tokenizer_of(tiny_hf)
    pairs = [pair(tokenizer, each) for each in examples]
    models, results = [], []
    for _ in range(2):
        model = start(tiny_hf, how, "fp32", 0)
        results.append(prefer(model, tokenizer, pairs[:40], pairs[40:], how,
                              Preferences(learning_rate=5e-3, epochs=2.0), tmp_path / "out", seed=0,
                              tell=lambda moment: None))
        models.append(model)
    fitted = results[0]
    assert fitted.steps == 10
    assert fitted.validation_loss is not None
    assert fitted.validation_loss < 0.3 < math.log(2) == pytest.approx(fitted.history[0].loss)
    assert fitted.history[-1].figures["eval_rewards/accuracies"] == 1.0
    assert results[1] == fitted
    assert all((one == other).all() for one, other in zip(*(model.parameters() for model in models), strict=True))
    if method == "lora":
        assert list(models[0].peft_config) == ["default"]


@pytest.fixture
def experts(tmp_path: Path, tiny_hf: Path) -> Path:
    """A mixture of experts with the words of tiny_hf."""
    import shutil

    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    tokenizer = tokenizer_of(tiny_hf)
    model = Qwen2MoeForCausalLM(Qwen2MoeConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
        shared_expert_intermediate_size=32, decoder_sparse_step=1, max_position_embeddings=256))
    folder = tmp_path / "experts"
    shutil.copytree(tiny_hf, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(folder)
    return folder


def test_experts_are_what_the_chosen_checkpoint_has(experts: Path, tmp_path: Path, one_thread: None) -> None:
    """transformers holds the experts of a layer as one tensor and saves them apart."""
    import torch
    from safetensors.torch import load_file

    how = msgspec.structs.replace(HOW, method="full", precision="fp32", learning_rate=1e-3)
    model, tokenizer = start(experts, how, "fp32", 0), tokenizer_of(experts)
    fitted = fit(model, tokenizer, TRAIN, VALIDATION, how, tmp_path / "out", seed=0, tell=lambda moment: None)
    trained = {name: weight.clone() for name, weight in model.state_dict().items()}
    base = start(experts, how, "fp32", 0).state_dict()
    fused = [name for name in trained if name.endswith("experts.gate_up_proj")]
    assert len(fused) == 2
    assert all(not torch.equal(trained[name], base[name]) for name in fused)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    load_weights(model, checkpoints.at(tmp_path / "out", fitted.best_step))
    assert all(torch.equal(weight, trained[name]) for name, weight in model.state_dict().items())
    # What goes on is in the form that everybody reads.
    model.save_pretrained(tmp_path / "saved")
    assert any("experts.0.gate_proj" in name for name in load_file(tmp_path / "saved" / "model.safetensors"))


def test_a_checkpoint_that_lacks_weights_is_refused(fit_tiny: FitTiny, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, fitted, _ = fit_tiny(msgspec.structs.replace(HOW, method="full", max_steps=1))
    checkpoint = checkpoints.at(tmp_path / "out", fitted.best_step)
    load_weights(model, checkpoint)
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if name.endswith("mlp.up_proj.weight"))
    save_file({name: weight for name, weight in weights.items() if name != lost}, file)
    with pytest.raises(TrainingFailed, match=lost.replace(".", r"\.")):
        load_weights(model, checkpoint)
