"""Where each tensor of an integer net lies in one block of memory that never grows.

A tensor is alive from the operation that makes it to the last one that reads it. Inputs are alive
from before the first operation, outputs until after the last. What moves no element (`Move.same`)
makes no tensor: its result is its input under another name. Tensors that are alive at once lie
apart; others may share bytes.

Places are given greedily: the largest tensor first, each to the lowest address where nothing that
is alive at the same time is in the way.

References:
    Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020
    (arXiv:2001.03288), section 5.2, greedy by size, with the first gap instead of the smallest, as
    the `GreedyMemoryPlanner` of TensorFlow Lite Micro takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plinio_sweep.ship.program import Grid, Move, Program


@dataclass(frozen=True, kw_only=True)
class Arena:
    """The memory of a program.

    Args:
        offsets: Where each value starts that the program makes or reads [byte].
        size: How far the last one reaches [byte].
        peak: Most bytes that are alive at once; no arrangement takes less [byte].
    """

    offsets: Mapping[str, int]
    size: int
    peak: int


@dataclass(frozen=True, kw_only=True)
class Life:
    """A tensor in memory: when it is there, and what it takes.

    Args:
        first: The operation that makes it, counted from 0; -1 for an input.
        last: The last one that reads it; the number of operations for an output.
        size: Bytes [byte].
        element: Bytes of one code, of which its address is a multiple [byte].
    """

    first: int
    last: int
    size: int
    element: int

    def meets(self, other: Life) -> bool:
        """Whether both are alive at once."""
        return self.first <= other.last and other.first <= self.last


def element_bytes(grid: Grid) -> int:
    """Bytes of one code in memory: 1, 2 or 4.

    Example:
        >>> [element_bytes(Grid(scale=1.0, bits=bits, signed=True)) for bits in (2, 8, 9, 32)]
        [1, 1, 2, 4]
    """
    return 1 if grid.bits <= 8 else 2 if grid.bits <= 16 else 4


def arrange(program: Program) -> Arena:
    """Places all values of a program.

    Example:
        >>> from plinio_sweep.ship.program import Lookup, Value
        >>> grid = Grid(scale=1.0, bits=8, signed=True)
        >>> steps = (Lookup(output="y", inputs=("x",)), Lookup(output="z", inputs=("y",)))
        >>> values = dict(
        ...     x=Value(shape=(4,), grid=grid),
        ...     y=Value(shape=(6,), grid=grid),
        ...     z=Value(shape=(2,), grid=grid),
        ... )
        >>> arrange(
        ...     Program(
        ...         inputs=("x",),
        ...         outputs=("z",),
        ...         structure="",
        ...         values=values,
        ...         operations=steps,
        ...         constants={},
        ...     )
        ... )
        Arena(offsets={'x': 6, 'y': 0, 'z': 6}, size=10, peak=10)
    """
    roots = _roots(program)
    lives = lifetimes(program)
    places = place(lives)
    moments = range(-1, len(program.operations) + 1)
    return Arena(
        offsets={name: places[roots[name]] for name in program.values if roots[name] in places},
        size=max((places[name] + life.size for name, life in lives.items()), default=0),
        peak=max(
            sum(life.size for life in lives.values() if life.first <= now <= life.last)
            for now in moments
        ),
    )


def lifetimes(program: Program) -> dict[str, Life]:
    """The tensors in memory, by the name that each had first."""
    roots = _roots(program)
    first = {roots[name]: -1 for name in program.inputs}
    last = dict(first)
    for turn, operation in enumerate(program.operations):
        for name in (*operation.inputs, operation.output):
            first.setdefault(roots[name], turn)
            last[roots[name]] = turn
    last |= {roots[name]: len(program.operations) for name in program.outputs}
    lives = {}
    for name in first:
        value = program.values[name]
        element = element_bytes(value.grid)
        lives[name] = Life(
            first=first[name], last=last[name], size=value.size * element, element=element
        )
    return lives


def place(lives: Mapping[str, Life]) -> dict[str, int]:
    """An offset for each tensor, so that none that are alive at once overlap [byte].

    Example:
        >>> wide = Life(first=0, last=1, size=8, element=4)
        >>> byte = Life(first=1, last=2, size=1, element=1)
        >>> place({"byte": byte, "wide": wide})
        {'wide': 0, 'byte': 8}
    """
    places: dict[str, int] = {}
    for name in sorted(lives, key=lambda name: (-lives[name].size, lives[name].first)):
        life = lives[name]
        in_the_way = sorted(
            (places[other], places[other] + lives[other].size)
            for other in places
            if life.meets(lives[other])
        )
        offset = 0
        for start, stop in in_the_way:
            if offset + life.size <= start:
                break
            offset = max(offset, -(-stop // life.element) * life.element)
        places[name] = offset
    return places


def _roots(program: Program) -> dict[str, str]:
    """For each value the one whose bytes it shares, itself in most cases."""
    roots = {name: name for name in program.values}
    for operation in program.operations:
        if isinstance(operation, Move) and operation.same:
            roots[operation.output] = roots[operation.inputs[0]]
    return roots
