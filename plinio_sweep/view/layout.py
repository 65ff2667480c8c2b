"""Where everything stands on the screen of a run: lines of text, from counts and a size."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from plinio_sweep.view.chart import draw
from plinio_sweep.view.standing import Standing, in_words
from plinio_sweep.view.tally import Tally

WIDE = 72  # from here on, times stand behind the bar, and budgets beside the chart [characters]
BAR = (6, 40)  # least and most of a bar [characters]
CHART = (60, 11)  # most of the chart [characters, lines]
GAP = 3  # between chart and budgets [characters]

# What is drawn where a terminal knows ASCII alone: each character has one in its place.
_PLAIN = {"━": "=", "╸": "-", "─": "-", "│": "|", "┤": "+", "└": "+", "●": "o", "◇": "x", "≤": "<"}
ASCII = str.maketrans({**_PLAIN, "…": ".", **{chr(0x2800 + dots): "." for dots in range(256)}})


def screen(tally: Tally, now: float, width: int, height: int) -> list[str]:
    """All that is drawn below the lines of events, never more than there is room for.

    Args:
        tally: What was heard.
        now: Time [s].
        width: Of the terminal [characters].
        height: Of the terminal [lines]; some are left to events.
    """
    room = height - (4 if height >= 16 else 1)
    lines = bars(tally, now, width, most=max(2, room // 2))
    lines += summary(tally, now, width)
    below = _pictures(tally.standing, width, room - len(lines) - 1)
    if below:
        lines += ["", *below]
    return [line[:width] for line in lines[: max(1, room)]]


def bars(tally: Tally, now: float, width: int, most: int) -> list[str]:
    """The bar of the trials with the time left, and one for each worker.

    Args:
        tally: What was heard.
        now: Time [s].
        width: Of all [characters].
        most: Lines; workers that find no room are counted.
    """
    works = sorted(tally.works.items())
    rows = [("trials", min(tally.done, tally.target), tally.target)]
    rows += [(f"worker {worker}: {work.text}", work.epoch, work.epochs) for worker, work in works]
    hidden = max(0, len(rows) - most)
    if hidden:
        hidden += 1  # the line that says so takes the place of one more
        rows = rows[:-hidden]
    counts = [f"{done}/{whole}" if whole else "" for _, done, whole in rows]
    tail = f"  {_times(tally, now)}" if width >= WIDE else ""
    right = max(map(len, counts)) + 2
    left = max(0, min(max(len(text) for text, *_ in rows), width - right - BAR[0] - 1))
    length = min(BAR[1], width - left - right - len(tail) - 1)
    if length < BAR[0]:
        texts = [text for text, *_ in rows]
        return [
            _cut(f"{text}  {count}".rstrip(), width)
            for text, count in zip(texts, counts, strict=True)
        ]
    lines = [
        f"{_cut(text, left):<{left}} {bar(done / whole if whole else 0, length)}{count:>{right}}"
        for (text, done, whole), count in zip(rows, counts, strict=True)
    ]
    lines[0] += tail
    more = [f"and {hidden} more workers"] if hidden else []
    return [line.rstrip() for line in lines + more]


def bar(share: float, length: int) -> str:
    """A bar that can be read without colour.

    >>> bar(0.4, 8)
    '━━━─────'
    """
    halves = round(2 * length * min(1.0, max(0.0, share)))
    full = "━" * (halves // 2) + "╸" * (halves % 2)
    return full + "─" * (length - len(full))


def _times(tally: Tally, now: float) -> str:
    seconds = int(now - tally.begun)
    passed = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    left = tally.seconds_left(now)
    return passed if left is None else f"{passed}, about {in_words(left)} left"


def summary(tally: Tally, now: float, width: int) -> list[str]:
    """Trials, epochs, hypervolume, and the time where it does not stand behind the bar."""
    parts = [*counts(tally)]
    if width < WIDE:
        parts.append(_times(tally, now))
    # Between parts only: a number stays with what it counts.
    text = ", ".join(part.replace(" ", "\xa0") for part in parts)
    lines = textwrap.wrap(text, max(1, width), break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def counts(tally: Tally) -> list[str]:
    """The numbers of a run, in words."""
    parts = [f"{tally.ended('complete')} complete", f"{tally.ended('failed')} failed"]
    if pruned := tally.ended("pruned"):
        parts.append(f"{pruned} pruned")
    parts.append(f"{tally.retried} tried again")
    parts.append(f"epochs: {tally.trained} trained, {tally.reused} reused")
    if tally.standing.volume is not None and tally.standing.picture is not None:
        parts.append(f"hypervolume {tally.standing.volume:.3f}")
    return parts


def plain(tally: Tally, now: float) -> str:
    """The same as one line, for what is no terminal."""
    left = tally.seconds_left(now)
    parts = [f"{min(tally.done, tally.target)} of {tally.target} trials", *counts(tally)]
    if left is not None:
        parts.append(f"about {in_words(left)} left")
    return f"so far: {', '.join(parts)}"


def budgets(standing: Standing) -> list[str]:
    """The best below each budget, in columns; nothing before there is any."""
    if not any(budget.best for budget in standing.budgets):
        return []
    rows = [budget.cells() for budget in standing.budgets]
    asked = max(len(row[0]) for row in rows)
    metric = max(len(row[1]) for row in rows if row[2])
    lines = [f"{row[0]:<{asked}}  {row[1]:>{metric}}  {row[2]}".rstrip() for row in rows]
    return ["best per budget", *lines]


def _pictures(standing: Standing, width: int, room: int) -> list[str]:
    beside = budgets(standing)
    needed = max(map(len, beside), default=0)
    lines = min(CHART[1], room)
    if standing.picture is None:
        return beside[: max(0, room)]
    if width < WIDE:
        # Numbers before the picture: they say more in less room.
        chart = draw(standing.picture, min(CHART[0], width), min(lines, room - len(beside) - 1))
        gap = [""] if chart and beside else []
        return [*chart, *gap, *beside][: max(0, room)]
    chart = draw(standing.picture, min(CHART[0], width - needed - GAP), lines)
    if not chart:
        return beside[: max(0, room)]
    column = max(map(len, chart)) + GAP
    return _beside(chart, ["", *beside] if beside else [], column)[:room]


def _beside(left: Sequence[str], right: Sequence[str], column: int) -> list[str]:
    count = max(len(left), len(right))
    padded = ([*side, *[""] * (count - len(side))] for side in (left, right))
    return [f"{one:<{column}}{other}".rstrip() for one, other in zip(*padded, strict=True)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"[: max(0, width)]
