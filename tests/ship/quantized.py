"""Exports of MPS over the zoo, for what makes integers of them."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import fx

from plinio_sweep.methods.mps import MPS
from tests.nets import NETS, TELLING, Case

BATCH = 32
# Operations of these have no integer form, for the reason that is found in the error.
FLOATS = {
    "SoftmaxOverChannels": "softmax at 'softmax' has none",
    "SoftmaxOverPositions": "softmax at 'softmax' has none",
    "Coordinates": "expand at 'expand' mixes the items of a batch",
    "instance_norm": "InstanceNorm2d 1 at '_1' has none",
    "plain_instance_norm": "InstanceNorm2d 1 at '_1' has none",
    "group_norm": "GroupNorm 1 at '_1' has none",
    "channel_prelu": "PReLU 1 at '_1' has none",
    "transposed": "ConvTranspose2d 1 at '_1' has none",
    "BareScale": "mul at 'mul' has none",
    "own_forward": "conv2d at 'conv2d' has none",
    "Borrowed": "Linear encode at 'encode' has none",
    "parametrized": "ParametrizedConv2d 1 at '_1' has none",
    "Functional": "log_softmax at 'log_softmax' has none",
    "Causal": "ConstantPad1d pad2 at 'pad2' has none",
    "PaddedBefore": "ConstantPad1d pad at 'pad' has none",
    "UNet": "InstanceNorm1d norm1 at 'norm1' has none",
    "Attention": "LayerNorm norm1 at 'norm1' has none",
    "Tokens": "expand at 'expand' mixes the items of a batch",
    "Words": "Embedding embed at 'embed' has none",
    "Recurrent": "LSTM lstm at 'lstm' has none",
}
# Nets with choices are for SuperNet; what it exports of them has none left.
INTEGERS = {
    name: case
    for name, case in NETS.items()
    if name not in FLOATS and case.make.__module__ != "tests.zoo.choices"
}
# Of these, besides those of the zoo that tell most, one with a table and a pool of largest values.
TELLING_INTEGERS = (*TELLING, "chain")


def export(
    case: Case,
    *,
    w_bits: tuple[int, ...] = (0, 2, 4, 8),
    x_bits: tuple[int, ...] = (8,),
    seed: int = 0,
) -> tuple[fx.GraphModule, tuple[torch.Tensor, ...]]:
    """The export of a search with random decisions, and inputs."""
    net, inputs = _export(case, w_bits, x_bits, seed)
    return copy.deepcopy(net), inputs


@cache  # many tests begin with the same nets
def _export(
    case: Case, w_bits: tuple[int, ...], x_bits: tuple[int, ...], seed: int
) -> tuple[fx.GraphModule, tuple[torch.Tensor, ...]]:
    inputs = case.inputs(batch=BATCH)
    search = MPS(case.build(seed), input_example=inputs, w_bits=w_bits, x_bits=x_bits)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for logits in search.nas_parameters():
            logits.normal_(generator=generator)
    return search.export().eval(), inputs
