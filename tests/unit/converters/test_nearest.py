"""Weights in few bits: the nearest grid of each block."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converters.nearest import Grid, nearest

pytestmark = pytest.mark.unit


def restored(grid: Grid) -> Tensor:
    zeros = torch.full_like(grid.scales, 2 ** (grid.bits - 1)) if grid.zeros is None else grid.zeros
    return (grid.values.float() - zeros.float()[..., None]) * grid.scales.float()[..., None]


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_that_came_from_such_a_grid_are_found_again(bits: int) -> None:
    torch.manual_seed(0)
    values = torch.randint(0, 2 ** bits, (16, 4, 32))
    values[..., 0] = 0
    scales = (torch.rand(16, 4, 1) * 0.01 + 0.001).half().float()
    weights = (values - 2 ** (bits - 1)) * scales
    assert torch.equal(restored(nearest(weights, bits)), weights)


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.floats(1e-2, 1e3), shift=st.floats(-3, 3), block=st.sampled_from([16, 32]))
def test_no_grid_is_further_than_rounding_to_the_one_that_holds_the_largest(
    bits: int, seed: int, size: float, shift: float, block: int
) -> None:
    torch.manual_seed(seed)
    weights = (torch.randn(4, 2, block) + shift) * size
    scales = (weights.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)).half().float()
    plain = torch.round(weights / scales) * scales
    found = restored(nearest(weights, bits))
    # The zero is chosen for the tensor, so it is the tensor that is not further.
    assert (found - weights).square().sum() <= (plain - weights).square().sum() * (1 + 1e-5)


def test_blocks_of_one_sign_get_zero_points_and_come_nearer_by_them() -> None:
    torch.manual_seed(0)
    grid = nearest(torch.rand(8, 2, 32) + 1, 4)
    assert grid.zeros is not None
    assert grid.zeros.shape == (8, 2)


def test_zeros_stay_zeros_and_nothing_is_no_number() -> None:
    weights = torch.zeros(2, 2, 32)
    weights[0, 0, 3] = 1e-9
    for bits in (4, 8):
        grid = nearest(weights, bits)
        assert torch.isfinite(grid.scales).all()
        assert restored(grid).abs().max() <= 1e-6
