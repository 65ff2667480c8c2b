"""Magnitude pruning: the channels whose weights are smallest go, a given fraction of every group.

The yardstick of learned pruning. The net trains whole; nothing is learned beside its weights. At
the end a label `c` of the table (a set of channels that live and die together) is worth

    s_c = sum over the layers that make c of |w_c|_1 / mean over the layer's channels of |w|_1

and of every group of `N` labels the `floor(sparsity N)` with the least worth are removed, but for
the best one of each set that must not die out. The mean weighs layers alike that make one group
together, as those of a residual stream do.

References:
    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (arXiv 1608.08710), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from costs import params
from plinio_sweep.graph.table import Analysis
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.methods.pit import PIT
from plinio_sweep.methods.search import Costs, Shapes, given


@dataclass(frozen=True, kw_only=True)
class L1Settings:
    """Settings of `L1` in a plan, under the names that they have there."""

    name: ClassVar[str] = "l1"
    pressed: ClassVar[bool] = False
    sparsity: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(
                f"`sparsity` must be in [0, 1), but got {self.sparsity}; 0.5 removes half of the "
                f"channels."
            )

    def open(self, net: nn.Module, example: Inputs | Shapes, cost: Costs = params) -> L1:
        """The pruning of `net` by these settings, for an example or for input shapes."""
        return L1(net, cost, **given(example), sparsity=self.sparsity)


@final
class L1(PIT):
    """A net that loses the channels with the smallest weights when it is exported.

    It takes what every `Search` takes. Its relaxed costs are those of the whole net.

    Args:
        sparsity: Fraction of the channels of every group that is removed.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> model = L1(net, input_shape=(3, 8, 8), sparsity=0.75)
        >>> model.export().get_submodule("0")
        Conv2d(3, 2, kernel_size=(3, 3), stride=(1, 1))
    """

    def __init__(
        self,
        net: nn.Module,
        cost: Costs = params,
        *,
        input_shape: Any = None,
        input_example: Any = None,
        exclude_names: Collection[str] = (),
        exclude_types: tuple[type, ...] = (),
        sparsity: float = 0.5,
    ) -> None:
        self.sparsity = L1Settings(sparsity=sparsity).sparsity
        super().__init__(
            net,
            cost,
            input_shape=input_shape,
            input_example=input_example,
            exclude_names=exclude_names,
            exclude_types=exclude_types,
            kernel=False,
            gate="consumer",
        )

    def _open(self, analysis: Analysis) -> None:
        super()._open(analysis)
        del self.decisions["channels"]  # weights decide

    def _channels(self, hard: bool) -> Tensor:
        live = self.temperature.new_ones(self.table.size)
        if not hard:
            return live
        worth = self._worth()
        for group in self.table.groups:
            labels = torch.tensor(group.labels, dtype=torch.long, device=worth.device)
            # Plus a hair: 0.58 * 50 is 28.999999999999996 in floating point.
            count = math.floor(self.sparsity * len(labels) + 1e-9)
            live[labels[worth[labels].argsort(stable=True)[:count]]] = 0
        if self._keep.numel():
            best = worth[self._keep + 1].argmax(1, keepdim=True)
            live[self._keep.gather(1, best)[:, 0] + 1] = 1
        return live

    @torch.no_grad()
    def _worth(self) -> Tensor:
        """`(L,)` what each label is worth."""
        worth = torch.zeros(self.table.size, dtype=torch.float64, device=self.temperature.device)
        made = {row.name: row.cout for row in self.table.rows if row.spec.op in ("conv", "linear")}
        for name, labels in made.items():
            weight: Any = self.net.get_submodule(name).weight
            norms = weight.detach().double().abs().flatten(1).sum(1)
            scale = norms.mean().clamp(min=torch.finfo(torch.float64).tiny)
            worth.index_add_(0, labels.to(worth.device), norms / scale)
        return worth
