"""The one training loop: warm-up, search and fine-tuning are phases of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plinio_sweep.methods.search import Search
from plinio_sweep.train.augment import augmented, step_generator
from plinio_sweep.train.checkpoints import Checkpoints
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.layout import channels_last
from plinio_sweep.train.pressure import Pressure
from plinio_sweep.train.recipe import Phase, Split, Splits, Task
from plinio_sweep.train.state import (
    State,
    load_net_state,
    load_optimizer_state,
    load_random_state,
    net_state,
    random_state,
    seed_random,
)

# Items of a batch that is only measured: what is between the layers is to stay near the processor,
# and below the size that the allocator takes from the system anew each time.
MEASURED = 128


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
        warn: Is told in a sentence what went wrong beside the training.
    """

    epoch: Callable[[Epoch, int], None] = lambda epoch, epochs: None
    step: Callable[[], None] = lambda: None
    warn: Callable[[str], None] = lambda text: None


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
    keeper: Checkpoints | None = None,
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
        seed: Of data order, augmentation and dropout, and of what loss and net draw from numpy and
            Python.
        pressure: On the decisions of a search.
        temperature: Of the relaxed choices of a search, in its first and in its last epoch; it
            falls when the pressure has risen.
        first_step: Number of epochs that the trial has seen before.
        watch: Who looks on.
        keeper: Keeps checkpoints, the last of them at the end, so that a phase that is over is not
            trained again; from one that it has, training goes on bit by bit, in a net that was made
            as the first one was.

    Returns:
        One record an epoch, those before a checkpoint included.

    Raises:
        DivergedError: When the loss is not finite, with the epoch.
    """
    first = data.part("train").first(batch_size)
    with channels_last(net, first.inputs, partial(_try_step, net, first, task)):
        seed_random(seed)
        run = _Run(
            net=net,
            data=data,
            task=task,
            phase=phase,
            name=name,
            batch_size=batch_size,
            seed=seed,
            generator=torch.Generator().manual_seed(seed),
            pressure=pressure,
            temperature=temperature,
            first_step=first_step,
            watch=watch or Watch(),
            keeper=keeper,
        )
        if keeper is not None:
            keeper.resume(run.restore)
        return run.to_end()


@dataclass(eq=False, kw_only=True)
class _Run:
    """A phase under way: what `fit` was given, and how far it is."""

    net: nn.Module
    data: Splits
    task: Task
    phase: Phase
    name: str
    batch_size: int
    seed: int
    generator: torch.Generator  # of the data order
    pressure: Pressure | None
    temperature: tuple[float, float]
    first_step: int
    watch: Watch
    keeper: Checkpoints | None

    def __post_init__(self) -> None:
        self.optimizers = _optimizers(self.net, self.phase)
        self.history: list[Epoch] = []
        self.best: tuple[bool, float] = (True, math.inf)
        self.kept: dict[str, Any] | None = None  # the net at its best epoch
        self.order = self.generator.get_state()  # as this epoch began
        self._sum_anew()

    @property
    def index(self) -> int:
        """Of the epoch, 0-based."""
        return len(self.history)

    @property
    def fraction(self) -> float:
        """How much of the phase was over when the epoch began."""
        return self.index / self.phase.epochs

    def to_end(self) -> list[Epoch]:
        """The epochs that are left, then back to the best one."""
        while self.index < self.phase.epochs:
            if not self.done:  # else it goes on in the midst of one
                self._begin_epoch()
            loss = self._train_epoch()
            self._end_epoch(loss, evaluate(self.net, self.data.part("validation"), self.task))
        if self.kept is not None:
            self.net.load_state_dict(self.kept)
        return self.history

    # -- an epoch -------------------------------------------------------------------------------

    def _sum_anew(self) -> None:
        self.done = 0  # steps of this epoch
        # Task loss of this epoch, times items: beside the net, for to read it at each step would
        # have a GPU wait for us.
        self.total, self.items = torch.zeros((), device=_device(self.net)), 0

    def _begin_epoch(self) -> None:
        _set_rates(self.optimizers, self.phase, self.fraction)
        if isinstance(self.net, Search):
            ramp = self.pressure.ramp if self.pressure else 0.0
            now = annealed(self.temperature, self.index, self.phase.epochs, ramp)
            self.net.temperature.fill_(now)
        self.net.train()

    def _train_epoch(self) -> float:
        """What is left of a pass over the training data; the mean task loss of all of it."""
        self.generator.set_state(self.order)
        part = self.data.part("train")
        for batch in shuffled(part, self.batch_size, self.generator, first=self.done):
            try:
                self.watch.step()
            except Exception:
                self._keep()  # who stops a training wants to go on with it
                raise
            self._step(batch)
            self.done += 1
            if self.keeper is not None and self.keeper.due(epoch=False):
                self._keep()
        return float(self.total) / self.items

    def _step(self, batch: Split) -> None:
        inputs = batch.inputs
        if self.task.augment is not None:
            drawn = step_generator(self.seed, self.index, self.done, batch.target.device)
            inputs = augmented(self.task.augment, inputs, drawn)
        loss = self.task.loss(self.net(*inputs), batch.target)
        self.total = self.total + loss.detach() * len(batch)
        self.items += len(batch)
        if self.pressure is not None and isinstance(self.net, Search):
            loss = loss + self.pressure(self.net, self.fraction)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:  # nothing does where all is frozen
            torch.autograd.backward(loss)
        for optimizer in self.optimizers:
            optimizer.step()

    def _end_epoch(self, loss: float, score: Score) -> None:
        costs = _costs(self.net)
        if not math.isfinite(loss) or not math.isfinite(score.loss):
            raise DivergedError(
                f"The loss must stay finite, but became "
                f"{score.loss if math.isfinite(loss) else loss} in epoch {self.index + 1} of "
                f"{self.name}; use a lower learning rate or strength."
            )
        pressure, fraction, last = self.pressure, self.fraction, self.index + 1 == self.phase.epochs
        epoch = Epoch(
            phase=self.name,
            index=self.index,
            step=self.first_step + self.index,
            train_loss=loss,
            validation_loss=score.loss,
            metrics=score.metrics,
            strength=pressure.at(fraction) if pressure else 0.0,
            costs=costs,
        )
        self.watch.epoch(epoch, self.phase.epochs)
        rank = pressure.rank(score.loss, costs) if pressure else (False, score.loss)
        rising = pressure is not None and fraction < pressure.ramp and not last
        if not rising and rank < self.best:
            self.best, self.kept = rank, copy.deepcopy(self.net.state_dict())
        self.history.append(epoch)
        self.order = self.generator.get_state()
        self._sum_anew()
        if self.keeper is not None and (last or self.keeper.due(epoch=True)):
            self._keep()

    # -- checkpoints ----------------------------------------------------------------------------

    def _keep(self) -> None:
        if self.keeper is not None:
            self.keeper.write((self.index, self.done), self.state())

    def state(self) -> dict[str, Any]:
        """All that decides how this run goes on, and what it has come to."""
        return {
            "net": net_state(self.net),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": random_state(_device(self.net)),
            "full": self.pressure.full if self.pressure else None,
            "history": [epoch.to_dict() for epoch in self.history],
            "best": self.best,
            "kept": self.kept,
            "order": self.order,
            "done": self.done,
            "total": self.total,
            "items": self.items,
        }

    def restore(self, state: State) -> None:
        """Goes on from `state`, which a run of the same settings gave.

        Raises:
            ValueError: When it does not fit; this run is then as before.
        """
        before = copy.deepcopy(self.state())
        try:
            self._take(state)
        except Exception as error:
            self._take(before)
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
            raise ValueError(
                f"A state must fit the run that goes on from it, but raised {reason}; leave it out."
            ) from error

    def _take(self, state: State) -> None:
        load_net_state(self.net, state["net"])
        # Anew, since what is frozen has no optimiser.
        self.optimizers = _optimizers(self.net, self.phase)
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            load_optimizer_state(optimizer, values)
        if self.pressure is not None:
            # It was measured at the start of the run, on a machine that may round otherwise.
            self.pressure = replace(self.pressure, full=state["full"])
        self.history[:] = [Epoch(**epoch) for epoch in state["history"]]
        self.best, self.kept, self.order = state["best"], state["kept"], state["order"]
        self.done, self.items = state["done"], state["items"]
        self.total = state["total"].to(_device(self.net))
        load_random_state(state["random"], _device(self.net))


def _try_step(net: nn.Module, batch: Split, task: Task) -> None:
    """All that a phase does with a net, once, but for a change of its weights."""
    net.train()
    loss = task.loss(net(*batch.inputs), batch.target)
    if loss.requires_grad:
        torch.autograd.backward(loss)
    with torch.no_grad():
        net.eval()(*batch.inputs)


@torch.no_grad()
def evaluate(net: nn.Module, split: Split, task: Task, batch_size: int = MEASURED) -> Score:
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
    first = split.first(batch_size).inputs
    with channels_last(net, first, lambda: net(*first)):
        _measure_norms(net, norms, split, batch_size)


def _measure_norms(net: nn.Module, norms: list[Any], split: Split, batch_size: int) -> None:
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


def _device(net: nn.Module) -> torch.device:
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device


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


def shuffled(
    split: Split, size: int, generator: torch.Generator, *, first: int = 0
) -> Iterator[Split]:
    """A pass over `split` in random order; a last batch of one item joins the one before.

    Args:
        split: The data.
        size: Of a batch.
        generator: Of the order.
        first: Batch to begin at.
    """
    # To the data at once: a GPU would wait for each part by itself.
    order = torch.randperm(len(split), generator=generator).to(split.target.device)
    parts = list(torch.split(order, size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    for index in parts[first:]:
        yield Split(tuple(value[index] for value in split.inputs), split.target[index])


@torch.no_grad()
def _costs(net: nn.Module) -> dict[str, float]:
    if not isinstance(net, Search):
        return {}
    return {name: float(cost) for name, cost in net.get_costs(hard=True).items()}


def _joined(outputs: list[Any]) -> Any:
    first = outputs[0]
    if isinstance(first, Tensor):
        # In the usual order, whatever that of the net: a metric may be a function of anybody.
        return torch.cat(outputs).contiguous()
    if isinstance(first, Mapping):
        return {key: _joined([out[key] for out in outputs]) for key in first}
    parts = [_joined(list(part)) for part in zip(*outputs, strict=True)]
    # A named tuple takes its fields one by one.
    return type(first)(parts) if type(first) in (tuple, list) else type(first)(*parts)
