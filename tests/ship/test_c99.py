"""C code of integer nets, compiled and compared code by code with slow arithmetic."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.ship.c99 import object_sizes, write_c
from plinio_sweep.ship.c99_calls import broadcast
from plinio_sweep.ship.packing import packed_size
from plinio_sweep.ship.program import INT32_MAX, Conv, Grid, Lookup, Program, words
from tests.examples import heavy
from tests.ship.compiled import Compiled, gcc, needs_gcc
from tests.ship.integer_nets import Codes, Net, compute, items

NUM_ITEMS = 1000
MIXED = [8, 2, 4, 1, 3, 5, 6, 7, 2, 1, 8, 4]


def conv_1d() -> Program:
    net = Net(1)
    x = net.input((3, 20))
    y = net.conv(x, MIXED, (5,), stride=(2,), padding=((4, 1),), dilation=(2,), out=(8, False))
    return net.program(net.conv(y, [8, 8, 8], (3,), out=(16, True)))


def conv_2d() -> Program:
    net = Net(2)
    x = net.input((3, 9, 7))
    y = net.conv(x, MIXED, (3, 2), stride=(2, 1), padding=((1, 2), (0, 3)), out=(8, False))
    y = net.conv(y, [1] * 12, (3, 3), padding=((1, 1), (1, 1)), groups=12, out=(4, False))
    y = net.conv(y, [3, 3, 5, 5, 8, 8], (1, 1), groups=2, out=(16, False))
    return net.program(net.conv(y, [2, 4], (2, 2), dilation=(1, 2), out=(32, True)))


def conv_3d() -> Program:
    net = Net(3)
    x = net.input((2, 4, 5, 3), bits=4, signed=False)
    padding = ((1, 0), (0, 1), (2, 2))
    y = net.conv(x, [4, 4, 2, 7], (2, 3, 2), stride=(1, 2, 1), padding=padding, groups=2)
    return net.program(net.pool(y, (2, 1, 3), stride=(1, 1, 2)))


def linear() -> Program:
    net = Net(4)
    x = net.input((2, 3, 17))
    y = net.conv(x, MIXED, out=(8, False))
    z = net.conv(y, [7, 7, 7], out=(16, True))
    return net.program(net.conv(z, [8, 1], out=(32, True)), y)


def shared_layer() -> Program:
    net = Net(5)
    x = net.input((6,))
    y = net.conv(x, [2, 8, 4, 4, 3, 1], layer=None)
    first = net.operations[0]
    assert isinstance(first, Conv)
    z = net.conv(y, [2, 8, 4, 4, 3, 1], layer=first.layer)
    return net.program(y, z)


def sums() -> Program:
    net = Net(6)
    x = net.input((4, 3, 5))
    y = net.input((4, 1, 1), bits=7, signed=False)
    z = net.input((3, 1), bits=16)
    s = net.add(x, y, z, x, out=(8, True))
    p = net.multiply(s, y, out=(16, True))
    q = net.multiply(p, p, out=(8, False))
    return net.program(s, net.add(q, p, out=(32, True)), net.add(y, out=(4, True)))


def pools() -> Program:
    net = Net(7)
    x = net.input((3, 8, 7))
    a = net.pool(x, (3, 2), padding=((1, 1), (0, 1)), average=True, out=(8, True))
    b = net.pool(x, (3, 3), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(2, 1))
    c = net.pool(x, (3, 3), stride=(2, 2), ceil=True)
    d = net.pool(x, (3, 2), stride=(3, 3), ceil=True, average=True, out=(16, True))
    e = net.pool(d, (2, 2), stride=(1, 1))
    return net.program(a, b, c, e, net.pool(d, (3, 3), average=True, out=(8, False)))


def tables() -> Program:
    net = Net(8)
    x = net.input((2, 9))
    y = net.lookup(x, out=(8, False))
    z = net.lookup(y, out=(16, True))
    return net.program(net.lookup(x, out=(3, True)), net.lookup(z, out=(32, True)))


def moves() -> Program:
    net = Net(9)
    x, y = net.input((4, 3, 5)), net.input((2, 3, 5))
    joined = net.move(x, y, index=np.arange(90).reshape(6, 3, 5))
    last = net.move(joined, index=np.arange(90).reshape(6, 3, 5).transpose(1, 2, 0))
    padded = net.move(x, index=np.pad(np.arange(60).reshape(4, 3, 5), 1, constant_values=-1))
    mixed = net.move(y, x, x, index=net.random.permutation(150)[:40])
    wide = net.move(net.input((7,), bits=16), index=np.arange(7)[::-2])
    return net.program(last, padded, mixed, wide, net.view(last, (90,)))


def nothing() -> Program:
    net = Net(10)
    x, y = net.input((2, 3), bits=4), net.input((3,), bits=32)
    return net.program(net.view(x, (6,)), x, y, net.view(y, (1, 3)))


def far_moves() -> Program:
    """Steps that 16 bits do not hold."""
    net = Net(11)
    x = net.input((2, 17000), bits=3)
    return net.program(net.move(x, index=np.array([0, 33999, -1, 32800, 400])))


def many_channels() -> Program:
    """An order of channels that a byte does not hold."""
    net = Net(12)
    y = net.conv(net.input((3,)), [4, 2] * 150, out=(8, False))
    return net.program(net.conv(y, [2], out=(32, True)))


PROGRAMS: list[Callable[[], Program]] = [
    *(conv_1d, conv_2d, conv_3d, linear, shared_layer, sums, pools, tables, moves),
    *(nothing, far_moves, many_channels),
]


def assert_equal(found: list[Codes], expected: list[Codes]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_gcc
@pytest.mark.parametrize("make", PROGRAMS)
def test_c_computes_every_code(make: Callable[[], Program], tmp_path: Path) -> None:
    program = make()
    inputs = items(program, NUM_ITEMS)
    expected = compute(program, inputs)

    net = Compiled(program, tmp_path)

    assert_equal(net(inputs), expected)
    # Where nothing is rounded off to one code, a wrong result could not hide.
    assert all(len(np.unique(codes)) > 2 for codes in expected)


@needs_gcc
def test_inputs_and_outputs_may_stay_in_the_arena(tmp_path: Path) -> None:
    program = conv_2d()
    inputs = items(program, 20)

    assert_equal(Compiled(program, tmp_path)(inputs, in_place=True), compute(program, inputs))


@st.composite
def convolutions(draw: st.DrawFn) -> Program:
    """A convolution of any geometry, and a linear layer on what it makes."""
    net = Net(draw(st.integers(0, 1000)))
    axes = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    columns = draw(st.integers(1, 3))
    bits = draw(st.lists(st.integers(1, 8), min_size=1, max_size=3)) * groups

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    kernel, dilation = each(1, 3), each(1, 2)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(r + draw(st.integers(0, 3)) for r in reach)
    x = net.input(
        (columns * groups, *size), draw(st.sampled_from([2, 4, 8, 12])), draw(st.booleans())
    )
    y = net.conv(
        x,
        bits,
        kernel,
        stride=each(1, 3),
        padding=tuple(zip(each(0, 3), each(0, 3), strict=True)),
        dilation=dilation,
        groups=groups,
        out=draw(st.sampled_from([(8, True), (8, False), (5, False), (16, True)])),
    )
    z = net.conv(y, draw(st.lists(st.integers(1, 8), min_size=1, max_size=4)), out=(32, True))
    return net.program(y, z)


@st.composite
def mixtures(draw: st.DrawFn) -> Program:
    """Sums, products and pools of any geometry."""
    net = Net(draw(st.integers(0, 1000)))
    shape = draw(st.lists(st.integers(1, 4), max_size=4))
    operands = []
    for _ in range(draw(st.integers(2, 3))):
        cut = draw(st.integers(0, len(shape)))
        kept = tuple(draw(st.sampled_from([1, size])) for size in shape[cut:])
        operands.append(net.input(kept, draw(st.sampled_from([4, 8, 16])), draw(st.booleans())))
    axes = draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    padding = tuple((draw(st.integers(0, k // 2)), draw(st.integers(0, k // 2))) for k in kernel)
    size = tuple(k + draw(st.integers(0, 3)) for k in kernel)
    x = net.input((draw(st.integers(1, 3)), *size), 8, draw(st.booleans()))
    stride = tuple(draw(st.integers(1, 3)) for _ in kernel)
    geometry = {"stride": stride, "padding": padding, "ceil": draw(st.booleans())}
    return net.program(
        net.add(*operands, out=(16, True)),
        net.multiply(operands[0], operands[1]),
        net.pool(x, kernel, average=True, **geometry),
        net.pool(x, kernel, **geometry),
    )


@needs_gcc
@heavy(40, deadline=None)
@given(convolutions())
def test_layers_of_any_geometry(program: Program) -> None:
    inputs = items(program, 12)
    with tempfile.TemporaryDirectory() as folder:
        assert_equal(Compiled(program, Path(folder), "-O1")(inputs), compute(program, inputs))


@needs_gcc
@heavy(40, deadline=None)
@given(mixtures())
def test_sums_products_and_pools_of_any_geometry(program: Program) -> None:
    inputs = items(program, 12)
    with tempfile.TemporaryDirectory() as folder:
        assert_equal(Compiled(program, Path(folder), "-O1")(inputs), compute(program, inputs))


def extremes() -> Program:
    """Sums up to the edges of 32 bits, words from 0 to the largest, shifts from 1 to 62."""
    net = Net(13)
    x = net.input((257,), bits=16, signed=False)
    y = net.conv(x, [8] * 12, out=(32, True))
    weight = net.constants["layer0.weight"]
    weight[:] = 0
    weight[::2, :255], weight[1::2, :257] = -128, 127
    edges = [-INT32_MAX - 1 + 128 * 65535 * 255, INT32_MAX - 127 * 65535 * 257]
    net.constants["layer0.bias"][:] = torch.tensor(edges * 6)
    mantissa = [2, 2, 0, 0, 2**24 - 1, 2**24 - 1, 2**24 - 1, 2**24 - 1, 1, 1, 2**23, 2**23 + 1]
    shift = [1, 1, 1, 62, 1, 1, 62, 54, 62, 1, 31, 31]
    net.constants[f"{y}.mantissa"] = torch.tensor(mantissa).int()
    net.constants[f"{y}.shift"] = torch.tensor(shift).to(torch.uint8)
    return net.program(y)


@needs_gcc
def test_the_largest_sums_and_words(tmp_path: Path) -> None:
    program = extremes()
    inputs = [np.stack([np.full(257, 65535), np.zeros(257, dtype=np.int64), *items(program, 9)[0]])]
    expected = compute(program, inputs)

    # As Python counts, without any width: what the oracle computes did not overflow either.
    layer = {name: program.constants[f"layer0.{name}"].tolist() for name in ("weight", "bias")}
    (output,) = program.outputs
    word = [program.constants[f"{output}.{name}"].tolist() for name in ("mantissa", "shift")]
    for item, row in zip(inputs[0].tolist(), expected[0].tolist(), strict=True):
        for channel, found in enumerate(row):
            total = sum(a * b for a, b in zip(item, layer["weight"][channel], strict=True))
            total += layer["bias"][channel]
            assert -INT32_MAX - 1 <= total <= INT32_MAX
            mantissa, shift = word[0][channel], word[1][channel]
            exact = (total * mantissa + 2 ** (shift - 1)) // 2**shift
            assert found == min(max(exact, -INT32_MAX - 1), INT32_MAX)
    assert expected[0].min() == -INT32_MAX - 1
    assert expected[0].max() == INT32_MAX
    assert_equal(Compiled(program, tmp_path)(inputs), expected)


MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "net.h"
int main(void)
{{
    {declarations}
    void *arena = malloc(NET_ARENA_BYTES + 1); /* at an odd address: none is needed */
    net_run({arguments}, (char *)arena + 1);
    {prints}
    free(arena);
    return 0;
}}
"""


def write_main(program: Program, inputs: list[Codes], folder: Path) -> Path:
    """A program that runs one item and prints its outputs."""
    declarations, arguments, prints = [], [], []
    header = (folder / "net.h").read_text()
    types = dict(re.findall(r"define NET_(\w+)\(arena\) \(\((\w+) \*\)", header))
    for number, codes in enumerate(inputs):
        listed = ", ".join(map(str, codes[0].flatten().tolist()))
        declarations.append(f"{types[f'INPUT{number}']} input{number}[] = {{{listed}}};")
        arguments.append(f"input{number}")
    for number in range(len(program.outputs)):
        label = f"OUTPUT{number}"
        declarations.append(f"{types[label]} output{number}[NET_{label}_SIZE];")
        arguments.append(f"output{number}")
        prints.append(
            f'for (int i = 0; i < NET_{label}_SIZE; i++) printf("%ld ", (long)output{number}[i]);'
        )
    text = MAIN.format(
        declarations="\n    ".join(declarations),
        arguments=", ".join(arguments),
        prints="\n    ".join(prints),
    )
    (folder / "main.c").write_text(text)
    return folder / "main.c"


def has_sanitizers() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "empty.c", Path(folder) / "empty"
        source.write_text("int main(void) { return 0; }\n")
        command = ["gcc", "-fsanitize=undefined,address", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True)
        return not done.returncode and not subprocess.run([target], capture_output=True).returncode


@needs_gcc
@pytest.mark.parametrize("make", [conv_2d, conv_3d, linear, sums, pools, tables, moves, extremes])
def test_sanitizers_find_nothing(make: Callable[[], Program], tmp_path: Path) -> None:
    if not has_sanitizers():
        pytest.skip("needs the sanitizers of gcc")
    program = make()
    inputs = items(program, 1)
    write_c(program, tmp_path, "net")
    main = write_main(program, inputs, tmp_path)
    options = ["-g", "-O1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"]
    gcc(*options, tmp_path / "net.c", main, "-o", tmp_path / "main")

    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True)

    assert not done.returncode, done.stderr
    expected = np.concatenate([codes.flatten() for codes in compute(program, inputs)])
    assert list(map(int, done.stdout.split())) == expected.tolist()


@needs_gcc
def test_the_code_needs_and_offers_nothing_else(tmp_path: Path) -> None:
    net = Compiled(conv_2d(), tmp_path)

    assert not re.search(r"\b(float|double|malloc|calloc|\w*alloc)\b", net.source)
    assert set(re.findall(r"#include (\S+)", net.source + net.header)) == {
        *('"net.h"', "<stddef.h>", "<stdint.h>", "<string.h>")
    }
    gcc("-O2", "-c", net.folder / "net.c", "-o", tmp_path / "net.o")
    listed = subprocess.run(["nm", tmp_path / "net.o"], capture_output=True, text=True, check=True)
    symbols = [line.split()[-2:] for line in listed.stdout.splitlines()]
    assert {name for kind, name in symbols if kind in "TDBRC"} == {"net_run"}
    assert {name for kind, name in symbols if kind == "U"} <= {"memcpy", "memset", "memmove"}


@needs_gcc
@pytest.mark.parametrize("make", PROGRAMS)
def test_the_code_is_clean_at_every_optimisation(
    make: Callable[[], Program], tmp_path: Path
) -> None:
    write_c(make(), tmp_path, "net")
    for level in ("-O0", "-Os", "-O3"):
        gcc(level, "-c", tmp_path / "net.c", "-o", tmp_path / "net.o")


@needs_gcc
def test_two_nets_live_in_one_program(tmp_path: Path) -> None:
    write_c(linear(), tmp_path, "first")
    write_c(sums(), tmp_path, "MODEL_second")
    (tmp_path / "both.c").write_text(
        '#include "first.h"\n#include "MODEL_second.h"\n'
        "int sizes[] = {FIRST_ARENA_BYTES, MODEL_SECOND_ARENA_BYTES};\n"
        "void *runs[] = {(void *)0};\n"
    )
    sources = [tmp_path / f"{name}.c" for name in ("first", "MODEL_second", "both")]
    gcc("-shared", "-fPIC", *sources, "-o", tmp_path / "both.so")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_host_in_c_plus_plus_takes_the_header(tmp_path: Path) -> None:
    write_c(linear(), tmp_path, "net")
    (tmp_path / "host.cpp").write_text(
        '#include "net.h"\n'
        "alignas(NET_ARENA_ALIGNMENT) static uint8_t arena[NET_ARENA_BYTES];\n"
        "int32_t *run() {\n"
        "    net_run(NET_INPUT0(arena), NET_OUTPUT0(arena), NET_OUTPUT1(arena), arena);\n"
        "    return NET_OUTPUT0(arena);\n}\n"
    )
    command = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-c"]
    subprocess.run([*command, tmp_path / "host.cpp", "-o", tmp_path / "host.o"], check=True)


def test_constants_of_the_host_say_what_the_program_says(tmp_path: Path) -> None:
    net = Net(14)
    x = net.input((2, 3), bits=4, signed=False)
    y = net.conv(x, [8, 2, 1, 2], out=(32, True))
    net.values[y] = dataclasses.replace(net.values[y], grid=Grid(scale=1 / 3, bits=32, signed=True))
    report = write_c(net.program(y), tmp_path, "tiny")
    header = (tmp_path / "tiny.h").read_text()

    defined = dict(re.findall(r"#define TINY_(\w+) (\S+)", header))
    assert float(defined["OUTPUT0_SCALE"]) == 1 / 3
    assert float(defined["INPUT0_SCALE"]) == 0.1
    assert defined["INPUT0_SIZE"] == "6"
    assert defined["INPUT0_HIGH"] == "(15)"
    assert defined["ARENA_BYTES"] == "41" == str(report.arena_bytes)
    assert report.arena_bytes - 3 == report.activation_bytes >= report.peak_bytes  # a row of 3
    weights = packed_size(torch.tensor([8, 2, 1, 2]), 3)
    assert report.constant_bytes == weights + 4 * 4 + 4 * 4 + 4  # biases, words, order
    assert "void tiny_run(const uint8_t *input0, int32_t *output0, void *arena);" in header


def test_rows_in_the_order_of_their_widths_need_no_order(tmp_path: Path) -> None:
    net = Net(15)
    write_c(net.program(net.conv(net.input((3,)), [1, 2, 2, 8])), tmp_path, "net")

    assert "order_0" not in (tmp_path / "net.c").read_text()


@needs_gcc
def test_sizes_are_those_of_the_object_file(tmp_path: Path) -> None:
    if shutil.which("size") is None:
        pytest.skip("needs size")
    report = write_c(conv_2d(), tmp_path)

    sizes = object_sizes(tmp_path)

    assert sizes.keys() == {"text", "data", "bss"}
    assert sizes["text"] > report.constant_bytes
    assert sizes["data"] == sizes["bss"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model.c", "model.h"}


def test_a_compiler_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_c(linear(), tmp_path)

    with pytest.raises(ValueError, match="'no-such-gcc', but it is not installed"):
        object_sizes(tmp_path, compiler="no-such-gcc")


@needs_gcc
def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "model.c").write_text("this is not C\n")

    with pytest.raises(ValueError, match=r"'gcc' must compile .* but ended with 1: .*error"):
        object_sizes(tmp_path)


@pytest.mark.parametrize("name", ["", "2d", "my-net", "a b", "netz_ä", "../net"])
def test_a_name_that_c_does_not_take_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`name` must be an identifier in C"):
        write_c(linear(), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_codes_that_c_cannot_hold_are_refused(tmp_path: Path) -> None:
    net = Net(16)
    x = net.input((3,), bits=32, signed=False)

    with pytest.raises(ValueError, match="'v0' is unsigned of 32 bits"):
        write_c(net.program(net.add(x)), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("mantissa", "shift"), [(-1, 8), (1 << 24, 8), (5, 0), (5, 63)])
def test_a_word_that_is_none_is_refused(mantissa: int, shift: int, tmp_path: Path) -> None:
    net = Net(17)
    y = net.conv(net.input((3,)), [8, 8])
    net.constants[f"{y}.mantissa"][1] = mantissa
    net.constants[f"{y}.shift"][1] = shift

    with pytest.raises(ValueError, match=r"A word must .* but 'v1' has"):
        write_c(net.program(y), tmp_path)


def test_names_of_values_stay_within_their_comments(tmp_path: Path) -> None:
    net = Net(18)
    x = net.input((2,))
    program = net.program(net.lookup(x))
    (step,) = program.operations
    assert isinstance(step, Lookup)
    evil = "y */ int oops; /*"
    renamed = dataclasses.replace(
        program,
        outputs=(evil,),
        values={**program.values, evil: program.values[step.output]},
        operations=(dataclasses.replace(step, output=evil),),
        constants={f"{evil}.table": program.constants[f"{step.output}.table"]},
    )
    write_c(renamed, tmp_path, "net")

    code = "".join((tmp_path / f"net.{ending}").read_text() for ending in "ch")
    assert "oops" not in re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)


@given(st.data())
def test_steps_of_a_broadcast_lead_to_the_elements(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), max_size=4))
    cut = data.draw(st.integers(0, len(shape)))
    kept = [data.draw(st.sampled_from([1, size])) for size in shape[cut:]]
    operand = np.arange(int(np.prod(kept, dtype=int))).reshape(kept)

    axes, (strides,) = broadcast(shape, [kept])

    places = sum(index * step for index, step in zip(np.indices(axes), strides, strict=True))
    assert (
        np.asarray(places).flatten().tolist() == np.broadcast_to(operand, shape).flatten().tolist()
    )


def test_words_of_the_program_fit_those_of_the_code() -> None:
    mantissa, shift = words(torch.tensor([1e-30, 1e-9, 0.3, 8388607.0], dtype=torch.float64))

    assert ((mantissa.long() | shift.long() << 24) < 1 << 32).all()
