from __future__ import annotations

import math
from typing import Any

import optuna
import pytest

from costs import COUNTS, cost, peak_activation_bytes
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.sweep.result import Objective
from plinio_sweep.sweep.space import Space
from plinio_sweep.sweep.stage import Stage
from plinio_sweep.sweep.study import tpe
from tests.messages import is_sentence
from tests.studies.tiny import tiny


@cost(unit="cycle")
def my_cycles(layer: Any) -> Any:
    return layer.cin * layer.cout


def test_objectives_become_axes_with_sense_kind_and_unit() -> None:
    sweep = tiny(objectives=("-accuracy", "my_cycles", "-macs"), costs=(my_cycles,))
    assert sweep.axes == (
        Objective(name="accuracy", maximize=True, kind="metric"),
        Objective(name="my_cycles", maximize=False, kind="cost", unit="cycle"),
        Objective(name="macs", maximize=True, kind="cost", unit="MAC"),
    )
    assert [axis.direction for axis in sweep.axes] == ["maximize", "minimize", "maximize"]


def test_own_costs_stand_beside_the_built_in_ones() -> None:
    assert tiny(costs=(my_cycles,)).models == {**COUNTS, "my_cycles": my_cycles}
    assert tiny(pressure=my_cycles).models["my_cycles"] is my_cycles


def test_a_built_in_cost_that_is_named_is_a_cost_of_the_study() -> None:
    study = tiny(limits={"peak_activation_bytes": 5_000})
    assert study.models["peak_activation_bytes"] is peak_activation_bytes
    axes = tiny(objectives=("-accuracy", "bit_ops")).axes
    assert (axes[1].name, axes[1].unit) == ("bit_ops", "bit operation")


def test_any_number_of_limits_on_metrics_and_costs() -> None:
    limits = {"size_bytes": 1e3, "macs": 1e4, "-accuracy": -0.5, "accuracy": 0.9}
    assert tiny(limits=limits).limits == limits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "`name` must be made of letters, digits.* but got ''"),
        ({"name": "a/b"}, "but got 'a/b'"),
        ({"trials": 0}, "`trials` must be at least 1, but got 0"),
        ({"objectives": ()}, r"`objectives` must name each axis once, but got \(\)"),
        ({"objectives": ("-accuracy", "accuracy")}, "must name each axis once"),
        ({"objectives": ("-acuracy",)}, r"among \['accuracy', 'params'.*but got 'acuracy'"),
        ({"limits": {"latency": 1.0}}, "`limits` must name metrics and costs.*got 'latency'"),
        ({"limits": {"macs": math.inf}}, r"`limits\['macs'\]` must be finite, but got inf"),
        ({"limits": {"macs": 0.0}}, r"`limits\['macs'\]` must be above 0, but got 0.0"),
        (
            {"limits": {"macs": 10.0, "-macs": -20.0}},
            "must leave something, but ask for macs <= 10.0 and macs >= 20.0",
        ),
    ],
)
def test_a_sweep_checks_its_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        tiny(**changes)
    assert is_sentence(error.value)
    assert ";" in str(error.value)


def test_the_number_of_trials_is_no_part_of_the_definition() -> None:
    assert tiny(trials=5).definition() == tiny(trials=500).definition()
    assert "record" not in tiny().definition()


def test_a_study_from_before_plans_had_given_stages_is_still_the_same() -> None:
    assert "first" not in tiny().definition()["space"]
    given = (Stage(method=PITSettings(), strength=1e-5, relative=False),)
    later = tiny(space=Space(orders=("pit>pit",), first=given)).definition()
    assert later["space"]["first"][0]["strength"] == 1e-5


def test_the_default_sampler_is_tpe_with_its_defaults() -> None:
    sampler = tpe(3)
    assert type(sampler) is optuna.samplers.TPESampler
    other = optuna.samplers.TPESampler(seed=3)
    assert {k: type(v) for k, v in vars(sampler).items()} == {
        k: type(v) for k, v in vars(other).items()
    }
