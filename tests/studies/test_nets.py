"""The nets of the studies are the references, weight by weight and product by product."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from costs import LayerSpec, Scalar, cost, macs
from nets.autoencoder import autoencoder
from nets.choices import dscnn_choices, mobilenet_choices, resnet8_choices
from nets.dscnn import dscnn
from nets.mobilenet import mobilenet
from nets.resnet8 import resnet8
from nets.tcn import tcn
from plinio_sweep.graph.count import cost_of
from plinio_sweep.graph.table import analyze
from plinio_sweep.methods.supernet import SuperNet

Make = Callable[[], nn.Module]
IMAGE, SPECTRUM, PHOTO = (3, 32, 32), (1, 49, 10), (3, 96, 96)


@cost(unit="weight", once=True)
def weights(layer: LayerSpec) -> Scalar:
    """Factors of convolutions and linear layers, as the paper counts the size of a net."""
    return layer.num_weights


def counted(net: nn.Module, shape: tuple[int, ...]) -> tuple[float, float]:
    """Weights and multiply-accumulates."""
    found = cost_of(net.eval(), torch.zeros(2, *shape), {"weights": weights, "macs": macs}).totals
    return found["weights"], found["macs"]


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (resnet8, IMAGE, (77_360, 12_501_632)),
        (dscnn, SPECTRUM, (22_016, 2_656_768)),
        (mobilenet, PHOTO, (208_112, 7_489_664)),
        (autoencoder, (640,), (264_192, 264_192)),
        (tcn, (6, 128), (29_408, 1_536_224)),
    ],
    ids=["resnet8", "dscnn", "mobilenet", "autoencoder", "tcn"],
)
def test_a_net_counts_as_its_reference(
    make: Make, shape: tuple[int, ...], expected: tuple[int, int]
) -> None:
    assert counted(make(), shape) == expected


@pytest.mark.parametrize(
    ("make", "shape", "outputs"),
    [
        (resnet8, IMAGE, 10),
        (dscnn, SPECTRUM, 12),
        (mobilenet, PHOTO, 2),
        (autoencoder, (640,), 640),
        (tcn, (6, 128), 7),
    ],
    ids=["resnet8", "dscnn", "mobilenet", "autoencoder", "tcn"],
)
def test_nothing_but_the_output_is_frozen(make: Make, shape: tuple[int, ...], outputs: int) -> None:
    net = make().eval()
    assert net(torch.zeros(2, *shape)).shape == (2, outputs)
    _, table = analyze(net, torch.zeros(2, *shape))
    assert [group.frozen for group in table.groups if group.frozen] == ["network output"]


def test_all_taps_of_the_temporal_net_are_searched_and_see_no_future() -> None:
    net = tcn().eval()
    _, table = analyze(net, torch.zeros(2, 6, 128))
    assert [kernel.taps for kernel in table.kernels if kernel.frozen is None] == [9] * 6
    block = net[0]
    x = torch.randn(1, 6, 128, generator=torch.Generator().manual_seed(0))
    later = x.clone()
    later[..., 80:] += 1
    assert torch.equal(block(x)[..., :80], block(later)[..., :80])
    assert not torch.equal(block(x)[..., 80:], block(later)[..., 80:])


@pytest.mark.parametrize(
    ("choices", "make", "shape", "blocks"),
    [
        (resnet8_choices, resnet8, IMAGE, 7),
        (dscnn_choices, dscnn, SPECTRUM, 4),
        (mobilenet_choices, mobilenet, PHOTO, 13),
    ],
    ids=["resnet8", "dscnn", "mobilenet"],
)
def test_one_branch_of_every_choice_gives_the_reference(
    choices: Make, make: Make, shape: tuple[int, ...], blocks: int
) -> None:
    search = SuperNet(choices().eval(), input_shape=shape)
    logits = list(search.nas_parameters())
    assert len(logits) == blocks
    assert {len(logit) for logit in logits} <= {3, 4}
    reference = 0 if make is resnet8 else 2  # a full convolution, or a separable one
    with torch.no_grad():
        for logit in logits:
            logit[reference] = 9.0
    assert counted(search.export(), shape) == counted(make(), shape)
    sizes = []
    for branch in range(3):
        with torch.no_grad():
            for logit in logits:
                logit.zero_()
                logit[branch] = 9.0
        sizes.append(counted(search.export(), shape)[0])
    separable, square, large = sizes[2], sizes[0], sizes[1]
    assert all(small < big for small, big in pairwise((separable, square, large)))
