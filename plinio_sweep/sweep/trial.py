"""One trial: a plan, trained, exported, measured and stored. A pure function up to the store."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from plinio_sweep.graph.count import cost_of
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.methods import METHODS
from plinio_sweep.sweep.definition import describe
from plinio_sweep.sweep.failure import reason_of
from plinio_sweep.sweep.result import TrialResult
from plinio_sweep.sweep.shipped import shipped
from plinio_sweep.sweep.stage import Ground, Plan, StageOutcome, run_stage
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch, evaluate, fit
from plinio_sweep.train.recipe import Phase

WEIGHTS = "model.safetensors"


def seed_net(ground: Ground) -> nn.Module:
    """A new seed net on the device of the study.

    Raises:
        ValueError: When it can't run on the data, with what it said.
        TypeError: When the task gives no module.
    """
    try:
        net = ground.task.net()
    except Exception as error:
        raise ValueError(
            f"`net` must make the seed net, but failed: {reason_of(error)}; correct that function."
        ) from error
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"`net` must return a torch module, but returned {type(net).__name__}; return the net."
        )
    net = net.to(ground.device)
    example = ground.data.example()
    try:
        with torch.no_grad():
            outputs = copy.deepcopy(net).eval()(*example)
            ground.task.loss(outputs, ground.data.part("train").target[:2])
    except Exception as error:
        shapes = [tuple(value.shape) for value in example]
        reason = " ".join(str(error).split())
        raise ValueError(
            f"Net and loss must accept the data, but failed on inputs of shape {shapes} and type "
            f"{example[0].dtype}: {reason}; correct the net, the loss or the loader."
        ) from error
    return net


def warm_net(ground: Ground, seed: int, watch: Watch) -> tuple[nn.Module, list[Epoch]]:
    """The seed net after its warm-up: trained once for all trials, then loaded."""
    key = ground.warmup_key(seed)
    torch.manual_seed(seed)
    net = seed_net(ground)
    with ground.store.lock(key):
        folder = ground.store.find(key)
        if folder is not None:
            load_weights(net, folder)
            return net, []
        phase, size = ground.recipe.warmup, ground.recipe.batch_size
        history = fit(
            net,
            ground.data,
            ground.task,
            phase,
            name="warmup",
            batch_size=size,
            seed=seed,
            watch=watch,
        )
        ground.store.write(key, lambda folder: save_weights(net, folder))
    return net, history


def run_trial(
    ground: Ground, plan: Plan, *, warmup_seed: int, watch: Watch
) -> tuple[TrialResult, nn.Module, Path]:
    """Trains and stores `plan`, or finds that it was: result, exported net and folder.

    Raises:
        DivergedError: When a loss is not finite.
    """
    key = ground.plan_key(plan, warmup_seed)
    folder = ground.store.find(key)
    if folder is not None:
        result = read_result(folder)
        return result, load_net(ground, folder), folder
    begin = time.perf_counter()
    net, history = warm_net(ground, warmup_seed, watch)
    outcomes: list[StageOutcome] = []
    for turn, stage in enumerate(plan.stages):
        count = sum(s.method.name == stage.method.name for s in plan.stages[:turn]) + 1
        name = stage.method.name if count == 1 else f"{stage.method.name}#{count}"
        seed = plan.seed + 2 * turn
        step = len(history)
        outcome = run_stage(ground, net, stage, name=name, seed=seed, step=step, watch=watch)
        net, history = outcome.net, history + outcome.history
        outcomes.append(outcome)
    if not plan.stages:
        history = history + _train_on(ground, net, plan.seed, len(history), watch)
    result = _measure(ground, plan, net, outcomes, history, key, time.perf_counter() - begin)
    folder = ground.store.write(key, lambda draft: _save(draft, result, net))
    return result, net.eval(), folder


def _train_on(ground: Ground, net: nn.Module, seed: int, step: int, watch: Watch) -> list[Epoch]:
    """The seed net gets as many epochs as a trial of one stage: a fair baseline."""
    recipe = ground.recipe
    phase = Phase(
        epochs=recipe.search.epochs + recipe.finetune.epochs,
        lr=recipe.search.lr,
        optimizer=recipe.search.optimizer,
        schedule=recipe.search.schedule,
    )
    return fit(
        net,
        ground.data,
        ground.task,
        phase,
        name="seed",
        batch_size=recipe.batch_size,
        seed=seed,
        first_step=step,
        watch=watch,
    )


def _measure(
    ground: Ground,
    plan: Plan,
    net: nn.Module,
    outcomes: list[StageOutcome],
    history: list[Epoch],
    key: str,
    seconds: float,
) -> TrialResult:
    leaves = shipped(ground, net)
    score = evaluate(leaves.net, ground.data.part("validation"), ground.task)
    example = ground.data.example()
    report = cost_of(net, example, ground.models)
    stages = [
        {**stage.describe(), "decisions": outcome.decisions}
        for stage, outcome in zip(plan.stages, outcomes, strict=True)
    ]
    layers = _layers(outcomes)
    return TrialResult(
        metrics={"validation_loss": score.loss}
        | {f"validation_{name}": value for name, value in score.metrics.items()},
        costs={**report.totals, **leaves.costs(ground.models)},
        integers=leaves.notes,
        estimates=dict(outcomes[-1].estimate) if outcomes else {},
        units=report.units,
        architecture={
            "version": 1,
            "net": describe(ground.task.net),
            "inputs": [list(value.shape[1:]) for value in example],
            "types": [str(value.dtype).removeprefix("torch.") for value in example],
            "stages": stages,
            "layers": layers,
        },
        layers=report.layers,
        history=tuple(history),
        artifact=key,
        seconds=seconds,
    )


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


def save_weights(net: nn.Module, folder: Path) -> None:
    """Writes the state of `net` as safetensors: data, no code."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    # Through bytes: a full disk is then an OSError like any other.
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(state))


def load_weights(net: nn.Module, folder: Path) -> None:
    """Reads the state of `net` back.

    Raises:
        ValueError: When the file is damaged or belongs to another net.
    """
    path = folder / WEIGHTS
    try:
        net.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:
        raise ValueError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return (
        f"The stored file {path} must be whole and fit the net, but can't be used: {reason}; "
        f"remove its folder to have it trained again."
    )


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
        (folder / name).write_text(json.dumps(value, indent=1), encoding="utf-8")


def _differences(result: TrialResult) -> dict[str, float]:
    """What each cost came to, less what the search believed at its end."""
    known = {name: result.costs[name] for name in result.estimates if name in result.costs}
    return {name: cost - result.estimates[name] for name, cost in known.items()}


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(_damaged(path, error)) from error


def read_result(folder: Path) -> TrialResult:
    """The result stored in `folder`.

    Raises:
        ValueError: When the file is damaged.
    """
    stored = _load_json(folder / "result.json")
    stored["history"] = tuple(Epoch(**epoch) for epoch in stored["history"])
    return TrialResult(**stored | {"layers": tuple(stored["layers"])})


def rebuild(make: Callable[[], nn.Module], architecture: Mapping[str, Any]) -> nn.Module:
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


def load_structure(make: Callable[[], nn.Module], folder: Path) -> tuple[nn.Module, Inputs]:
    """The exported net of a stored trial with any weights, in eval mode, and example inputs.

    Args:
        make: Makes the seed net.
        folder: Of the trial.

    Raises:
        ValueError: When the file is damaged.
    """
    architecture = _load_json(folder / "architecture.json")
    return rebuild(make, architecture).eval(), example_of(architecture)


def load_net(ground: Ground, folder: Path) -> nn.Module:
    """The exported net of a stored trial, in eval mode.

    Raises:
        ValueError: When a file is damaged or belongs to another net.
    """
    architecture = _load_json(folder / "architecture.json")
    net = rebuild(ground.task.net, architecture).to(ground.device)
    load_weights(net, folder)
    return net.eval()
