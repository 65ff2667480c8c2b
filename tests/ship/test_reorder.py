from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from plinio_sweep.methods.mps import MPS
from plinio_sweep.ship.lower import lower
from plinio_sweep.ship.packed import pack_program
from plinio_sweep.ship.program import Conv, Program
from plinio_sweep.ship.reference import IntegerNet
from plinio_sweep.ship.reorder import reorder
from tests.nets import rows
from tests.ship.quantized import INTEGERS, TELLING_INTEGERS, export


def unsorted(program: Program) -> set[str]:
    """Layers that need a table of their rows."""
    found = set()
    for op in program.operations:
        if isinstance(op, Conv):
            bits = program.constants[f"{op.layer}.bits"].long()
            if bool((bits.diff() < 0).any()):
                found.add(op.layer)
    return found


def mixed(program: Program, seed: int = 0) -> Program:
    """The same with random words and other widths of the rows, all of them wide enough."""
    generator = torch.Generator().manual_seed(seed)
    constants = dict(program.constants)
    for name, value in program.constants.items():
        if name.endswith(".bits"):
            wide = torch.randint(8, 9, value.shape, generator=generator)
            constants[name] = (wide - torch.randint(0, 2, value.shape, generator=generator)).byte()
            layer = name.removesuffix("bits")
            constants[f"{layer}weight"] = constants[f"{layer}weight"].clamp(-63, 63)
    return replace(program, constants=constants)


@pytest.mark.parametrize("name", rows(INTEGERS, TELLING_INTEGERS))
def test_sorted_channels_change_no_bit_of_any_net(name: str) -> None:
    net, inputs = export(INTEGERS[name], seed=2)
    for program in (lower(net, inputs).program, mixed(lower(net, inputs).program)):
        before, after = IntegerNet(program), IntegerNet(reorder(program))
        codes = before.quantize(*inputs)
        for left, right in zip(before.run(codes), after.run(codes), strict=True):
            assert torch.equal(left, right)
        assert len(pack_program(program)) == len(pack_program(after.program))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("InvertedResidual", None),
        ("Residual", {"two.0", "four.0", "short.0", "three.0", "head.fc"}),
        ("FlattenView", None),
    ],
)
def test_what_is_not_bound_is_sorted(name: str, left: set[str] | None) -> None:
    net, inputs = export(INTEGERS[name], seed=2)
    program = mixed(lower(net, inputs).program)
    before, after = unsorted(program), unsorted(reorder(program))
    assert after < before
    if left is not None:
        assert after <= left


def test_a_chain_needs_no_table_but_for_its_outputs() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 16)]
    net = nn.Sequential(*layers, nn.ReLU(), nn.Linear(16, 8))
    x = torch.randn(4, 2, 6, 6)
    search = MPS(net.eval(), input_example=x, w_bits=(2, 4, 8))
    with torch.no_grad():
        for logits in search.nas_parameters():
            logits.normal_()
    program = lower(search.export().eval(), (x,)).program
    assert unsorted(program) == {"0", "4", "6"}
    assert unsorted(reorder(program)) == {"6"}


def test_what_is_given_stays_as_it_is() -> None:
    net, inputs = export(INTEGERS["Residual"], seed=2)
    program = lower(net, inputs).program
    before = {name: value.clone() for name, value in program.constants.items()}
    reorder(program)
    assert all(torch.equal(value, before[name]) for name, value in program.constants.items())
