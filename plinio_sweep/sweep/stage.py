"""The unit of work and of reuse: one method, applied and trained.

A stage has a content key: a hash of all that can change its outcome, its parent's key included.
What is trained once under a key is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from costs import CostModel
from plinio_sweep.methods.search import LayerChoice, Method, Search
from plinio_sweep.sweep.definition import describe, digest
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch, evaluate, fit, restore_norms, shuffled
from plinio_sweep.train.pressure import Pressure, Source
from plinio_sweep.train.recipe import Recipe, Splits, Task

# Raised when training changes what equal settings lead to: old results are then no longer ours.
CODE_VERSION = 3
# Batches that a search sees before it starts: rare extremes of more would only widen the ranges.
_LOOKED_AT = 8


class Store(Protocol):
    """Where trained things are kept, each in a folder under its content key."""

    def find(self, key: str) -> Path | None:
        """The folder of `key`, when it is complete."""
        ...

    def write(self, key: str, fill: Callable[[Path], None]) -> Path:
        """Has `fill` write the files of `key` into a new folder that appears all at once."""
        ...

    def lock(self, key: str) -> AbstractContextManager[Any]:
        """Keeps other processes from making `key` at the same time."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One method with its settings, under a relative strength."""

    method: Method
    strength: float

    def describe(self) -> dict[str, Any]:
        """This stage as JSON."""
        return {"method": self.method.name, "settings": describe(self.method)} | {
            "strength": self.strength
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The stages of one trial, in their order. No stages: the seed net, trained as long."""

    stages: tuple[Stage, ...]
    seed: int

    @property
    def order(self) -> str:
        """The methods as one canonical string."""
        return ">".join(stage.method.name for stage in self.stages)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all stages of a study stand on."""

    task: Task
    data: Splits
    recipe: Recipe
    pressure: Source
    models: Mapping[str, CostModel]
    store: Store
    device: torch.device

    def warmup_key(self, seed: int) -> str:
        """Key of the seed net after its warm-up."""
        known = [describe(self.task), describe(self.recipe.warmup), self.recipe.batch_size]
        return digest(["warmup", CODE_VERSION, seed, *known, str(self.device)])

    def plan_key(self, plan: Plan, warmup_seed: int) -> str:
        """Key of everything that `plan` leads to."""
        models = {name: describe(model) for name, model in self.models.items()}
        stages = [stage.describe() for stage in plan.stages]
        known = [describe(self.recipe), describe(self.pressure), models, stages, plan.seed]
        return digest(["plan", CODE_VERSION, self.warmup_key(warmup_seed), *known])


@dataclass(frozen=True, eq=False, kw_only=True)
class StageOutcome:
    """What one stage came to."""

    net: nn.Module
    decisions: Mapping[str, Any]  # JSON
    layers: Mapping[str, LayerChoice]
    estimate: Mapping[str, float]  # costs that the search believed at its end
    history: list[Epoch]


def run_stage(
    ground: Ground, net: nn.Module, stage: Stage, *, name: str, seed: int, step: int, watch: Watch
) -> StageOutcome:
    """Searches from `net`, exports the best point, measures its norms anew and fine-tunes it.

    Args:
        ground: What the study stands on.
        net: Where the stage starts; it is not changed.
        stage: Method, settings and strength.
        name: Prefix of the phases in curves: "pit".
        seed: Of data order and dropout.
        step: Number of epochs that the trial has seen before.
        watch: Who looks on.

    Raises:
        DivergedError: When the loss is not finite.
    """
    task, recipe, data = ground.task, ground.recipe, ground.data
    search = stage.method.open(net, data.example(), ground.models)
    order = torch.Generator().manual_seed(seed)
    batches = shuffled(data.part("train"), recipe.batch_size, order)
    search.prepare(batch.inputs for batch in islice(batches, _LOOKED_AT))
    start = evaluate(search, data.part("validation"), task)
    pressure = Pressure.on(
        search, ground.pressure, strength=stage.strength, loss=start.loss, ramp=recipe.ramp
    )
    history = fit(
        search,
        data,
        task,
        recipe.search,
        name=f"{name}.search",
        batch_size=recipe.batch_size,
        seed=seed,
        pressure=pressure,
        temperature=recipe.temperature,
        first_step=step,
        watch=watch,
    )
    theta = search.theta(hard=True)
    exported: nn.Module = search.export(theta)
    restore_norms(exported, data.part("train"), recipe.batch_size)
    history += fit(
        exported,
        data,
        task,
        recipe.finetune,
        name=f"{name}.finetune",
        batch_size=recipe.batch_size,
        seed=seed + 1,
        first_step=step + len(history),
        watch=watch,
    )
    return StageOutcome(
        net=exported,
        decisions=search.encode(theta),
        layers=search.summary(theta),
        estimate=_estimate(search),
        history=history,
    )


@torch.no_grad()
def _estimate(search: Search) -> dict[str, float]:
    """The relaxed costs: what the gradient saw, beside what the export really costs."""
    return {name: float(cost) for name, cost in search.get_costs().items()}
