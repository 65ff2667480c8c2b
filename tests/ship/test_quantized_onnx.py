"""Integer programs as ONNX: another runtime finds the same codes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.ship.integer import integerize
from plinio_sweep.ship.onnx import run_onnx
from plinio_sweep.ship.program import Lookup, Program
from plinio_sweep.ship.quantized_onnx import export_qdq
from plinio_sweep.ship.reference import IntegerNet
from tests.examples import heavy
from tests.nets import rows
from tests.ship.programs import Builder, quantize, random_program, run_exactly
from tests.ship.quantized import INTEGERS, TELLING_INTEGERS, export

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")),
    reason="needs the extra onnx",
)


Run = Callable[[Path, list[torch.Tensor]], list[Any]]


def run_in_integers(path: Path, inputs: list[torch.Tensor]) -> list[Any]:
    """As others run it: with the integer kernels of onnxruntime wherever it has some."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})


def codes_of(
    program: Program, path: Path, inputs: dict[str, torch.Tensor], run: Run
) -> list[torch.Tensor]:
    """The codes that onnxruntime gives for float inputs."""
    export_qdq(program, path)
    found = run(path, [inputs[name].float() for name in program.inputs])
    grids = [program.values[name].grid for name in program.outputs]
    return [
        torch.from_numpy(np.asarray(item, dtype=np.float64) / grid.scale).round().long()
        for item, grid in zip(found, grids, strict=True)
    ]


def compare(builder: Builder, program: Program, path: Path, run: Run = run_onnx) -> float:
    """Checks the codes of all outputs, for inputs beyond the range too.

    Returns:
        Which part of the codes is another one, as halves may be rounded either way.
    """
    inputs = {
        name: torch.randn(5, *program.values[name].shape, generator=builder.generator)
        * program.values[name].grid.high
        * program.values[name].grid.scale
        for name in program.inputs
    }
    exact = run_exactly(program, quantize(program, inputs))
    wrong = []
    for name, found in zip(program.outputs, codes_of(program, path, inputs, run), strict=True):
        codes, grid = exact[name], program.values[name].grid
        # Sums that are not rounded tell of every code before them: of halves rounded otherwise too.
        most = 1 if grid.bits <= 16 else 1 + float(codes.abs().max()) / 50
        assert (found - codes).abs().max() <= most
        if grid.bits > 16 and codes.ndim == 2:
            chosen = codes.gather(1, found.argmax(1, keepdim=True))[:, 0]
            assert (chosen >= codes.amax(1) - most).all()
        wrong.append((found != codes).double().mean())
    return float(torch.stack(wrong).mean())


MAKERS: dict[str, Callable[[Builder], str]] = {
    "conv": lambda b: b.conv(b.input(3, 7, 6), 5, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1))),
    "dilated": lambda b: b.conv(b.input(4, 9, 9), 6, groups=2, dilation=(2, 1), w_bits=(2, 3, 4)),
    "depthwise": lambda b: b.conv(b.input(4, 6, 6), 8, groups=4, w_bits=(1, 2, 8)),
    "crop": lambda b: b.conv(b.input(4, 9), 6, (3,), padding=((-2, 1),)),
    "volume": lambda b: b.conv(b.input(2, 4, 5, 4), 3, (2, 3, 1), padding=((0, 1), (1, 1), (0, 0))),
    "linear": lambda b: b.linear(b.input(12)),
    "tokens": lambda b: b.linear(b.input(3, 5, 12), w_bits=(4,)),
    "wide": lambda b: b.conv(b.input(3, 6, 6, bits=16), bits=16),
    "narrow": lambda b: b.conv(b.input(3, 6, 6, bits=3), bits=2),
    "sums": lambda b: b.linear(b.input(12), bits=32),
    "add": lambda b: b.add(b.input(3, 4, 4), b.input(3, 1, 1), b.input(4)),
    "subtract": lambda b: b.add(b.input(3, 4), b.input(3, 4), signs=(1.0, -1.0)),
    "minus": lambda b: b.add(b.input(3, 4), b.input(3, 4), signs=(-1.0, 2.5)),
    "rescale": lambda b: b.add(b.input(3, 4), bits=5),
    "multiply": lambda b: b.multiply(b.input(3, 4, 4), b.input(3, 1, 1)),
    "average": lambda b: b.average(b.input(3, 6, 6), (2, 2)),
    "average_padded": lambda b: b.average(b.input(3, 6, 6), (3, 3), (2, 2), ((1, 1), (1, 0))),
    "average_beyond": lambda b: b.average(b.input(3, 6), (2,), (2,), ((2, 3),)),
    "average_divided": lambda b: b.average(b.input(3, 6, 6), (2, 2), divisor=3),
    "average_volume": lambda b: b.average(b.input(3, 4, 4, 4), (2, 4, 1)),
    "maximum": lambda b: b.maximum(b.input(3, 6, 6), (3, 2), (2, 1), ((1, 1), (0, 1))),
    "maximum_dilated": lambda b: b.maximum(b.input(3, 9), (3,), (1,), ((1, 1),), (2,)),
    "lookup": lambda b: b.lookup(b.input(3, 4)),
    "lookup_wide": lambda b: b.lookup(b.input(3, 4, bits=10), bits=12),
    "reshape": lambda b: b.reshape(b.input(3, 4, 2), 6, 4),
    "move": lambda b: b.move(b.input(3, 4), shape=(2, 5)),
    "holes": lambda b: b.move(b.input(3, 4, bits=16), shape=(7,), holes=True),
    "nothing": lambda b: b.input(3, 4),
}


@pytest.mark.parametrize("plain", [False, True], ids=["any", "halves"])
@pytest.mark.parametrize("kind", MAKERS)
def test_one_operation_gives_the_same_codes(kind: str, plain: bool, tmp_path: Path) -> None:
    for seed in range(3):
        builder = Builder(seed, plain=plain)
        program = builder.program(MAKERS[kind](builder))
        wrong = compare(builder, program, tmp_path / "model.onnx")
        if all(value.grid.bits <= 8 for value in program.values.values()):
            assert wrong == 0  # wider codes are rounded otherwise now and then


@heavy(60, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6), plain=st.booleans())
def test_a_whole_net_gives_the_same_codes(
    seed: int, plain: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    builder, program = random_program(seed, plain=plain)
    compare(builder, program, tmp_path_factory.mktemp("net") / "model.onnx")


@heavy(60, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6))
def test_integer_kernels_give_the_same_codes(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # With weights of 8 bits, some processors saturate on the way.
    builder, program = random_program(seed, w_bits=(1, 2, 4, 6, 7))
    compare(builder, program, tmp_path_factory.mktemp("net") / "model.onnx", run_in_integers)


def test_a_layer_called_twice_has_one_weight_and_a_scale_for_each_call(tmp_path: Path) -> None:
    import onnx

    builder = Builder(0)
    once = builder.conv(builder.input(4, 6, 6), 4, layer="shared")
    program = builder.program(builder.conv(once, 4, layer="shared"))
    compare(builder, program, tmp_path / "model.onnx")
    names = [item.name for item in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert [name for name in names if name.startswith("shared")] == ["shared/weight", "shared/bias"]
    assert sum(name.endswith("weight_scale") for name in names) == 2


def test_types_and_metadata_of_the_file(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto

    builder = Builder(0)
    wide = builder.conv(builder.input(3, 6, 6), w_bits=(5, 8), bits=16)
    last = builder.conv(wide, w_bits=(2, 4), bits=2)
    export_qdq(builder.program(last), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    bits = json.loads({p.key: p.value for p in model.metadata_props}["w_bits"])
    assert kinds["layer_0/weight"] == TensorProto.INT8
    assert kinds["layer_1/weight"] == TensorProto.INT4
    assert kinds["layer_0/bias"] == kinds["layer_1/bias"] == TensorProto.INT32
    wide_types = {"zero/INT16": TensorProto.INT16, "zero/UINT16": TensorProto.UINT16}
    assert kinds.items() & wide_types.items()
    assert bits == {n: builder.constants[f"{n}.bits"].tolist() for n in ("layer_0", "layer_1")}
    assert {item.version for item in model.opset_import} == {21}


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_is_free(batch: int, tmp_path: Path) -> None:
    _, program = random_program(3)
    export_qdq(program, tmp_path / "model.onnx")
    shapes = [program.values[name].shape for name in program.inputs]
    found = run_onnx(tmp_path / "model.onnx", [torch.zeros(batch, *shape) for shape in shapes])
    assert [len(item) for item in found] == [batch, batch]


def test_an_output_may_be_an_input_or_given_twice(tmp_path: Path) -> None:
    builder = Builder(0)
    x = builder.input(3, 4)
    y = builder.add(x, x)
    compare(builder, builder.program(x, y, y), tmp_path / "model.onnx")


def test_sums_that_were_not_rounded_cannot_be_looked_up(tmp_path: Path) -> None:
    builder = Builder(0)
    sums = builder.linear(builder.input(4), bits=32)
    program = builder.program(sums)
    values = {**program.values, "y": program.values["x0"]}
    looked_up = replace(
        program,
        outputs=("y",),
        values=values,
        operations=(*program.operations, Lookup(output="y", inputs=(sums,))),
        constants={**program.constants, "y.table": torch.zeros(4, dtype=torch.int32)},
    )
    with pytest.raises(ValueError, match=f"16 bits at most, but '{sums}' has 32"):
        export_qdq(looked_up, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def assert_every_operation_agrees(integers: IntegerNet, inputs: Any, path: Path) -> None:
    everything = tuple(op.output for op in integers.program.operations)
    program = replace(integers.program, outputs=everything)
    export_qdq(program, path)
    known = integers.trace(integers.quantize(*inputs))
    for name, floats in zip(everything, run_onnx(path, inputs), strict=True):
        grid, exact = program.values[name].grid, known[name]
        found = torch.from_numpy(floats)
        # Single precision has the last place of 8 bits for sure, but not quite that of 16.
        most = {16: 3.01, 32: 1 + float(exact.abs().max()) / 2**14}.get(grid.bits, 1.01)
        assert (found.double() / grid.scale - exact).abs().max() <= most
        if name in integers.program.outputs and exact.ndim == 2:
            assert torch.equal(found.argmax(1), exact.argmax(1))


@pytest.mark.parametrize("name", rows(INTEGERS, TELLING_INTEGERS))
def test_every_net_decides_as_its_integers(name: str, tmp_path: Path) -> None:
    net, inputs = export(INTEGERS[name])
    assert_every_operation_agrees(integerize(net, inputs), inputs, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["Residual", "Temporal", "Volumes"])
@pytest.mark.parametrize("x_bits", [(2,), (4,), (16,)])
def test_all_widths_of_activations(name: str, x_bits: tuple[int, ...], tmp_path: Path) -> None:
    net, inputs = export(INTEGERS[name], w_bits=(1, 3, 7), x_bits=x_bits)
    assert_every_operation_agrees(integerize(net, inputs), inputs, tmp_path / "model.onnx")
