from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from costs import CostModel, macs, params, size_bits
from plinio_sweep.methods.pit import PIT
from plinio_sweep.methods.search import Costs
from plinio_sweep.train.pressure import Budget, Pressure
from tests.messages import is_sentence

COSTS: dict[str, CostModel] = {"params": params, "macs": macs}
PARAMS, MACS = 4 * 6 + 6 + 6 * 2 + 2, 4 * 6 + 6 * 2
untimed = settings(deadline=None, derandomize=True, database=None)
positive = st.floats(1e-3, 1e3)


def searched(cost: Costs = COSTS) -> PIT:
    torch.manual_seed(0)
    return PIT(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), cost, input_shape=(4,))


@torch.no_grad()
def shrink(model: PIT, live: int) -> None:
    """Closes all but `live` of the six channels."""
    model.decisions["channels"].copy_((torch.arange(6) < live).float())


def pressure(source: Any = "params", strength: float = 2.0, loss: float = 0.5) -> Pressure:
    return Pressure.on(searched(), source, strength=strength, loss=loss)


def product(costs: Mapping[str, Tensor]) -> Tensor:
    return costs["params"] * costs["macs"].sqrt()


def slope(term: Tensor, model: PIT) -> Tensor:
    (found,) = torch.autograd.grad(term, [model.decisions["channels"]])
    return found


# -- one cost ---------------------------------------------------------------------------------


def test_full_strength_weighs_the_seed_cost_like_the_seed_loss() -> None:
    assert pressure(strength=2.0)(searched()).item() == pytest.approx(2 * 0.5)


@untimed
@given(strength=positive, loss=positive)
def test_strength_is_relative_to_the_units_of_loss_and_cost(strength: float, loss: float) -> None:
    model = searched({"params": params, "bits": size_bits})
    left, right = (
        Pressure.on(model, name, strength=strength, loss=loss) for name in ("params", "bits")
    )
    assert left.full == pytest.approx(32 * right.full)
    assert (
        left(model).item() == pytest.approx(right(model).item()) == pytest.approx(strength * loss)
    )


def test_a_negative_loss_presses_down_all_the_same() -> None:
    assert pressure(loss=-0.5).full == pressure(loss=0.5).full > 0


@pytest.mark.parametrize("cost", [params, {"params": params}, COSTS], ids=["one", "dict", "two"])
@pytest.mark.parametrize("source", [params, "params"], ids=["model", "name"])
def test_b47_one_cost_works_like_several(cost: Any, source: Any) -> None:
    model = searched(cost)
    term = Pressure.on(model, source, strength=1.0, loss=3.0)(model)
    assert term.item() == pytest.approx(3.0)
    assert (slope(term, model) > 0).any()


# -- the ramp ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "share"), [(0.0, 0.0), (0.1, 0.25), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)]
)
def test_the_rise_is_linear_and_then_over(fraction: float, share: float) -> None:
    model = searched()
    rising = Pressure.on(model, params, strength=2.0, loss=0.5, ramp=0.4)
    assert rising.at(fraction) == pytest.approx(share * rising.full)
    assert rising(model, fraction).item() == pytest.approx(share * rising(model).item())


def test_without_a_ramp_the_first_epoch_has_full_pressure() -> None:
    assert pressure().at(0.0) == pressure().full


@untimed
@given(st.floats(0, 0.99), st.floats(0, 1), st.floats(0, 1))
def test_pressure_never_falls(ramp: float, one: float, other: float) -> None:
    rising = Pressure(term=product, full=3.0, ramp=ramp)
    assert rising.at(min(one, other)) <= rising.at(max(one, other)) * (1 + 1e-12)


# -- a function of several costs --------------------------------------------------------------


def test_any_function_of_several_costs_presses_on_the_relative_scale() -> None:
    model, pressing = searched(), pressure(product, strength=2.0, loss=0.5)
    term = pressing(model)
    assert term.item() == pytest.approx(1.0)
    expected = pressing.full * product({n: model.get_cost(n) for n in COSTS})
    torch.testing.assert_close(slope(term, model), slope(expected, model))


def test_a_function_may_walk_over_all_costs() -> None:
    model = searched()
    pressing = pressure(lambda costs: sum(c for c in costs.values()) * len(costs), strength=1.0)
    assert pressing.full == pytest.approx(0.5 / (2 * (PARAMS + MACS)))
    assert pressing(model).item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("latency", ValueError, r"`name` must be among \['params', 'macs'\].*name='latency'"),
        (lambda costs: costs["latency"], ValueError, "`name` must be among"),
        (lambda costs: 3.0, TypeError, "0-dim tensor of the costs, but gave float"),
        (lambda costs: costs["macs"].expand(2), TypeError, r"but gave \(2,\)"),
        (lambda costs: torch.relu(costs["macs"] - 1e9), ValueError, "above 0.*but is 0.0"),
        (lambda costs: costs["macs"] / 0, ValueError, "finite.*but is inf"),
        (Budget(targets={"latency": 3.0}), ValueError, "`name` must be among"),
    ],
)
def test_what_cannot_press_is_refused(source: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as error:
        pressure(source)
    assert is_sentence(str(error.value))


# -- budgets ----------------------------------------------------------------------------------


def test_a_budget_presses_like_its_costs_where_targets_are_missed() -> None:
    model = searched()
    budget = Budget(targets={"params": 0.5 * PARAMS, "macs": 0.25 * MACS})
    pressing = Pressure.on(model, budget, strength=2.0, loss=0.5)
    assert pressing(model).item() == pytest.approx(2.0 * 0.5 * (0.5 + 0.75))
    single = sum(Pressure.on(model, n, strength=2.0, loss=0.5)(model) for n in COSTS)
    torch.testing.assert_close(slope(pressing(model), model), slope(single, model))


def test_a_kept_target_does_not_press() -> None:
    model = searched()
    budget = Budget(targets={"params": PARAMS - 1, "macs": 2 * MACS})
    pressing = Pressure.on(model, budget, strength=1.0, loss=1.0)
    only = Pressure.on(model, Budget(targets={"params": PARAMS - 1}), strength=1.0, loss=1.0)
    assert pressing(model) == only(model) > 0
    shrink(model, live=5)
    assert pressing(model) == 0
    assert not slope(pressing(model), model).any()


def test_half_closed_masks_keep_no_target() -> None:
    model = searched()
    pressing = Pressure.on(model, Budget(targets={"macs": 0.8 * MACS}), strength=1.0, loss=1.0)
    with torch.no_grad():
        model.decisions["channels"].fill_(0.6)
    assert model.get_cost("macs") < 0.8 * MACS < model.get_cost("macs", hard=True)
    assert pressing(model).item() == pytest.approx(0.2)
    assert slope(pressing(model), model).any()


@pytest.mark.parametrize("start", [2, 3, 4], ids=["below", "equal", "above"])
def test_b37_a_target_is_enforced_wherever_its_cost_starts(start: int) -> None:
    model = searched({"macs": macs})
    target = 3 * MACS / 6
    shrink(model, live=start)
    first = model.get_cost("macs").item()
    pressing = Pressure.on(model, Budget(targets={"macs": target}), strength=3.0, loss=0.5)
    assert math.isfinite(pressing.full)
    assert slope(pressing(model), model).isfinite().all()
    assert (pressing(model) > 0) == (start > 3)
    shrink(model, live=5)  # the task made it rise
    expected = 3.0 * 0.5 * (5 * MACS / 6 - target) / max(first, target)
    assert pressing(model).item() == pytest.approx(expected)
    assert slope(pressing(model), model).any()


def test_gradient_descent_ends_at_the_first_net_within_the_budget() -> None:
    model = searched()
    with torch.no_grad():
        model.decisions["channels"].copy_(torch.linspace(0.8, 1.0, 6))
    budget = Budget(targets={"params": 0.7 * PARAMS, "macs": 0.6 * MACS})
    pressing = Pressure.on(model, budget, strength=1.0, loss=1.0)
    optimizer = torch.optim.SGD(model.nas_parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        pressing(model).backward()
        optimizer.step()
    assert model.get_cost("macs", hard=True).item() == 3 * MACS / 6
    assert budget.kept({name: model.get_cost(name, hard=True).item() for name in COSTS})


@untimed
@given(
    costs=st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)),
    targets=st.tuples(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9)),
)
def test_a_budget_is_finite_and_zero_only_where_it_is_kept(
    costs: tuple[float, float], targets: tuple[float, float]
) -> None:
    budget = Budget(targets=dict(zip("ab", targets, strict=True)))
    model = searched({"a": params, "b": macs})
    pressing = Pressure.on(model, budget, strength=1.0, loss=1.0)
    known = dict(zip("ab", costs, strict=True))
    missed, total = pressing.rank(0.25, known)
    assert math.isfinite(total)
    assert missed == (not budget.kept(known))
    assert (total == 0.25) or missed


@pytest.mark.parametrize("targets", [{}, {"macs": 0.0}, {"macs": -1.0}, {"macs": math.inf}])
def test_targets_that_no_net_can_keep_are_refused(targets: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="`targets") as error:
        Budget(targets=targets)
    assert is_sentence(str(error.value))


def test_nets_that_keep_the_budget_rank_before_all_others() -> None:
    pressing = pressure(Budget(targets={"params": 20.0}), strength=1.0, loss=1.0)
    ranked = [
        pressing.rank(0.3, {"params": 20.0}),
        pressing.rank(0.9, {"params": 3.0}),
        pressing.rank(0.3, {"params": 21.0}),
        pressing.rank(0.1, {"params": 40.0}),
    ]
    assert ranked == sorted(ranked)
