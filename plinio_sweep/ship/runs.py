"""An order of elements as a few regular runs, instead of one number an element.

Cutting, joining, padding and transposing tensors are regular: long stretches of the result are
read in equal steps, and such stretches often follow each other at equal distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import accumulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`repeat` times, each `jump` further: `count` elements from `start` on in steps of `step`.

    Args:
        source: The tensor that is read; -1 for zeros.
        start: The first element, within its tensor.
        step: Elements between two that follow each other.
        count: How many follow each other.
        jump: Elements between the beginnings of two repeats.
        repeat: How many repeats.
    """

    source: int
    start: int
    step: int
    count: int
    jump: int = 0
    repeat: int = 1

    @property
    def numbers(self) -> tuple[int, ...]:
        """The six numbers in their order."""
        return astuple(self)


def compress(index: Sequence[int], sizes: Sequence[int]) -> list[Run]:
    """The runs that give the elements `index`, found from front to back.

    Args:
        index: For each element of the result the one that it is, in tensors laid end to end; -1
            for a zero.
        sizes: Elements of each tensor.

    Example:
        >>> [run.numbers for run in compress([0, 3, 1, 4, 2, 5, -1, -1], [6])]
        [(0, 0, 3, 2, 1, 3), (-1, 0, 0, 2, 0, 1)]
    """
    runs: list[Run] = []
    for run in _stretches(index, sizes):
        if runs and (longer := _joined(runs[-1], run)):
            runs[-1] = longer
        else:
            runs.append(run)
    return runs


def expand(runs: Sequence[Run], sizes: Sequence[int]) -> list[int]:
    """The `index` that `compress` was given.

    Example:
        >>> expand([Run(source=1, start=0, step=2, count=2)], [10, 4])
        [10, 12]
    """
    bases = [*accumulate(sizes, initial=0)]
    return [
        -1 if run.source < 0 else bases[run.source] + run.start + i * run.jump + j * run.step
        for run in runs
        for i in range(run.repeat)
        for j in range(run.count)
    ]


def _joined(first: Run, second: Run) -> Run | None:
    """Both as one, where `second` goes on as `first` began."""
    if (first.source, first.step, first.count) != (second.source, second.step, second.count):
        return None
    jump = second.start - first.start if first.repeat == 1 else first.jump
    if second.start != first.start + first.repeat * jump:
        return None
    return replace(first, jump=jump, repeat=first.repeat + 1)


def _stretches(index: Sequence[int], sizes: Sequence[int]) -> Iterator[Run]:
    """Runs without repeats, each as long as it can be."""
    bases = [*accumulate(sizes, initial=0)]
    source_of = [number for number, size in enumerate(sizes) for _ in range(size)]
    position = 0
    while position < len(index):
        first = index[position]
        source = -1 if first < 0 else source_of[first]
        stop = position + 1
        step = 0
        while stop < len(index):
            now = index[stop]
            if (-1 if now < 0 else source_of[now]) != source:
                break
            if stop == position + 1:
                step = now - first
            if now - index[stop - 1] != step:
                break
            stop += 1
        start = 0 if source < 0 else first - bases[source]
        yield Run(source=source, start=start, step=step, count=stop - position)
        position = stop
