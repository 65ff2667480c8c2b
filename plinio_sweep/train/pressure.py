"""How strongly a cost presses on a search.

The strength is relative, so that one range fits every task and every cost: with loss and cost of
the seed at the start of the search,

    lambda = strength * |loss_0| / cost_0

and strength 1 weighs the whole cost like the whole loss. A loss below 0 (a likelihood) presses
down as well.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pressure:
    """`lambda` over the search: a linear rise over the fraction `ramp`, then constant.

    Args:
        cost: Name of the cost model that presses.
        strength: Relative strength.
        loss: Validation loss at the start of the search.
        seed_cost: Cost at the start of the search, in the unit of the model.
        ramp: Fraction of the search in [0, 1) that the rise takes.
    """

    cost: str
    strength: float
    loss: float
    seed_cost: float
    ramp: float = 0.5

    @property
    def full(self) -> float:
        """`lambda` after the rise."""
        return self.strength * abs(self.loss) / self.seed_cost

    def at(self, fraction: float) -> float:
        """`lambda` when `fraction` of the search is over."""
        return self.full if fraction >= self.ramp else self.full * fraction / self.ramp
