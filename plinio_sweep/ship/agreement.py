"""Whether an integer net is the fake-quantised net that it was made of, operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from plinio_sweep.graph.nodes import tensors
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.ship.builder import IntegerError, Moved
from plinio_sweep.ship.program import Program
from plinio_sweep.ship.reference import Agreement, Codes, IntegerNet

SAME_CLASS = 0.999
"""Share of items that must have the same arg-max; one may always differ."""


@torch.no_grad()
def compare(
    integers: IntegerNet,
    net: fx.GraphModule,
    rounded: Mapping[fx.Node, Moved],
    inputs: Inputs,
    outputs: Codes,
) -> Agreement:
    """Runs both nets on the same inputs.

    Args:
        integers: Made of `net`.
        net: In eval mode.
        rounded: Where the values that each quantiser of `net` rounds are in the program.
        inputs: Of both nets, `(N, ...)` each.
        outputs: What `integers` makes of them.

    Raises:
        IntegerError: When an operation differs by more than one code, with its name, or when the
            nets as a whole decide for different classes.
    """
    recorder = _Recorder(net)
    expected = tensors(recorder.run(*inputs))
    found = integers.dequantize(outputs)
    codes = _operations(integers, rounded, recorder.seen, inputs)
    same, largest = torch.ones(len(inputs[0]), dtype=torch.bool), 0.0
    for left, right in zip(expected, found, strict=True):
        if left.ndim == 2:
            same &= left.argmax(1) == right.argmax(1)
        if left.numel():
            scale = float(left.abs().max()) or 1.0
            largest = max(largest, float((left - right).abs().max()) / scale)
    agreement = Agreement(
        items=len(same), codes=codes, output=largest, same_class=float(same.float().mean())
    )
    if int((~same).sum()) > max(1, round((1 - SAME_CLASS) * len(same))):
        raise IntegerError(
            f"An integer net must decide as the net that it was made of for {SAME_CLASS:.1%} of "
            f"the inputs, but does so for {agreement.same_class:.2%} of {len(same)}; raise its "
            f"bit-widths or report the net."
        )
    return agreement


class _Recorder(fx.Interpreter):
    """Keeps what every quantiser makes."""

    def __init__(self, net: fx.GraphModule) -> None:
        super().__init__(net)
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_module":
            self.seen[n.name] = result
        return result


def _operations(
    integers: IntegerNet,
    rounded: Mapping[fx.Node, Moved],
    seen: Mapping[str, Tensor],
    inputs: Inputs,
) -> int:
    """The largest difference of one operation, each of them given the codes of the other net."""
    told = _told(integers.program, rounded, seen)
    known = dict(zip(integers.program.inputs, integers.quantize(*inputs), strict=True))
    worst = 0
    for operation in integers.program.operations:
        found = integers.apply_one(operation, known)
        values, inside = told.get(operation.output, (found, torch.zeros(()).bool()))
        difference = int(torch.where(inside, (found - values).abs(), 0).max())
        if difference > 1:
            raise IntegerError(
                f"Integers must differ from the fake-quantised net by one code at most, but "
                f"{operation.output!r} differs by {difference}; report the net."
            )
        worst = max(worst, difference)
        known[operation.output] = torch.where(inside, values, found)
    return worst


def _told(
    program: Program, rounded: Mapping[fx.Node, Moved], seen: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Codes of values of the program as the other net has them, and which of them are known."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for node, moved in rounded.items():
        start = 1
        for name in moved.sources:
            value = program.values[name]
            inside = (moved.index >= start) & (moved.index < start + value.size)
            place = moved.index[inside] - start
            items = seen[node.name]
            codes = torch.zeros(len(items), value.size, dtype=torch.int32)
            codes[:, place] = (items[:, inside] / value.grid.scale).round().int()
            filled = torch.zeros(value.size, dtype=torch.bool)
            filled[place] = True
            found[name] = codes.reshape(len(items), *value.shape), filled.reshape(value.shape)
            start += value.size
    return found
