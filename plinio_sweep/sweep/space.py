"""The space of plans: what Optuna may choose, and the plan that its choices stand for.

Orders and settings travel as canonical strings ("pit>pit", "consumer", "2 4 8"): a database keeps
scalars only. Names carry their stage: "pit.strength", and "pit#2.strength" for its second turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from plinio_sweep.methods import METHODS
from plinio_sweep.sweep.stage import Plan, Stage

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class LogUniform:
    """A number between `low` and `high`, uniform in its logarithm."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(
                f"`0 < low <= high` must hold, but got ({self.low=}, {self.high=}); swap or raise "
                f"them."
            )


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a study searches.

    Args:
        orders: Methods in their order: "pit", "pit>pit".
        strength: Relative strength of the pressure, one for each stage.
        choices: Settings to choose from, by method and field: {"pit.gate": ("norm", "consumer")}.
        first: Stages that every plan begins with, as they are: of each order the rest is chosen.

    Raises:
        ValueError: For unknown methods, settings or values, or nothing to choose from.
    """

    orders: tuple[str, ...] = ("pit",)
    strength: LogUniform = field(default_factory=lambda: LogUniform(low=0.01, high=10.0))
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    first: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        if not self.orders or len(set(self.orders)) != len(self.orders):
            raise ValueError(
                f"`orders` must hold each order once, but got {self.orders}; ('pit',) is a start."
            )
        for order in self.orders:
            unknown = [name for name in order.split(">") if name not in METHODS]
            if unknown:
                raise ValueError(
                    f"`orders` must be made of {sorted(METHODS)} joined by '>', but {order!r} "
                    f"has {unknown}; write for instance 'pit'."
                )
        begun = [stage.method.name for stage in self.first]
        for order in self.orders:
            if order.split(">")[: len(begun)] != begun or len(order.split(">")) == len(begun):
                raise ValueError(
                    f"`orders` must go on from `first`, which is {'>'.join(begun)!r}, but "
                    f"{order!r} does not; write for instance {'>'.join([*begun, 'pit'])!r}."
                )
        for name, values in self.choices.items():
            self._check_choice(name, values)

    def _check_choice(self, name: str, values: tuple[Any, ...]) -> None:
        method, _, setting = name.partition(".")
        known = [f"{m}.{f.name}" for m, record in METHODS.items() for f in fields(record)]
        if name not in known:
            raise ValueError(
                f"`choices` must name settings among {known}, but got {name!r}; correct the name."
            )
        if not values or len({canonical(value) for value in values}) != len(values):
            raise ValueError(
                f"`choices[{name!r}]` must hold each value once, but got {values!r}; write for "
                f"instance a tuple of two."
            )
        for value in values:
            METHODS[method](**{setting: value})  # the record checks its own values

    def suggest(self, trial: optuna.trial.BaseTrial, seed: int) -> Plan:
        """The plan of `trial`: asks Optuna for each choice that this plan needs, no other."""
        order = trial.suggest_categorical("order", list(self.orders))
        stages = list(self.first)
        for prefix, method in _turns(order)[len(stages) :]:
            strength = 0.0
            if METHODS[method].pressed:
                low, high = self.strength.low, self.strength.high
                strength = trial.suggest_float(f"{prefix}.strength", low, high, log=True)
            settings = {}
            for name, values in self.choices.items():
                if name.startswith(f"{method}."):
                    setting = name.partition(".")[2]
                    words = {canonical(value): value for value in values}
                    word = trial.suggest_categorical(f"{prefix}.{setting}", list(words))
                    settings[setting] = words[word]
            stages.append(Stage(method=METHODS[method](**settings), strength=strength))
        return Plan(stages=tuple(stages), seed=seed)


def canonical(value: Any) -> str:
    """The one string that stands for a setting: (2, 4, 8) is "2 4 8"."""
    if isinstance(value, tuple | list):
        return " ".join(canonical(item) for item in value)
    return str(value)


def _turns(order: str) -> list[tuple[str, str]]:
    """Each stage of `order` as the prefix of its parameters and its method."""
    turns: list[tuple[str, str]] = []
    for method in order.split(">"):
        turn = sum(m == method for _, m in turns) + 1
        turns.append((method if turn == 1 else f"{method}#{turn}", method))
    return turns
