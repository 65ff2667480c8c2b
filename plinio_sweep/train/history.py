"""What training leaves behind, as plain data: readable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch of one phase left behind: a point of every training curve."""

    phase: str  # "warmup", "pit.search", "pit.finetune"
    index: int  # 0-based in its phase
    step: int  # 0-based over the whole trial
    train_loss: float
    validation_loss: float
    metrics: Mapping[str, float]  # on the validation split, without the split's name
    strength: float = 0.0  # λ in force, absolute
    costs: Mapping[str, float] = field(default_factory=dict)  # at the discretised decisions

    def to_dict(self) -> dict[str, Any]:
        """This epoch as JSON values."""
        return {
            "phase": self.phase,
            "index": self.index,
            "step": self.step,
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
            "metrics": dict(self.metrics),
            "strength": self.strength,
            "costs": dict(self.costs),
        }
