from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from costs import macs, params
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.sweep.drive import ground_of
from plinio_sweep.sweep.stage import Ground, Plan, Stage, run_stage
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.train.loop import Watch, evaluate
from plinio_sweep.train.recipe import Phase, cosine
from tests.studies.tiny import TinyNet, sweep, tiny

PLAN = Plan(stages=(Stage(method=PITSettings(), strength=2.0),), seed=5)


@pytest.fixture
def ground_for(tmp_path: Path) -> Callable[[Sweep], Ground]:
    store = FolderStore(tmp_path)
    return lambda sweep: ground_of(sweep, Settings(folder=tmp_path), store)


# -- keys -----------------------------------------------------------------------------------------


class Wider(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, 3)


def recipe(**changes: Any) -> Sweep:
    return tiny(recipe=replace(sweep.recipe, **changes))


FOR_WARMUP = {
    "net": tiny(net=Wider),
    "loss": tiny(loss=F.multi_margin_loss),
    "metrics": tiny(metrics={"accuracy": lambda outputs, target: 0.5}),
    "warm-up": recipe(warmup=Phase(epochs=2, lr=1e-2)),
    "rate": recipe(warmup=Phase(epochs=1, lr=2e-2)),
    "schedule": recipe(warmup=Phase(epochs=1, lr=1e-2, schedule=cosine)),
    "batch size": recipe(batch_size=16),
}
FOR_PLAN = FOR_WARMUP | {
    "search": recipe(search=replace(sweep.recipe.search, epochs=4)),
    "arch_lr": recipe(search=replace(sweep.recipe.search, arch_lr=0.1)),
    "finetune": recipe(finetune=Phase(epochs=2)),
    "ramp": recipe(ramp=0.1),
    "pressure": tiny(pressure=params),
}
FOR_NOTHING = {
    "name": tiny(name="other"),
    "trials": tiny(trials=99),
    "objectives": tiny(objectives=("macs",)),
    "limits": tiny(limits={"macs": 1e3}),
    "space": tiny(space=replace(sweep.space, orders=("pit>pit",))),
}


def warmup_key(ground: Ground) -> str:
    return ground.warmup_key(0)


def plan_key(ground: Ground) -> str:
    return ground.plan_key(PLAN, 0)


@pytest.mark.parametrize(
    ("key", "other"),
    [pytest.param(warmup_key, s, id=f"warm-up {n}") for n, s in FOR_WARMUP.items()]
    + [pytest.param(plan_key, s, id=f"plan {n}") for n, s in FOR_PLAN.items()],
)
def test_a_key_changes_with_what_changes_the_outcome(
    key: Callable[[Ground], str], other: Sweep, ground_for: Callable[[Sweep], Ground]
) -> None:
    assert key(ground_for(sweep)) != key(ground_for(other))


@pytest.mark.parametrize(
    ("key", "other"),
    [pytest.param(plan_key, s, id=f"plan {n}") for n, s in FOR_NOTHING.items()]
    + [
        pytest.param(warmup_key, s, id=f"warm-up {n}")
        for n, s in (FOR_NOTHING | FOR_PLAN).items()
        if n not in FOR_WARMUP
    ],
)
def test_a_key_stays_with_what_does_not(
    key: Callable[[Ground], str], other: Sweep, ground_for: Callable[[Sweep], Ground]
) -> None:
    assert key(ground_for(sweep)) == key(ground_for(other))


@pytest.mark.parametrize(
    "other",
    [
        Plan(stages=PLAN.stages, seed=6),
        Plan(stages=(), seed=5),
        Plan(stages=2 * PLAN.stages, seed=5),
        Plan(stages=(Stage(method=PITSettings(), strength=2.5),), seed=5),
        Plan(stages=(Stage(method=PITSettings(gate="consumer"), strength=2.0),), seed=5),
    ],
)
def test_a_plan_key_changes_with_the_plan(
    other: Plan, ground_for: Callable[[Sweep], Ground]
) -> None:
    ground = ground_for(sweep)
    assert ground.plan_key(PLAN, 0) == ground.plan_key(replace(PLAN), 0)
    assert ground.plan_key(PLAN, 0) != ground.plan_key(other, 0)
    assert ground.plan_key(PLAN, 0) != ground.plan_key(PLAN, 1)


def test_a_warm_up_may_be_left_out(ground_for: Callable[[Sweep], Ground]) -> None:
    without = ground_for(recipe(warmup=Phase(epochs=0)))
    assert without.warmup_key(0) != ground_for(sweep).warmup_key(0)


def test_another_device_gives_other_keys(ground_for: Callable[[Sweep], Ground]) -> None:
    ground = ground_for(sweep)
    assert warmup_key(ground) != warmup_key(replace(ground, device=torch.device("cuda:0")))


# -- one stage ------------------------------------------------------------------------------------


def stage_of(ground: Ground, net: nn.Module, strength: float = 2.0, **changes: Any) -> Any:
    stage = Stage(method=PITSettings(), strength=strength)
    settings: dict[str, Any] = {"name": "pit", "seed": 3, "step": 0, "watch": Watch()} | changes
    return run_stage(ground, net, stage, **settings)


def test_a_stage_searches_exports_and_fine_tunes(ground_for: Callable[[Sweep], Ground]) -> None:
    ground = ground_for(sweep)
    torch.manual_seed(0)
    net = TinyNet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    outcome = stage_of(ground, net, step=4)
    assert [(e.phase, e.step) for e in outcome.history] == [
        *(("pit.search", 4), ("pit.search", 5), ("pit.search", 6)),
        ("pit.finetune", 7),
    ]
    layer = outcome.layers["first"]
    assert outcome.net.get_submodule("first").weight.shape[:2] == (layer.outputs, layer.inputs)
    assert layer.outputs < layer.seed_outputs == 6
    assert sum(map(len, outcome.decisions["channels"].values())) < 6 + 8
    assert set(outcome.estimate) == set(ground.models)
    score = evaluate(outcome.net, ground.data.part("validation"), ground.task)
    assert score.loss == outcome.history[-1].validation_loss
    # The user's net is not changed.
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training


def test_a_stronger_pressure_leaves_a_smaller_net(ground_for: Callable[[Sweep], Ground]) -> None:
    def kept(strength: float) -> int:
        torch.manual_seed(0)
        outcome = stage_of(ground_for(sweep), TinyNet(), strength)
        return sum(map(len, outcome.decisions["channels"].values()))

    assert kept(1e-6) == 14 > kept(30.0)


def test_the_strength_is_relative_to_loss_and_cost_of_the_seed(
    ground_for: Callable[[Sweep], Ground],
) -> None:
    ground = ground_for(tiny(pressure=macs, recipe=replace(sweep.recipe, ramp=0.0)))
    torch.manual_seed(0)
    net = TinyNet()
    start = evaluate(net, ground.data.part("validation"), ground.task).loss
    history = stage_of(ground, net, strength=3.0).history
    assert history[0].strength == pytest.approx(3.0 * start / 17_512)
