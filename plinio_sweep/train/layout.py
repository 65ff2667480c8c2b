"""The order in memory in which a net is trained: channels last, where they may be.

Convolutions of two dimensions, and what lies between them, take less time so on a CPU: measured by
`tests/benchmarks/test_layout.py`. Not every net bears it: one that flattens its maps by `view`
needs them in the usual order. So the net is tried first, and left as it was if it fails.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from plinio_sweep.train.state import load_net_state, load_random_state, net_state, random_state


@contextmanager
def channels_last(
    net: nn.Module, inputs: Sequence[Tensor], step: Callable[[], object]
) -> Iterator[bool]:
    """Has `net` keep its maps `(B, C, H, W)` with the channels last in memory, where it bears that.

    Afterwards its weights lie as they lay before, whatever was trained or loaded.

    Args:
        net: That is trained or measured within.
        inputs: Of a batch, as the net takes them.
        step: Does with `net` what will be done with it. What it draws and changes is undone.

    Yields:
        Whether it bears it.
    """
    tensors = _of_images(net)
    if not tensors or not any(map(_is_image, inputs)):
        yield False
        return
    strides = [value.stride() for value in tensors]
    hook = net.register_forward_pre_hook(_turned)
    try:
        _lay(tensors, [_last(value) for value in tensors])
        borne = _bears(net, step)
        if not borne:
            hook.remove()
            _lay(tensors, strides)
        yield borne
    finally:
        hook.remove()
        _lay(tensors, strides)


def _of_images(net: nn.Module) -> list[Tensor]:
    """What `net` has of weights `(O, I, H, W)` in the usual order, on the CPU.

    An accelerator has its own ways, and none was measured. What shares its memory stays.
    """
    every = list(chain(net.parameters(), net.buffers()))
    users = Counter(value.untyped_storage().data_ptr() for value in every)
    return [
        value
        for value in every
        if _is_image(value)
        and value.device.type == "cpu"
        and value.is_contiguous()
        and users[value.untyped_storage().data_ptr()] == 1
    ]


def _is_image(value: Tensor) -> bool:
    return value.dim() == 4


def _turned(net: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, Tensor) and _is_image(value)
        else value
        for value in inputs
    )


def _last(value: Tensor) -> tuple[int, ...]:
    """Its strides with the channels last, also where an axis has one place only.

    The format of a weight decides that of what a convolution makes of an image of one channel.
    """
    _, channels, height, width = value.shape
    return (channels * height * width, 1, width * channels, channels)


@torch.no_grad()
def _lay(tensors: Sequence[Tensor], strides: Sequence[tuple[int, ...]]) -> None:
    for value, wanted in zip(tensors, strides, strict=True):
        if value.stride() != wanted:
            laid = torch.empty_strided(value.shape, wanted, dtype=value.dtype)
            value.data = laid.copy_(value)


def _bears(net: nn.Module, step: Callable[[], object]) -> bool:
    """Whether `step` can be done; net and random states are as before."""
    state, drawn = copy.deepcopy(net_state(net)), random_state(torch.device("cpu"))
    try:
        step()
    except Exception:
        return False  # what fails in the usual order, too, is told when it does
    finally:
        load_net_state(net, state)
        load_random_state(drawn, torch.device("cpu"))
        net.zero_grad(set_to_none=True)
    return True
