"""The discretisation gap: what an export loses against the search net that it comes from.

Three methods, three seeds, real data. "search" is the relaxed net at the end of its search,
"export" the plain net that it becomes, before any fine-tuning, both on the validation split.

    pytest tests/benchmarks -m benchmark -k gap -s

The spectra of spoken words need the data folder in `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from costs import size_bytes
from data.source import place
from data.words import three_words
from plinio_sweep import (
    MPSSettings,
    Phase,
    PITSettings,
    Recipe,
    Splits,
    SuperNetSettings,
    Task,
    accuracy,
)
from plinio_sweep.methods.search import Method, Search
from plinio_sweep.plugin import load_file
from plinio_sweep.train.loop import evaluate, fit
from plinio_sweep.train.pressure import Pressure
from tests.benchmarks.nets import STUDIES, separable, separable_choice

SEEDS = (0, 1, 2)
STRENGTH = 1.0
METHODS: dict[str, Method] = {
    "SuperNet": SuperNetSettings(),
    "PIT": PITSettings(),
    "MPS": MPSSettings(w_bits=(0, 2, 4, 8), x_bits=(4, 8)),
}


@dataclass(frozen=True)
class Case:
    data: Callable[[], Splits]
    net: Callable[[], nn.Module]
    choices: Callable[[], nn.Module]
    recipe: Recipe


def words() -> Splits:
    """Spectra of three spoken words, `(N, 1, 49, 10)`."""
    if place("kws3_mfcc.npz") is None:
        pytest.skip("needs kws3_mfcc.npz in the folder PLINIO_SWEEP_DATA")
    return three_words()


def narrow(stem: nn.Module, *middle: nn.Module, classes: int) -> nn.Module:
    """A net of 24 channels from its stem to its classifier."""
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes)]
    return nn.Sequential(stem, nn.BatchNorm2d(24), nn.ReLU(), *middle, *tail)


def words_net(block: Callable[[int], nn.Module] = separable) -> nn.Module:
    """A narrow DS-CNN."""
    stem = nn.Conv2d(1, 24, (10, 4), 2, padding=(5, 1), bias=False)
    return narrow(stem, block(24), block(24), classes=3)


def digits_choices() -> nn.Module:
    """A stem, two choices, a classifier."""
    stem = nn.Conv2d(1, 24, 3, padding=1, bias=False)
    middle = (separable_choice(24), nn.MaxPool2d(2), separable_choice(24))
    return narrow(stem, *middle, classes=10)


_digits = load_file(STUDIES / "digits.py")
CASES = {
    "digits": Case(
        _digits.digits,
        _digits.DigitsNet,
        digits_choices,
        Recipe(
            warmup=Phase(epochs=10, lr=3e-3),
            search=Phase(epochs=20, lr=3e-3, arch_lr=2e-2),
            finetune=Phase(epochs=0),
            batch_size=64,
            ramp=0.6,
        ),
    ),
    "kws3": Case(
        words,
        words_net,
        lambda: words_net(separable_choice),
        Recipe(
            warmup=Phase(epochs=6, lr=3e-3),
            search=Phase(epochs=12, lr=2e-3, arch_lr=2e-2),
            finetune=Phase(epochs=0),
            batch_size=64,
            ramp=0.6,
        ),
    ),
}


class Relaxed(nn.Module):
    """A search as the mix that it is: an evaluation would round its decisions."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self.search = search

    def forward(self, *inputs: Tensor) -> Any:
        return self.search(*inputs)


def scores(case: Case, task: Task, data: Splits, method: Method, seed: int) -> tuple[float, ...]:
    """Accuracies of the relaxed net and of its export, and the share of the bytes that is left."""
    torch.manual_seed(seed)
    net, recipe = task.net(), case.recipe
    fit(net, data, task, recipe.warmup, name="warmup", batch_size=recipe.batch_size, seed=seed)
    search = method.open(net, data.example(), {"size_bytes": size_bytes})
    inputs = data.part("train").inputs
    search.prepare([tuple(value[:512] for value in inputs)])
    start = evaluate(search, data.part("validation"), task)
    first = float(search.get_cost("size_bytes").detach())
    fit(
        search,
        data,
        task,
        recipe.search,
        name="search",
        batch_size=recipe.batch_size,
        seed=seed,
        pressure=Pressure.on(
            search, "size_bytes", strength=STRENGTH, loss=start.loss, ramp=recipe.ramp
        ),
        temperature=recipe.temperature,
    )
    relaxed = evaluate(Relaxed(search), data.part("validation"), task).metrics["accuracy"]
    exported = evaluate(search.export(), data.part("validation"), task).metrics["accuracy"]
    return relaxed, exported, float(search.get_cost("size_bytes", hard=True)) / first


@pytest.mark.parametrize("name", CASES)
def test_gap(name: str) -> None:
    case = CASES[name]
    data = case.data()
    print(f"\n{name}: validation accuracy, seeds {SEEDS}")
    for label, method in METHODS.items():
        net = case.choices if label == "SuperNet" else case.net
        task = Task(net=net, data=case.data, loss=F.cross_entropy, metrics={"accuracy": accuracy})
        rows = [scores(case, task, data, method, seed) for seed in SEEDS]
        gaps = [100 * (relaxed - exported) for relaxed, exported, _ in rows]
        told = "  ".join(f"{a:.4f} -> {b:.4f} ({share:.0%})" for a, b, share in rows)
        print(f"  {label:9s} {told}  mean gap {statistics.mean(gaps):+.2f} points")
        assert len(gaps) == len(SEEDS)
