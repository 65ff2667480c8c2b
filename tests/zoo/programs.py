"""Random nets: short programs over a stack of activations, drawn by hypothesis.

An activation is known by its channels and its side; every step appends one or two activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from plinio_sweep.methods.supernet import SuperNetModule

ACTIVATIONS = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "hardswish": nn.functional.hardswish,
    "softplus": nn.functional.softplus,
}
STEPS = (
    *("activate", "add", "again", "cat", "chunk", "conv", "conv", "depthwise", "excite", "flip"),
    *(
        "gate",
        "grouped",
        "instance",
        "interleave",
        "multiplier",
        "multiply",
        "norm",
        "norm",
        "pool",
        "prelu",
        "repeat",
    ),
    *("shuffle", "slice", "softmax", "split", "unite", "upsample"),
)
CHOOSING = ("choose",) * 6


@dataclass(frozen=True)
class Step:
    """One line of a program: what to do with which activations."""

    name: str
    reads: tuple[int, ...]
    argument: Any = None
    layer: int = -1  # index of the layer that it calls


class Program(nn.Module):
    """A net that runs `steps` over its layers and classifies or maps the last activations."""

    def __init__(self, steps: list[Step], layers: list[nn.Module], head: str) -> None:
        super().__init__()
        self.steps, self.head = steps, head
        self.layers = nn.ModuleList(layers)

    def __repr__(self) -> str:
        return "\n".join(map(str, [*self.steps, *self.layers, self.head]))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step in self.steps:
            read = [values[i] for i in step.reads]
            layer = self.layers[step.layer] if step.layer >= 0 else None
            values.extend(run(step, read, layer))
        x = values[-1]
        last = self.layers[-1]
        if self.head == "conv":
            return last(x)
        return last(x.mean((2, 3)) if self.head == "pooled" else x.flatten(1))


def run(step: Step, read: list[Tensor], layer: nn.Module | None) -> list[Tensor]:
    x, other = read[0], read[-1]
    match step.name:
        case "activate":
            return [ACTIVATIONS[step.argument](x)]
        case "add":
            return [x + other]
        case "cat":
            return [torch.cat(read, 1)]
        case "chunk":
            left, right = x.chunk(2, 1)
            return [left, right]
        case "excite":
            return [x * torch.sigmoid(layer(x.mean((2, 3), keepdim=True)))]
        case "flip":
            return [x.flip(1)]
        case "gate":
            return [x * torch.sigmoid(x.mean(1, keepdim=True))]
        case "interleave":
            return [torch.stack(read, 2).flatten(1, 2)]
        case "multiply":
            return [x * torch.tanh(other)]
        case "repeat":
            return [x.repeat_interleave(2, 1)]
        case "shuffle":
            batch, channels, height, width = x.shape
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
            return [x.reshape(batch, channels, height, width)]
        case "slice":
            return [x[:, step.argument]]
        case "softmax":
            return [torch.softmax(x, 1)]
        case "split":
            left, right = torch.split(x, step.argument, dim=1)
            return [left, right]
        case "unite":
            return [x.unflatten(1, (2, -1)).sum(1)]
    assert layer is not None, step
    return [layer(x)]


def _choice(draw: st.DrawFn, channels: int, depth: int = 0) -> SuperNetModule:
    """A choice between layers, functions, blocks and, once, another choice, of one width."""

    def conv(kernel: int, cout: int = channels) -> nn.Module:
        return nn.Conv2d(channels, cout, kernel, padding=kernel // 2, bias=draw(st.booleans()))

    def branch(kind: str) -> Any:
        match kind:
            case "conv":
                return conv(draw(st.sampled_from((1, 3))))
            case "block":
                inner = draw(st.integers(1, 6))
                last = nn.Conv2d(inner, channels, 1)
                return nn.Sequential(conv(3, inner), nn.BatchNorm2d(inner), nn.ReLU(), last)
            case "pre":
                return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), conv(1))
            case "depthwise":
                return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
            case "nested":
                return _choice(draw, channels, depth + 1)
        return {"identity": nn.Identity(), "same": lambda x: x, "tanh": torch.tanh}[kind]

    kinds = ["conv", "block", "pre", "depthwise", "identity", "same", "tanh"]
    kinds += ["nested"] if depth == 0 else []
    drawn = draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=3))
    return SuperNetModule([branch(kind) for kind in drawn])


@st.composite
def programs(draw: st.DrawFn, length: int = 9, choices: bool = False) -> Program:
    """A program of up to `length` steps over `(B, 3, 8, 8)`, with or without choices."""
    steps_known = (*STEPS, *CHOOSING) if choices else STEPS
    layers: list[nn.Module] = [nn.Conv2d(3, draw(st.integers(2, 6)), 3, padding=1)]
    steps = [Step("conv", (0,), layer=0)]
    sizes = [(3, 8), (layers[0].out_channels, 8)]  # channels and side of each activation
    for name in draw(st.lists(st.sampled_from(steps_known), min_size=2, max_size=length)):
        recent = min(len(sizes), 4)
        i = len(sizes) - 1 - draw(st.integers(0, recent - 1))
        _append(draw, name, i, steps, layers, sizes)
    channels, side = sizes[-1]
    head = draw(st.sampled_from(("pooled", "flat", "conv")))
    features = channels if head == "pooled" else channels * side * side
    layers.append(nn.Conv2d(channels, 2, 1) if head == "conv" else nn.Linear(features, 3))
    return Program(steps, layers, head)


def _append(
    draw: st.DrawFn,
    name: str,
    i: int,
    steps: list[Step],
    layers: list[nn.Module],
    sizes: list[tuple[int, int]],
) -> None:
    """Appends one step, or nothing where activation `i` does not suit it."""
    channels, side = sizes[i]
    alike = [j for j in range(len(sizes)) if sizes[j] == (channels, side)]
    beside = [j for j in range(len(sizes)) if sizes[j][1] == side]
    even = channels % 2 == 0
    reads: tuple[int, ...] = (i,)
    argument: Any = None
    layer: nn.Module | None = None
    new = [(channels, side)]
    match name:
        case "conv":
            cout, kernel = draw(st.integers(1, 6)), draw(st.sampled_from((1, 3)))
            layer = nn.Conv2d(channels, cout, kernel, padding=kernel // 2)
            new = [(cout, side)]
        case "again":
            known = [
                (at, old)
                for at, old in enumerate(layers)
                if isinstance(old, nn.Conv2d) and old.in_channels == channels and old.groups == 1
            ]
            if known and side > 1:
                at, old = draw(st.sampled_from(known))
                steps.append(Step("conv", reads, layer=at))
                sizes.append((old.out_channels, side))
            return
        case "choose":
            layer = _choice(draw, channels)
        case "depthwise":
            layer = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        case "multiplier":
            layer = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels)
            new = [(2 * channels, side)]
        case "grouped" if even:
            cout = 2 * draw(st.integers(1, 3))
            layer = nn.Conv2d(channels, cout, 3, padding=1, groups=2)
            new = [(cout, side)]
        case "excite":
            layer = nn.Conv2d(channels, channels, 1)
        case "norm":
            layer = nn.BatchNorm2d(channels)
        case "instance":
            layer = nn.InstanceNorm2d(channels, affine=draw(st.booleans()))
        case "prelu":
            layer = nn.PReLU(draw(st.sampled_from((1, channels))))
        case "pool":
            layer = draw(st.sampled_from((nn.MaxPool2d(2), nn.AvgPool2d(2))))
            new = [(channels, side // 2)]
        case "upsample":
            layer = nn.Upsample(scale_factor=2)
            new = [(channels, side * 2)]
        case "activate":
            argument = draw(st.sampled_from(sorted(ACTIVATIONS)))
        case "add" | "multiply":
            reads = (i, draw(st.sampled_from(alike)))
        case "interleave":
            reads = (i, draw(st.sampled_from(alike)))
            new = [(2 * channels, side)]
        case "cat":
            reads = (i, draw(st.sampled_from(beside)))
            new = [(channels + sizes[reads[1]][0], side)]
        case "chunk" | "grouped" | "shuffle" | "unite" if not even:
            return
        case "chunk":
            new = [(channels // 2, side)] * 2
        case "unite":
            new = [(channels // 2, side)]
        case "repeat":
            new = [(2 * channels, side)]
        case "slice" | "split" if channels < 2:
            return
        case "slice":
            start = draw(st.integers(0, channels - 1))
            stop, step = draw(st.integers(start + 1, channels)), draw(st.sampled_from((1, 2)))
            argument = slice(start, stop, step)
            new = [(len(range(start, stop, step)), side)]
        case "split":
            first = draw(st.integers(1, channels - 1))
            argument = [first, channels - first]
            new = [(first, side), (channels - first, side)]
    if any(count > 16 or edge < 2 or edge > 8 for count, edge in new):
        return
    if layer is not None:
        layers.append(layer)
    steps.append(Step(name, reads, argument, len(layers) - 1 if layer is not None else -1))
    sizes.extend(new)
