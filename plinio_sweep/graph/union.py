"""Labels of channels: which stand for the same channel, and which may not be removed.

Label 0 stands for all channels that can't be removed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Union:
    """Sets of labels that live and die together, some of them frozen for a reason."""

    def __init__(self) -> None:
        self._parent = [0]
        self._reason: dict[int, str] = {0: "fixed input"}

    @property
    def size(self) -> int:
        """Number of labels ever made, 0 included."""
        return len(self._parent)

    def fresh(self, count: int) -> Tensor:
        """`(count,)` new labels, each in a set of its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def names(self, labels: Tensor) -> Tensor:
        """`labels` with each one replaced by the name of its set."""
        return self._mapped(labels, self._find)

    def roots(self, labels: Tensor) -> Tensor:
        """`labels` with each one replaced by the name of its set, 0 where frozen."""
        return self._mapped(labels, self._free)

    def unite(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Joins `left` and `right` entry by entry; `reason` tells why, where one is frozen."""
        # One integer a pair: unique over pairs is an order of magnitude slower.
        size = len(self._parent)
        pairs = torch.unique(left * size + right).tolist()
        for pair in pairs:
            a, b = self._find(pair // size), self._find(pair % size)
            if a == b:
                continue
            if 0 in (a, b):
                self._reason.setdefault(max(a, b), reason)
                continue
            low, high = min(a, b), max(a, b)
            self._parent[high] = low
            why = self._reason.pop(high, None)
            if why is not None:
                self._reason.setdefault(low, why)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Marks the sets of `labels` as not removable; the first reason stays."""
        for label in torch.unique(labels).tolist():
            self._reason.setdefault(self._find(label), reason)

    def tie(self, labels: Tensor, groups: int, reason: str) -> None:
        """Lets all `groups` of `labels` keep the same of their channels: they stay equal."""
        if groups == len(labels) > 1:
            self.freeze(labels, reason)
        parts = labels.reshape(groups, -1)
        self.unite(parts[:1].expand_as(parts), parts, reason)

    def reason(self, label: int) -> str | None:
        """Why the set of `label` is frozen; nothing when it is free."""
        return self._reason.get(self._find(label))

    def _mapped(self, labels: Tensor, function: Callable[[int], int]) -> Tensor:
        unique, inverse = torch.unique(labels, return_inverse=True)
        found = torch.tensor([function(label) for label in unique.tolist()], dtype=torch.long)
        return found[inverse.reshape(-1)].reshape(labels.shape)

    def _free(self, label: int) -> int:
        name = self._find(label)
        return 0 if name in self._reason else name

    def _find(self, label: int) -> int:
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root


def varying_axes(labels: Tensor) -> list[int]:
    """The axes along which `labels` change."""
    return [
        axis
        for axis in range(labels.dim())
        if labels.shape[axis] > 1 and not bool((labels == labels.narrow(axis, 0, 1)).all())
    ]


def channels_of(labels: Tensor, axis: int) -> Tensor | None:
    """`(C,)` labels along `axis`; nothing where other axes change them, too."""
    axis %= labels.dim()
    if any(other != axis for other in varying_axes(labels)):
        return None
    return first_along(labels, axis) if labels.numel() else labels.new_zeros(labels.shape[axis])


def first_along(labels: Tensor, axis: int) -> Tensor:
    """`(C,)` labels along `axis`, those at the first place of all other axes."""
    return labels.movedim(axis, 0).reshape(labels.shape[axis], -1)[:, 0]


def spread(channels: Tensor, axis: int, shape: torch.Size) -> Tensor:
    """`(C,)` labels along `axis` of an activation, the same all over its other axes."""
    ends = [1] * len(shape)
    ends[axis] = -1
    # Contiguous like the activation itself: `view` refuses anything else.
    return channels.reshape(ends).broadcast_to(shape).contiguous()
