"""Calls of modules that own parameters, each parameter counted once.

Where a module is called twice, or two modules use one parameter, their channels are tied.

Shapes: `O` rows and `I` columns of a layer's weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from plinio_sweep.graph.quantized import is_quantized
from plinio_sweep.graph.union import Union

Path = str  # of a module in its net: "layer1.conv2"


@dataclass(slots=True, eq=False)
class Call:
    """One call of a module that owns parameters."""

    name: Path
    node: str
    op: str  # "conv", "linear", "affine", "other": the word of the cost models
    cin: Tensor  # `(I,)` labels of the columns
    cout: Tensor  # `(O,)` labels of the rows
    out: tuple[int, ...] = ()  # output positions per axis
    groups: int = 1
    repeat: int = 0

    @property
    def separate(self) -> bool:
        """Whether each group reads a single channel: one row for it, or several."""
        return self.groups == len(self.cin) and self.groups > 1


class Calls:
    """The calls of one run, in order.

    Args:
        net: The traced net.
        union: Its labels, united and frozen in place.
    """

    def __init__(self, net: fx.GraphModule, union: Union) -> None:
        self.net = net
        self.union = union
        self.listed: list[Call] = []
        self._first: dict[Path, Call] = {}

    def rows(self, name: Path, count: int) -> Tensor:
        """`(count,)` labels of the rows of the module at `name`: new ones for its first call."""
        first = self._first.get(name)
        return self.union.fresh(count) if first is None else first.cout

    def add(self, call: Call) -> None:
        """Takes a call in; a later one of the same module keeps the channels of the first."""
        first = self._first.setdefault(call.name, call)
        if first is not call:
            call.repeat = sum(c.name == call.name for c in self.listed)
            why = f"joined with fixed channels by a second call of {call.name}"
            if first.op == call.op:
                self.union.unite(first.cin, call.cin, why)
                self.union.unite(first.cout, call.cout, why)
            else:
                self._freeze(first, why)
                self._freeze(call, why)
        self.listed.append(call)

    def add_parameters(self, name: Path, node: str) -> None:
        """Counts the parameters at `name`, a module or a single one, that no formula covers."""
        if call := _storage(name, node, _parameters(self.net, name)):
            self.add(call)

    def share(self) -> dict[Path, str]:
        """Freezes layers that use one parameter, and counts this parameter once.

        Returns:
            Why such layers must stay as they are.
        """
        fixed: dict[Path, str] = {}
        users: dict[int, Call] = {}
        for call in list(self.listed):
            if call.repeat:
                continue
            parameters = _parameters(self.net, call.name)
            others = [users[id(p)] for p in parameters if id(p) in users]
            for other in others:
                why = f"{other.name} and {call.name} share a parameter"
                for one in (other, call):
                    self._freeze(one, why)
                    fixed.setdefault(one.name, why)
            if others:
                call.repeat = 1
                rest = [p for p in parameters if id(p) not in users]
                if own := _storage(call.name, call.node, rest):
                    self.listed.append(own)
            users |= {id(p): call for p in parameters if id(p) not in users}
        return fixed

    def _freeze(self, call: Call, reason: str) -> None:
        self.union.freeze(call.cin, reason)
        self.union.freeze(call.cout, reason)


def _storage(name: Path, node: str, parameters: Iterable[Tensor]) -> Call | None:
    """A call that counts `parameters` and nothing else; nothing where there are none."""
    zeros = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.long)
    return Call(name, node, "other", zeros[:1], zeros) if len(zeros) else None


def _parameters(net: fx.GraphModule, path: Path) -> list[nn.Parameter]:
    """The parameters of the module at `path`, or the one parameter that `path` names."""
    value: Any = net
    for part in path.split("."):
        value = getattr(value, part)
    if is_quantized(value):
        return [p for p in (value.weight, value.bias) if p is not None]  # a range is no weight
    if isinstance(value, nn.Module):
        return list(value.parameters())
    return [value] if isinstance(value, nn.Parameter) else []
