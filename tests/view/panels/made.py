"""A study by hand as large as wished, with all that panels show."""

from __future__ import annotations

import random
from collections.abc import Mapping

from plinio_sweep.sweep.detail import Detail, LayerRecord
from plinio_sweep.sweep.result import (
    BaselineRecord,
    Objective,
    PhaseRecord,
    StudyRecord,
    TrialRecord,
)

AXES = (
    Objective(name="accuracy", maximize=True, kind="metric"),
    Objective(name="size_bytes", maximize=False, kind="cost", unit="byte"),
)
LAYERS = ("stem", "first", "second", "depthwise", "pointwise", "classifier")
START = 1_700_000_000.0  # [s] since 1970
EPOCHS = {"warmup": 5, "search": 10, "finetune": 6, "evaluation": 0, "seed": 16}


def study(trials: int, *, seed: int = 0, workers: int = 3, states: bool = True) -> StudyRecord:
    """Trials of three orders that share what they begin with, on some workers."""
    chance = random.Random(seed)
    stored: dict[str, None] = {}
    free = [START + 60.0] * workers
    found = []
    for number in range(trials):
        worker = free.index(min(free))
        record = _trial(number, chance, stored, f"host/a:{worker:012x}", free[worker], states)
        free[worker] = (record.end or free[worker]) + 0.5
        found.append(record)
    return StudyRecord(
        name="made up",
        objectives=AXES,
        limits={},
        units={"size_bytes": "byte"},
        target_trials=trials,
        trials=tuple(found),
        baseline=_baseline("seed", "seed", 0.95, 90_000.0, START, ("seed",)),
        baselines=tuple(
            _baseline(
                f"w{bits}a8", "uniform", 0.9 + bits / 400, 3_000.0 * bits, START + 30, ("mps",)
            )
            for bits in (2, 4, 8)
        ),
    )


def _trial(
    number: int,
    chance: random.Random,
    stored: dict[str, None],
    worker: str,
    begin: float,
    states: bool,
) -> TrialRecord:
    order = chance.choice(["pit", "mps", "pit>mps"])
    strengths = {f"{s}.strength": chance.choice([0.3, 1.0, 3.0, 9.0]) for s in order.split(">")}
    state = chance.choice(["complete"] * 12 + ["failed", "pruned", "running"])
    params: dict[str, str | float] = {"order": order, **strengths}
    if states and state != "complete":
        end = None if state == "running" else begin + 4.0
        return TrialRecord(
            number=number, state=state, params=params, worker=worker, begin=begin, end=end
        )
    keys, names = ["warmup"], ["warmup"]
    for stage in order.split(">"):
        for kind in ("search", "finetune"):
            keys.append(f"{keys[-1]}/{stage}{strengths[f'{stage}.strength']}.{kind}")
            names.append(f"{stage}.{kind}")
    keys.append(f"{keys[-1]}/evaluation")
    phases, now = [], begin
    for key, name in zip(keys, [*names, "evaluation"], strict=True):
        reused = key in stored
        seconds = 0.01 if reused else chance.uniform(1.0, 5.0)
        epochs = EPOCHS[name.rsplit(".", 1)[-1]]
        phases.append(
            PhaseRecord(
                name=name, key=key, begin=now, seconds=seconds, epochs=epochs, reused=reused
            )
        )
        stored[key] = None
        now += seconds
    pressure = sum(strengths.values())
    size = round(60_000 / (1 + pressure) * chance.uniform(0.7, 1.4))
    accuracy = round(0.97 - 0.4 * (1 + pressure) / 40 - abs(chance.gauss(0, 0.02)), 4)
    return TrialRecord(
        number=number,
        state="complete",
        values=(accuracy, float(size)),
        metrics={"validation_accuracy": accuracy},
        costs={"size_bytes": float(size)},
        params=params,
        feasible=chance.random() > 0.05 or not states,
        artifact=keys[-1],
        nodes=tuple(keys),
        phases=tuple(phases),
        worker=worker,
        begin=begin,
        end=now,
    )


def _baseline(
    name: str, family: str, accuracy: float, size: float, begin: float, stages: tuple[str, ...]
) -> BaselineRecord:
    names = ["warmup", *(("seed",) if name == "seed" else (f"{stages[0]}.search",)), "evaluation"]
    phases = tuple(
        PhaseRecord(
            name=phase,
            key="warmup" if phase == "warmup" else f"{name}/{phase}",
            begin=begin + 5.0 * place,
            seconds=5.0,
            epochs=EPOCHS[phase.rsplit(".", 1)[-1]],
            reused=phase == "warmup" and name != "seed",
        )
        for place, phase in enumerate(names)
    )
    return BaselineRecord(
        name=name,
        family=family,
        values=(accuracy, size),
        metrics={"validation_accuracy": accuracy},
        costs={"size_bytes": size},
        artifact=f"{name}/evaluation",
        phases=phases,
    )


def details(record: StudyRecord) -> Mapping[int, Detail]:
    """Layers of every complete trial: each other, so that no two columns are alike."""
    return {
        trial.number: _detail(trial.number, "mps" in str(trial.params["order"]))
        for trial in record.trials
        if trial.state == "complete"
    }


def _detail(number: int, quantised: bool) -> Detail:
    chance = random.Random(number)
    layers = []
    for name in LAYERS:
        kept = 10 if name == "classifier" else chance.randint(0, 24)
        low = chance.randint(0, kept)
        layers.append(
            LayerRecord(
                name=name,
                inputs=kept,
                outputs=kept,
                seed_inputs=24,
                seed_outputs=10 if name == "classifier" else 24,
                w_bits={2: low, 8: kept - low} if quantised else {},
                x_bits=8 if quantised else None,
            )
        )
    return Detail(layers=tuple(layers), costs=(), units={})
