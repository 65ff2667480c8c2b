"""Packed files: their size to the last byte, their way back, and damage."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.ship.integer import integerize
from plinio_sweep.ship.packed import (
    _seal,
    describe_packed,
    pack_program,
    packed_bytes,
    runs_of,
    unpack_program,
)
from plinio_sweep.ship.program import Average, Conv, Program
from plinio_sweep.ship.reference import IntegerNet
from tests.examples import heavy
from tests.nets import rows
from tests.ship.programs import Builder, random_program
from tests.ship.quantized import INTEGERS, TELLING_INTEGERS, export

few = heavy(60, deadline=None, derandomize=True, database=None)


def written(program: Program) -> tuple[dict[str, Any], bytes]:
    """Both files, the first through JSON."""
    data = pack_program(program)
    return json.loads(json.dumps(describe_packed(program, data), allow_nan=False)), data


def assert_same(left: Program, right: Program) -> None:
    assert left.describe() == right.describe()
    assert left.operations == right.operations
    assert left.constants.keys() == right.constants.keys()
    for name, value in left.constants.items():
        assert torch.equal(value, right.constants[name]), name
        assert value.dtype == right.constants[name].dtype, name


@few
@given(seed=st.integers(0, 10**6), plain=st.booleans())
def test_a_program_comes_back_as_it_was(seed: int, plain: bool) -> None:
    _, program = random_program(seed, plain=plain)
    assert_same(unpack_program(*written(program)), program)


@few
@given(seed=st.integers(0, 10**6))
def test_the_size_is_counted_from_outside(seed: int) -> None:
    _, program = random_program(seed)
    expected, layers = 0, set()
    for op in program.operations:
        match op.kind:
            case "conv":
                assert isinstance(op, Conv)
                name = op.layer
                codes = program.constants[f"{name}.weight"]
                expected += 4 * len(codes)  # words
                if name not in layers:
                    layers.add(name)
                    bits = program.constants[f"{name}.bits"].tolist()
                    for width in set(bits):
                        expected += -(-bits.count(width) * codes[0].numel() * width // 8)
                    expected += 4 * len(codes)
            case "add":
                expected += 4 * len(op.inputs) + 1
            case "multiply" | "average":
                expected += 4
            case "lookup":
                entries = 2 ** program.values[op.inputs[0]].grid.bits
                expected += entries * (1 if program.values[op.output].grid.bits <= 8 else 2)
    found = packed_bytes(program)
    assert len(pack_program(program)) == expected == sum(found.values())
    assert layers <= found.keys()


def test_bytes_of_a_small_net_by_hand() -> None:
    builder = Builder(0)
    x = builder.input(2)
    program = builder.program(builder.linear(x, 1, layer="fc", w_bits=(4,)))
    constants = {
        **program.constants,
        "fc.weight": torch.tensor([[-1, 7]], dtype=torch.int8),
        "fc.bias": torch.tensor([-2], dtype=torch.int32),
        f"{program.outputs[0]}.mantissa": torch.tensor([0xABCDEF], dtype=torch.int32),
        f"{program.outputs[0]}.shift": torch.tensor([33], dtype=torch.uint8),
    }
    program = replace(program, constants=constants)
    assert pack_program(program).hex(" ") == "7f fe ff ff ff ef cd ab 21"
    assert packed_bytes(program) == {"fc": 9}


def test_a_layer_called_twice_is_stored_once() -> None:
    builder = Builder(0)
    once = builder.conv(builder.input(4, 6, 6), 4, layer="shared", w_bits=(8,))
    program = builder.program(builder.conv(once, 4, layer="shared"))
    assert packed_bytes(program) == {"shared": 4 * 4 * 9 + 4 * 4 + 2 * 4 * 4}
    assert_same(unpack_program(*written(program)), program)


def test_a_row_of_zeros_at_one_bit_comes_back() -> None:
    builder = Builder(0)
    program = builder.program(builder.linear(builder.input(3), 2, layer="fc", w_bits=(1,)))
    weight = torch.tensor([[0, 0, 0], [1, -1, 1]], dtype=torch.int8)
    program = replace(program, constants={**program.constants, "fc.weight": weight})
    assert packed_bytes(program) == {"fc": 2 + 2 * 4 + 2 * 4}
    assert_same(unpack_program(*written(program)), program)


@few
@given(index=st.lists(st.integers(-1, 12), max_size=30))
def test_runs_hold_any_index(index: list[int]) -> None:
    runs = runs_of(torch.tensor(index))
    assert [first + step * i for first, step, count in runs for i in range(count)] == index


def test_a_rearrangement_by_channels_is_short() -> None:
    index = torch.arange(16 * 100).reshape(16, 100)[torch.randperm(16)]
    assert len(runs_of(index)) <= 16
    assert len(runs_of(torch.arange(24).reshape(4, 6).t())) <= 6


@pytest.mark.parametrize(("mantissa", "shift"), [(2**24, 3), (-1, 3)])
def test_a_word_that_does_not_fit_is_refused(mantissa: int, shift: int) -> None:
    builder = Builder(0)
    program = builder.program(builder.average(builder.input(2, 4, 4), (2, 2)))
    (op,) = program.operations
    assert isinstance(op, Average)
    program = replace(program, operations=(replace(op, mantissa=mantissa, shift=shift),))
    with pytest.raises(ValueError, match="must have mantissas below 16777216"):
        pack_program(program)


# -- damage ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files() -> tuple[dict[str, Any], bytes]:
    builder = Builder(1)
    x = builder.conv(builder.input(3, 6, 6))
    x = builder.add(x, builder.lookup(x))
    x = builder.move(x, shape=(4, 3))
    program = builder.program(builder.linear(x, 3))
    return written(program)


def refused(description: Any, data: bytes) -> str:
    with pytest.raises(ValueError, match=r"must be as version 1 wrote.*export the trial") as info:
        unpack_program(description, data)
    assert "\n" not in str(info.value)
    return str(info.value)


@few
@given(data=st.data())
def test_a_torn_or_altered_file_is_refused(files: tuple[dict[str, Any], bytes], data: Any) -> None:
    description, content = files
    place = data.draw(st.integers(0, len(content) - 1))
    assert "bytes instead of" in refused(description, content[:place])
    altered = bytearray(content)
    altered[place] ^= data.draw(st.integers(1, 255))
    assert "checksum" in refused(description, bytes(altered))


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


JUNK = st.one_of(
    st.none(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from([[], {}, [[0, 1, 2**62]], -1, 0]),
)


@heavy(200, deadline=None, derandomize=True, database=None)
@given(data=st.data(), again=st.booleans())
def test_an_altered_description_is_refused(
    files: tuple[dict[str, Any], bytes], data: Any, again: bool
) -> None:
    description = json.loads(json.dumps(files[0]))
    *path, last = data.draw(st.sampled_from(places(description)))
    parent = description
    for key in path:
        parent = parent[key]
    before, parent[last] = parent[last], data.draw(JUNK)
    if json.dumps(before) == json.dumps(parent[last]):
        return
    if not again:
        refused(description, files[1])
        return
    description.pop("sha256", None)
    description["sha256"] = _seal(description, files[1])
    try:
        program = unpack_program(description, files[1])
    except ValueError as error:
        assert "\n" not in str(error)
        assert str(error).endswith("export the trial again.")
    else:  # a name, a scale, a limit: still a program of the same bytes
        assert isinstance(program, Program)


# -- real nets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", rows(INTEGERS, TELLING_INTEGERS))
def test_every_net_comes_back(name: str) -> None:
    net, inputs = export(INTEGERS[name])
    integers = integerize(net, inputs)
    again = IntegerNet(unpack_program(*written(integers.program)))
    codes = integers.quantize(*inputs)
    for left, right in zip(integers.run(codes), again.run(codes), strict=True):
        assert torch.equal(left, right)
    assert_same(again.program, integers.program)
