"""Random numbers drawn on the side: the states of the generators of torch, of one device each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def generator_state(device: torch.device) -> Tensor:
    """The state of the generator that draws on `device`."""
    if device.type == "mps":  # there is one at most, and its functions take none
        return torch.mps.get_rng_state()
    if not _is_accelerator(device):
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def set_generator_state(device: torch.device, state: Tensor) -> None:
    """Has the generator of `device` go on from `state`."""
    if device.type == "mps":
        torch.mps.set_rng_state(state)
    elif not _is_accelerator(device):
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


@contextmanager
def without_trace(device: torch.device) -> Iterator[None]:
    """Has what is drawn within be as if it had not been: on the CPU and on `device`.

    `torch.random.fork_rng` by itself asks every accelerator, which takes hundreds of MB of each,
    also for a net on the CPU.

    Args:
        device: Of the net that runs.

    Example:
        >>> cpu = torch.device("cpu")
        >>> with without_trace(cpu):
        ...     first = torch.rand(3)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    places = [torch.device("cpu"), *([device] if _is_accelerator(device) else [])]
    states = [generator_state(place) for place in places]
    try:
        yield
    finally:
        for place, state in zip(places, states, strict=True):
            set_generator_state(place, state)


def _is_accelerator(device: torch.device) -> bool:
    return device.type not in ("cpu", "meta")
