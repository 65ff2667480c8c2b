"""Replicates: trials of a study, and its seed net, trained again from other seeds.

A replicate is an independent training from scratch: its seed takes the place of the study's, in
warm-up and stages alike, so a search may well come to another architecture. Replicates of the same
number have one seed in common, whatever they repeat: they share a warm-up, and what else begins
alike, as the trials of a study do, and it is trained once. Those of one trial share nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import TrialState

from plinio_sweep.sweep.definition import digest
from plinio_sweep.sweep.fixed import Fixed, FixedPlans
from plinio_sweep.sweep.path import path_of
from plinio_sweep.sweep.result import SEED, replicate_name
from plinio_sweep.sweep.stage import Ground, Plan
from plinio_sweep.sweep.study import Sweep


def replicate_seed(seed: int, number: int) -> int:
    """The seed of the replicates `number`, from 1, of a study with `seed`.

    >>> len({replicate_seed(seed, number) for seed in range(10) for number in range(1, 11)})
    100
    """
    return int(digest(["replicate", seed, number])[:7], 16)


def plan_of(sweep: Sweep, study: optuna.Study, key: str, fixed: FixedPlans) -> Plan:
    """The plan whose result is filed under `key`: that of a trial, a baseline or a replicate.

    Raises:
        KeyError: When the study has none.
        ValueError: When the space of the study has no such plan any more.
    """
    original, mark, number = key.rpartition("#")
    if mark:
        plan = plan_of(sweep, study, original, fixed)
        return replace(plan, seed=replicate_seed(sweep.seed, int(number)))
    if not key.isdigit():
        return fixed.plan(key)
    trial = study.get_trials(deepcopy=False)[int(key)]
    return sweep.space.suggest(optuna.trial.FixedTrial(trial.params), sweep.seed)


def replicates_of(
    ground: Ground, study: optuna.Study, fixed: FixedPlans, points: Iterable[int], count: int
) -> list[Fixed]:
    """`count` replicates of the seed net and of each of `points`, one net after the other.

    Args:
        ground: What the study stands on.
        study: As it is stored.
        fixed: Its plans beside the trials.
        points: Numbers of trials.
        count: Of each.

    Raises:
        ValueError: For a trial that is not complete, and for one that would be trained otherwise.
    """
    attrs, sweep = study.user_attrs, fixed.sweep
    artifacts = {SEED: attrs.get(f"baseline:{SEED}", {}).get("artifact", "")}
    complete = {
        trial.number: trial.user_attrs["result"]["artifact"]
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    }
    for point in points:
        if point not in complete:
            raise ValueError(
                f"Points must be complete trials of study {study.study_name!r}, among "
                f"{list(complete)}, but got {point}; see plinio-sweep show."
            )
        artifacts[str(point)] = complete[point]
    _check_unchanged(ground, {key: _plan(sweep, study, key, fixed) for key in artifacts}, artifacts)
    return [
        Fixed(
            name=replicate_name(key, number),
            plan=plan_of(sweep, study, replicate_name(key, number), fixed),
            kind="replicate",
            notes={"of": artifact},
        )
        for key, artifact in artifacts.items()
        for number in range(1, count + 1)
    ]


def _plan(sweep: Sweep, study: optuna.Study, key: str, fixed: FixedPlans) -> Plan | None:
    try:
        return plan_of(sweep, study, key, fixed)
    except ValueError:
        return None  # the space that it was drawn from is another one


def _check_unchanged(
    ground: Ground, plans: Mapping[str, Plan | None], artifacts: Mapping[str, Any]
) -> None:
    """A replicate of something else says nothing about the trial whose name it bears."""
    for key, plan in plans.items():
        same = plan is not None and path_of(ground, plan, plan.seed)[-1].key == artifacts[key]
        if not same:
            name = "the seed net" if key == SEED else f"trial {key}"
            raise ValueError(
                f"Replicates must be trained as {name} was, but the study has changed since; undo "
                f"the change, or leave that net out by --limit or --at-least."
            )
