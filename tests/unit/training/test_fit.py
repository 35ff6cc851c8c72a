"""The decisions of a fit, without torch: the order of examples, when it checks, which checkpoint it goes on with."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from edged.errors import DeviceUnavailable, InvalidRequest
from tests.training_examples import number, numbers
from training.finetune.through_olive import require
from training.fit import checkpoints, history
from training.fit.curve import overfits_from, scale
from training.fit.history import Row
from training.fit.order import order, packs
from training.fit.plan import best, exhausted, plan
from training.fit.precision import Said, choose
from training.fit.totals import over_processes, total
from training.recipe import Finetune, Fit, Preferences

pytestmark = pytest.mark.unit

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 16), st.integers(0, 3), st.integers(0, 3))
def test_every_example_is_seen_once_an_epoch_in_an_order_of_the_seed(
    lengths: list[int], batch_size: int, seed: int, epoch: int,
) -> None:
    seen = order(lengths, batch_size, seed, epoch)
    assert sorted(seen) == list(range(len(lengths)))
    assert seen == order(lengths, batch_size, seed, epoch)


def test_another_epoch_and_another_seed_have_another_order() -> None:
    lengths = list(range(1, 101))
    assert len({tuple(order(lengths, 4, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_batches_hold_examples_of_similar_length() -> None:
    lengths = [number * 37 % 500 + 1 for number in range(512)]

    def padding(seen: Sequence[int]) -> int:
        batches = [[lengths[index] for index in seen[start:start + 8]] for start in range(0, len(seen), 8)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    assert padding(order(lengths, 8, 0, 0)) < padding(range(512)) / 5


@given(LENGTHS, st.integers(1, 500))
def test_packed_rows_hold_every_example_once_and_no_more_than_fits(lengths: list[int], capacity: int) -> None:
    rows = packs(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity for row in rows if len(row) > 1)
    assert all(row == sorted(row, key=lambda index: (-lengths[index], index)) for row in rows)


HOWS = st.builds(Fit, batch_size=st.integers(1, 64), accumulation=st.integers(1, 8), epochs=st.floats(0.1, 5),
                 evaluations=st.integers(1, 40), devices=st.integers(1, 4), max_steps=st.none() | st.integers(1, 300))


@given(st.integers(1, 5000), HOWS)
def test_a_fit_checks_as_often_as_asked_and_at_its_end(rows: int, how: Fit) -> None:
    planned = plan(rows, how)
    checks = [step for step in range(1, planned.steps + 1) if planned.checks(step)]
    assert 1 <= len(checks) <= how.evaluations
    assert checks[-1] == planned.steps
    assert all(planned.logs(step) for step in checks)
    assert planned.steps == how.max_steps or planned.steps == math.ceil(how.epochs * planned.epoch_steps)


def test_max_steps_ends_before_the_epochs_do_and_never_prolongs_them() -> None:
    assert plan(80, Fit(batch_size=8, epochs=2.0)).steps == 20
    assert plan(80, Fit(batch_size=8, epochs=2.0, max_steps=5)).steps == 5
    assert plan(80, Fit(batch_size=8, epochs=2.0, max_steps=500)).steps == 20


def test_patience_counts_evaluations_since_the_best() -> None:
    losses = [3.0, 2.0, 2.5, 2.5, 1.9, 2.0, 2.1]
    assert best(losses) == 4
    assert not exhausted(losses, 3)
    assert exhausted([*losses, 1.9], 3)
    assert not exhausted([*losses, 1.9], 0)
    assert not exhausted([], 1)


def test_over_fitting_begins_where_the_validation_loss_was_least() -> None:
    rows = [Row(step=step, validation_loss=loss) for step, loss in ((10, 2.0), (20, 1.5), (30, 1.6), (40, 1.8))]
    assert overfits_from(rows) == 20
    assert overfits_from(rows[:2]) is None
    assert overfits_from([Row(step=1, loss=1.0)]) is None


def test_the_curve_holds_losses_and_leaves_the_trainers_clock_out() -> None:
    rows = history.rows([
        {"loss": 2.5, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": 0.5, "step": 5, "num_input_tokens_seen": 100,
         "seconds": 2.0, "train_runtime": 9.0, "soft_loss": 0.25},
        {"eval_loss": 2.0, "epoch": 0.5, "step": 5, "num_input_tokens_seen": 100, "seconds": 3.0},
        {"train_runtime": 9.0, "train_loss": 2.5, "step": 5},
    ])
    assert rows == [
        Row(step=5, loss=2.5, grad_norm=1.0, learning_rate=1e-4, tokens=100, seconds=2.0, figures={"soft_loss": 0.25}),
        Row(step=5, validation_loss=2.0, tokens=100, seconds=3.0)]


def test_the_rate_leaves_the_time_of_an_evaluation_out() -> None:
    before = Row(step=1, loss=1.0, tokens=100, seconds=1.0)
    evaluated = Row(step=1, validation_loss=1.0, tokens=100, seconds=11.0)
    after = Row(step=2, loss=1.0, tokens=300, seconds=12.0)
    assert history.rate([before, evaluated, after]) == 200.0
    assert history.rate([before, evaluated]) is None
    assert history.rate([after]) is None


def test_a_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [Row(step=1, loss=1.0), Row(step=1, validation_loss=2.0)]
    history.write(tmp_path, rows)
    assert history.read(tmp_path) == rows
    assert history.read(tmp_path / "elsewhere") == []


def checkpoint(folder: Path, step: int, *, whole: bool) -> Path:
    made = checkpoints.at(folder, step)
    made.mkdir()
    (made / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.0, "step": step}]}))
    if whole:
        checkpoints.mark_whole(made)
    return made


def test_the_newest_whole_checkpoint_is_gone_on_with_and_a_torn_one_goes(tmp_path: Path) -> None:
    checkpoints.begin(tmp_path, "a")
    for step in (9, 10):
        checkpoint(tmp_path, step, whole=True)
    torn = checkpoint(tmp_path, 11, whole=False)
    checkpoints.begin(tmp_path, "a")
    found = checkpoints.newest(tmp_path)
    assert found == checkpoints.at(tmp_path, 10)
    assert checkpoints.step_of(found) == 10
    assert checkpoints.log_of(found) == [{"loss": 1.0, "step": 10}]
    assert not torn.exists()


def test_checkpoints_of_another_fit_go(tmp_path: Path) -> None:
    checkpoints.begin(tmp_path, "a")
    checkpoint(tmp_path, 10, whole=True)
    checkpoints.begin(tmp_path, "b")
    assert checkpoints.newest(tmp_path) is None
    checkpoint(tmp_path, 5, whole=True)
    checkpoints.begin(tmp_path, "b")
    assert checkpoints.newest(tmp_path) == checkpoints.at(tmp_path, 5)


def test_only_the_kept_checkpoints_stay(tmp_path: Path) -> None:
    checkpoints.begin(tmp_path, "a")
    for step in (1, 2, 3):
        checkpoint(tmp_path, step, whole=True)
    checkpoints.keep(tmp_path, {1, 3})
    assert [checkpoints.at(tmp_path, step).exists() for step in (1, 2, 3)] == [True, False, True]


AVX2, AVX512, AMX, ARM = {"avx2"}, {"avx2", "avx512_bf16"}, {"amx_bf16"}, {"asimddp", "bf16"}


@pytest.mark.parametrize(("said", "device", "features", "gpu_bf16", "chosen"), [
    ("auto", "cpu", AVX2, False, "fp32"), ("auto", "cpu", AVX512, False, "fp32"), ("bf16", "cpu", AMX, False, "bf16"),
    ("bf16", "cpu", AVX512, False, "bf16"), ("bf16", "cpu", ARM, False, "bf16"), ("fp32", "cpu", AVX512, False, "fp32"),
    ("auto", "cuda", AVX2, True, "bf16"), ("auto", "cuda", AVX512, False, "fp16"), ("fp16", "cuda", AVX2, True, "fp16"),
    ("auto", "mps", ARM, False, "fp32"),
])
def test_the_precision_is_what_the_device_does_well(
    said: Said, device: str, features: set[str], gpu_bf16: bool, chosen: str,
) -> None:
    assert choose(said, device, features=features, gpu_bf16=gpu_bf16) == chosen


@pytest.mark.parametrize(("said", "device", "features", "reason"), [
    ("bf16", "cpu", AVX2, "many times slower"), ("fp16", "cpu", AVX512, "needs a GPU"),
    ("bf16", "cuda", AVX512, "no bf16"), ("fp16", "mps", ARM, "not proved on mps"),
])
def test_a_precision_that_the_device_cannot_compute_is_refused_with_the_reason(
    said: Said, device: str, features: set[str], reason: str,
) -> None:
    with pytest.raises(DeviceUnavailable, match=reason):
        choose(said, device, features=features, gpu_bf16=False)


class OnMps:
    """A tensor of 32-bit numbers on Apple's GPU, as far as sums go."""

    def __init__(self, values: list[float], device: str = "mps") -> None:
        self.values, self.device = values, device

    def cpu(self) -> OnMps:
        return OnMps(self.values, "cpu")

    def to(self, device: str) -> OnMps:
        if device == "mps":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return OnMps(self.values, device)

    def double(self) -> OnMps:
        return self.to(self.device)

    def sum(self) -> float:
        return sum(self.values)


class Accelerator:
    def __init__(self, processes: int, device: str) -> None:
        self.num_processes, self.device = processes, device

    def reduce(self, own: OnMps, reduction: str) -> OnMps:
        assert (own.device, reduction) == (self.device, "sum")
        return OnMps([value * self.num_processes for value in own.values], own.device)


def test_losses_are_summed_in_64_bits_where_the_device_has_none() -> None:
    assert total(OnMps([1.5, 2.0])) == 3.5
    own = OnMps([3.5, 2.0], "cpu")
    assert over_processes(own, Accelerator(1, "mps")).values == [3.5, 2.0]
    assert over_processes(own, Accelerator(2, "cuda")).values == [7.0, 4.0]


def test_the_stage_is_known_without_torch() -> None:
    code = ("import sys, training.finetune.stage, training.fit.fit\n"
            "print(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets', 'matplotlib'} & set(sys.modules)))")
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


@pytest.mark.parametrize(("how", "named"), [
    (Finetune(method="full"), 'method = "full"'), (Finetune(method="qlora"), 'method = "qlora"'),
    (Finetune(packing=True), "packing"), (Finetune(devices=2), "devices above 1"),
    (Finetune(preferences=Preferences()), "preferences"),
])
def test_olive_is_refused_what_it_cannot_do(how: Finetune, named: str) -> None:
    with pytest.raises(InvalidRequest, match=f'cannot be had with {named}.*say through = "trl"'):
        require(how, numbers(0, 2))


def test_olive_is_refused_examples_that_count_differently() -> None:
    with pytest.raises(InvalidRequest, match="weights of examples"):
        require(Finetune(), [number(0), number(1, weight=2.0)])


@pytest.mark.parametrize(("losses", "kind"), [([2.5, 0.9, 0.3], "linear"), ([2.5, 0.08, 0.006], "log"),
                                              ([2.5, 0.1, 0.0], "linear"), ([], "linear")])
def test_losses_that_fall_far_are_drawn_on_an_axis_that_shows_the_end(losses: list[float], kind: str) -> None:
    axes = Figure().subplots()
    scale(axes, losses)
    assert axes.get_yscale() == kind
