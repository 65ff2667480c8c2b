"""The zoo: small nets that between them hold every structure the library knows.

Every norm has random parameters and running statistics, so that an error shows in the output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.zoo import calls, choices, images, layers, shapes, signals

IMAGE = (3, 8, 8)
SIGNAL = (4, 16)
TOKENS = (5, 6)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One net of the zoo."""

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)  # of each input, without the batch
    vocabulary: int = 0  # above 0 where the inputs are whole numbers
    pickles: bool = True  # False where PyTorch refuses to pickle a layer
    unused: tuple[str, ...] = ()  # layers that the forward pass leaves out, and second names

    def build(self, seed: int = 0) -> nn.Module:
        """The net in eval mode; the global random state is as before."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = self.make()
            randomize(net)
        return net.eval()

    def inputs(self, batch: int = 2, seed: int = 1) -> tuple[Tensor, ...]:
        """Random inputs."""
        generator = torch.Generator().manual_seed(seed)
        if self.vocabulary:
            return tuple(
                torch.randint(self.vocabulary, (batch, *shape), generator=generator)
                for shape in self.shapes
            )
        return tuple(torch.randn(batch, *shape, generator=generator) for shape in self.shapes)


@torch.no_grad()
def randomize(net: nn.Module) -> None:
    """Gives every norm and PReLU of `net` random parameters and running statistics."""
    for module in net.modules():
        norm = isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm)
        if not norm and not isinstance(module, nn.PReLU):
            continue
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name in ("weight", "running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.normal_(0.0, 0.5)


def _image(*makers: Callable[[], nn.Module]) -> list[Case]:
    return [Case(name=make.__name__, make=make) for make in makers]


CASES: tuple[Case, ...] = (
    *_image(
        images.chain,
        images.Residual,
        images.depthwise_separable,
        images.InvertedResidual,
        images.Concat,
        images.Dense,
        images.SqueezeExcite,
        images.PreActivation,
        images.ConcatNorm,
        images.AddInput,
        images.ConcatInput,
        images.CalledTwice,
        images.TwoResolutions,
    ),
    *_image(
        shapes.Chunk,
        shapes.Slices,
        shapes.LiteralSplit,
        shapes.Shuffle,
        shapes.StackShuffle,
        shapes.PixelShuffle,
        shapes.FlattenModule,
        shapes.FlattenFunction,
        shapes.FlattenView,
        shapes.FlattenLiteral,
        shapes.FlattenTwo,
        shapes.Squeeze,
        shapes.SliceBeforeOutput,
        shapes.MeanOverChannels,
        shapes.SoftmaxOverChannels,
        shapes.SoftmaxOverPositions,
        shapes.Flipped,
        shapes.ZeroPadShortcut,
        shapes.Doubled,
        shapes.Coordinates,
    ),
    *_image(
        layers.instance_norm,
        layers.plain_instance_norm,
        layers.group_norm,
        layers.prelu,
        layers.channel_prelu,
        layers.grouped,
        layers.multiplier,
        layers.transposed,
        layers.activations,
        layers.upsample,
        layers.BareScale,
        layers.subclass,
        layers.own_forward,
        layers.Tied,
        layers.Borrowed,
    ),
    Case(name="parametrized", make=layers.parametrized, pickles=False),
    Case(name="Unused", make=layers.Unused, unused=("auxiliary",)),
    *_image(
        calls.SeveralOutputs,
        calls.NamedOutputs,
        calls.Functional,
        calls.Defaults,
        calls.FunctionalDropout,
    ),
    Case(name="SeveralInputs", make=calls.SeveralInputs, shapes=(IMAGE, (4,))),
    Case(name="Causal", make=signals.Causal, shapes=(SIGNAL,)),
    Case(name="Paddings", make=signals.Paddings, shapes=(SIGNAL,)),
    Case(name="PaddingModes", make=signals.PaddingModes, shapes=(SIGNAL,)),
    Case(name="PaddedBefore", make=signals.PaddedBefore, shapes=(SIGNAL,)),
    Case(name="Temporal", make=signals.Temporal, shapes=(SIGNAL,)),
    Case(name="UNet", make=signals.UNet, shapes=(SIGNAL,)),
    Case(name="Volumes", make=signals.Volumes, shapes=((2, 4, 6, 6),)),
    Case(name="Attention", make=signals.Attention, shapes=(TOKENS,)),
    Case(name="Tokens", make=signals.Tokens, shapes=(TOKENS,)),
    Case(name="Words", make=signals.Words, shapes=((7,),), vocabulary=10),
    Case(name="Recurrent", make=signals.Recurrent, shapes=(TOKENS,)),
)

CHOICES: tuple[Case, ...] = (
    *_image(
        choices.Layers,
        choices.Nested,
        choices.Siblings,
        choices.Resolutions,
        choices.InResidual,
        choices.InConcat,
        choices.InSeparable,
        choices.Strided,
        choices.NormBehind,
    ),
    Case(name="Repeated", make=choices.Repeated, unused=("blocks.2.branches.0",)),
    Case(name="Signals", make=choices.Signals, shapes=(SIGNAL,)),
    Case(name="ChoiceOfVolumes", make=choices.Volumes, shapes=((2, 4, 6, 6),)),
    Case(name="ChoicesOfInputs", make=choices.SeveralInputs, shapes=(IMAGE, (4,))),
)
# What differs most, for suites that would take long on all.
FEW_CHOICES = (
    tuple(
        case for case in CHOICES if case.name in ("Layers", "Nested", "Resolutions", "NormBehind")
    )
    + CHOICES[-1:]
)

# Nets that together have every kind of structure, and what each is here for. What is alike for most
# nets is looked at in these on every run.
TELLING: dict[str, str] = {
    "Residual": "sums, strides, a projection in a shortcut, norms that fold",
    "ConcatNorm": "one norm over joined branches, a depthwise layer",
    "SqueezeExcite": "a product of channels with what was pooled",
    "CalledTwice": "layers that are called twice, a product of branches",
    "Shuffle": "slices, joins, views and transpositions of channels",
    "BareScale": "parameters of no layer",
    "Tied": "parameters of two layers",
    "Functional": "pools, pads, resizing and activations by functions, methods and operators",
    "SeveralInputs": "an image and numbers, layers without positions",
    "Temporal": "kernels over time: long, grouped, depthwise, strided, padded",
    "UNet": "norms by instance, slopes by channel, upsampling, outputs at all times",
    "Volumes": "three axes, channels and positions flattened into one",
    "Attention": "products of matrices, norms by layer, softmax",
    "Words": "whole numbers in, an embedding, axes that change places",
}

NETS: dict[str, Case] = {case.name: case for case in (*CASES, *CHOICES)}


def rows(every: Iterable[Case | str], telling: Collection[str] = tuple(TELLING)) -> list[Any]:
    """Parameters of a test for all of `every`, of which those that are not `telling` are long."""
    names = [(one if isinstance(one, str) else one.name, one) for one in every]
    assert any(name in telling for name, _ in names), "a test must run on something every time"
    return [
        pytest.param(one, id=name, marks=() if name in telling else pytest.mark.long)
        for name, one in names
    ]
