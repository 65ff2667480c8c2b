from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from costs import ste

# Each estimator with its hard form, written on floats, and its slope.
ESTIMATORS: dict[
    str, tuple[Callable[[float | Tensor], float | Tensor], Callable[[float], float], float]
] = {
    "round": (ste.round_, lambda x: float(round(x)), 1.0),
    "floor": (ste.floor, lambda x: float(math.floor(x)), 1.0),
    "ceil": (ste.ceil, lambda x: float(math.ceil(x)), 1.0),
    "ceil_div": (lambda x: ste.ceil_div(x, 16), lambda x: float(math.ceil(x / 16)), 1 / 16),
    "threshold": (ste.threshold, lambda x: 1.0 if x > 0.5 else 0.0, 1.0),
    "threshold_at_zero": (lambda x: ste.threshold(x, 0), lambda x: 1.0 if x > 0 else 0.0, 1.0),
    "clamp_max": (lambda x: ste.clamp_max(x, 1), lambda x: min(x, 1.0), 1.0),
}
numbers = st.one_of(
    st.floats(-1e6, 1e6, allow_nan=False),
    st.integers(-1000, 1000).map(lambda half: half / 2),  # ties and thresholds
)
every_estimator = pytest.mark.parametrize("name", list(ESTIMATORS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_portions_are_whole_for_every_number_of_half_precision(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    assert len(every) > 60_000
    torch.testing.assert_close(ste.ceil(every), every.ceil(), rtol=0, atol=0)


@every_estimator
@settings(deadline=None)
@given(x=numbers)
def test_the_value_is_exactly_the_hard_one(name: str, x: float) -> None:
    estimator, hard, _ = ESTIMATORS[name]
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    assert torch.as_tensor(estimator(tensor)).item() == hard(x)


@every_estimator
@settings(deadline=None)
@given(x=numbers)
def test_a_float_gives_the_float_a_tensor_holds(name: str, x: float) -> None:
    estimator, hard, _ = ESTIMATORS[name]
    value = estimator(x)
    assert isinstance(value, float)
    assert value == hard(x)


@every_estimator
@settings(deadline=None)
@given(x=numbers)
def test_the_slope_is_that_of_the_line_everywhere(name: str, x: float) -> None:
    estimator, _, slope = ESTIMATORS[name]
    tensor = torch.tensor([x, x + 1], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([1.0, 3.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(torch.as_tensor(estimator(tensor)), tensor, upstream)
    assert gradient.tolist() == [slope, 3 * slope]


@every_estimator
def test_dtype_and_shape_are_kept_and_the_argument_is_not_changed(name: str) -> None:
    estimator, _, _ = ESTIMATORS[name]
    for dtype in (torch.float32, torch.float64):
        x = torch.linspace(-20, 20, 12, dtype=dtype).reshape(3, 4)
        before = x.clone()
        y = torch.as_tensor(estimator(x))
        assert (y.dtype, y.shape) == (dtype, x.shape)
        assert torch.equal(x, before)


@every_estimator
def test_slopes_pass_through_vmap(name: str) -> None:
    estimator, _, slope = ESTIMATORS[name]
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    slopes = torch.func.vmap(torch.func.grad(lambda t: torch.as_tensor(estimator(t))))(x)
    assert torch.equal(slopes, torch.full_like(x, slope))


@settings(deadline=None)
@given(x=st.integers(0, 2**20), n=st.integers(1, 512))
def test_whole_portions_are_counted_without_rounding_errors_in_single_precision(
    x: int, n: int
) -> None:
    assert ste.ceil_div(torch.tensor(float(x)), n).item() == -(-x // n)


def test_values_far_from_the_line_are_not_a_rounding_error_away() -> None:
    # Where soft and hard lie far apart, `soft + (hard - soft).detach()` is often not `hard`.
    x = torch.linspace(1, 1e4, 10_000, requires_grad=True)
    assert torch.equal(ste.clamp_max(x, 0.3), torch.full((10_000,), 0.3))


@pytest.mark.parametrize("n", [0, -4, math.nan])
def test_a_portion_of_no_size_is_refused(n: float) -> None:
    with pytest.raises(ValueError, match="`n` must be above 0"):
        ste.ceil_div(3.0, n)
