"""Replicates: trials of a study, its seed net and baselines, trained again from other seeds.

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
    ground: Ground, study: optuna.Study, fixed: FixedPlans, keys: Iterable[str], count: int
) -> list[Fixed]:
    """`count` replicates of the seed net and of each of `keys`, one net after the other.

    Args:
        ground: What the study stands on.
        study: As it is stored.
        fixed: Its plans beside the trials.
        keys: Numbers of trials, and names of baselines.
        count: Of each.

    Raises:
        ValueError: For a net without a result, and for one that would be trained otherwise.
    """
    sweep, known = fixed.sweep, _results(study, fixed)
    artifacts = {SEED: known.get(SEED, "")}
    for key in keys:
        if key not in known:
            raise ValueError(
                f"Points must be complete trials of study {study.study_name!r} or its baselines, "
                f"among {list(known)}, but got {key}; see plinio-sweep show."
            )
        artifacts[key] = known[key]
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


def _results(study: optuna.Study, fixed: FixedPlans) -> dict[str, str]:
    """Content keys of what can be repeated, by what it is filed under."""
    attrs = study.user_attrs
    baselines = {
        name: attrs[f"baseline:{name}"]["artifact"]
        for name in (SEED, *(baseline.name for baseline in fixed.sweep.baselines))
        if "metrics" in attrs.get(f"baseline:{name}", {})
    }
    complete = {
        str(trial.number): trial.user_attrs["result"]["artifact"]
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    }
    return baselines | complete


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
            name = f"trial {key}" if key.isdigit() else f"the baseline {key!r}"
            name = "the seed net" if key == SEED else name
            raise ValueError(
                f"Replicates must be trained as {name} was, but the study has changed since; undo "
                f"the change, or leave that net out by --limit or --at-least."
            )
