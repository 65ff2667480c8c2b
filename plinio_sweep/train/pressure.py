"""How strongly costs press on a search: the term of the loss that makes a net smaller.

What presses is one cost `C`, any differentiable function `F` of several, or a budget:

    R = lambda * C,                            lambda = strength * |loss_0| / C_0
    R = lambda * F(C_1, C_2, ...),             lambda = strength * |loss_0| / F_0
    R = lambda * sum_i max(0, C_i - T_i) / max(C_i0, T_i),      lambda = strength * |loss_0|

with the loss and the costs of the seed at the start of the search as `loss_0` and `C_0`. So the
strength is relative: one range fits every task and every cost, and 1 weighs the whole cost like the
whole loss. A loss below 0 (a likelihood) presses down as well.

The costs of a budget are those of the net that export would return, with the slope of the relaxed
ones: half-closed masks keep no target. Where a target is missed, the slope is that of the single
cost; where it is kept, there is none. A cost that starts within its target is held there, too.

References:
    Burrello et al., "Enhancing Neural Architecture Search with Multiple Hardware Constraints for
    Deep Learning Model Deployment on Tiny IoT Devices", 2023 (arXiv 2310.07217), for targets on
    several costs at once. Its library takes the loss over the first excess for a strength, which
    is no number where there is none; here it is the loss over the cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from costs import CostModel
from plinio_sweep.methods.search import Search

CostFn = Callable[[Mapping[str, Tensor]], Tensor]  # costs by name, 0-dim -> 0-dim


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Targets that costs shall not exceed; what is below presses no more.

    Args:
        targets: Upper bounds by cost, in the unit of each.

    Raises:
        ValueError: Without a target, or for one that no net can keep.

    Example:
        >>> budget = Budget(targets={"size_bytes": 24_000, "macs": 1e6})
        >>> budget.kept({"size_bytes": 9e3, "macs": 2e6})
        False
    """

    targets: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError(
                f"`targets` must name a cost at least, but got {self.targets}; "
                f'{{"size_bytes": 24_000}} is a start.'
            )
        for name, target in self.targets.items():
            if not 0 < target < math.inf:
                raise ValueError(
                    f"`targets[{name!r}]` must be above 0 and finite, but got {target}; nothing "
                    f"costs less, and everything is below infinity."
                )

    def kept(self, costs: Mapping[str, float]) -> bool:
        """Whether `costs` are all within their targets."""
        return all(costs[name] <= target for name, target in self.targets.items())


Source = CostModel | CostFn | Budget  # what presses


@dataclass(frozen=True, kw_only=True, eq=False)
class Pressure:
    """What presses times `lambda`, which rises over the fraction `ramp` of a search, then is flat.

    A training loop by hand adds `pressure(model, fraction)` to its loss, or without a ramp
    `pressure(model)`.

    Args:
        term: What presses, of the costs by name.
        full: `lambda` after the rise.
        ramp: Fraction of the search in [0, 1) that the rise takes.
        budget: What the decided net has to keep, if anything.

    Example:
        >>> import torch
        >>> from costs import macs, params
        >>> from plinio_sweep import PIT
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 2))
        >>> model = PIT(net, {"params": params, "macs": macs}, input_shape=(8,))
        >>> budget = Budget(targets={"params": 40, "macs": 30})
        >>> pressure = Pressure.on(model, budget, strength=2.0, loss=0.7, ramp=0.5)
        >>> for epoch in range(4):
        ...     loss = model(torch.ones(5, 8)).square().mean() + pressure(model, epoch / 4)
        ...     loss.backward()
        >>> pressure.at(0.25)
        0.7
    """

    term: CostFn
    full: float
    ramp: float = 0.5
    budget: Budget | None = None

    @classmethod
    def on(
        cls,
        search: Search,
        source: Source | str,
        *,
        strength: float,
        loss: float | None,
        ramp: float = 0.0,
    ) -> Pressure:
        """The pressure of `source` on `search`, which is at its start.

        Args:
            search: Its costs of this moment are the scale.
            source: A cost of the search or the name of one, a function of several by name, or a
                budget.
            strength: Relative strength; without a loss, `lambda` itself.
            loss: Task loss at the start of the search.
            ramp: Fraction of the search in [0, 1) that the rise takes.

        Raises:
            ValueError: For an unknown cost, or when what presses is not above 0 at the start.
            TypeError: When a function gives no 0-dim tensor.
        """
        costs = _Costs(search)
        relative = strength if loss is None else strength * abs(loss)
        if isinstance(source, Budget):
            first = {name: float(costs[name].detach()) for name in source.targets}
            term = _Excess(targets=source.targets, first=first)
            return cls(term=term, full=relative, ramp=ramp, budget=source)
        name = source.name if isinstance(source, CostModel) else source
        pull = _Single(name=name) if isinstance(name, str) else name
        start = _at_start(pull, costs)
        return cls(term=pull, full=relative if loss is None else relative / start, ramp=ramp)

    def at(self, fraction: float) -> float:
        """`lambda` when `fraction` of the search is over."""
        return self.full if fraction >= self.ramp else self.full * fraction / self.ramp

    def __call__(self, search: Search, fraction: float = 1.0) -> Tensor:
        """What to add to the loss of `search` when `fraction` of it is over, 0-dim."""
        return self.at(fraction) * self.term(_Costs(search, decided=self.budget is not None))

    @torch.no_grad()
    def rank(self, loss: float, costs: Mapping[str, float]) -> tuple[bool, float]:
        """How good a net is, best first: whether it misses the budget, then loss and pressure.

        Args:
            loss: On the validation split.
            costs: Of the discretised net, by name.
        """
        known = {name: torch.tensor(value, dtype=torch.float64) for name, value in costs.items()}
        missed = self.budget is not None and not self.budget.kept(costs)
        return missed, loss + self.full * float(self.term(known))


@dataclass(frozen=True, eq=False)
class _Costs(Mapping[str, Tensor]):
    """The differentiable costs of a search, each computed when it is asked for."""

    search: Search
    decided: bool = False  # whether they are those of the decided net, with the relaxed slope

    def __getitem__(self, name: str) -> Tensor:
        relaxed = self.search.get_cost(name)
        if not self.decided:
            return relaxed
        with torch.no_grad():
            exact = self.search.get_cost(name, hard=True)
        # In this order the second term is exactly zero.
        return exact + (relaxed - relaxed.detach())

    def __iter__(self) -> Iterator[str]:
        return iter(self.search.models)

    def __len__(self) -> int:
        return len(self.search.models)


@dataclass(frozen=True, kw_only=True)
class _Single:
    """One cost as it is."""

    name: str

    def __call__(self, costs: Mapping[str, Tensor]) -> Tensor:
        return costs[self.name]


@dataclass(frozen=True, kw_only=True)
class _Excess:
    """How far costs are above their targets, each relative to the larger of target and start."""

    targets: Mapping[str, float]
    first: Mapping[str, float]

    def __call__(self, costs: Mapping[str, Tensor]) -> Tensor:
        parts = [
            torch.relu(costs[name] - target) / max(self.first[name], target)
            for name, target in self.targets.items()
        ]
        return torch.stack(parts).sum()


def _at_start(term: CostFn, costs: Mapping[str, Tensor]) -> float:
    value = term(costs)
    if not isinstance(value, Tensor) or value.dim():
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"`pressure` must give a 0-dim tensor of the costs, but gave {found}; combine the "
            f"costs by sums, products and torch functions."
        )
    first = float(value.detach())
    if not 0 < first < math.inf:
        raise ValueError(
            f"What presses must be above 0 and finite at the start of a search, but is {first}; "
            f"give targets as a Budget, and leave out what costs nothing."
        )
    return first
