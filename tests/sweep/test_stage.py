from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from costs import LayerSpec, Scalar, cost, macs, params
from plinio_sweep import Splits
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.path import path_of
from plinio_sweep.sweep.stage import Ground, Plan, Stage
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.train.loop import Watch, evaluate
from plinio_sweep.train.pressure import Budget
from plinio_sweep.train.recipe import Phase, cosine
from tests.studies.tiny import TinyNet, bars, sweep, tiny
from tests.sweep.bench import run_stage

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


def data(changed: str = "") -> Splits:
    """The bars by another function, with one number of one part changed."""
    found = bars()
    parts = {name: found.part(name) for name in ("train", "validation", "test")}
    if changed:
        parts[changed].inputs[0][3, 0, 2, 2] += 1e-3
    return found


@cost(unit="thing")
def own_cost(layer: LayerSpec) -> Scalar:
    return layer.cout


FOR_WARMUP = {
    "training data": tiny(data=lambda: data("train")),
    "validation data": tiny(data=lambda: data("validation")),
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
    "temperature": recipe(temperature=(2.0, 0.5)),
    "pressure": tiny(pressure=params),
}
FOR_EVALUATION = {
    "reported cost": tiny(objectives=("mpic_cycles",)),
    "own cost": tiny(costs=(own_cost,)),
}
FOR_NOTHING = {
    "loader": tiny(data=lambda: data()),
    "test data": tiny(data=lambda: data("test")),
    "seed of the sampler": tiny(seed=9),
    "name": tiny(name="other"),
    "trials": tiny(trials=99),
    "objectives": tiny(objectives=("macs",)),
    "limits": tiny(limits={"macs": 1e3}),
    "space": tiny(space=replace(sweep.space, orders=("pit>pit",))),
}


def warmup_key(ground: Ground) -> str:
    return path_of(ground, PLAN, 0)[0].key


def plan_key(ground: Ground) -> str:
    return path_of(ground, PLAN, 0)[-1].key


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


def search_key(ground: Ground) -> str:
    return path_of(ground, PLAN, 0)[1].key


def finetune_key(ground: Ground) -> str:
    return path_of(ground, PLAN, 0)[2].key


@pytest.mark.parametrize("name", FOR_EVALUATION)
def test_a_cost_that_is_only_reported_changes_the_evaluation_alone(
    name: str, ground_for: Callable[[Sweep], Ground]
) -> None:
    ours, theirs = ground_for(sweep), ground_for(FOR_EVALUATION[name])
    assert plan_key(ours) != plan_key(theirs)
    assert finetune_key(ours) == finetune_key(theirs)


def test_a_later_stage_changes_no_key_before_it(ground_for: Callable[[Sweep], Ground]) -> None:
    ground = ground_for(sweep)
    assert search_key(ground) == search_key(ground_for(recipe(finetune=Phase(epochs=2))))
    assert finetune_key(ground) != finetune_key(ground_for(recipe(finetune=Phase(epochs=2))))
    one, two = (Stage(method=PITSettings(), strength=s) for s in (2.0, 0.3))
    alone = path_of(ground, Plan(stages=(one,), seed=5), 0)
    chain = path_of(ground, Plan(stages=(one, two), seed=5), 0)
    assert alone[:3] == chain[:3]
    assert alone[-1].key != chain[-1].key
    # The same stage at another place is another node, with a seed of its own.
    other = path_of(ground, Plan(stages=(two, one), seed=5), 0)
    assert not {n.key for n in chain[1:]} & {n.key for n in other[1:]}
    assert len({n.seed for n in (*chain[1:5], *other[1:5])}) == 8


def test_the_pressed_cost_alone_is_in_the_key_of_a_search(
    ground_for: Callable[[Sweep], Ground],
) -> None:
    budget = Budget(targets={"macs": 9e3})
    pressed, also = tiny(pressure=budget), tiny(pressure=budget, objectives=("mpic_cycles",))
    assert search_key(ground_for(pressed)) == search_key(ground_for(also))
    mine = replace(ground_for(pressed), models={**pressed.models, "macs": own_cost})
    assert search_key(mine) != search_key(ground_for(pressed))


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

    def key(plan: Plan, warmup_seed: int) -> str:
        return path_of(ground, plan, warmup_seed)[-1].key

    assert key(PLAN, 0) == key(replace(PLAN), 0)
    assert key(PLAN, 0) != key(other, 0)
    assert key(PLAN, 0) != key(PLAN, 1)


def test_a_warm_up_may_be_left_out(ground_for: Callable[[Sweep], Ground]) -> None:
    without = ground_for(recipe(warmup=Phase(epochs=0)))
    assert warmup_key(without) != warmup_key(ground_for(sweep))


def test_another_device_gives_other_keys(ground_for: Callable[[Sweep], Ground]) -> None:
    ground = ground_for(sweep)
    first, second = (replace(ground, device=torch.device("cuda", i)) for i in (0, 1))
    assert warmup_key(ground) != warmup_key(first) == warmup_key(second)


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
    assert set(outcome.estimate()) == set(ground.models)
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
