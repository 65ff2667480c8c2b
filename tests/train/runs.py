"""Runs of the loop of every kind, to be cut and to go on: each is made anew, as a process makes it.

Every random state matters: dropout and noise draw from torch, the loss from numpy and Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from costs import params, size_bytes
from plinio_sweep import MPSSettings, PITSettings, SuperNetModule, SuperNetSettings
from plinio_sweep.methods.search import Method, Search
from plinio_sweep.train.checkpoints import Checkpoints
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch, fit
from plinio_sweep.train.metrics import accuracy
from plinio_sweep.train.pressure import Budget, Pressure, Source
from plinio_sweep.train.recipe import AugmentFn, Phase, Splits, Task, adam, cosine
from plinio_sweep.train.sealed import seal
from plinio_sweep.train.state import net_state, random_state
from tests.studies.tiny import bars

MODELS = {"params": params, "size_bytes": size_bytes}
EPOCHS, STEPS = 3, 3  # of every run, and of each of its epochs


def momentum(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-3)


def amsgrad(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, amsgrad=True)


class Net(nn.Module):
    """A small net with norms, dropout, and a choice between blocks if asked for."""

    def __init__(self, *, choice: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 5, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(5)
        self.block: nn.Module = nn.Conv2d(5, 5, 1)
        if choice:
            deep = nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5))
            self.block = SuperNetModule([nn.Conv2d(5, 5, 1), deep, nn.Identity()])
        self.second_norm = nn.BatchNorm2d(5, momentum=None)
        self.drop = nn.Dropout(0.3)
        self.classifier = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `(B, 2)` of images `(B, 1, 6, 6)`."""
        x = F.relu(self.first_norm(self.first(x)))
        x = F.relu(self.second_norm(self.block(x)))
        return self.classifier(self.drop(x.mean((2, 3))))


def loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Cross entropy; in training by a random factor from numpy and from Python."""
    found = F.cross_entropy(outputs, target)
    if not torch.is_grad_enabled():
        return found
    return found * (0.5 + random.random() + float(np.random.rand()) + float(np.random.randn()) / 9)


def flipped(inputs: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Half of the images from right to left, and all of them with noise."""
    (images,) = inputs
    turned = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
    return (images.flip(-1).where(turned, images) + 0.1 * noise,)


TASK = Task(net=Net, data=bars, loss=loss, metrics={"accuracy": accuracy})


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One kind of run.

    Args:
        method: Of a search; without one a plain net is trained.
        exported: Whether the net that the search exports is trained instead.
        choice: Whether the seed has one.
        optimizer: Of the weights.
        schedule: Of the rates.
        source: What presses.
        freeze: A group of the search that does not learn.
        augment: Of the batches.
        dtype: Of all.
        device: Of all.
    """

    method: Method | None = None
    exported: bool = False
    choice: bool = False
    optimizer: Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer] = adam
    schedule: Callable[[float], float] = cosine
    source: Source = size_bytes
    freeze: Any = None
    augment: AugmentFn | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def data(self) -> Splits:
        """The bars in the type of the run."""
        parts = {name: bars().part(name) for name in ("train", "validation", "test")}
        cast = {
            name: replace(part, inputs=tuple(value.to(self.dtype) for value in part.inputs))
            for name, part in parts.items()
        }
        return Splits(**cast).to(torch.device(self.device))

    def open(self) -> nn.Module:
        """The net at its start, from fixed random states."""
        torch.manual_seed(3)
        random.seed(4)
        np.random.seed(5)
        net = Net(choice=self.choice).to(self.dtype).to(self.device)
        if self.method is None:
            return net
        data = self.data()
        search = self.method.open(net, data.example(), MODELS)
        search.prepare([data.part("train").inputs])
        if self.freeze is not None:
            search.freeze(self.freeze)
        return search.export() if self.exported else search

    def train(
        self, net: nn.Module, keeper: Checkpoints | None = None, watch: Watch | None = None
    ) -> list[Epoch]:
        """The history of `net`, trained to its end or from what `keeper` has."""
        pressure = None
        if isinstance(net, Search):
            pressure = Pressure.on(net, self.source, strength=3.0, loss=0.7, ramp=0.3)
        return fit(
            net,
            self.data(),
            replace(TASK, augment=self.augment),
            Phase(
                epochs=EPOCHS,
                lr=2e-2,
                arch_lr=0.1,
                optimizer=self.optimizer,
                schedule=self.schedule,
            ),
            name="some",
            batch_size=32,
            seed=7,
            pressure=pressure,
            temperature=(1.0, 0.1),
            first_step=2,
            watch=watch,
            keeper=keeper,
        )


RUNS: Mapping[str, Run] = {
    "warm-up": Run(),
    "warm-up with momentum": Run(optimizer=momentum),
    "warm-up with augmentation": Run(augment=flipped),
    "warm-up in double precision": Run(optimizer=amsgrad, dtype=torch.float64),
    "pit at norms": Run(method=PITSettings()),
    "pit at consumers": Run(method=PITSettings(gate="consumer"), optimizer=momentum),
    "pit under a budget": Run(method=PITSettings(), source=Budget(targets={"params": 60})),
    "pit with frozen weights": Run(method=PITSettings(), freeze="net"),
    "supernet": Run(method=SuperNetSettings(), choice=True),
    "hard supernet": Run(method=SuperNetSettings(hard=True), choice=True, optimizer=momentum),
    "mps": Run(method=MPSSettings(w_bits=(0, 2, 8), x_bits=(4, 8))),
    "mps with noise and learned ranges": Run(
        method=MPSSettings(w_bits=(0, 2, 8), x_bits=(4, 8), sampling="gumbel", ranges="learned")
    ),
    "hard mps by layer": Run(
        method=MPSSettings(per="layer", sampling="gumbel", hard=True), optimizer=momentum
    ),
    "mps in double precision": Run(method=MPSSettings(ranges="learned"), dtype=torch.float64),
    "fine-tuning after pit": Run(method=PITSettings(), exported=True, optimizer=momentum),
    "fine-tuning after mps": Run(method=MPSSettings(ranges="learned"), exported=True),
}


def outcome(net: nn.Module, history: list[Epoch]) -> bytes:
    """All that a run came to, to the bit: net, modes, history and random states."""
    device = next(net.parameters()).device
    random_states = random_state(device)
    if device.type == "cpu":
        random_states.pop("devices")  # there once another test has used a GPU
    return seal([net_state(net), [epoch.to_dict() for epoch in history], random_states])
