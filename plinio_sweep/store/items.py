"""What lies in a store, as whoever clears it up sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["result", "checkpoint", "copy", "draft", "damaged", "lock"]

# [s] Whoever writes a draft or holds a lock is done in minutes; clocks may differ, too.
OLD = 86400.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that can be removed.

    Args:
        kind: A result; checkpoints of a training; a copy of a result that is stored elsewhere; what
            a writer that died has left; what was found damaged and put aside; a lock file.
        key: Of the result that it belongs to; empty where that can't be told.
        place: Path or URL.
        size_bytes: Of all its files.
        age: Since it was last written to [s].
        remove: Removes it; no error when it is gone already.
    """

    kind: Kind
    key: str
    place: str
    size_bytes: int
    age: float
    remove: Callable[[], None]


def is_key(name: str) -> bool:
    """Whether `name` is a content key: what is called otherwise is not ours to remove.

    Example:
        >>> is_key("0f" * 32), is_key("photos")
        (True, False)
    """
    return re.fullmatch("[0-9a-f]{64}", name) is not None


def superfluous(items: Iterable[Item], needed: frozenset[str] | None) -> list[Item]:
    """The items that nobody needs.

    Args:
        items: Of one store.
        needed: Keys of all results that somebody needs; nothing when not all of them are known.
    """
    listed = list(items)
    stored = {item.key for item in listed if item.kind == "result"}
    return [item for item in listed if not _needed(item, needed, stored)]


def _needed(item: Item, needed: frozenset[str] | None, stored: set[str]) -> bool:
    if item.kind == "damaged":
        return False
    if item.kind in ("draft", "lock"):
        return item.age < OLD
    if item.kind == "checkpoint" and item.key in stored and item.age >= OLD:
        return False  # its training is over, also for one that was overtaken
    return needed is None or item.key in needed
