"""Trials of a real model: what it gives on the processor is proved right by another way to compute it there, and a
device that is not here is refused by the engine itself."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from edged.daemon.process import TRIAL_COMMAND
from edged.daemon.trials import run_trial
from edged.errors import DeviceUnavailable
from edged.hardware.selftest import SAME_FORM, compare, sensible
from edged.ipc.trials import Trial, TrialResult
from edged.types import LoadSpec

pytestmark = pytest.mark.real


async def tried(spec: LoadSpec, *, seconds: float = 0.0, **options: Any) -> TrialResult:
    trial = Trial(spec=replace(spec, options=options), seconds=seconds, logits=True)
    return await run_trial(trial, TRIAL_COMMAND, timeout_s=120)


async def test_two_right_ways_to_compute_a_model_pass_the_self_test(smollm2: LoadSpec) -> None:
    """Keys in 8 bits with flash attention, against 16 bits without: other kernels, other rounding."""
    one = await tried(smollm2, seconds=0.2)
    other = await tried(smollm2, key_type="f16", flash_attention=False)
    verdict = compare(other.positions, one.positions, SAME_FORM, name="the other way")
    assert verdict.passed, verdict.reason
    assert verdict.positions > 60
    assert 0 < verdict.mean_difference < SAME_FORM.mean_difference / 2
    assert (one.device, other.device) == ("cpu", "cpu")
    assert sensible(one.text_logprob, one.vocabulary, name="cpu").passed
    assert one.speed is not None
    assert one.speed.prefill > one.speed.decode > 0
    assert one.speed.decode_many > one.speed.decode


@pytest.mark.parametrize("engine", ["smollm2", "tiny_onnx", "tiny_genai"])
async def test_an_engine_refuses_a_device_that_is_not_here(engine: str, request: pytest.FixtureRequest) -> None:
    spec: LoadSpec = request.getfixturevalue(engine)
    with pytest.raises(DeviceUnavailable, match="cuda"):
        await tried(replace(spec, provider="cuda"))


async def test_plain_sessions_and_genai_give_the_same_numbers(tiny_onnx: LoadSpec, tiny_genai: LoadSpec) -> None:
    one, other = await tried(tiny_onnx), await tried(tiny_genai)
    # One gives logits of every position, the other of the last ones only.
    assert len(other.positions) <= len(one.positions)
    verdict = compare(other.positions, one.positions, SAME_FORM, name="genai")
    assert verdict.passed, verdict.reason
    assert verdict.max_difference < 0.01
