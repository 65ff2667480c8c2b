from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.ship.program import MANTISSA_BITS, MAX_SHIFT, Grid, common_words, rescale, words

FACTORS = st.floats(1e-9, 8e6)


@given(st.lists(FACTORS, min_size=1))
def test_words_are_factors_to_24_bits(factors: list[float]) -> None:
    mantissas, shifts = words(torch.tensor(factors, dtype=torch.float64))
    for factor, mantissa, shift in zip(factors, mantissas.tolist(), shifts.tolist(), strict=True):
        assert 2 ** (MANTISSA_BITS - 1) <= mantissa < 2**MANTISSA_BITS
        assert 1 <= shift <= MAX_SHIFT
        assert abs(mantissa / 2**shift - factor) <= factor * 2.0**-MANTISSA_BITS


def test_a_factor_that_rounds_every_sum_to_zero_is_zero() -> None:
    mantissa, shift = words(torch.tensor([2.0**-40]).double())
    assert (mantissa.item(), shift.item()) == (0, 1)
    assert 2.0**-40 * 2**31 < 0.5


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), 2.0**23])
def test_other_factors_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and below 2\\^23"):
        words(torch.tensor([1.0, factor]))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4).filter(any))
def test_several_factors_share_the_shift_of_the_largest(factors: list[float]) -> None:
    mantissas, shift = common_words(factors)
    assert max(map(abs, mantissas)) <= 2**MANTISSA_BITS
    for factor, mantissa in zip(factors, mantissas, strict=True):
        assert abs(Fraction(mantissa, 2**shift) - Fraction(factor)) <= Fraction(1, 2 ** (shift + 1))


@given(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**MANTISSA_BITS - 1),
    st.integers(1, MAX_SHIFT),
)
def test_rescaling_rounds_to_nearest_with_halves_upwards(a: int, mantissa: int, shift: int) -> None:
    found = rescale(torch.tensor(a), mantissa, shift).item()
    assert found == floor(Fraction(a * mantissa, 2**shift) + Fraction(1, 2))


@pytest.mark.parametrize(
    ("bits", "signed", "low", "high"),
    [(1, False, 0, 1), (8, False, 0, 255), (8, True, -128, 127), (32, True, -(2**31), 2**31 - 1)],
)
def test_codes_of_a_grid(bits: int, signed: bool, low: int, high: int) -> None:
    grid = Grid(scale=1.0, bits=bits, signed=signed)
    assert (grid.low, grid.high) == (low, high)
