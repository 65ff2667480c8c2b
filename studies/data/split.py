"""Splits that are rules: what is in which part follows from names, not from a stored list.

Hashes, not random numbers: they are the same in every version of every library.

Shapes: `N` items.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from plinio_sweep import Splits

_BUCKETS = 2**27 - 1  # of the published rule, more than any word has recordings
Pair = tuple[Tensor, Tensor]


def part_of(name: str, validation: float = 10.0, test: float = 10.0) -> str:
    """The part of Speech Commands that what `name` stands for is in, by the published rule.

    Args:
        name: Of a speaker, or of whatever must not be torn apart.
        validation: Share of the validation split [%].
        test: Share of the test split [%].

    References:
        Warden, "Speech Commands", 2018 (arXiv 1804.03209), section 7; its README gives the rule.

    Example:
        >>> part_of("00176480"), part_of("026290a7"), part_of("0c40e715")
        ('train', 'validation', 'test')
    """
    number = int(hashlib.sha1(name.encode()).hexdigest(), 16) % (_BUCKETS + 1)
    share = number * (100.0 / _BUCKETS)
    if share < validation:
        return "validation"
    return "test" if share < validation + test else "train"


def rank(name: str, seed: int = 0) -> int:
    """A number that `name` has in a random order of all names.

    Example:
        >>> sorted("abcd", key=rank)
        ['b', 'a', 'c', 'd']
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big")


def held_out(strata: Sequence[Hashable], fraction: float, seed: int = 0) -> Tensor:
    """`(N,)` which items are held out: the same fraction of every stratum.

    Args:
        strata: Of each item: its class, say.
        fraction: Of each stratum in (0, 1), rounded to whole items.
        seed: Of the choice.

    Example:
        >>> held_out([0, 0, 1, 1], 0.5).int()
        tensor([0, 1, 1, 0], dtype=torch.int32)
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, stratum in enumerate(strata):
        members[stratum].append(index)
    mask = torch.zeros(len(strata), dtype=torch.bool)
    for found in members.values():
        count = round(fraction * len(found))
        mask[sorted(found, key=lambda index: rank(str(index), seed))[:count]] = True
    return mask


def held_groups(groups: Sequence[Hashable], fraction: float, seed: int = 0) -> Tensor:
    """`(N,)` which items are held out: all those of some groups, so that none is in both parts.

    Args:
        groups: Of each item: its speaker, say.
        fraction: Of the groups, one at least.
        seed: Of the choice.

    Example:
        >>> held_groups(["ann", "ann", "bob", "cat"], 0.3).int()
        tensor([1, 1, 0, 0], dtype=torch.int32)
    """
    names = sorted({str(group) for group in groups}, key=lambda name: rank(name, seed))
    chosen = set(names[: max(1, round(fraction * len(names)))])
    return torch.tensor([str(group) in chosen for group in groups])


def in_parts(train: Pair, validation: Pair, test: Pair, most: int | None) -> Splits:
    """The data set, or of each part `most` items that are spread over it.

    Args:
        train: Inputs and target.
        validation: Likewise.
        test: Likewise.
        most: Items of each part; all when left out.
    """
    parts = [_some(part, most) for part in (train, validation, test)]
    return Splits(train=parts[0], validation=parts[1], test=parts[2])


def _some(part: Pair, most: int | None) -> Pair:
    inputs, target = part
    if most is None or most >= len(target):
        return part
    order = sorted(range(len(target)), key=lambda index: rank(str(index)))[:most]
    chosen = torch.tensor(sorted(order))
    return inputs[chosen], target[chosen]


def validated(kept: Pair, out: Tensor, test: Pair, most: int | None) -> Splits:
    """The data set whose validation split are the items `out`, `(N,)`, of what is kept."""
    inputs, target = kept
    return in_parts((inputs[~out], target[~out]), (inputs[out], target[out]), test, most)
