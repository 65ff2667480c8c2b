"""Norms that fold once choices are made, on nets small enough to see it."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from plinio_sweep.graph.late import LateFold, late_folds
from plinio_sweep.graph.table import analyse_graph
from plinio_sweep.graph.trace import trace
from plinio_sweep.methods.supernet import SuperNetModule


def same(x: Tensor) -> Tensor:
    return x


class Net(nn.Module):
    """A layer, a choice and a norm, joined as `run` says."""

    def __init__(self, branches: list[nn.Module | Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1, bias=False)
        self.block = SuperNetModule(branches)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.block(self.stem(x)))


class Read(Net):
    """The stem is read beside the choice, too."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.norm(self.block(x)) + x


class Twice(Net):
    """The norm has a second call, which follows no layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.relu(super().forward(x)))


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 1, bias=False)


def folds(net: nn.Module, excluded: Collection[str] = ()) -> set[LateFold]:
    inputs = (torch.ones(2, 3, 4, 4),)
    return set(late_folds(analyse_graph(trace(net, inputs), inputs, exclude_names=excluded)))


CONV = LateFold("norm", "block.branches.0", (("block", 0),))
STEM = LateFold("norm", "stem", (("block", 1),))


def test_a_norm_folds_into_the_layer_of_the_branch_or_into_the_one_before_it() -> None:
    assert folds(Net([conv(), same, torch.relu])) == {CONV, STEM}


def test_a_layer_that_something_else_reads_takes_no_norm() -> None:
    assert folds(Read([conv(), same])) == {CONV}


def test_a_norm_that_is_called_elsewhere_does_not_fold() -> None:
    assert folds(Twice([conv(), same])) == set()


def test_what_is_excluded_does_not_fold() -> None:
    assert folds(Net([conv(), same]), excluded=("norm",)) == set()
    assert folds(Net([conv(), same]), excluded=("stem",)) == {CONV}


def test_a_layer_that_all_branches_read_folds_the_norm_of_the_one_that_is_left() -> None:
    begun = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
    found = folds(Net([begun, conv()]))
    assert LateFold("block.branches.0.0", "stem", (("block", 0),)) in found
    assert LateFold("norm", "block.branches.1", (("block", 1),)) in found
    assert len(found) == 2


def test_a_nested_choice_folds_where_both_are_made() -> None:
    net = Net([SuperNetModule([conv(), torch.relu]), torch.relu])
    inner = (("block", 0), ("block.branches.0", 0))
    assert folds(net) == {LateFold("norm", "block.branches.0.branches.0", inner)}


def test_a_norm_that_always_folds_is_none_of_them() -> None:
    assert folds(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))) == set()
