"""The one training loop: warm-up, search and fine-tuning are phases of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plinio_sweep.methods.search import Search
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.pressure import Pressure
from plinio_sweep.train.recipe import Phase, Split, Splits, Task


class DivergedError(ArithmeticError):
    """The loss is no number any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """What a net reaches on one split."""

    loss: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who looks on while a net is trained.

    Args:
        epoch: Is told every finished epoch and how many the phase has.
        step: Is called before every step; what it raises ends the training.
    """

    epoch: Callable[[Epoch, int], None] = lambda epoch, epochs: None
    step: Callable[[], None] = lambda: None


def fit(
    net: nn.Module,
    data: Splits,
    task: Task,
    phase: Phase,
    *,
    name: str,
    batch_size: int,
    seed: int,
    pressure: Pressure | None = None,
    temperature: tuple[float, float] = (1.0, 1.0),
    first_step: int = 0,
    watch: Watch | None = None,
) -> list[Epoch]:
    """Trains `net` in place and leaves it at its best epoch.

    The best epoch has the least validation loss; in a search, the least sum of validation loss and
    full pressure at the *discretised* cost, among the epochs under full pressure. Epochs that keep
    the budget of the pressure, discretised, come before all others.

    Args:
        net: A plain net, or a search.
        data: On the device of `net`.
        task: Loss and metrics.
        phase: Epochs, rates and optimiser.
        name: Of the phase, for curves and messages.
        batch_size: Items of a step.
        seed: Of data order and dropout.
        pressure: On the decisions of a search.
        temperature: Of the relaxed choices of a search, in its first and in its last epoch; it
            falls when the pressure has risen.
        first_step: Number of epochs that the trial has seen before.
        watch: Who looks on.

    Returns:
        One record an epoch.

    Raises:
        DivergedError: When the loss is not finite, with the epoch.
    """
    torch.manual_seed(seed)
    watch = watch or Watch()
    optimizers = _optimizers(net, phase)
    generator = torch.Generator().manual_seed(seed)
    history: list[Epoch] = []
    best, kept = (True, math.inf), None
    for index in range(phase.epochs):
        fraction = index / phase.epochs
        _set_rates(optimizers, phase, fraction)
        if isinstance(net, Search):
            ramp = pressure.ramp if pressure else 0.0
            net.temperature.fill_(annealed(temperature, index, phase.epochs, ramp))
        batches = shuffled(data.part("train"), batch_size, generator)
        loss = _epoch(net, batches, task, optimizers, pressure, fraction, watch)
        score = evaluate(net, data.part("validation"), task)
        costs = _costs(net)
        if not math.isfinite(loss) or not math.isfinite(score.loss):
            raise DivergedError(
                f"The loss must stay finite, but became "
                f"{score.loss if math.isfinite(loss) else loss} in epoch {index + 1} of {name}; "
                f"use a lower learning rate or strength."
            )
        history.append(
            Epoch(
                phase=name,
                index=index,
                step=first_step + index,
                train_loss=loss,
                validation_loss=score.loss,
                metrics=score.metrics,
                strength=pressure.at(fraction) if pressure else 0.0,
                costs=costs,
            )
        )
        watch.epoch(history[-1], phase.epochs)
        rank = pressure.rank(score.loss, costs) if pressure else (False, score.loss)
        rising = pressure is not None and fraction < pressure.ramp and index + 1 < phase.epochs
        if not rising and rank < best:
            best, kept = rank, copy.deepcopy(net.state_dict())
    if kept is not None:
        net.load_state_dict(kept)
    return history


def _epoch(
    net: nn.Module,
    batches: Iterator[Split],
    task: Task,
    optimizers: list[torch.optim.Optimizer],
    pressure: Pressure | None,
    fraction: float,
    watch: Watch,
) -> float:
    """One pass over the training data; the mean task loss."""
    net.train()
    total, items = torch.zeros(()), 0
    for batch in batches:
        watch.step()
        loss = task.loss(net(*batch.inputs), batch.target)
        total, items = total + loss.detach().cpu() * len(batch), items + len(batch)
        if pressure is not None and isinstance(net, Search):
            loss = loss + pressure(net, fraction)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:  # nothing does where all is frozen
            torch.autograd.backward(loss)
        for optimizer in optimizers:
            optimizer.step()
    return float(total) / items


@torch.no_grad()
def evaluate(net: nn.Module, split: Split, task: Task, batch_size: int = 1024) -> Score:
    """Loss and metrics of `net` in eval mode, a search at its discretised decisions."""
    training = net.training
    net.eval()
    fixed = {"theta": net.theta(hard=True)} if isinstance(net, Search) else {}
    outputs = [
        net(*(value[start : start + batch_size] for value in split.inputs), **fixed)
        for start in range(0, len(split), batch_size)
    ]
    net.train(training)
    joined = _joined(outputs)
    loss = float(task.loss(joined, split.target))
    metrics = {name: float(metric(joined, split.target)) for name, metric in task.metrics.items()}
    return Score(loss, metrics)


@torch.no_grad()
def restore_norms(net: nn.Module, split: Split, batch_size: int) -> None:
    """Measures the statistics of every batch norm anew, as plain means over `split`.

    Dropout stays off: the statistics are those that the net meets in use.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.track_running_stats]
    if not norms:
        return
    training = net.training
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    hooks = [norm.register_forward_pre_hook(_weigher()) for norm in norms]
    for batch in shuffled(split, batch_size, torch.Generator().manual_seed(0)):
        net(*batch.inputs)
    for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
        hook.remove()
        norm.momentum = momentum
    net.train(training)


def _weigher() -> Callable[[nn.Module, Any], None]:
    """Has a norm weigh each batch by its items: a cumulative mean would weigh all batches alike."""
    seen = 0

    def weigh(norm: Any, inputs: Any) -> None:
        nonlocal seen
        seen += len(inputs[0])
        norm.momentum = len(inputs[0]) / seen

    return weigh


def _optimizers(net: nn.Module, phase: Phase) -> list[torch.optim.Optimizer]:
    weights = _trained(net.net_parameters() if isinstance(net, Search) else net.parameters())
    decisions = _trained(net.nas_parameters() if isinstance(net, Search) else ())
    rate = phase.lr if phase.arch_lr is None else phase.arch_lr
    found = []
    if weights:  # an optimiser refuses an empty list
        found.append(phase.optimizer(weights, phase.lr))
    if decisions:
        # An optimiser of their own: weight decay on them would prune by itself.
        found.append(torch.optim.Adam(decisions, lr=rate))
    return found


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def annealed(temperature: tuple[float, float], index: int, epochs: int, ramp: float) -> float:
    """The temperature in epoch `index`: its start while the pressure rises, then down to its end.

    It falls by equal factors. If it fell from the first epoch on, most choices would be frozen
    where they began before the pressure is felt.

    Args:
        temperature: In the first and in the last epoch.
        index: 0-based.
        epochs: Of the search.
        ramp: Fraction of the search in [0, 1) over which the pressure rises.
    """
    start, end = temperature
    still = max(1, math.ceil(ramp * epochs))
    fallen = max(0, index - still + 1) / max(1, epochs - still)
    return float(start * (end / start) ** fallen)


def _set_rates(optimizers: list[torch.optim.Optimizer], phase: Phase, fraction: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * phase.schedule(fraction)


def shuffled(split: Split, size: int, generator: torch.Generator) -> Iterator[Split]:
    """A pass over `split` in random order; a last batch of one item joins the one before."""
    order = torch.randperm(len(split), generator=generator)
    parts = list(torch.split(order, size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    for part in parts:
        index = part.to(split.target.device)
        yield Split(tuple(value[index] for value in split.inputs), split.target[index])


@torch.no_grad()
def _costs(net: nn.Module) -> dict[str, float]:
    if not isinstance(net, Search):
        return {}
    return {name: float(cost) for name, cost in net.get_costs(hard=True).items()}


def _joined(outputs: list[Any]) -> Any:
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)
    if isinstance(first, Mapping):
        return {key: _joined([out[key] for out in outputs]) for key in first}
    parts = [_joined(list(part)) for part in zip(*outputs, strict=True)]
    # A named tuple takes its fields one by one.
    return type(first)(parts) if type(first) in (tuple, list) else type(first)(*parts)
