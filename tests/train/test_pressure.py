from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.train.pressure import Pressure

positive = st.floats(1e-3, 1e3)


def pressure(
    strength: float = 2.0, loss: float = 0.5, seed_cost: float = 100.0, ramp: float = 0.5
) -> Pressure:
    return Pressure(cost="params", strength=strength, loss=loss, seed_cost=seed_cost, ramp=ramp)


def test_full_strength_weighs_the_seed_cost_like_the_seed_loss() -> None:
    assert pressure(strength=2.0).full * 100.0 == pytest.approx(2 * 0.5)


@given(positive, positive, positive)
def test_strength_is_relative_to_the_units_of_loss_and_cost(
    strength: float, loss: float, unit: float
) -> None:
    one, other = pressure(strength, loss, 10.0), pressure(strength, loss, 10.0 * unit)
    assert one.full * 10.0 == pytest.approx(other.full * 10.0 * unit)


def test_a_negative_loss_presses_down_all_the_same() -> None:
    assert pressure(loss=-0.5).full == pressure(loss=0.5).full > 0


@pytest.mark.parametrize(
    ("fraction", "share"), [(0.0, 0.0), (0.1, 0.25), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)]
)
def test_the_rise_is_linear_and_then_over(fraction: float, share: float) -> None:
    rising = pressure(ramp=0.4)
    assert rising.at(fraction) == pytest.approx(share * rising.full)


def test_without_a_ramp_the_first_epoch_has_full_pressure() -> None:
    assert pressure(ramp=0.0).at(0.0) == pressure().full


@given(st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_pressure_never_falls(ramp: float, one: float, other: float) -> None:
    rising = pressure(ramp=ramp)
    assert rising.at(min(one, other)) <= rising.at(max(one, other)) * (1 + 1e-12)
