from __future__ import annotations

import pytest
import torch
from torch import nn

from plinio_sweep import PIT
from plinio_sweep.graph.draws import generator_state, set_generator_state, without_trace

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize("device", [CPU, META], ids=str)
def test_what_is_drawn_within_leaves_no_trace(device: torch.device) -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), without_trace(device):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_states_of_the_device_alone_are_taken_and_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {index: torch.tensor([index], dtype=torch.uint8) for index in range(3)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: places[device.index].clone())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: places.update({device.index: state})
    )
    one = torch.device("cuda:1")
    assert generator_state(one).item() == 1
    with without_trace(one):
        set_generator_state(one, torch.tensor([7]))
        set_generator_state(torch.device("cuda:2"), torch.tensor([8]))
    assert {index: int(state) for index, state in places.items()} == {0: 0, 1: 1, 2: 8}


def test_a_search_on_the_cpu_asks_no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> None:
        raise AssertionError("a device was asked that nobody uses")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", ask)
    PIT(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), input_shape=(4,)).export()
