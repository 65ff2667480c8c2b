"""One trial: a plan, trained, exported, measured and stored. A pure function up to the store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plinio_sweep.graph.count import cost_of
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.methods import METHODS
from plinio_sweep.sweep.definition import describe
from plinio_sweep.sweep.files import load_json, load_weights, save_json, save_weights
from plinio_sweep.sweep.node import Outcome, once, outcome_of
from plinio_sweep.sweep.path import Node, path_of
from plinio_sweep.sweep.result import PhaseRecord, TrialResult
from plinio_sweep.sweep.shipped import shipped
from plinio_sweep.sweep.stage import Ground, Plan, StageOutcome
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch, evaluate
from plinio_sweep.train.recipe import NetFn


def run_trial(
    ground: Ground, plan: Plan, *, warmup_seed: int, watch: Watch
) -> tuple[TrialResult, nn.Module, Path]:
    """Comes to the result of `plan`: what is stored of its path is read, the rest is trained.

    Args:
        ground: What the study stands on.
        plan: Stages and seed.
        warmup_seed: Of the warm-up.
        watch: Who looks on.

    Returns:
        The result, the exported net in eval mode, and the folder of both.

    Raises:
        DivergedError: When a loss is not finite.
        ValueError: When a stored file is damaged.
    """
    ground = ground.on(plan.net)
    path = path_of(ground, plan, warmup_seed)
    end = path[-1]
    folder = ground.store.find(end.key)
    if folder is not None:
        return _stored(ground, folder, path)
    net: nn.Module | None = None
    outcomes: list[Outcome] = []
    phases: list[PhaseRecord] = []
    for node in path[:-1]:
        since = _Since()
        outcomes.append(outcome_of(ground, node, net, watch))
        net = outcomes[-1].net
        phases.append(since.phase(node, len(outcomes[-1].history), outcomes[-1].reused))
    assert net is not None
    trained = net.eval()

    def measure(_: Watch) -> TrialResult:
        since = _Since()
        made = _measure(ground, plan, trained, outcomes, end.key)
        known = (*phases, since.phase(end, 0, reused=False))
        return replace(made, phases=known, seconds=sum(phase.seconds for phase in known))

    def save(made: TrialResult, draft: Path) -> None:
        _save(draft, made, trained)

    found = once(ground, end.key, watch, measure, save)
    if found[1] is not None:
        return found[1], trained, found[0]
    # Somebody else came to it while this was on its way; what was trained here was so all the same.
    result, net, folder = _stored(ground, found[0], path)
    known = (*phases, result.phases[-1])
    seconds = sum(phase.seconds for phase in known)
    own = replace(result, phases=known, seconds=seconds, reused_epochs=_reused(outcomes))
    return own, net, folder


class _Since:
    """When something began: by the clock, and to measure how long it takes."""

    def __init__(self) -> None:
        self._moment, self._begin = time.time(), time.perf_counter()

    def phase(self, node: Node, epochs: int, reused: bool) -> PhaseRecord:
        """What was done since then: `node`."""
        return PhaseRecord(
            name=node.name,
            key=node.key,
            begin=self._moment,
            seconds=time.perf_counter() - self._begin,
            epochs=epochs,
            reused=reused,
        )


def _stored(
    ground: Ground, folder: Path, path: tuple[Node, ...]
) -> tuple[TrialResult, nn.Module, Path]:
    result, now = read_result(folder), _Since()
    epochs = Counter(epoch.phase for epoch in result.history)
    phases = tuple(now.phase(node, epochs[node.name], reused=True) for node in path)
    reused = replace(result, reused_epochs=len(result.history), phases=phases)
    return reused, load_net(ground, folder), folder


def _measure(
    ground: Ground,
    plan: Plan,
    net: nn.Module,
    outcomes: list[Outcome],
    key: str,
) -> TrialResult:
    leaves = shipped(ground, net)
    score = evaluate(leaves.net, ground.data.part("validation"), ground.task)
    example = ground.data.example()
    report = cost_of(net, example, ground.models)
    searches = [outcome.search for outcome in outcomes if outcome.search is not None]
    stages = [
        {**stage.describe(), "decisions": search.decisions}
        for stage, search in zip(plan.stages, searches, strict=True)
    ]
    return TrialResult(
        metrics={"validation_loss": score.loss}
        | {f"validation_{name}": value for name, value in score.metrics.items()},
        costs={**report.totals, **leaves.costs(ground.models)},
        integers=leaves.notes,
        estimates=searches[-1].estimate() if searches else {},
        units=report.units,
        architecture={
            "version": 1,
            "net": ground.parts["net"],
            "inputs": [list(value.shape[1:]) for value in example],
            "types": [str(value.dtype).removeprefix("torch.") for value in example],
            "stages": stages,
            "layers": _layers(searches),
        },
        layers=report.layers,
        history=tuple(epoch for outcome in outcomes for epoch in outcome.history),
        reused_epochs=_reused(outcomes),
        artifact=key,
        seconds=0.0,  # known when all is done
    )


def _reused(outcomes: list[Outcome]) -> int:
    """Epochs that were taken from the store."""
    return sum(len(outcome.history) for outcome in outcomes if outcome.reused)


def _layers(outcomes: list[StageOutcome]) -> dict[str, dict[str, Any]]:
    """What each layer is at the end beside what it was in the first seed that had it."""
    if not outcomes:
        return {}
    first, last = outcomes[0].layers, outcomes[-1].layers
    found: dict[str, dict[str, Any]] = {}
    for name, choice in last.items():
        seed = first.get(name, choice)
        found[name] = {
            "in": choice.inputs,
            "out": choice.outputs,
            "seed_in": seed.seed_inputs,
            "seed_out": seed.seed_outputs,
        }
        if choice.taps:
            found[name] |= {
                "taps": choice.taps,
                "dilation": choice.dilation,
                "seed_taps": seed.seed_taps,
                "seed_dilation": seed.seed_dilation,
            }
        if choice.w_bits is not None:
            found[name] |= {"w_bits": _words(choice.w_bits), "x_bits": choice.x_bits}
    return found


def _words(w_bits: Mapping[int, int]) -> dict[str, int]:
    """Outputs at each bit-width, with keys that JSON leaves as they are."""
    return {str(bits): count for bits, count in w_bits.items()}


# -- files --------------------------------------------------------------------------------------


def _save(folder: Path, result: TrialResult, net: nn.Module) -> None:
    save_weights(net, folder)
    report = {
        "metrics": result.metrics,
        "costs": result.costs,
        "units": result.units,
        "estimates": result.estimates,
        "differences": _differences(result),
        "integers": result.integers,
        "layers": result.layers,
    }
    files = {
        "architecture.json": result.architecture,
        "report.json": report,
        "history.json": [epoch.to_dict() for epoch in result.history],
        "result.json": asdict(result),
    }
    for name, value in files.items():
        save_json(value, folder / name)


def _differences(result: TrialResult) -> dict[str, float]:
    """What each cost came to, less what the search believed at its end."""
    known = {name: result.costs[name] for name in result.estimates if name in result.costs}
    return {name: cost - result.estimates[name] for name, cost in known.items()}


def read_result(folder: Path) -> TrialResult:
    """The result stored in `folder`.

    Raises:
        ValueError: When the file is damaged.
    """
    stored = load_json(folder / "result.json")
    stored["history"] = tuple(Epoch(**epoch) for epoch in stored["history"])
    phases = tuple(PhaseRecord(**phase) for phase in stored.get("phases", ()))
    return TrialResult(**stored | {"layers": tuple(stored["layers"]), "phases": phases})


def rebuild(make: NetFn, architecture: Mapping[str, Any]) -> nn.Module:
    """The net that `architecture` describes, made from the seed net, with any weights.

    Args:
        make: Makes the seed net.
        architecture: As stored in architecture.json.
    """
    net = make()
    example = example_of(architecture)
    for stage in architecture["stages"]:
        settings = {k: v for k, v in stage["settings"].items() if k != "record"}
        search = METHODS[stage["method"]](**settings).open(net, example)
        net = search.export(search.decode(stage["decisions"]), check=False)
    return net


def example_of(architecture: Mapping[str, Any]) -> Inputs:
    """Inputs of the net that `architecture` describes: two items of zeros."""
    return tuple(
        torch.zeros(2, *shape, dtype=getattr(torch, dtype))
        for shape, dtype in zip(architecture["inputs"], architecture["types"], strict=True)
    )


def load_structure(nets: Sequence[NetFn], folder: Path) -> tuple[nn.Module, Inputs]:
    """The exported net of a stored result with any weights, in eval mode, and example inputs.

    Args:
        nets: Makers of all nets that plans start from, the task's first.
        folder: Of the result.

    Raises:
        ValueError: When the file is damaged.
    """
    architecture = load_json(folder / "architecture.json")
    return rebuild(_maker(nets, architecture), architecture).eval(), example_of(architecture)


def load_net(ground: Ground, folder: Path) -> nn.Module:
    """The exported net of a stored result, in eval mode.

    Raises:
        ValueError: When a file is damaged or belongs to another net.
    """
    architecture = load_json(folder / "architecture.json")
    make = _maker((ground.task.net, *ground.nets), architecture)
    net = rebuild(make, architecture).to(ground.device)
    load_weights(net, folder)
    return net.eval()


def _maker(nets: Sequence[NetFn], architecture: Mapping[str, Any]) -> NetFn:
    """The one that `architecture` was made from; the first where none is as it was then."""
    if len(nets) == 1:
        return nets[0]
    same = (make for make in nets if describe(make) == architecture["net"])
    return next(same, nets[0])
