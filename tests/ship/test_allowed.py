"""The list of what a stored net may be made of: wide enough for nets, and for nothing else."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import nn

from plinio_sweep.graph import operations as ops
from plinio_sweep.ship.allowed import classes, function_names, functions, methods


def test_it_holds_what_nets_use() -> None:
    names = ("torch.nn.functional.max_pool2d", "torch.cat", "torch.fft.rfft", "operator.getitem")
    assert all(name in functions() for name in names)
    assert functions()["operator.add"] is operator.add
    assert functions()["torch.nn.functional.hardswish"] is nn.functional.hardswish
    assert classes()["torch.nn.LSTM"] is nn.LSTM


def test_it_holds_what_the_library_knows() -> None:
    known = {*ops.SHAPE_FUNCTIONS, *ops.ELEMENTWISE_FUNCTIONS}
    assert not [function for function in known if id(function) not in function_names()]
    assert methods() >= ops.SHAPE_METHODS | ops.METADATA_METHODS


def test_names_and_functions_are_each_others_inverse() -> None:
    for name, function in functions().items():
        assert functions()[function_names()[id(function)]] is function, name


@pytest.mark.parametrize(
    "word",
    [
        *("load", "save", "file", "compile", "exec", "eval", "import", "hook", "pickle", "library"),
        *("storage", "ptr", "apply", "set_", "system", "call", "getter", "empty", "as_strided"),
    ],
)
def test_it_holds_nothing_that_does_more_than_compute(word: str) -> None:
    names = [*functions(), *methods(), *classes()]
    assert not [name for name in names if name.rpartition(".")[2].startswith(word)]


def test_nothing_private() -> None:
    last = [name.rpartition(".")[2] for name in (*functions(), *methods(), *classes())]
    assert not [name for name in last if name.startswith("_")]
    assert all(issubclass(kind, torch.nn.Module) for kind in classes().values())
