"""All that a run of the loop needs to go on bit by bit, taken from what it trains with.

A net keeps what training changes in parameters and buffers, a search its decisions, temperature and
noise, too, and an optimiser keeps it in its state: what they have in other attributes is not seen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plinio_sweep.graph.draws import generator_state, set_generator_state
from plinio_sweep.methods.search import Search

State = Mapping[str, Any]


# -- nets -----------------------------------------------------------------------------------------


def net_state(net: nn.Module) -> dict[str, Any]:
    """What training changes in `net`, or in a search: its own tensors, not copies.

    Example:
        >>> net_state(nn.Dropout())
        {'kept': {}, 'passing': {}, 'training': {'': True}, 'learning': {}, 'frozen': {}}
    """
    kept = dict(net.state_dict())
    return {
        "kept": kept,
        # Those that a state dict leaves out matter too: the noise of the last step, for one.
        "passing": {name: b.detach() for name, b in net.named_buffers() if name not in kept},
        "training": {name: module.training for name, module in net.named_modules()},
        "learning": {name: p.requires_grad for name, p in net.named_parameters()},
        "frozen": dict(net.frozen) if isinstance(net, Search) else {},
    }


@torch.no_grad()
def load_net_state(net: nn.Module, state: State) -> None:
    """Has `net` be as it was when `state` was taken of it or of one that was made alike.

    Raises:
        ValueError: When the state is that of another net; `net` is as before.
    """
    now = net_state(net)
    for part, values in now.items():
        if part != "frozen":
            _check_same(values, state[part])
    net.load_state_dict(state["kept"])
    buffers = dict(net.named_buffers())
    for name, value in state["passing"].items():
        buffers[name].copy_(value)
    for name, module in net.named_modules():
        module.training = state["training"][name]
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(state["learning"][name])
    if isinstance(net, Search):
        net.frozen = state["frozen"]


def _check_same(expected: State, found: State) -> None:
    missing = sorted(expected.keys() ^ found.keys())
    differing = [n for n in expected if not missing and _kind(expected[n]) != _kind(found[n])]
    if missing or differing:
        name = (missing or differing)[0]
        raise ValueError(
            f"The state of a net must fit it, but differs in {name!r}: "
            f"{_kind(found.get(name))} instead of {_kind(expected.get(name))}; train it anew."
        )


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "something else" if value is not None else "nothing"
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"


# -- optimisers -----------------------------------------------------------------------------------


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Has `optimizer` be as it was when `state`, its state dict, was taken.

    Raises:
        ValueError: When its groups of parameters are others.
    """
    optimizer.load_state_dict(dict(state))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state["state"].items():
        own = optimizer.state[parameters[index]]
        for name, value in values.items():
            # What it keeps in another precision than its parameter, `load_state_dict` would round.
            if isinstance(value, Tensor) and own[name].dtype != value.dtype:
                own[name] = value.to(own[name].device)


# -- random states --------------------------------------------------------------------------------


def seed_random(seed: int) -> None:
    """Has torch on all devices, numpy and Python draw what follows from `seed`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """The random states of torch on all devices, of numpy and of Python.

    Args:
        device: Of the net.

    Example:
        >>> state = random_state(torch.device("cpu"))
        >>> first = torch.rand(3)
        >>> load_random_state(state, torch.device("cpu"))
        >>> torch.equal(first, torch.rand(3))
        True
    """
    return {
        "torch": torch.get_rng_state(),
        "devices": [generator_state(other) for other in _accelerators()],
        "own": _place(device),
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
    }


def load_random_state(state: State, device: torch.device) -> None:
    """Has all random states be as they were when `state` was taken.

    Args:
        state: As `random_state` gave it.
        device: Of the net, which may be another one than then: that one's state follows it.
    """
    torch.set_rng_state(state["torch"])
    mine = _place(device)
    others = _accelerators()
    for index, value in enumerate(state["devices"]):
        own = index == state["own"]
        target = mine if own and mine is not None else index
        if target < len(others) and (own or target != mine):
            set_generator_state(others[target], value)
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def _accelerators() -> list[torch.device]:
    """All devices beside the CPU, once one of them is in use."""
    kind = torch.accelerator.current_accelerator()
    if kind is None or not torch.accelerator.is_available():
        return []
    if kind.type == "cuda" and not torch.cuda.is_initialized():
        return []  # to ask would take hundreds of MB of a device that nobody wants
    return [torch.device(kind.type, index) for index in range(torch.accelerator.device_count())]


def _place(device: torch.device) -> int | None:
    return None if device.type == "cpu" else device.index or 0
