"""What holds for the front doors of all methods, beside the contract of what they open."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from typing import Any

import pytest
import torch
from torch import nn

from plinio_sweep import MPS, PIT, MPSSettings, PITSettings, SuperNet, SuperNetSettings
from plinio_sweep.methods.search import Search


def defaults(function: Any) -> dict[str, Any]:
    return {name: taken.default for name, taken in signature(function).parameters.items()}


@pytest.mark.parametrize(
    ("search", "settings"),
    [(PIT, PITSettings), (MPS, MPSSettings), (SuperNet, SuperNetSettings)],
    ids=["pit", "mps", "supernet"],
)
def test_a_method_takes_what_all_take_and_its_settings(
    search: type[Search], settings: type[Any]
) -> None:
    own = {field.name: field.default for field in fields(settings)}
    assert defaults(search) == defaults(Search) | own


def test_the_example_of_a_search_follows_its_net_and_is_not_stored() -> None:
    search = PIT(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), input_shape=(4,))
    assert not [name for name in search.state_dict() if "input" in name]
    search.double().export()  # compares both nets on the example
    floats = [value for value in search.buffers() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float64}
