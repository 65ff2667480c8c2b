from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from plinio_sweep.graph.nodes import tensors
from plinio_sweep.methods.mps import MPS
from plinio_sweep.methods.pit import PIT
from plinio_sweep.ship import agreement
from plinio_sweep.ship.builder import IntegerError
from plinio_sweep.ship.integer import integerize
from plinio_sweep.ship.program import Add, Conv, Move, Operation, restore
from plinio_sweep.ship.reference import IntegerNet
from tests.examples import heavy
from tests.nets import NETS, rows
from tests.ship.quantized import BATCH, FLOATS, INTEGERS, TELLING_INTEGERS, export


def kinds(net: IntegerNet) -> list[str]:
    return [operation.kind for operation in net.program.operations]


def search(net: nn.Module, inputs: Tensor, **settings: Any) -> IntegerNet:
    return integerize(MPS(net.eval(), input_example=inputs, **settings).export(), inputs)


@pytest.mark.parametrize("name", rows(INTEGERS, TELLING_INTEGERS))
def test_every_operation_is_that_of_the_fake_quantised_net(name: str) -> None:
    net, inputs = export(INTEGERS[name])
    before = copy.deepcopy(net.state_dict())
    integers = integerize(net, inputs)
    found = integers.agreement
    assert found is not None
    assert (found.items, found.same_class) == (BATCH, 1.0)
    assert found.codes <= 1
    assert found.output <= 0.01
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    for left, right in zip(tensors(net(*inputs)), tensors(integers(*inputs)), strict=True):
        assert left.shape == right.shape and left.dtype == right.dtype


@pytest.mark.parametrize("name", rows(INTEGERS, TELLING_INTEGERS))
def test_everything_is_a_whole_number(name: str) -> None:
    net, inputs = export(INTEGERS[name], seed=1)
    integers = integerize(net, inputs)
    assert not any(v.is_floating_point() for v in integers.state_dict().values())
    known = integers.trace(integers.quantize(*inputs))
    assert set(known) == set(integers.program.values)
    for key, codes in known.items():
        value = integers.program.values[key]
        assert codes.dtype == torch.int32
        assert tuple(codes.shape) == (BATCH, *value.shape)
        assert value.grid.low <= int(codes.min()) and int(codes.max()) <= value.grid.high


@pytest.mark.parametrize("name", FLOATS)
def test_what_has_no_integer_form_is_named(name: str) -> None:
    net, inputs = export(NETS[name])
    with pytest.raises(IntegerError, match=FLOATS[name]) as error:
        integerize(net, inputs)
    assert "ship the float net" in str(error.value)


@pytest.mark.parametrize("w_bits", [(1,), (1, 2), (3, 5, 7), (8,)])
@pytest.mark.parametrize("x_bits", [(2,), (4,), (8,), (16,)])
def test_all_bit_widths(w_bits: tuple[int, ...], x_bits: tuple[int, ...]) -> None:
    net, inputs = export(NETS["Residual"], w_bits=w_bits, x_bits=x_bits)
    integers = integerize(net, inputs)
    assert integers.agreement is not None
    assert integers.agreement.codes <= 1
    widths = {int(b) for k, v in integers.state_dict().items() if k.endswith("bits") for b in v}
    assert widths <= set(w_bits)


def test_a_program_is_rebuilt_from_json_and_tensors() -> None:
    net, inputs = export(NETS["SqueezeExcite"])
    integers = integerize(net, inputs)
    program = integers.program
    stored = json.loads(json.dumps(program.describe()))
    again = IntegerNet(restore(stored, program.constants))
    assert again.program.operations == program.operations
    assert again.program.values == program.values
    again.load_state_dict(integers.state_dict())
    assert torch.equal(again(*inputs), integers(*inputs))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(version=0), "version 0"),
        (lambda d: d.pop("values"), "values"),
        (lambda d: d["operations"][0].update(kind="exec"), "exec"),
        (lambda d: d["operations"][0].update(shell="rm"), "shell"),
        (lambda d: d["values"].update(x=1), "not subscriptable"),
    ],
)
def test_what_is_no_program_is_refused(change: Any, reason: str) -> None:
    net, inputs = export(NETS["chain"])
    stored = integerize(net, inputs).program.describe()
    change(stored)
    with pytest.raises(ValueError, match=reason):
        restore(stored, {})


def test_shape_operations_become_one_move_or_none() -> None:
    shuffled, inputs = export(NETS["Shuffle"])
    moves = [o for o in integerize(shuffled, inputs).program.operations if isinstance(o, Move)]
    # A slice; cat and shuffle in one; the flattening, which moves nothing.
    assert [(len(move.inputs), move.same) for move in moves] == [(1, False), (2, False), (1, True)]
    flat, inputs = export(NETS["FlattenView"])
    moves = [o for o in integerize(flat, inputs).program.operations if isinstance(o, Move)]
    assert [move.same for move in moves] == [True]


def test_a_relu_costs_no_operation() -> None:
    x = torch.linspace(-1, 1, 4 * 16).reshape(4, 2, 8)
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU6(), nn.MaxPool1d(2), nn.Conv1d(4, 2, 1))
    integers = search(net, x, w_bits=(8,))
    assert kinds(integers) == ["conv", "maximum", "conv"]
    first = integers.program.operations[0]
    assert isinstance(first, Conv) and first.low == 0


def test_weights_of_a_layer_that_is_called_twice_are_stored_once() -> None:
    net, inputs = export(NETS["CalledTwice"])
    integers = integerize(net, inputs)
    convs = [o for o in integers.program.operations if isinstance(o, Conv)]
    stored = [k for k in integers.program.constants if k.endswith(".weight")]
    assert len(stored) == len({c.layer for c in convs}) < len(convs)


def test_a_factor_of_a_sum_that_is_no_number_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.factor = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return torch.add(self.one(x), self.two(x), alpha=self.factor)

    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    with torch.no_grad(), pytest.raises(IntegerError, match="add at 'add' has the factor factor"):
        search(Scaled().requires_grad_(False), x, w_bits=(8,))


def test_sums_beyond_32_bits_are_refused_with_the_layer() -> None:
    x = torch.linspace(0, 1, 2 * 300).reshape(2, 300)
    net = nn.Sequential(nn.Linear(300, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.fill_(0.5)
    with pytest.raises(IntegerError, match=r"Linear 0 at '_0' may sum up to .* beyond 32 bit"):
        search(net, x, w_bits=(8,), x_bits=(16,))


def test_weights_beyond_8_bits_are_refused_with_the_layer() -> None:
    x = torch.linspace(0, 1, 8).reshape(2, 4)
    with pytest.raises(IntegerError, match="Linear 0 at '_0' has weights of 12 bit"):
        search(nn.Sequential(nn.Linear(4, 2)), x, w_bits=(12,))


def test_weights_that_are_not_finite_are_refused_with_the_layer() -> None:
    net, inputs = export(NETS["chain"])
    with torch.no_grad():
        net.get_parameter("0.bias")[0] = float("nan")
    with pytest.raises(IntegerError, match="at '_0' has weights that are not finite"):
        integerize(net, inputs)


@pytest.mark.parametrize("make", ["net", "pit", "search"])
def test_what_was_not_quantised_is_refused(make: str) -> None:
    case = NETS["chain"]
    net: nn.Module = case.build()
    if make == "pit":
        net = PIT(net, input_example=case.inputs()).export()
    if make == "search":
        net = MPS(net, input_example=case.inputs())
    with pytest.raises(IntegerError, match="search it with MPS and export that"):
        integerize(net, case.inputs())


def test_a_net_whose_integers_are_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, inputs = export(NETS["Residual"])
    right = IntegerNet.apply_one

    def wrong(self: IntegerNet, operation: Operation, known: dict[str, Tensor]) -> Tensor:
        made = right(self, operation, known)
        return made + 2 if isinstance(operation, Add) else made

    monkeypatch.setattr(IntegerNet, "apply_one", wrong)
    with pytest.raises(IntegerError, match="'add' differs by 2"):
        integerize(net, inputs)


def test_a_net_that_decides_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, inputs = export(NETS["Residual"])
    right = IntegerNet.dequantize
    monkeypatch.setattr(IntegerNet, "dequantize", lambda s, c: [-x for x in right(s, c)])
    monkeypatch.setattr(agreement, "_operations", lambda *args: 0)
    with pytest.raises(IntegerError, match="must decide as the net that it was made of"):
        integerize(net, inputs)


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (torch.zeros(2, 4, 8, 8), r"inputs that the net takes, but got \[\(2, 4, 8, 8\)\]: "),
        (torch.full((2, 3, 8, 8), float("nan")), "must be finite"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.long), "x at 'x' is of type torch.int64"),
    ],
)
def test_an_example_that_is_none_is_refused_in_one_sentence(example: Tensor, reason: str) -> None:
    net, _ = export(NETS["FlattenLiteral"])
    with pytest.raises(IntegerError, match=reason) as error:
        integerize(net, example)
    assert "\n" not in str(error.value)


def test_codes_of_another_kind_or_shape_are_refused() -> None:
    net, inputs = export(NETS["FlattenLiteral"])
    integers = integerize(net, inputs)
    for wrong in (inputs[0], inputs[0][:, :, :4].int(), inputs[0].int()[0]):
        with pytest.raises(ValueError, match="Codes must be whole numbers in batches of items"):
            integers.run((wrong,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_nets_of_other_precisions_become_integers(dtype: torch.dtype) -> None:
    net, inputs = export(NETS["Residual"])
    found = integerize(net.to(dtype), tuple(x.to(dtype) for x in inputs)).agreement
    assert found is not None
    assert found.codes <= 1


GEOMETRY = st.fixed_dictionaries(
    {
        "kernel_size": st.integers(1, 4),
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 3),
        "dilation": st.integers(1, 2),
        "groups": st.sampled_from([1, 2, 4]),
    }
)


@heavy(40, deadline=None)
@given(axes=st.integers(1, 3), geometry=GEOMETRY, seed=st.integers(0, 99))
def test_convolutions_of_any_geometry(axes: int, geometry: dict[str, Any], seed: int) -> None:
    """Against the convolution of the codes in doubles, which holds them all exactly."""
    torch.manual_seed(seed)
    make: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    conv = make(4, 8, **geometry)
    x = torch.randn(2, 4, *[7] * axes)
    integers = search(nn.Sequential(conv), x, w_bits=(2, 8), quantize_outputs=True)
    (operation,) = integers.program.operations
    assert isinstance(operation, Conv)
    codes = integers.quantize(x)
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    fixed = {k: v for k, v in geometry.items() if k != "kernel_size"}
    weight, bias, mantissa, shift = (
        integers.constant(key).double()
        for key in (
            *("0.weight", "0.bias"),
            *(f"{operation.output}.mantissa", f"{operation.output}.shift"),
        )
    )
    sums = function(codes[0].double(), weight, bias, **fixed)
    wide = [1, -1, *[1] * axes]
    factor = (mantissa / 2**shift).reshape(wide)
    expected = torch.floor(sums * factor + 0.5).clamp(operation.low, operation.high)
    assert torch.equal(integers.run(codes)[0].double(), expected)


def test_inputs_are_rounded_as_in_training() -> None:
    net, inputs = export(NETS["SeveralInputs"])
    integers = integerize(net, inputs)
    for x, codes, name in zip(
        inputs, integers.quantize(*inputs), integers.program.inputs, strict=True
    ):
        grid = integers.program.values[name].grid
        assert int(codes.min()) >= grid.low and int(codes.max()) <= grid.high
        assert float((codes * grid.scale - x).abs().max()) <= 0.5001 * grid.scale


def test_an_input_that_nothing_reads_is_still_taken() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.fc(x)

    inputs = (torch.randn(3, 4), torch.randn(3, 5))
    exported = MPS(Idle().eval(), input_example=inputs, w_bits=(8,)).export()
    integers = integerize(exported, inputs)
    assert len(integers.program.inputs) == 2
    assert integers(*inputs).shape == (3, 2)


def test_batches_of_all_sizes_give_the_same() -> None:
    net, inputs = export(NETS["Concat"])
    integers = integerize(net, inputs)
    whole = integers(*inputs)
    for start, size in itertools.product((0, 5), (1, 3)):
        part = tuple(x[start : start + size] for x in inputs)
        assert torch.equal(integers(*part), whole[start : start + size])
