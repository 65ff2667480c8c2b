"""From a fake-quantised net to the integer net that a device runs, and the proof that it is one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from plinio_sweep.graph.quantized import Quantizer, is_quantized
from plinio_sweep.graph.trace import Inputs, as_inputs
from plinio_sweep.ship.agreement import compare
from plinio_sweep.ship.builder import IntegerError
from plinio_sweep.ship.lower import lower
from plinio_sweep.ship.reference import IntegerNet
from plinio_sweep.ship.reorder import reorder


def integerize(net: nn.Module, example: Tensor | Inputs) -> IntegerNet:
    """The integer net of an export of MPS, compared with it operation by operation.

    Args:
        net: What `MPS.export` returned; it is not changed.
        example: Its input or inputs, best some items of the data: both nets are run on them.

    Returns:
        The net, with what the comparison found as `agreement`.

    Raises:
        IntegerError: When the net was not quantised, an operation has no integer form, or the
            integers are not what the net computes; all with the name of the operation.

    Example:
        >>> import torch
        >>> from plinio_sweep import MPS
        >>> net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 1))
        >>> integers = integerize(MPS(net, input_shape=(2, 8)).export(), torch.zeros(1, 2, 8))
        >>> [operation.kind for operation in integers.program.operations]
        ['conv', 'conv']
    """
    frozen = copy.deepcopy(net).cpu().eval()
    if not isinstance(frozen, fx.GraphModule) or not is_integer_ready(frozen):
        raise IntegerError(
            "An integer net must come from a quantised one, but this net has no quantised layer; "
            "search it with MPS and export that."
        )
    inputs = tuple(value.detach().cpu() for value in as_inputs(example))
    lowered = lower(frozen, inputs)
    first = IntegerNet(lowered.program).eval()
    agreement = compare(first, lowered.net, lowered.rounded, inputs)
    integers = IntegerNet(reorder(lowered.program)).eval()
    integers.agreement = agreement
    codes = first.quantize(*inputs)
    if not all(map(torch.equal, first.run(codes), integers.run(codes))):
        raise IntegerError(
            "An integer net must not change when its channels are sorted by bit-width, but this "
            "one does; report the net."
        )
    return integers


def is_integer_ready(net: nn.Module) -> bool:
    """Whether `net` has layers and activations that were quantised."""
    modules = list(net.modules())
    return any(map(is_quantized, modules)) and any(isinstance(m, Quantizer) for m in modules)
