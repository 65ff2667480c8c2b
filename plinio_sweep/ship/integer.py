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
    if next(frozen.parameters()).dtype not in (torch.float32, torch.float64):
        frozen = frozen.float()  # sums of half precision are too coarse to tell codes apart
    inputs = _inputs(frozen, as_inputs(example))
    lowered = lower(frozen, inputs)
    first = IntegerNet(lowered.program).eval()
    codes = first.quantize(*inputs)
    outputs = first.run(codes)
    agreement = compare(first, lowered.net, lowered.rounded, inputs, outputs)
    integers = IntegerNet(reorder(lowered.program)).eval()
    integers.agreement = agreement
    if not all(map(torch.equal, outputs, integers.run(codes))):
        raise IntegerError(
            "An integer net must not change when its channels are sorted by bit-width, but this "
            "one does; report the net."
        )
    return integers


def is_integer_ready(net: nn.Module) -> bool:
    """Whether `net` has layers and activations that were quantised."""
    modules = list(net.modules())
    return any(map(is_quantized, modules)) and any(isinstance(m, Quantizer) for m in modules)


@torch.no_grad()
def _inputs(net: nn.Module, example: Inputs) -> Inputs:
    """The example on the CPU, in the type of the net, once the net has run on it."""
    dtype = next(net.parameters()).dtype
    found = tuple(
        value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype)
        for value in example
    )
    if not all(bool(value.isfinite().all()) for value in found):
        raise IntegerError("`example` must be finite, but is not; pass some items of the data.")
    try:
        net(*found)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = [tuple(value.shape) for value in found]
        reason = str(error).strip().partition("\n")[0]
        raise IntegerError(
            f"`example` must be inputs that the net takes, but got {shapes}: {reason}; pass some "
            f"items of the data."
        ) from error
    return found
