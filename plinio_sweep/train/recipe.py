"""What is trained, on what, and how long: frozen records.

Shapes: `N` items of a split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

NetFn = Callable[[], nn.Module]
LossFn = Callable[[Any, Tensor], Tensor]  # outputs of the net, target -> 0-dim
MetricFn = Callable[[Any, Tensor], Tensor | float]  # over a whole split at once
# Inputs of a batch, as the net takes them, and what to draw from -> inputs of the same length.
AugmentFn = Callable[[tuple[Tensor, ...], torch.Generator], tuple[Tensor, ...]]
OptimizerFn = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]
ScheduleFn = Callable[[float], float]  # fraction of the phase in [0, 1) -> factor of the rate


def adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam with its published defaults and no weight decay."""
    return torch.optim.Adam(parameters, lr=lr)


def constant(fraction: float) -> float:
    """The same learning rate throughout."""
    return 1.0


def cosine(fraction: float) -> float:
    """From the full learning rate to zero along half a cosine (arXiv 1608.03983, equation 5)."""
    return 0.5 * (1.0 + math.cos(math.pi * fraction))


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One part of a data set, on one device.

    Args:
        inputs: The arguments of the net, each `(N, …)`.
        target: `(N, …)` what the loss compares with.
    """

    inputs: tuple[Tensor, ...]
    target: Tensor

    def __len__(self) -> int:
        return len(self.target)

    def first(self, count: int) -> Split:
        """Its first `count` items, or all where it has fewer."""
        return Split(tuple(value[:count] for value in self.inputs), self.target[:count])

    def to(self, device: torch.device) -> Split:
        """The same split on `device`."""
        return Split(tuple(value.to(device) for value in self.inputs), self.target.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """A data set in its three parts, each a pair of inputs and target.

    Raises:
        TypeError: When a part is no pair of tensors.
        ValueError: When a part is empty or its tensors differ in length.
    """

    train: Split | tuple[Any, Tensor]
    validation: Split | tuple[Any, Tensor]
    test: Split | tuple[Any, Tensor]

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            object.__setattr__(self, name, _split(name, getattr(self, name)))

    def part(self, name: str) -> Split:
        """The split called `name`."""
        part = getattr(self, name)
        assert isinstance(part, Split)
        return part

    def to(self, device: torch.device) -> Splits:
        """The same data on `device`."""
        parts = {name: self.part(name).to(device) for name in ("train", "validation", "test")}
        return Splits(**parts)

    def example(self) -> tuple[Tensor, ...]:
        """Two items of the training inputs."""
        return self.part("train").first(2).inputs


def _split(name: str, given: Any) -> Split:
    if isinstance(given, Split):
        return given
    inputs, target = given if isinstance(given, tuple) and len(given) == 2 else (None, None)
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    whole = isinstance(inputs, tuple | list) and all(isinstance(value, Tensor) for value in inputs)
    if not whole or not inputs or not isinstance(target, Tensor):
        raise TypeError(
            f"`{name}` must be a pair (inputs, target) of tensors, but got "
            f"{type(given).__name__}; several inputs go in a tuple of their own."
        )
    lengths = [len(value) if value.dim() else 0 for value in (*inputs, target)]
    if len(set(lengths)) != 1 or lengths[0] < 2:
        raise ValueError(
            f"All tensors of `{name}` must have the same length of two or more, but got "
            f"{lengths}; check the loader of this split."
        )
    return Split(tuple(inputs), target)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training.

    Args:
        epochs: Passes over the training data.
        lr: Learning rate of the weights.
        arch_lr: Learning rate of the decisions; that of the weights when left out.
        optimizer: Makes the optimiser of the weights from parameters and rate.
        schedule: Factor of both rates over the phase.
    """

    epochs: int
    lr: float = 1e-3
    arch_lr: float | None = None
    optimizer: OptimizerFn = adam
    schedule: ScheduleFn = constant

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(
                f"`epochs` must be at least 0, but got {self.epochs}; 0 skips a phase."
            )
        for name in ("lr", "arch_lr"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(
                    f"`{name}` must be above 0 and finite, but got {rate}; 1e-3 is a start."
                )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every trial is trained.

    Args:
        warmup: Of the seed net, shared by all trials.
        search: Of weights and decisions together, once for each stage.
        finetune: Of the exported net, once for each stage.
        batch_size: Items of a step.
        ramp: Fraction of the search over which the pressure rises from 0 to its full strength.
        temperature: Of relaxed choices at the start and at the end of the search, falling after
            the ramp; what is nearly discrete at the end loses nothing when it is exported.
    """

    warmup: Phase
    search: Phase
    finetune: Phase
    batch_size: int = 128
    ramp: float = 0.5
    temperature: tuple[float, float] = (1.0, 0.01)

    def __post_init__(self) -> None:
        if self.search.epochs < 1:
            raise ValueError(
                f"`search` must last an epoch at least, but got epochs={self.search.epochs}; "
                f"give it more."
            )
        if self.batch_size < 2:
            # A batch norm has no variance over one item.
            raise ValueError(
                f"`batch_size` must be at least 2, but got {self.batch_size}; 32 is a start."
            )
        if len(self.temperature) != 2 or not all(0 < t < math.inf for t in self.temperature):
            raise ValueError(
                f"`temperature` must be a start and an end above 0, but got {self.temperature}; "
                f"(1.0, 0.01) is a start."
            )
        if not 0 <= self.ramp < 1:
            raise ValueError(
                f"`ramp` must be in [0, 1), but got {self.ramp}; the full strength needs some "
                f"epochs, too."
            )


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be learned.

    Args:
        net: Makes the seed net.
        data: Loads the data.
        loss: Of outputs and target, 0-dim.
        metrics: By name, of all outputs and targets of a split.
        augment: Changes the inputs of each batch that is trained on, on the device of the net; what
            it draws from its generator, which is on that device, too, follows from the seed.
    """

    net: NetFn
    data: Callable[[], Splits]
    loss: LossFn
    metrics: Mapping[str, MetricFn] = field(default_factory=dict)
    augment: AugmentFn | None = None
