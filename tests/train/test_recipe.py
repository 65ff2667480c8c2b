from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from plinio_sweep.train.metrics import accuracy
from plinio_sweep.train.recipe import (
    Phase,
    Recipe,
    Split,
    Splits,
    adam,
    constant,
    cosine,
)
from tests.messages import is_sentence

PAIR = (torch.zeros(4, 3), torch.zeros(4))
PHASE = Phase(epochs=1)


def splits(train: Any = PAIR) -> Splits:
    return Splits(train=train, validation=PAIR, test=PAIR)


# -- splits ---------------------------------------------------------------------------------------


def test_a_pair_of_tensors_becomes_a_split() -> None:
    part = splits().part("train")
    assert len(part) == 4
    assert part.inputs[0] is PAIR[0]
    assert part.target is PAIR[1]


def test_several_inputs_come_in_a_tuple_of_their_own() -> None:
    part = splits(((torch.zeros(4, 3), torch.ones(4, 2)), torch.zeros(4))).part("train")
    assert [tuple(value.shape) for value in part.inputs] == [(4, 3), (4, 2)]


def test_the_example_is_two_items_of_every_training_input() -> None:
    data = splits(((torch.zeros(4, 3), torch.ones(4, 2)), torch.zeros(4)))
    assert [tuple(value.shape) for value in data.example()] == [(2, 3), (2, 2)]


def test_a_ready_split_is_taken_as_it_is() -> None:
    ready = Split((torch.zeros(4, 3),), torch.zeros(4))
    assert splits(ready).part("train") is ready


@pytest.mark.parametrize(
    "train",
    [
        torch.zeros(4, 3),
        (torch.zeros(4, 3),),
        (torch.zeros(4, 3), torch.zeros(4), torch.zeros(4)),
        ([[0.0]], torch.zeros(1)),
        (torch.zeros(4, 3), [0, 1, 0, 1]),
        ((), torch.zeros(4)),
        None,
    ],
)
def test_what_is_no_pair_of_tensors_is_a_type_error(train: Any) -> None:
    with pytest.raises(TypeError, match=r"`train` must be a pair \(inputs, target\)") as error:
        splits(train)
    assert is_sentence(error.value)


@pytest.mark.parametrize(
    ("train", "lengths"),
    [
        ((torch.zeros(4, 3), torch.zeros(5)), r"\[4, 5\]"),
        (((torch.zeros(4), torch.zeros(3)), torch.zeros(4)), r"\[4, 3, 4\]"),
        ((torch.zeros(1, 3), torch.zeros(1)), r"\[1, 1\]"),
        ((torch.zeros(0, 3), torch.zeros(0)), r"\[0, 0\]"),
        ((torch.zeros(4, 3), torch.tensor(1.0)), r"\[4, 0\]"),
    ],
)
def test_unequal_or_short_tensors_are_refused_with_their_lengths(train: Any, lengths: str) -> None:
    with pytest.raises(ValueError, match=f"`train` must have the same length.*{lengths}") as error:
        splits(train)
    assert is_sentence(error.value)


# -- phases and recipes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "`epochs` must be at least 0, but got -1"),
        ({"epochs": 1, "lr": 0.0}, "`lr` must be above 0 and finite, but got 0.0"),
        ({"epochs": 1, "lr": math.inf}, "`lr` must be above 0 and finite, but got inf"),
        ({"epochs": 1, "lr": math.nan}, "`lr` must be above 0 and finite, but got nan"),
        ({"epochs": 1, "arch_lr": -1.0}, "`arch_lr` must be above 0 and finite, but got -1.0"),
    ],
)
def test_a_phase_checks_its_numbers(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Phase(**changes)
    assert is_sentence(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": Phase(epochs=0)}, "`search` must last an epoch at least, but got epochs=0"),
        ({"batch_size": 1}, "`batch_size` must be at least 2, but got 1"),
        ({"ramp": 1.0}, r"`ramp` must be in \[0, 1\), but got 1.0"),
        ({"ramp": -0.1}, r"`ramp` must be in \[0, 1\), but got -0.1"),
    ],
)
def test_a_recipe_checks_its_numbers(changes: dict[str, Any], message: str) -> None:
    phases = {"warmup": PHASE, "search": PHASE, "finetune": PHASE}
    with pytest.raises(ValueError, match=message) as error:
        Recipe(**phases | changes)
    assert is_sentence(error.value)


# -- schedules, optimiser, metric -----------------------------------------------------------------


@given(st.floats(0, 1, exclude_max=True))
def test_schedules_start_at_one_and_never_rise(fraction: float) -> None:
    assert constant(fraction) == 1.0
    assert cosine(0.0) == 1.0
    assert cosine(fraction) >= cosine((1 + fraction) / 2)


@pytest.mark.parametrize(("fraction", "factor"), [(0.5, 0.5), (1 / 3, 0.75), (2 / 3, 0.25)])
def test_cosine_is_half_a_cosine(fraction: float, factor: float) -> None:
    assert cosine(fraction) == pytest.approx(factor)


def test_adam_has_no_weight_decay() -> None:
    (group,) = adam(nn.Linear(2, 2).parameters(), 0.25).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.25, 0)


def test_accuracy_is_the_share_of_largest_outputs() -> None:
    outputs = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, -1.0]])
    assert accuracy(outputs, torch.tensor([0, 0, 0])) == pytest.approx(2 / 3)
