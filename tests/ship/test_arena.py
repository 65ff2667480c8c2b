"""Places in memory: nothing that is alive at once overlaps, and nothing is larger than it must."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.ship.arena import Life, arrange, element_bytes, lifetimes, place
from plinio_sweep.ship.program import Grid, Lookup, Move, Multiply, Operation, Program, Value


def grid(bits: int = 8) -> Grid:
    return Grid(scale=1.0, bits=bits, signed=True)


def program(
    inputs: str, outputs: str, sizes: dict[str, tuple[int, int]], *operations: Operation
) -> Program:
    """A program of values with a size and a width each."""
    return Program(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        structure="",
        values={
            name: Value(shape=(size,), grid=grid(bits)) for name, (size, bits) in sizes.items()
        },
        operations=operations,
        constants={},
    )


def lookup(source: str, output: str) -> Lookup:
    return Lookup(output=output, inputs=(source,))


def same(source: str, output: str) -> Move:
    return Move(output=output, inputs=(source,), same=True)


@st.composite
def lives(draw: st.DrawFn) -> dict[str, Life]:
    found = {}
    for number in range(draw(st.integers(0, 12))):
        first = draw(st.integers(-1, 8))
        element = draw(st.sampled_from([1, 2, 4]))
        found[str(number)] = Life(
            first=first,
            last=draw(st.integers(first, 9)),
            size=draw(st.integers(0, 20)) * element,
            element=element,
        )
    return found


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Random operations on whatever is there, some of which move nothing."""
    values = {"x": (draw(st.integers(1, 20)), 8), "y": (draw(st.integers(1, 9)), 16)}
    steps: list[Operation] = []
    for number in range(draw(st.integers(0, 10))):
        output = f"v{number}"
        source = draw(st.sampled_from(sorted(values)))
        if draw(st.booleans()):
            values[output] = values[source]
            steps.append(same(source, output))
        else:
            other = draw(st.sampled_from(sorted(values)))
            values[output] = (draw(st.integers(1, 20)), draw(st.sampled_from([4, 8, 16, 32])))
            limits = {"mantissa": 1, "shift": 1, "low": 0, "high": 1}
            steps.append(Multiply(output=output, inputs=(source, other), **limits))
    outputs = draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=3))
    found = program("xy", "", values, *steps)
    return Program(**{**vars(found), "outputs": tuple(outputs)})


def apart(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return first[1] <= second[0] or second[1] <= first[0]


@given(lives())
def test_tensors_that_meet_lie_apart_and_aligned(found: dict[str, Life]) -> None:
    places = place(found)

    assert places.keys() == found.keys()
    assert all(places[name] % life.element == 0 for name, life in found.items())
    bytes_of = {name: (places[name], places[name] + life.size) for name, life in found.items()}
    for one, other in combinations(found, 2):
        if {*range(found[one].first, found[one].last + 1)} & {
            *range(found[other].first, found[other].last + 1)
        }:
            assert apart(bytes_of[one], bytes_of[other]) or not (
                found[one].size and found[other].size
            )


@given(programs())
def test_what_is_still_read_is_never_written_over(found: Program) -> None:
    """The bytes of a program are marked as it runs: every reader finds the marks of its writer."""
    arena = arrange(found)
    memory: list[str | None] = [None] * arena.size
    origin: dict[str, str] = {}

    def span(name: str) -> slice:
        value = found.values[name]
        start = arena.offsets[name]
        return slice(start, start + value.size * element_bytes(value.grid))

    def write(name: str) -> None:
        origin[name] = name
        memory[span(name)] = [name] * len(memory[span(name)])

    def read(name: str) -> None:
        assert set(memory[span(name)]) == {origin[name]}

    for name in found.inputs:
        write(name)
    for operation in found.operations:
        for name in operation.inputs:
            read(name)
        if isinstance(operation, Move):
            origin[operation.output] = origin[operation.inputs[0]]
            assert arena.offsets[operation.output] == arena.offsets[operation.inputs[0]]
        else:
            write(operation.output)
            for name in operation.inputs:  # not even its own operation writes over what it reads
                read(name)
    for name in found.outputs:
        read(name)
    assert arena.size >= arena.peak > 0


def test_a_chain_alternates_between_two_ends() -> None:
    sizes = {"a": (8, 8), "b": (16, 8), "c": (12, 8), "d": (2, 32)}
    steps = (lookup("a", "b"), lookup("b", "c"), lookup("c", "d"))

    arena = arrange(program("a", "d", sizes, *steps))

    assert arena.offsets == {"a": 16, "b": 0, "c": 16, "d": 0}
    assert arena.size == arena.peak == 28


def test_moves_of_nothing_share_bytes_from_input_to_output() -> None:
    sizes = {name: (6, 8) for name in "abc"} | {"d": (4, 8)}
    steps = (same("a", "b"), lookup("b", "d"), same("b", "c"))

    arena = arrange(program("a", "c", sizes, *steps))

    assert arena.offsets["a"] == arena.offsets["b"] == arena.offsets["c"]
    assert arena.size == arena.peak == 10


def test_an_output_and_an_input_that_nobody_reads_have_bytes_of_their_own() -> None:
    sizes = {"x": (4, 8), "y": (4, 8), "z": (4, 8)}
    found = program("xy", "z", sizes, lookup("x", "z"))

    # `y` is written before the first operation, so it may not lie on `x`; then it is of no use.
    assert lifetimes(found)["y"].last == -1
    arena = arrange(found)
    assert arena.offsets["x"] != arena.offsets["y"] == arena.offsets["z"]
    assert arena.size == arena.peak == 8


def test_sums_of_32_bits_are_aligned() -> None:
    sizes = {"x": (3, 8), "y": (1, 32), "z": (1, 32)}
    arena = arrange(program("x", "yz", sizes, lookup("x", "y"), lookup("x", "z")))

    assert sorted([arena.offsets["y"], arena.offsets["z"]]) == [0, 4]
    assert arena.size == arena.peak == 11
