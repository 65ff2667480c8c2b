"""What cost models around another cost model share: all that they leave as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from costs.spec import Combine, CostModel, LayerSpec, Scalar


@dataclass(frozen=True, kw_only=True, eq=False)
class Wrapper(ABC):
    """A cost model around `model`, under its name and in its unit."""

    model: CostModel

    @property
    def name(self) -> str:
        """That of the model."""
        return self.model.name

    @property
    def unit(self) -> str:
        """That of the model."""
        return self.model.unit

    @property
    def once(self) -> bool:
        """As in the model."""
        return self.model.once

    @property
    def peak(self) -> bool:
        """As in the model."""
        return self.model.peak

    @property
    def stacks(self) -> bool:
        """As in the model."""
        return self.model.stacks

    @property
    def combine(self) -> Combine:
        """As in the model."""
        return self.model.combine

    @abstractmethod
    def covers(self, layer: LayerSpec, /) -> bool:
        """Whether the model knows such layers."""

    @abstractmethod
    def __call__(self, layer: LayerSpec, /) -> Scalar:
        """The cost of one call of `layer`, in `unit`."""
