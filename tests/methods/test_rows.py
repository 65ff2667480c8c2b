"""Weights of many layers as rows of a few matrices, with norms folded on the way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from plinio_sweep.methods.rows import RowLayer, Rows
from tests.nets import randomize


def build(*, bias: bool = True, affine: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=bias),
            nn.BatchNorm2d(4, affine=affine),
            nn.Conv2d(4, 5, 1),
            nn.Conv2d(5, 27, 1, bias=False),
            nn.Conv2d(27, 2, 1),
        )
        randomize(net)
    return net.eval()


def rows_of(net: nn.Sequential) -> Rows:
    shapes = {name: tuple(m.weight.shape) for name, m in net.named_children() if name != "1"}
    return Rows(
        [
            RowLayer(
                name=name,
                shares=name,
                norm="1" if name == "0" else None,
                shape=shape,
                bias=name != "3",
            )
            for name, shape in shapes.items()
        ]
    )


def test_layers_with_rows_of_one_length_lie_in_one_matrix() -> None:
    rows = rows_of(build())
    assert [[layer.name for layer in matrix] for matrix in rows.matrices] == [
        ["0", "4"],
        ["2"],
        ["3"],
    ]
    assert rows.heights == [6, 5, 27]
    assert rows.start == {"0": 0, "4": 4, "2": 6, "3": 11}
    assert rows.layer.tolist() == [0] * 4 + [1] * 2 + [2] * 5 + [3] * 27
    assert torch.equal(rows.base, torch.arange(38))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_folded_rows_compute_what_layer_and_norm_compute(bias: bool, affine: bool) -> None:
    net = build(bias=bias, affine=affine).double()
    folded = rows_of(net)
    written = folded.write(net, *folded.read(net))
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    found = nn.functional.conv2d(x, written["0.weight"], written["0.bias"])
    torch.testing.assert_close(found, net[1](net[0](x)))
    for name in ("2", "3", "4"):
        assert torch.equal(written[f"{name}.weight"], net.get_submodule(name).weight)
    assert "3.bias" not in written


def test_baked_rows_are_those_that_were_read_and_norms_are_gone() -> None:
    net = build()
    own = copy.deepcopy(net)
    rows = rows_of(own)
    matrices, biases = rows.read(own)
    plain = rows.bake(own)
    assert [layer.norm for layer in plain.layers] == [None] * 4
    again, same = plain.read(own)
    assert all(torch.equal(left, right) for left, right in zip(matrices, again, strict=True))
    assert torch.equal(biases, same)
    assert torch.equal(net[0].weight, build()[0].weight)


def test_what_a_norm_learns_passes_through_the_fold() -> None:
    net = build()
    matrices, biases = rows_of(net).read(net)
    (sum(matrix.sum() for matrix in matrices) + biases.sum()).backward()
    for parameter in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_tied_weights_point_to_the_first_layer_that_has_them() -> None:
    shape = (3, 6)
    first = RowLayer(name="a", shares="a", norm=None, shape=shape, bias=True)
    twin = RowLayer(name="b", shares="a", norm=None, shape=shape, bias=True)
    assert Rows([first, twin]).base.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "shape", [(8, 3, 3, 3), (8, 1, 5, 2), (8, 4, 1, 1), (4, 2, 3, 3, 3)], ids=str
)
def test_written_weights_keep_the_memory_format(shape: tuple[int, ...]) -> None:
    kind = nn.Conv2d if len(shape) == 4 else nn.Conv3d
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    layer = kind(shape[1], shape[0], shape[2:])
    rows = Rows([RowLayer(name="0", shares="0", norm=None, shape=shape, bias=True)])
    for made in (layer, copy.deepcopy(layer).to(memory_format=last)):
        net = nn.Sequential(made)
        written = rows.write(net, *rows.read(net))["0.weight"]
        assert torch.equal(written, made.weight)
        assert written.stride() == made.weight.stride()
