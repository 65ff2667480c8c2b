"""Relaxed choices and what makes them decided. Shapes: `M` candidates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plinio_sweep.methods.relax import discrete, entropy, icv, relax, straight_through
from plinio_sweep.methods.supernet import SuperNet, SuperNetModule

untimed = settings(deadline=None, derandomize=True, database=None)
logits = st.lists(st.floats(-5, 5), min_size=2, max_size=6).map(torch.tensor)


def blocks(count: int) -> SuperNet:
    """A search over two choices of `count` branches each."""
    torch.manual_seed(0)
    made = [SuperNetModule([nn.Linear(4, 4) for _ in range(count)]) for _ in range(2)]
    return SuperNet(nn.Sequential(*made), input_shape=(4,), sampling="softmax")


@untimed
@given(logits, st.floats(0.05, 5))
def test_relaxed_weights_sum_to_one_and_agree_with_the_discrete_choice(
    values: torch.Tensor, temperature: float
) -> None:
    weights = relax(values, temperature)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert weights[discrete(values).argmax()] == weights.max()
    assert torch.equal(straight_through(weights), discrete(weights))


@pytest.mark.parametrize("count", [2, 4, 5])
def test_icv_of_open_choices_is_that_of_plinio(count: int) -> None:
    model = blocks(count)
    for eps in (1e-3, 1e-2):
        expected = 2 * (1 / count) ** 2 / eps
        assert icv(model.theta(), eps).item() == pytest.approx(expected, rel=1e-4)
    assert icv(model.theta()).item() == pytest.approx(2 * (1 / count) ** 2 / 1e-3, rel=1e-4)


@untimed
@given(logits)
def test_icv_is_mean_over_spread(values: torch.Tensor) -> None:
    theta = relax(values.double(), 1.0)
    numbers = theta.tolist()
    mean = sum(numbers) / len(numbers)
    variance = sum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1)
    expected = mean**2 / (variance + 1e-3)
    assert icv({"one": theta}).item() == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 4, 5])
def test_entropy_of_open_choices_is_the_logarithm_of_their_number(count: int) -> None:
    assert entropy(blocks(count).theta()).item() == pytest.approx(2 * math.log(count))


def test_a_decided_choice_has_no_entropy_and_finite_slopes() -> None:
    weights = torch.tensor([0.0, 1.0, 0.0], requires_grad=True)
    for measure in (entropy, icv):
        (slope,) = torch.autograd.grad(measure({"one": weights}), [weights])
        assert slope.isfinite().all()
    assert entropy({"one": weights}) == 0


@pytest.mark.parametrize("measure", [entropy, icv])
def test_a_net_without_choices_has_nothing_to_decide(measure: object) -> None:
    assert callable(measure)
    assert measure({}) == 0


@pytest.mark.parametrize(("measure", "weight"), [(entropy, 1.0), (icv, 10.0)])
def test_in_a_loss_they_decide_every_choice(measure: object, weight: float) -> None:
    assert callable(measure)
    model = blocks(4)
    with torch.no_grad():
        for decision in model.nas_parameters():
            decision[2] = 0.1
    optimizer = torch.optim.Adam(model.nas_parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (model(torch.ones(2, 4)).square().mean() + weight * measure(model.theta())).backward()
        optimizer.step()
    for weights in model.theta().values():
        assert weights.max() > 0.8  # 0.27 at the start
