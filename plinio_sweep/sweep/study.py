"""A study: a task, a recipe, a space and the axes of the front, as one typed value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from costs import COUNTS, MODELS, CostModel, size_bytes
from plinio_sweep.sweep.baseline import Baseline
from plinio_sweep.sweep.definition import describe
from plinio_sweep.sweep.result import Objective
from plinio_sweep.sweep.space import Space
from plinio_sweep.train.pressure import Budget, Source
from plinio_sweep.train.recipe import NetFn, Recipe, Task

if TYPE_CHECKING:
    import optuna

SamplerFn = Callable[[int], "optuna.samplers.BaseSampler"]  # from a seed


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's tree-structured Parzen estimator with the defaults of its version 5."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is searched. A study file holds exactly one.

    Args:
        name: Of the study in its database.
        task: Net, data, loss and metrics.
        recipe: How each trial is trained.
        space: What Optuna may choose.
        pressure: What the gradient feels: a cost, a function of several by name, or a budget.
            Whether a result counts is for `limits` to say.
        objectives: Axes of the front, minimised; "-accuracy" maximises.
        limits: Upper bounds by metric or cost; {"-accuracy": -0.9} is a lower one.
        costs: Cost models of one's own, beside the built-in ones.
        baselines: Fixed plans that are trained and drawn beside the front.
        reference: Makes the seed net that the front is measured by, where that is not the net that
            is searched: a net of choices is no net that anybody would ship.
        trials: How many in all.
        seed: Of everything random.
        sampler: Makes Optuna's sampler from a seed.

    Raises:
        ValueError: For unknown metrics, costs or methods, and for limits that exclude each other.
    """

    name: str
    task: Task
    recipe: Recipe
    space: Space = field(default_factory=Space)
    pressure: Source = size_bytes
    objectives: tuple[str, ...] = ("-accuracy", "size_bytes")
    limits: Mapping[str, float] = field(default_factory=dict)
    costs: tuple[CostModel, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    reference: NetFn | None = None
    trials: int = 100
    seed: int = 0
    sampler: SamplerFn = tpe

    def __post_init__(self) -> None:
        if not self.name or not set(self.name) <= _NAME:
            raise ValueError(
                f"`name` must be made of letters, digits, '-', '_' and '.', but got "
                f"{self.name!r}; rename the study."
            )
        if self.trials < 1:
            raise ValueError(f"`trials` must be at least 1, but got {self.trials}; 24 is a start.")
        self._check_objectives()
        self._check_limits()
        self._check_pressure()
        names = [baseline.name for baseline in self.baselines]
        if len(set(names)) != len(names):
            raise ValueError(
                f"`baselines` must have a name of its own each, but are called {names}; rename "
                f"one, or leave it out."
            )

    def _check_objectives(self) -> None:
        bare = [name.removeprefix("-") for name in self.objectives]
        if not bare or len(set(bare)) != len(bare):
            raise ValueError(
                f"`objectives` must name each axis once, but got {self.objectives}; "
                f"('-accuracy', 'size_bytes') is a start."
            )
        for name in bare:
            self._check_name("objectives", name)

    def _check_limits(self) -> None:
        for name, bound in self.limits.items():
            self._check_name("limits", name.removeprefix("-"))
            if not math.isfinite(bound):
                raise ValueError(
                    f"`limits[{name!r}]` must be finite, but got {bound}; leave it out."
                )
            cost = name in self.models
            if cost and bound <= 0:
                raise ValueError(
                    f"`limits[{name!r}]` must be above 0, but got {bound}; nothing costs less."
                )
            if f"-{name}" in self.limits and -self.limits[f"-{name}"] > bound:
                raise ValueError(
                    f"`limits` must leave something, but ask for {name} <= {bound} and "
                    f"{name} >= {-self.limits[f'-{name}']}; drop one of them."
                )

    def _check_pressure(self) -> None:
        targets = self.pressure.targets if isinstance(self.pressure, Budget) else {}
        for name in targets:
            if name not in self.models:
                raise ValueError(
                    f"`pressure` must have targets for costs among "
                    f"{list({**MODELS, **self.models})}, but has one for {name!r}; correct the "
                    f"name, or add it to `costs`."
                )

    def _check_name(self, where: str, name: str) -> None:
        known = list(dict.fromkeys([*self.task.metrics, *self.models, *MODELS]))
        if name not in known:
            raise ValueError(
                f"`{where}` must name metrics and costs among {known}, but got {name!r}; correct "
                f"the name, or add it to `metrics` or `costs`."
            )

    @property
    def models(self) -> Mapping[str, CostModel]:
        """Every cost model of the study by name: counts, what it names, and its own."""
        targets = self.pressure.targets if isinstance(self.pressure, Budget) else ()
        names = [name.removeprefix("-") for name in (*self.objectives, *self.limits, *targets)]
        named = {name: MODELS[name] for name in names if name in MODELS}
        pressing = (self.pressure,) if isinstance(self.pressure, CostModel) else ()
        return {**COUNTS, **named, **{model.name: model for model in (*pressing, *self.costs)}}

    @property
    def axes(self) -> tuple[Objective, ...]:
        """The objectives with their sense and unit."""
        return tuple(self._axis(name) for name in self.objectives)

    def _axis(self, name: str) -> Objective:
        bare = name.removeprefix("-")
        maximize = name.startswith("-")
        if bare in self.task.metrics:
            return Objective(name=bare, maximize=maximize, kind="metric")
        return Objective(name=bare, maximize=maximize, kind="cost", unit=self.models[bare].unit)

    @property
    def nets(self) -> tuple[NetFn, ...]:
        """Makers of all nets that some plan starts from, that of the task first."""
        others = (self.reference, *(baseline.net for baseline in self.baselines))
        # By identity, as a callable may be none that can be hashed.
        every = {id(make): make for make in (self.task.net, *others) if make is not None}
        return tuple(every.values())

    def definition(self) -> dict[str, Any]:
        """All that makes this study what it is, as JSON; trials and baselines may be added."""
        record: dict[str, Any] = describe(self)
        # Studies that were begun before these were known are still the same.
        if not self.space.first:
            del record["space"]["first"]
        if self.reference is None:
            del record["reference"]
        free = ("trials", "baselines", "record")
        return {key: value for key, value in record.items() if key not in free}


_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
