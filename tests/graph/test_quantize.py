"""Grids, their codes, and the gradients of rounding, against formulas written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plinio_sweep.graph.quantize import (
    INT32_MAX,
    Learned,
    MinMax,
    activation_codes,
    mix_activation,
    mix_rows,
    round_bias,
    round_rows,
    row_steps,
    step_of,
    weight_step,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
WEIGHTS = torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0]])
few = settings(max_examples=30, deadline=None, derandomize=True, database=None)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mix_spans(rows: Tensor, span: Tensor, weights: Tensor, bits: Sequence[int]) -> Tensor:
    """The mix over ranges, with the steps that follow from them."""
    return mix_rows(rows, row_steps(span, bits), weights, bits)


def at(bits: int, rows: Tensor = WEIGHTS) -> Tensor:
    """`rows` at one bit-width, over their own ranges."""
    span = MinMax().span(rows)
    return mix_spans(rows, span, torch.ones(1, len(rows)).to(rows), [bits])


# -- grids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "codes", "step"),
    [
        pytest.param(2, (-1, -1, 0, 1, 1), 2 / 3, id="2 bit"),
        pytest.param(4, (-7, -4, 0, 4, 7), 2 / 15, id="4 bit as published"),
        pytest.param(8, (-127, -64, 0, 64, 127), 1 / 127.5, id="8 bit as published"),
    ],
)
def test_weights_have_these_codes(bits: int, codes: tuple[int, ...], step: float) -> None:
    torch.testing.assert_close(at(bits)[0], torch.tensor(codes) * step)


@pytest.mark.parametrize("bits", range(2, 9))
def test_b33_weight_codes_are_symmetric_and_stay_in_the_range(bits: int) -> None:
    rounded = at(bits)
    torch.testing.assert_close(rounded, -rounded.flip(1))
    assert rounded.abs().max() <= 1


def test_b33_weights_of_one_bit_have_two_values_and_a_row_of_zeros_none() -> None:
    rows = torch.tensor([[-1.0, 0.2, 0.6, -0.1], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[-0.5, 0.5, 0.5, -0.5], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(at(1, rows), expected)
    span = MinMax().span(rows)
    one = torch.tensor([1, 1])
    torch.testing.assert_close(round_rows(rows, weight_step(span, one), one), expected)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [False, True])
def test_b32_every_code_of_an_activation_is_reached(bits: int, signed: bool) -> None:
    clip = torch.tensor([0.7])
    x = torch.linspace(-2, 2, 4001)
    step = step_of(clip.log(), bits, signed)
    rounded = mix_activation(x, step, torch.ones(1), [bits], signed=signed)
    low, high = activation_codes(bits, signed=signed)
    assert torch.unique((rounded / step).round()).tolist() == list(range(low, high + 1))
    assert rounded.max().item() == pytest.approx(0.7)


@pytest.mark.parametrize("bits", range(2, 7))
def test_every_code_of_a_weight_is_reached(bits: int) -> None:
    rows = torch.linspace(-1, 1, 1001)[None]
    limit = 2 ** (bits - 1) - 1
    codes = (at(bits, rows) * (2**bits - 1) / 2).round()
    assert torch.unique(codes).tolist() == list(range(-limit, limit + 1))


@few
@given(st.lists(st.sampled_from((1, 2, 3, 4, 8)), min_size=1, max_size=6), st.integers(0, 99))
def test_rows_of_several_widths_are_rounded_one_by_one(widths: list[int], seed: int) -> None:
    rows = torch.randn(len(widths), 5, generator=generator(seed))
    span, bits = MinMax().span(rows), torch.tensor(widths)
    together = round_rows(rows, weight_step(span, bits), bits)
    for row, width, rounded in zip(rows, widths, together, strict=True):
        assert torch.equal(at(width, row[None])[0], rounded)


@few
@given(st.integers(2, 8), st.booleans(), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_what_is_rounded_stays_when_rounded_again(
    bits: int, signed: bool, clip: float, seed: int
) -> None:
    x = torch.randn(50, generator=generator(seed)).double() * clip
    step = step_of(torch.tensor([clip]).double().log(), bits, signed)
    one = torch.ones(1).double()
    once = mix_activation(x, step, one, [bits], signed=signed)
    torch.testing.assert_close(mix_activation(once, step, one, [bits], signed=signed), once)
    inside = (x.abs() < clip) & (x > 0)
    assert ((once - x).abs()[inside] <= 0.5000001 * step).all()


# -- activations: values and gradients ------------------------------------------------------------


def plain_mix(
    x: Tensor, steps: Tensor, weights: Tensor, bits: tuple[int, ...], signed: bool
) -> Tensor:
    """The published mix, by autograd: `x` has a slope inside the clip, the step outside of it."""
    parts = []
    for step, weight, width in zip(steps.unbind(), weights.unbind(), bits, strict=True):
        low, high = activation_codes(width, signed=signed)
        scaled = (x * (1 / step)).detach()
        inside = (scaled > low) & (scaled < high)
        line = torch.where(inside, x, x.detach())
        outside = (scaled < low) | (scaled > high)
        edge = torch.where(outside, scaled.clamp(low, high), 0.0).to(x.dtype) * step
        hard = scaled.round().clamp(low, high) * step.detach()
        parts.append(weight * (hard + (line - line.detach()) + (edge - edge.detach())))
    return torch.stack(parts).sum(0)


def run_mix(
    mix: Callable[..., Tensor], dtype: torch.dtype, bits: tuple[int, ...], signed: bool
) -> list[Tensor]:
    """Value and all gradients of `mix`, with items on the edges of the grids among its input."""
    steps = torch.tensor([2 / activation_codes(b, signed=signed)[1] for b in bits]).to(dtype)
    edges = torch.tensor([0.0, 2.0, -2.0, 5.0, -5.0])
    x = torch.cat([1.5 * torch.randn(200, generator=generator()), edges]).to(dtype)
    weights = torch.linspace(0.3, 0.7, len(bits)).to(dtype)
    leaves = [value.requires_grad_() for value in (x, steps, weights)]
    mixed = mix(*leaves, bits, signed)
    slope = torch.randn(len(x), generator=generator(1)).to(dtype)
    return [mixed.detach(), *torch.autograd.grad(mixed, leaves, slope)]


def fused(x: Tensor, steps: Tensor, weights: Tensor, bits: tuple[int, ...], signed: bool) -> Tensor:
    return mix_activation(x, steps, weights, bits, signed=signed)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [(8,), (2, 4, 8)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations_and_all_gradients_are_those_of_the_plain_formula(
    dtype: torch.dtype, bits: tuple[int, ...], signed: bool
) -> None:
    expected = run_mix(plain_mix, dtype, bits, signed)
    loose = {"atol": 0.1, "rtol": 0.02} if dtype == torch.bfloat16 else {}
    for found, value in zip(run_mix(fused, dtype, bits, signed), expected, strict=True):
        torch.testing.assert_close(found, value, **loose)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [(8,), (2, 4, 8)], ids=str)
def test_compiled_activations_are_those_of_eager_ones(bits: tuple[int, ...], signed: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(fused, fullgraph=True, backend="eager")
    expected = run_mix(fused, torch.float32, bits, signed)
    for found, value in zip(run_mix(compiled, torch.float32, bits, signed), expected, strict=True):
        torch.testing.assert_close(found, value)


@pytest.mark.parametrize("weights", [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0)], ids=str)
def test_a_decided_mix_has_the_bits_of_its_one_grid_with_and_without_gradients(
    weights: tuple[float, ...],
) -> None:
    x = torch.randn(500, generator=generator())
    bits, steps = (2, 4, 8), torch.tensor([0.5, 0.11, 0.013])
    chosen = weights.index(1.0)
    alone = mix_activation(
        x, steps[chosen : chosen + 1], torch.ones(1), bits[chosen : chosen + 1], signed=True
    )
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            mixed = mix_activation(x, steps, torch.tensor(weights), bits, signed=True)
        assert torch.equal(mixed, alone)


# -- weights: values and gradients ----------------------------------------------------------------


def plain_rows(rows: Tensor, span: Tensor, weights: Tensor, bits: tuple[int, ...]) -> Tensor:
    """The published mix of untrained ranges, by autograd: the slope of a line everywhere."""
    hard = torch.stack([at(width, rows.detach()) for width in bits])
    return (weights[:, :, None] * (hard + (rows - rows.detach()))).sum(0) + 0 * span[:, None]


def learned_rows(rows: Tensor, span: Tensor, weights: Tensor, bits: tuple[int, ...]) -> Tensor:
    """The mix of learned steps (arXiv 1902.08153, equation 3), with `step = 2 span / (2^b - 1)`."""
    parts = []
    for weight, width in zip(weights, bits, strict=True):
        limit, step = 2 ** (width - 1) - 1, span[:, None] * 2 / (2**width - 1)
        scaled = (rows * (1 / step)).detach()
        code = scaled.round().clamp(-limit, limit)
        inside = scaled.abs() <= limit
        slope = torch.where(inside, code - scaled, code)
        value = code * step.detach() + slope * (step - step.detach())
        line = torch.where(inside, rows, rows.detach())
        parts.append(weight[:, None] * (value + (line - line.detach())))
    return torch.stack(parts).sum(0)


def run_rows(
    mix: Callable[..., Tensor], dtype: torch.dtype, bits: tuple[int, ...], trained: bool
) -> list[Tensor]:
    rows = torch.randn(6, 20, generator=generator()).to(dtype).requires_grad_()
    span = MinMax().span(rows)
    span = (0.7 * span).requires_grad_() if trained else span
    weights = torch.rand(len(bits), 6, generator=generator(1)).to(dtype).requires_grad_()
    mixed = mix(rows, span, weights, bits)
    slope = torch.randn(6, 20, generator=generator(2)).to(dtype)
    leaves = [rows, weights, span] if trained else [rows, weights]
    return [mixed.detach(), *torch.autograd.grad(mixed, leaves, slope)]


@pytest.mark.parametrize("trained", [False, True], ids=["minmax", "learned"])
@pytest.mark.parametrize("bits", [(8,), (2, 4, 8)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_and_all_gradients_are_those_of_the_plain_formula(
    dtype: torch.dtype, bits: tuple[int, ...], trained: bool
) -> None:
    plain = learned_rows if trained else plain_rows
    loose = {"atol": 0.1, "rtol": 0.02} if dtype == torch.bfloat16 else {}
    expected = run_rows(plain, dtype, bits, trained)
    for found, value in zip(run_rows(mix_spans, dtype, bits, trained), expected, strict=True):
        torch.testing.assert_close(found, value, **loose)


@pytest.mark.parametrize("trained", [False, True], ids=["minmax", "learned"])
def test_compiled_weights_are_those_of_eager_ones(trained: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(mix_spans, fullgraph=True, backend="eager")
    expected = run_rows(mix_spans, torch.float32, (1, 2, 8), trained)
    found = run_rows(compiled, torch.float32, (1, 2, 8), trained)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)


def test_a_row_of_zeros_stays_and_has_finite_gradients() -> None:
    rows = torch.zeros(2, 3, requires_grad=True)
    weights = torch.full((3, 2), 1 / 3, requires_grad=True)
    mixed = mix_spans(rows, MinMax().span(rows), weights, (1, 2, 8))
    assert torch.equal(mixed, torch.zeros(2, 3))
    found = torch.autograd.grad(mixed.sum(), [rows, weights])
    assert all(torch.isfinite(gradient).all() for gradient in found)


def test_learned_ranges_start_where_those_of_the_weights_are() -> None:
    rows = torch.randn(4, 9, generator=generator())
    assert torch.equal(Learned().span(rows), MinMax().span(rows))
    assert Learned().trained
    assert not MinMax().trained


# -- biases ---------------------------------------------------------------------------------------


def test_b29_the_gradient_of_a_bias_passes_whole() -> None:
    bias = torch.tensor([0.26, -0.1, 7.0], requires_grad=True)
    slope = torch.tensor([1.0, -2.0, 3.0])
    step = torch.tensor([0.1, 1e-4, 1e-9])
    (gradient,) = torch.autograd.grad(round_bias(bias, step), bias, slope)
    assert torch.equal(gradient, slope)


def test_b29_a_small_scale_does_not_zero_a_bias() -> None:
    bias, step = torch.tensor([1e-2, -3e-3]).double(), torch.tensor([1e-10, 1e-11]).double()
    torch.testing.assert_close(round_bias(bias, step), bias)


@few
@given(st.floats(-1e3, 1e3), st.floats(1e-6, 1.0))
def test_a_bias_is_a_whole_number_of_steps(bias: float, step: float) -> None:
    exact = [torch.tensor([value], dtype=torch.float64) for value in (bias, step)]
    rounded = round_bias(*exact).item()
    assert rounded == pytest.approx(round(rounded / step) * step)
    assert abs(rounded - bias) <= 0.500001 * step


def test_a_bias_has_32_bits() -> None:
    bias, step = torch.tensor([1e9, -1e9]).double(), torch.tensor([0.1, 0.1]).double()
    expected = torch.tensor([INT32_MAX, -INT32_MAX - 1]) * step
    torch.testing.assert_close(round_bias(bias, step), expected)


def test_steps_of_bit_widths_are_those_of_rows() -> None:
    span = torch.tensor([0.5, 2.0, 0.0])
    table = row_steps(span, (1, 2, 8))
    for index, bits in enumerate((1, 2, 8)):
        torch.testing.assert_close(weight_step(span, torch.full((3,), bits)), table[index])
