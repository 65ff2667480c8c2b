"""Random stacks of convolutions over time, drawn by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

LENGTH = 24
MODES = ("zeros", "reflect", "replicate", "circular")
PADS: dict[str, Any] = {
    "constant": lambda sizes: nn.ConstantPad1d(sizes, 0.7),
    "zero": nn.ZeroPad1d,
    "reflect": nn.ReflectionPad1d,
    "replicate": nn.ReplicationPad1d,
    "circular": nn.CircularPad1d,
}


@dataclass(frozen=True)
class Turn:
    """What happens around one layer."""

    pad: tuple[int, int]  # by a function, before it
    residual: bool  # its input is added to its output
    twice: bool  # its output runs through it again


class Stack(nn.Module):
    """Layers one after another, `(B, 3, LENGTH)` in, and a linear one on all that is left."""

    def __init__(self, layers: list[nn.Module], turns: list[Turn], features: int) -> None:
        super().__init__()
        self.layers, self.turns = nn.ModuleList(layers), turns
        self.fc = nn.Linear(features, 2)

    def __repr__(self) -> str:
        return "\n".join(map(str, [*self.turns, *self.layers]))

    def forward(self, x: Tensor) -> Tensor:
        for layer, turn in zip(self.layers, self.turns, strict=True):
            y = torch.relu(layer(F.pad(x, turn.pad) if any(turn.pad) else x))
            y = torch.relu(layer(y)) if turn.twice else y
            x = x + y if turn.residual else y
        return self.fc(x.flatten(1))


@st.composite
def stacks(draw: st.DrawFn) -> Stack:
    """A stack of up to four convolutions: depthwise, grouped, dilated, padded in every way."""
    channels, length = 3, LENGTH
    layers: list[nn.Module] = []
    turns: list[Turn] = []
    for _ in range(draw(st.integers(1, 4))):
        layer = draw(convolutions(channels))
        function, sizes, module = draw(pads())
        after = _length(layer, length + sum(sizes))
        if after < 10:  # fewer positions than a reflection may ask for
            continue
        fits = layer.out_channels == channels
        twice = fits and not any(sizes) and _length(layer, after) >= 10 and draw(st.booleans())
        after = _length(layer, after) if twice else after
        residual = fits and after == length and draw(st.booleans())
        norm = [nn.BatchNorm1d(layer.out_channels)] if draw(st.booleans()) else []
        layers.append(nn.Sequential(*([] if function else module), layer, *norm))
        turns.append(Turn(sizes if function else (0, 0), residual, twice))
        channels, length = layer.out_channels, after
    return Stack(layers, turns, channels * length)


def _length(layer: nn.Conv1d, length: int) -> int:
    span = layer.dilation[0] * (layer.kernel_size[0] - 1)
    if layer.padding == "same":
        return length
    return length - span + (0 if layer.padding == "valid" else 2 * layer.padding[0])


@st.composite
def pads(draw: st.DrawFn) -> tuple[bool, tuple[int, int], list[nn.Module]]:
    """Whether by a function, how much, and the module that pads as much."""
    left, right = draw(st.sampled_from((0, 0, 2, 5, 8))), draw(st.sampled_from((0, 0, 1, 4)))
    kind = draw(st.sampled_from(sorted(PADS)))
    module = [PADS[kind]((left, right))] if left or right else []
    return draw(st.booleans()), (left, right), module


@st.composite
def convolutions(draw: st.DrawFn, channels: int) -> nn.Conv1d:
    """One layer that reads `channels`."""
    kind = draw(st.sampled_from(("plain", "plain", "depthwise", "grouped")))
    groups = {"plain": 1, "depthwise": channels, "grouped": 2 if channels % 2 == 0 else 1}[kind]
    cout = channels if kind == "depthwise" else 2 * draw(st.integers(1, 3))
    kernel, dilation = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    padding: Any = draw(st.sampled_from(("same", "valid", 0, 1, 3, 6)))
    mode = draw(st.sampled_from(MODES))
    total = dilation * (kernel - 1)
    # torch warns where the two sides differ; a reflection needs more positions than it adds.
    if padding == "same" and (total > 16 or (total % 2 and mode == "zeros")):
        padding = "valid"
    return nn.Conv1d(
        channels,
        cout,
        kernel,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )
