"""Pareto fronts of tiny networks: an outer search by Optuna around gradient-based inner loops.

Names are resolved on first use, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plinio_sweep.graph.count import cost_of
    from plinio_sweep.graph.table import analyze
    from plinio_sweep.methods.l1 import L1, L1Settings
    from plinio_sweep.methods.mps import MPS, MPSSettings
    from plinio_sweep.methods.pit import PIT, PITSettings
    from plinio_sweep.methods.supernet import SuperNet, SuperNetModule, SuperNetSettings
    from plinio_sweep.ship.bundle import load, load_integers
    from plinio_sweep.ship.integer import integerize
    from plinio_sweep.ship.reference import IntegerNet
    from plinio_sweep.sweep.baseline import (
        Baseline,
        free_choice,
        grid,
        longer,
        magnitude,
        uniform,
    )
    from plinio_sweep.sweep.space import LogUniform, Space
    from plinio_sweep.sweep.stage import Stage
    from plinio_sweep.sweep.study import Sweep
    from plinio_sweep.train.metrics import accuracy
    from plinio_sweep.train.pressure import Budget, Pressure
    from plinio_sweep.train.recipe import Phase, Recipe, Splits, Task

_HOMES = {
    "Baseline": "sweep.baseline",
    "L1": "methods.l1",
    "L1Settings": "methods.l1",
    "Stage": "sweep.stage",
    "free_choice": "sweep.baseline",
    "grid": "sweep.baseline",
    "longer": "sweep.baseline",
    "magnitude": "sweep.baseline",
    "uniform": "sweep.baseline",
    "Budget": "train.pressure",
    "IntegerNet": "ship.reference",
    "MPS": "methods.mps",
    "MPSSettings": "methods.mps",
    "PIT": "methods.pit",
    "PITSettings": "methods.pit",
    "Phase": "train.recipe",
    "Pressure": "train.pressure",
    "Recipe": "train.recipe",
    "Splits": "train.recipe",
    "SuperNet": "methods.supernet",
    "SuperNetModule": "methods.supernet",
    "SuperNetSettings": "methods.supernet",
    "Task": "train.recipe",
    "accuracy": "train.metrics",
    "LogUniform": "sweep.space",
    "Space": "sweep.space",
    "Sweep": "sweep.study",
    "analyze": "graph.table",
    "cost_of": "graph.count",
    "integerize": "ship.integer",
    "load": "ship.bundle",
    "load_integers": "ship.bundle",
}

__all__ = [
    "L1",
    "MPS",
    "PIT",
    "Baseline",
    "Budget",
    "IntegerNet",
    "L1Settings",
    "LogUniform",
    "MPSSettings",
    "PITSettings",
    "Phase",
    "Pressure",
    "Recipe",
    "Space",
    "Splits",
    "Stage",
    "SuperNet",
    "SuperNetModule",
    "SuperNetSettings",
    "Sweep",
    "Task",
    "accuracy",
    "analyze",
    "cost_of",
    "free_choice",
    "grid",
    "integerize",
    "load",
    "load_integers",
    "longer",
    "magnitude",
    "uniform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
