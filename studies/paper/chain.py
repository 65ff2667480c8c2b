"""What the figures of the paper have in common: one task, a grid of lambdas, a point to start from.

CIFAR-10 on ResNet-8, with data, training and presets of `icl_resnet8.py`. Each figure is a study of
its own. Its baselines are the grid of the paper, lambda from 1e-2 to 1e-10, and what the grid is to
beat; its trials draw the strength of the last method, as many as the grid has points, so that both
fronts cost the same: three at the preset `cpu`, nine at `full`. These are random draws. Optuna's
TPE learns from ten trials on, so that nothing here says what an outer search that learns would find
with more of them.

A later figure goes on from one point of an earlier one: the smallest net of its grid that is, on
validation data, as accurate as the float ResNet-8; where there is none, the most accurate. Lambdas
in `PLINIO_SWEEP_POINT`, of SuperNet and of PIT ("1e-5,1e-6"), choose another. Everything in a later
figure begins with the stages of that point, trained once, by the figure that it is from.

The paper weighs parameters, this weighs bytes: a lambda here presses four times as much as there on
a float net. Bytes have the bits of the weights in them, which `figure10.py` chooses.

References:
    Jahier Pagliari et al., "PLiNIO", 2023 (arXiv 2307.09488), section IV: figures 8
    to 10 and table II.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # of the studies that these are made of

import icl_resnet8  # noqa: E402
from plinio_sweep import Baseline, LogUniform, Space, Stage, Sweep  # noqa: E402
from plinio_sweep.settings import load_settings  # noqa: E402
from plinio_sweep.sweep.reading import read_study  # noqa: E402
from plinio_sweep.sweep.result import BaselineRecord, StudyRecord  # noqa: E402
from plinio_sweep.sweep.storage import StorageError  # noqa: E402
from plinio_sweep.train.recipe import NetFn  # noqa: E402

NAME, PRESET = icl_resnet8.NAME, icl_resnet8.PRESET
POINT_VARIABLE = "PLINIO_SWEEP_POINT"
ACCURACY = "validation_accuracy"


def figure(
    name: str,
    net: NetFn,
    order: str,
    *,
    first: tuple[Stage, ...] = (),
    strength: LogUniform = icl_resnet8.SPACE.strength,
    beside: Iterable[Baseline],
) -> Sweep:
    """The study of one figure, or of a part of it.

    Args:
        name: Of the figure.
        net: Makes the net that is searched.
        order: Of its methods.
        first: Stages that are given; trials choose among what follows.
        strength: What trials choose from.
        beside: Baselines that come after the given stages, too.
    """
    start = "".join(f"-{stage.strength:.3g}" for stage in first)
    return replace(
        icl_resnet8.sweep,
        name=f"icl-{name}-{NAME}{'-from' if first else ''}{start}",
        task=replace(icl_resnet8.TASK, net=net),
        space=Space(orders=(order,), strength=strength, first=first),
        baselines=tuple(_behind(first, baseline) for baseline in beside),
        reference=icl_resnet8.TASK.net,
        trials=len(PRESET.lambdas),
    )


def _behind(first: tuple[Stage, ...], baseline: Baseline) -> Baseline:
    before = "".join(f"{stage.method.name}>" for stage in first)
    return Baseline(
        name=f"{before}{baseline.name}",
        family=f"{before}{baseline.family}",
        stages=(*first, *baseline.stages),
    )


def grid_of(sweep: Sweep) -> dict[str, Baseline]:
    """The baselines of `sweep` that are the grid of the paper, by name."""
    return {b.name: b for b in sweep.baselines if not b.stages[-1].relative}


def stored(sweep: Sweep, file: str) -> StudyRecord:
    """What the figure in `file` came to.

    Raises:
        ValueError: When it was not run to its end, with what to run.
    """
    path = HERE / file
    try:
        record = read_study(path, load_settings(path), name=sweep.name)
    except StorageError as error:
        raise ValueError(_first(file, str(error).partition("but ")[2].partition(";")[0])) from error
    known = {b.name for b in record.baselines if b.values or b.reason}
    missing = [name for name in grid_of(sweep) if name not in known]
    if record.baseline is None or not record.baseline.values or missing:
        raise ValueError(
            _first(file, f"{sweep.name!r} has no result yet of {missing or 'its seed'}")
        )
    return record


def _first(file: str, reason: str) -> str:
    return (
        f"What {file} comes to must be known before it is gone on from, but {reason}; first do "
        f"plinio-sweep run {HERE / file}."
    )


def point_of(sweep: Sweep, file: str, seed: BaselineRecord) -> Baseline:
    """The point of the grid of `sweep` that the next figure starts from.

    Args:
        sweep: Of the figure before.
        file: That it is in.
        seed: The float ResNet-8, trained as long.

    Raises:
        ValueError: When that figure was not run, or has no such point.
    """
    grid, record = grid_of(sweep), stored(sweep, file)
    found = {b.name: b for b in record.baselines if b.name in grid and b.values}
    if not found:
        raise ValueError(
            f"The grid of {sweep.name!r} must have a net to go on from, but all of it failed; see "
            f"plinio-sweep show {HERE / file}."
        )
    if (wanted := _wanted(len(next(iter(grid.values())).stages))) is None:
        return grid[smallest(list(found.values()), seed.metrics[ACCURACY]).name]
    lambdas = {name: grid[name].stages[-1].strength for name in found}
    names = [name for name, value in lambdas.items() if value == wanted]
    if not names:
        raise ValueError(
            f"`{POINT_VARIABLE}` must have lambdas of the grids before, here of "
            f"{list(lambdas.values())}, but got {wanted:g}; choose one, or leave it out."
        )
    return grid[names[0]]


def _wanted(turn: int) -> float | None:
    """The lambda of the stage of this number that the environment asks for."""
    words = [word for word in os.environ.get(POINT_VARIABLE, "").split(",") if word.strip()]
    try:
        lambdas = [float(word) for word in words]
    except ValueError:
        raise ValueError(
            f"`{POINT_VARIABLE}` must be lambdas of SuperNet and PIT, but got "
            f"{os.environ[POINT_VARIABLE]!r}; write for instance 1e-5,1e-6."
        ) from None
    return lambdas[turn - 1] if len(lambdas) >= turn else None


def smallest(found: Sequence[BaselineRecord], least: float) -> BaselineRecord:
    """The smallest net whose validation accuracy is `least` or more; if none is, the most accurate.

    Of equal ones the more accurate, or the smaller. Test data have no part in it.
    """
    good = [record for record in found if record.metrics[ACCURACY] >= least]
    if good:
        return min(good, key=lambda b: (b.costs["size_bytes"], -b.metrics[ACCURACY]))
    return max(found, key=lambda b: (b.metrics[ACCURACY], -b.costs["size_bytes"]))
