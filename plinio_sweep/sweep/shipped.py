"""What leaves a trial: a quantised net is scored as the integers that a device computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from costs import CostModel, peak_activation_bytes, size_bytes
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.ship.arena import arrange
from plinio_sweep.ship.builder import IntegerError
from plinio_sweep.ship.integer import integerize, is_integer_ready
from plinio_sweep.ship.onnx import export_onnx
from plinio_sweep.ship.packed import pack_program
from plinio_sweep.ship.quantized_onnx import export_qdq
from plinio_sweep.ship.reference import IntegerNet
from plinio_sweep.sweep.stage import Ground

COMPARED = 256
"""Items of the validation split on which both nets are run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shipped:
    """A trained net as it is measured.

    Args:
        net: What computes the scores, on the device of the study.
        integers: The same, where it is an integer net.
        notes: JSON: how the integers agree with the net that was trained, or the "reason" why there
            are none; empty for a float net.
    """

    net: nn.Module
    integers: IntegerNet | None
    notes: Mapping[str, Any]

    def costs(self, models: Mapping[str, CostModel]) -> dict[str, float]:
        """What is counted on the integers instead of estimated: the packed file and the arena."""
        if self.integers is None:
            return {}
        program = self.integers.program
        counted: dict[CostModel, Callable[[], int]] = {
            size_bytes: lambda: len(pack_program(program)),
            peak_activation_bytes: lambda: arrange(program).size,
        }
        return {n: float(counted[m]()) for n, m in models.items() if m in counted}


def shipped(ground: Ground, net: nn.Module) -> Shipped:
    """The integer net where `net` was quantised and has one; else itself."""
    if not is_integer_ready(net):
        return Shipped(net=net, integers=None, notes={})
    try:
        integers = integerize(net, sample(ground))
    except IntegerError as error:
        return Shipped(net=net, integers=None, notes={"reason": str(error)})
    assert integers.agreement is not None
    scored = integers.to(ground.device)
    return Shipped(net=scored, integers=integers, notes=asdict(integers.agreement))


def write_graph(leaves: Shipped, example: Inputs, path: Path) -> None:
    """Writes what is measured to the ONNX file `path`; its integers where it has them.

    Raises:
        ValueError: When the extra is not installed, or the net can't be written so.
    """
    if leaves.integers is None:
        export_onnx(leaves.net, example, path)
    else:
        export_qdq(leaves.integers.program, path)


def sample(ground: Ground) -> Inputs:
    """Some inputs of the validation split."""
    return tuple(value[:COMPARED] for value in ground.data.part("validation").inputs)
