"""What a plan is made of, what it stands on, and what training one stage of it means.

A stage is one method: a search, its export, and fine-tuning. Where each of them is stored and how
often it is trained is the matter of `path` and `node`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from costs import CostModel
from plinio_sweep.methods.search import LayerChoice, Method, Search
from plinio_sweep.sweep.definition import describe
from plinio_sweep.train.checkpoints import Checkpoints, Mirror
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch, evaluate, fit, restore_norms, shuffled
from plinio_sweep.train.pressure import Pressure, Source
from plinio_sweep.train.recipe import NetFn, Phase, Recipe, Splits, Task

# Raised when training changes what equal settings lead to: old results are then no longer ours.
CODE_VERSION = 5
# Batches that a search sees before it starts: rare extremes of more would only widen the ranges.
_LOOKED_AT = 8


class Store(Protocol):
    """Where trained things are kept, each in a folder under its content key."""

    def find(self, key: str) -> Path | None:
        """The folder of `key`, when it is complete."""
        ...

    def write(
        self,
        key: str,
        fill: Callable[[Path], None],
        sealed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Path:
        """Has `fill` write the files of `key` into a new folder that appears all at once.

        `sealed` is entered for the moment in which it appears; what it raises keeps it away.
        """
        ...

    def lock(self, key: str) -> AbstractContextManager[Any]:
        """Keeps other processes from making `key` at the same time."""
        ...

    def unfinished(self, key: str) -> Path:
        """Where checkpoints lie until `key` is complete."""
        ...

    def mirror(self, key: str) -> Mirror | None:
        """What carries checkpoints of `key` to other machines; nothing where they see them."""
        ...


class LeaseLostError(Exception):
    """What was leased belongs to somebody else by now: the work on it is not to be stored."""


class Lease(Protocol):
    """The right to work on one key, for as long as its holder lives."""

    def check(self) -> None:
        """Raises `LeaseLostError` when the lease is known to be lost; asks nobody."""
        ...

    def sealed(self) -> AbstractContextManager[None]:
        """Keeps the lease from changing hands for a moment, or raises `LeaseLostError`."""
        ...


class HeldLease(Lease, Protocol):
    """A lease that whoever took it gives back."""

    def release(self) -> None:
        """Lets others have it."""
        ...


class Leases(Protocol):
    """Who works on which key, across processes and machines."""

    def hold(self, key: str, wait: Callable[[], None]) -> AbstractContextManager[Lease]:
        """Holds `key`; while another does, `wait` is called now and then and may raise."""
        ...

    def take(self, key: str) -> HeldLease | None:
        """The lease of `key`; nothing while somebody else holds it."""
        ...

    def remaining(self, key: str) -> float | None:
        """How long the lease of `key` lasts [s]: below 0 once expired, nothing without one."""
        ...

    def drop(self, key: str) -> None:
        """Ends the lease of `key`, whoever holds it."""
        ...

    def bury(self, holder: str) -> None:
        """Ends every lease of a worker that no longer works."""
        ...

    def sweep(self, over: Callable[[str], bool | None]) -> None:
        """Removes the leases that nobody will ask for.

        Args:
            over: Whether the work under a key is done, so that its lease goes whoever holds it;
                nothing where that is not known: such a lease goes when its holder does.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One method with its settings, under a strength.

    Args:
        method: With its settings.
        strength: Of the pressure, at least 0.
        relative: Whether the strength is on the scale of `Pressure`, where 1 weighs the cost like
            the loss; else it is the `lambda` of papers, the loss for one unit of cost.

    Raises:
        ValueError: For a strength that is no such number.
    """

    method: Method
    strength: float = 0.0
    relative: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(
                f"`strength` must be at least 0 and finite, but got {self.strength}; 1 weighs the "
                f"cost like the loss."
            )

    def describe(self) -> dict[str, Any]:
        """This stage as JSON."""
        known = {"method": self.method.name, "settings": describe(self.method)}
        known |= {"strength": self.strength}
        return known if self.relative else known | {"relative": False}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The stages of one trial, in their order. No stages: the seed net, trained on.

    Args:
        stages: In their order.
        seed: What the seeds of all stages follow from. Trials of a study have it in common: where
            the first stages of two plans are the same, so is their training.
        net: Makes the net that it starts from; that of the task when left out.
    """

    stages: tuple[Stage, ...]
    seed: int
    net: NetFn | None = None

    @property
    def order(self) -> str:
        """The methods as one canonical string."""
        return ">".join(stage.method.name for stage in self.stages)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all stages of a study stand on.

    Args:
        task: Net, loss and metrics.
        data: On `device`.
        recipe: How stages are trained.
        pressure: What the gradient feels.
        models: All costs that are reported.
        store: Where trained things are kept.
        device: Of all training.
        leases: Who trains what; the locks of the store when left out.
        checkpoint: Least time between two checkpoints of a training [s].
        nets: Makers of other nets that some plan of the study starts from.
    """

    task: Task
    data: Splits
    recipe: Recipe
    pressure: Source
    models: Mapping[str, CostModel]
    store: Store
    device: torch.device
    leases: Leases | None = None
    checkpoint: float = 10.0
    nets: tuple[NetFn, ...] = ()

    def on(self, net: NetFn | None) -> Ground:
        """The same for plans that start from `net`; itself for those that start from its own."""
        if net is None or net is self.task.net:
            return self
        own = self.task.net
        other = replace(self, task=replace(self.task, net=net), nets=(own, *self.nets))
        vars(other)["data_identity"] = self.data_identity  # each byte is read once
        return other

    @cached_property
    def parts(self) -> Mapping[str, Any]:
        """Parts of the task, and pressure, as JSON: what they were when this was first asked."""
        names = ("net", "loss", "metrics", "augment")
        return {name: describe(getattr(self.task, name)) for name in names} | {
            "pressure": describe(self.pressure)
        }

    @cached_property
    def model_parts(self) -> Mapping[str, Any]:
        """Every cost model as JSON, by name."""
        return {name: describe(model) for name, model in self.models.items()}

    @cached_property
    def data_identity(self) -> list[Any]:
        """The data that training and scores see, whatever loads them; each byte is read once."""
        parts = [self.data.part(name) for name in ("train", "validation")]
        return [[describe(value) for value in (*part.inputs, part.target)] for part in parts]


@dataclass(frozen=True, eq=False, kw_only=True)
class StageOutcome:
    """What the search of one stage came to."""

    search: Search  # at its best epoch
    net: nn.Module  # exported, before fine-tuning
    decisions: Mapping[str, Any]  # JSON
    layers: Mapping[str, LayerChoice]
    history: list[Epoch]

    @torch.no_grad()
    def estimate(self) -> dict[str, float]:
        """The relaxed costs at the end: what the gradient saw, beside what the export costs."""
        return {name: float(cost) for name, cost in self.search.get_costs().items()}


def run_search(
    ground: Ground,
    net: nn.Module,
    stage: Stage,
    *,
    name: str,
    seed: int,
    step: int,
    watch: Watch,
    keeper: Checkpoints | None = None,
) -> StageOutcome:
    """Searches from `net`, exports the best point and measures its norms anew.

    Args:
        ground: What the study stands on.
        net: Where the stage starts; it is not changed.
        stage: Method, settings and strength.
        name: Of the phase in curves: "pit.search".
        seed: Of data order and everything random.
        step: Number of epochs that the trial has seen before.
        watch: Who looks on.
        keeper: Keeps checkpoints of the training.

    Raises:
        DivergedError: When the loss is not finite.
    """
    task, recipe, data = ground.task, ground.recipe, ground.data
    # A search may draw when it is opened; whether `net` was trained here or read shall not matter.
    torch.manual_seed(seed)
    search = stage.method.open(net, data.example(), ground.models)
    order = torch.Generator().manual_seed(seed)
    batches = shuffled(data.part("train"), recipe.batch_size, order)
    search.prepare(batch.inputs for batch in islice(batches, _LOOKED_AT))
    start = evaluate(search, data.part("validation"), task)
    pressure = Pressure.on(
        search,
        ground.pressure,
        strength=stage.strength,
        loss=start.loss if stage.relative else None,
        ramp=recipe.ramp,
    )
    history = fit(
        search,
        data,
        task,
        recipe.search,
        name=name,
        batch_size=recipe.batch_size,
        seed=seed,
        pressure=pressure,
        temperature=recipe.temperature,
        first_step=step,
        watch=watch,
        keeper=keeper,
    )
    theta = search.theta(hard=True)
    exported: nn.Module = search.export(theta)
    restore_norms(exported, data.part("train"), recipe.batch_size)
    return StageOutcome(
        search=search,
        net=exported,
        decisions=search.encode(theta),
        layers=search.summary(theta),
        history=history,
    )


def train_net(
    ground: Ground,
    net: nn.Module,
    phase: Phase,
    *,
    name: str,
    seed: int,
    step: int,
    watch: Watch,
    keeper: Checkpoints | None = None,
) -> list[Epoch]:
    """Trains a plain `net` in place: warm-up, fine-tuning, the seed net on its own.

    Args:
        ground: What the study stands on.
        net: Of the task, or exported.
        phase: Epochs and rates.
        name: Of the phase in curves: "warmup", "pit.finetune".
        seed: Of data order and dropout.
        step: Number of epochs that the trial has seen before.
        watch: Who looks on.
        keeper: Keeps checkpoints of the training.

    Raises:
        DivergedError: When the loss is not finite.
    """
    return fit(
        net,
        ground.data,
        ground.task,
        phase,
        name=name,
        batch_size=ground.recipe.batch_size,
        seed=seed,
        first_step=step,
        watch=watch,
        keeper=keeper,
    )
