"""Studies that press on several costs: by targets, and by a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.drift import DriftError
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.path import path_of
from plinio_sweep.sweep.space import LogUniform, Space
from plinio_sweep.sweep.stage import Plan, Stage
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.train.loop import Watch
from plinio_sweep.train.pressure import Budget
from plinio_sweep.train.recipe import Phase
from tests.messages import is_sentence
from tests.studies.tiny import TinyNet, sweep, tiny
from tests.sweep.bench import make_worker, run_stage

BUDGET = Budget(targets={"size_bytes": 900.0, "macs": 9_000.0})  # the seed: 2072 and 17 512
STRONG = Space(strength=LogUniform(low=10.0, high=30.0))
LONGER = replace(sweep.recipe, search=Phase(epochs=5, lr=1e-2, arch_lr=0.1))
PLAN = Plan(stages=(Stage(method=PITSettings(), strength=10.0),), seed=3)


def budgeted(budget: Budget = BUDGET, **changes: Any) -> Sweep:
    return tiny(pressure=budget, space=STRONG, recipe=LONGER, **changes)


def root_of_product(costs: Mapping[str, Tensor]) -> Tensor:
    return (costs["size_bytes"] * costs["macs"]).sqrt()


def test_a_study_under_a_budget_ends_with_nets_that_keep_it(settings: Settings) -> None:
    limits = BUDGET.targets
    first = make_worker(settings, budgeted(limits=limits), target=1)
    first.work()
    alone = first.record().trials
    again = make_worker(settings, budgeted(limits=limits, trials=9), target=3)
    again.work()
    record = again.record()
    assert record.trials[:1] == alone
    assert record.count("complete") == 3
    for trial in record.trials:
        assert BUDGET.kept(trial.costs)
        assert trial.feasible


def test_a_budget_leaves_more_than_the_same_pressure_without_targets(tmp_path: Path) -> None:
    def kept(study: Sweep) -> int:
        settings = Settings(folder=tmp_path)
        ground = ground_of(study, settings, open_store(settings))
        torch.manual_seed(0)
        outcome = run_stage(
            ground, TinyNet(), PLAN.stages[0], name="pit", seed=3, step=0, watch=Watch()
        )
        return sum(map(len, outcome.decisions["channels"].values()))

    assert 14 > kept(budgeted()) > kept(replace(budgeted(), pressure=sweep.pressure))


def test_a_function_of_several_costs_presses_in_a_study(settings: Settings) -> None:
    worker = make_worker(settings, tiny(pressure=root_of_product, space=STRONG), target=1)
    worker.work()
    (trial,) = worker.record().trials
    assert trial.state == "complete"
    assert trial.costs["size_bytes"] < 2072 / 2
    assert trial.costs["macs"] < 17_512 / 2


@pytest.mark.parametrize(
    "other",
    [
        budgeted(Budget(targets={**BUDGET.targets, "macs": 9_001.0})),
        budgeted(Budget(targets={"size_bytes": 900.0})),
        replace(budgeted(), pressure=root_of_product),
        replace(budgeted(), pressure=sweep.pressure),
    ],
    ids=["other target", "fewer targets", "function", "cost"],
)
def test_a_plan_has_another_key_under_another_pressure(other: Sweep, tmp_path: Path) -> None:
    def key(study: Sweep) -> str:
        settings = Settings(folder=tmp_path)
        ground = ground_of(study, settings, open_store(settings))
        return path_of(ground, PLAN, 0)[-1].key

    assert key(budgeted()) == key(budgeted(Budget(targets=dict(BUDGET.targets))))
    assert key(budgeted()) != key(other)


def test_a_target_that_moved_is_drift(settings: Settings) -> None:
    make_worker(settings, budgeted(), target=1).work()
    open_study(budgeted(), settings)
    moved = budgeted(Budget(targets={**BUDGET.targets, "macs": 8_000.0}))
    with pytest.raises(DriftError, match=r"pressure\.targets\.macs: 9000\.0 -> 8000\.0"):
        open_study(moved, settings)
    open_study(moved, settings, accept_drift=True)


def test_costs_with_a_target_are_those_of_the_study() -> None:
    sweep = tiny(pressure=Budget(targets={"gap8_cycles": 1e4}))
    assert "gap8_cycles" in sweep.models
    assert "gap8_cycles" not in tiny().models


def test_a_budget_names_costs_of_the_study() -> None:
    with pytest.raises(ValueError, match=r"`pressure` must have targets.*'latency'") as error:
        tiny(pressure=Budget(targets={"latency": 3.0}))
    assert is_sentence(error.value)
