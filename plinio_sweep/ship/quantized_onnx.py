"""An integer net as ONNX in the form of QuantizeLinear and DequantizeLinear.

Every value is dequantised before and quantised after each operation, which itself is written in
floats; a runtime makes integer kernels of that, or runs it as it stands. Weights are int8 with a
scale for each channel (int4 where all rows of a layer fit), biases int32, activations 8 or 16 bits
wide with the zero point 0. Scales of weights follow from the words of the program: a word is
`s_x * s_w / s_y`.

ONNX rounds halves to even, the program upwards. Where halves are frequent, as in means of four,
half of the smallest distance between two results is added before rounding, so that they agree.
Run in single precision, codes of 8 bits are off by one at most, and next to never; of the codes of
16 bits and of sums that are not rounded, the last places are not certain.

onnx is of an extra of the package and is imported inside functions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plinio_sweep.ship.onnx import require_extra
from plinio_sweep.ship.program import (
    Add,
    Average,
    Conv,
    Grid,
    Lookup,
    Maximum,
    Move,
    Multiply,
    Operation,
    Program,
    Value,
)

OPSET = 21  # the first with int4, and with 16-bit activations
IR_VERSION = 10  # of that opset
INT4 = 4  # [bit]
INT32 = 6  # the type of that name in ONNX, whose library may be missing when this is loaded
WIDEST = 16  # [bit] of what QuantizeLinear makes; wider values stay floats
FLOAT_BITS = 23  # [bit] of a code and its fraction that are told from a half in single precision
# Of a factor that should be 1, in codes of the result: what rounding of its word may come to
CLOSE = 2.0**-10
SMALLEST = 1e-30  # for scales of channels that round to 0 whatever comes


def export_qdq(program: Program, path: Path) -> None:
    """Writes `program` to the single file `path`, for any batch size.

    Inputs and outputs are floats. The bit-widths of the rows of every layer are JSON in the
    metadata of the file, under "w_bits".

    Args:
        program: An integer net.
        path: File to write; its folder exists.

    Raises:
        ValueError: When the extra is not installed, or a value of the program is too wide.
    """
    require_extra("onnx")
    import onnx

    model = _model(program)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _model(program: Program) -> Any:
    from onnx import TensorProto, helper

    graph = _Graph(program)
    for name in program.inputs:
        graph.quantized(name, graph.clipped(name, name, *_limits(program.values[name].grid)))
    for operation in program.operations:
        _WRITE[type(operation)](graph, operation)

    def described(name: str, value: Value) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *value.shape])

    outputs = [f"output_{index}" for index in range(len(program.outputs))]
    for name, output in zip(program.outputs, outputs, strict=True):
        graph.node("Identity", [graph.floats[name]], output=output)
    made = helper.make_graph(
        graph.nodes,
        "plinio_sweep",
        [described(name, program.values[name]) for name in program.inputs],
        [
            described(output, program.values[name])
            for name, output in zip(program.outputs, outputs, strict=True)
        ],
        list(graph.initializers.values()),
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION)
    helper.set_model_props(model, {"w_bits": json.dumps(_row_bits(program))})
    return model


def _row_bits(program: Program) -> dict[str, list[int]]:
    layers = [op.layer for op in program.operations if isinstance(op, Conv)]
    return {name: program.constants[f"{name}.bits"].tolist() for name in layers}


def _limits(grid: Grid) -> tuple[int, int]:
    return grid.low, grid.high


class _Graph:
    """A graph being written.

    Args:
        program: Where it comes from.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.floats: dict[str, str] = {}  # by value, where it is dequantised
        self.codes: dict[str, str] = {}  # by value, where it is not

    def grid(self, name: str) -> Grid:
        """The grid of a value."""
        return self.program.values[name].grid

    def node(self, kind: str, inputs: Sequence[str], *, output: str = "", **given: Any) -> str:
        """Adds a node; the name of its output."""
        from onnx import helper

        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **given))
        return name

    def constant(self, name: str, values: Any, kind: str) -> str:
        """A constant of the ONNX type `kind`, once for each name."""
        from onnx import TensorProto, helper

        if name not in self.initializers:
            array = np.asarray(values)
            self.initializers[name] = helper.make_tensor(
                name, getattr(TensorProto, kind), array.shape, array.flatten().tolist()
            )
        return name

    def scaled(self, x: str, factor: float) -> str:
        """`x` times a number."""
        return self.node("Mul", [x, self.constant(f"factor/{factor!r}", factor, "FLOAT")])

    def clipped(self, x: str, name: str, low: int, high: int) -> str:
        """`x` within the codes `low` to `high` of the value `name`, where its type is wider."""
        grid = self.grid(name)
        least, most = _range(grid)
        if (low, high) == (least, most) or (low <= least and high >= most):
            return x
        edges = [self.constant(f"{name}/{e}", e * grid.scale, "FLOAT") for e in (low, high)]
        return self.node("Clip", [x, *edges])

    def quantized(self, name: str, x: str) -> None:
        """Makes the value `name` of floats that lie near its codes."""
        grid = self.grid(name)
        if grid.bits > WIDEST:
            self.floats[name] = x
            return
        scale, zero = self._scale(name)
        self.coded(name, self.node("QuantizeLinear", [x, scale, zero], output=f"{name}/codes"))

    def coded(self, name: str, codes: str) -> None:
        """Makes the value `name` of its codes."""
        self.codes[name] = codes
        self.floats[name] = self.dequantize(codes, name, output=f"{name}/value")

    def dequantize(self, codes: str, name: str, output: str = "") -> str:
        """Floats of codes on the grid of the value `name`."""
        return self.node("DequantizeLinear", [codes, *self._scale(name)], output=output)

    def _scale(self, name: str) -> tuple[str, str]:
        grid, kind = self.grid(name), _kind(self.grid(name))
        scale = self.constant(f"{name}/scale", grid.scale, "FLOAT")
        return scale, self.constant(f"zero/{kind}", 0, kind)

    def finished(self, op: Any, x: str, fraction: int) -> None:
        """Rounds `x`, a result whose codes have `fraction` bits behind the point."""
        upwards = _half(fraction, self.grid(op.output))
        if upwards:
            x = self.node("Add", [x, self.constant(f"{op.output}/half", upwards, "FLOAT")])
        self.quantized(op.output, self.clipped(x, op.output, op.low, op.high))

    def times(self, x: str, factor: float, codes: float) -> str:
        """`x` times a factor that is mostly 1; `codes` is the largest result, in codes."""
        return x if abs(factor - 1) * codes < CLOSE else self.scaled(x, factor)


def _kind(grid: Grid) -> str:
    """The narrowest ONNX type of the codes of an activation."""
    width = next(w for w in (8, 16, 32) if w >= grid.bits)
    return f"{'' if grid.signed else 'U'}INT{width}"


def _range(grid: Grid) -> tuple[int, int]:
    """What the type of a value itself clips to."""
    width = next(w for w in (8, 16, 32) if w >= grid.bits)
    return _limits(Grid(scale=1.0, bits=width, signed=grid.signed))


def _fraction(shift: int, *mantissas: int) -> int:
    """Bits behind the point of the codes that a word gives, before they are rounded."""
    zeros = [(m & -m).bit_length() - 1 for m in mantissas if m]
    return max(0, shift - min(zeros, default=shift))


def _half(fraction: int, grid: Grid) -> float:
    """Half the distance of results with so many bits behind the point, where that is large."""
    fine = 0 < fraction <= FLOAT_BITS - grid.bits
    return grid.scale * 2.0 ** -(fraction + 1) if fine else 0.0


# -- operations -----------------------------------------------------------------------------------


def _conv(graph: _Graph, op: Conv) -> None:
    constants, (name,) = graph.program.constants, op.inputs
    mantissa, shift = (constants[f"{op.output}.{n}"].long() for n in ("mantissa", "shift"))
    source, target = graph.grid(name).scale, graph.grid(op.output).scale
    scales = (torch.ldexp(mantissa.double(), -shift) * target / source).clamp(min=SMALLEST)
    weight, bias = _parameters(graph, op, scales.numpy(), source)
    x = graph.floats[name]
    if op.stride:
        x, pads = _pads(graph, x, op.padding, low=0)
        x = graph.node(
            "Conv",
            [x, weight, bias],
            kernel_shape=list(constants[f"{op.layer}.weight"].shape[2:]),
            strides=op.stride,
            pads=pads,
            dilations=op.dilation,
            group=op.groups,
        )
    elif len(graph.program.values[name].shape) == 1:
        x = graph.node("Gemm", [x, weight, bias], transB=1)
    else:
        transposed = graph.node("Transpose", [weight], perm=[1, 0])
        x = graph.node("Add", [graph.node("MatMul", [x, transposed]), bias])
    words = zip(mantissa.tolist(), shift.tolist(), strict=True)
    fractions = [_fraction(s, m) for m, s in words]
    halves = [_half(fraction, graph.grid(op.output)) for fraction in fractions]
    if any(halves):
        column = np.array(halves).reshape(-1, *[1] * len(op.stride))
        x = graph.node("Add", [x, graph.constant(f"{op.output}/half", column, "FLOAT")])
    graph.finished(op, x, 0)


def _parameters(graph: _Graph, op: Conv, scales: Any, source: float) -> tuple[str, str]:
    """Weight and bias of a layer, dequantised with the scales of this call."""
    constants = graph.program.constants
    fits = int(constants[f"{op.layer}.bits"].max()) <= INT4
    kind = "INT4" if fits else "INT8"
    weight = graph.constant(f"{op.layer}/weight", constants[f"{op.layer}.weight"].numpy(), kind)
    bias = graph.constant(f"{op.layer}/bias", constants[f"{op.layer}.bias"].numpy(), "INT32")
    zeros = np.zeros(len(scales), dtype=np.int64)
    return (
        graph.node(
            "DequantizeLinear",
            [
                weight,
                graph.constant(f"{op.output}/weight_scale", scales, "FLOAT"),
                graph.constant(f"zero/{kind}/{len(zeros)}", zeros, kind),
            ],
            axis=0,
        ),
        graph.node(
            "DequantizeLinear",
            [bias, graph.constant(f"{op.output}/bias_scale", scales * source, "FLOAT")],
            axis=0,
        ),
    )


def _pads(
    graph: _Graph, x: str, padding: Sequence[tuple[int, int]], low: int, high: float = math.inf
) -> tuple[str, list[int]]:
    """Pads as an attribute, or, where an operator would not take them, as a node before it."""
    sides = [*(a for a, _ in padding), *(b for _, b in padding)]
    if all(low <= side < high for side in sides):
        return x, sides
    count = len(padding)
    full = [0, 0, *sides[:count], 0, 0, *sides[count:]]
    return graph.node("Pad", [x, graph.constant(f"pads/{full}", full, "INT64")]), [0] * 2 * count


def _add(graph: _Graph, op: Add) -> None:
    target = graph.grid(op.output)
    total = ""
    for index, (name, x) in enumerate(zip(op.inputs, _aligned(graph, op), strict=True)):
        mantissa, grid = op.mantissas[index], graph.grid(name)
        factor = math.ldexp(mantissa, -op.shift) * target.scale / grid.scale
        codes = grid.high * grid.scale / target.scale
        subtracted = factor < 0 and bool(total)
        x = graph.times(x, -factor if subtracted else factor, codes)
        total = graph.node("Sub" if subtracted else "Add", [total, x]) if total else x
    graph.finished(op, total, _fraction(op.shift, *op.mantissas))


def _multiply(graph: _Graph, op: Multiply) -> None:
    target = graph.grid(op.output)
    grids = [graph.grid(name) for name in op.inputs]
    scale = math.prod(grid.scale for grid in grids)
    factor = math.ldexp(op.mantissa, -op.shift) * target.scale / scale
    product = graph.node("Mul", _aligned(graph, op))
    codes = math.prod(grid.high for grid in grids) * scale / target.scale
    product = graph.times(product, factor, min(codes, target.high))
    graph.finished(op, product, _fraction(op.shift, op.mantissa))


def _aligned(graph: _Graph, op: Operation) -> list[str]:
    """Operands with as many axes each: they broadcast by items, from the last axis."""
    shapes = [graph.program.values[name].shape for name in op.inputs]
    axes = max(map(len, shapes))
    found = []
    for name, shape in zip(op.inputs, shapes, strict=True):
        wide = (1,) * (axes - len(shape)) + shape
        if len(shape) == axes:
            found.append(graph.floats[name])
        elif name in graph.codes:
            # Before it is dequantised: onnxruntime 1.32 fails on a Reshape behind that.
            found.append(graph.dequantize(_reshape(graph, graph.codes[name], wide), name))
        else:
            found.append(_reshape(graph, graph.floats[name], wide))
    return found


def _reshape(graph: _Graph, x: str, shape: Sequence[int]) -> str:
    sizes = [0, *shape]  # 0 stands for the batch as it is
    return graph.node("Reshape", [x, graph.constant(f"shape/{sizes}", sizes, "INT64")])


def _average(graph: _Graph, op: Average) -> None:
    target, source = graph.grid(op.output), graph.grid(op.inputs[0])
    x, pads = _pads(graph, graph.floats[op.inputs[0]], op.padding, 0, min(op.kernel))
    x = graph.node(
        "AveragePool",
        [x],
        kernel_shape=op.kernel,
        strides=op.stride,
        pads=pads,
        count_include_pad=1,
    )
    taps = math.prod(op.kernel)
    factor = math.ldexp(op.mantissa, -op.shift) * taps * target.scale / source.scale
    codes = min(source.high * source.scale / target.scale, target.high)
    graph.finished(op, graph.times(x, factor, codes), _fraction(op.shift, op.mantissa))


def _maximum(graph: _Graph, op: Maximum) -> None:
    sides = [*(a for a, _ in op.padding), *(b for _, b in op.padding)]
    x = graph.node(
        "MaxPool",
        [graph.floats[op.inputs[0]]],
        kernel_shape=op.kernel,
        strides=op.stride,
        pads=sides,
        dilations=op.dilation,
    )
    graph.quantized(op.output, x)


def _lookup(graph: _Graph, op: Lookup) -> None:
    (name,) = op.inputs
    if name not in graph.codes:
        raise ValueError(
            f"A value that is looked up must have {WIDEST} bits at most, but {name!r} has "
            f"{graph.grid(name).bits}; name the layer after it in `exclude_names`."
        )
    # ONNX counts an index below 0 from the end, so there the table has its negative codes.
    table = graph.program.constants[f"{op.output}.table"].roll(graph.grid(name).low)
    kind = _kind(graph.grid(op.output))
    index = graph.node("Cast", [graph.codes[name]], to=INT32)
    stored = graph.constant(f"{op.output}/table", table.numpy(), kind)
    graph.coded(op.output, graph.node("Gather", [stored, index], output=f"{op.output}/codes"))


def _move(graph: _Graph, op: Move) -> None:
    shape = graph.program.values[op.output].shape
    parts = [graph.floats[name] for name in op.inputs]
    if op.same:
        graph.quantized(op.output, _reshape(graph, parts[0], shape))
        return
    index = graph.program.constants[f"{op.output}.index"]
    flat = [graph.node("Flatten", [part], axis=1) for part in parts]
    joined = flat[0] if len(flat) == 1 else graph.node("Concat", flat, axis=1)
    if bool((index < 0).any()):  # -1 is the last element to ONNX: a zero is put there
        joined = graph.node("Pad", [joined, graph.constant("pads/last", [0, 0, 0, 1], "INT64")])
    indices = graph.constant(f"{op.output}/index", index.numpy(), "INT32")
    graph.quantized(op.output, graph.node("Gather", [joined, indices], axis=1))


_WRITE: Mapping[type[Operation], Callable[[_Graph, Any], None]] = {
    Conv: _conv,
    Add: _add,
    Multiply: _multiply,
    Average: _average,
    Maximum: _maximum,
    Lookup: _lookup,
    Move: _move,
}
