"""Every net of the zoo as C, compared with the integer reference code by code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plinio_sweep.ship.integer import integerize
from tests.nets import NETS, Case, rows
from tests.ship.compiled import Compiled, needs_gcc
from tests.ship.integer_nets import Codes, items
from tests.ship.quantized import INTEGERS, TELLING_INTEGERS, export

NUM_ITEMS = 64


def both(
    case: Case, folder: Path, w_bits: tuple[int, ...], x_bits: tuple[int, ...]
) -> tuple[list[Codes], list[Codes]]:
    """What the reference and the C code compute of random codes."""
    net, inputs = export(case, w_bits=w_bits, x_bits=x_bits)
    integers = integerize(net, inputs)
    codes = items(integers.program, NUM_ITEMS)
    with torch.no_grad():
        expected = integers.run(tuple(torch.from_numpy(code).int() for code in codes))
    found = Compiled(integers.program, folder, "-O1")(codes)
    return [code.numpy().astype(np.int64) for code in expected], found


@needs_gcc
@pytest.mark.parametrize("name", rows(INTEGERS, TELLING_INTEGERS))
def test_c_computes_what_the_reference_does(name: str, tmp_path: Path) -> None:
    expected, found = both(INTEGERS[name], tmp_path, (0, 2, 4, 8), (8,))

    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_gcc
@pytest.mark.parametrize("w_bits", [(1,), (1, 2), (3, 5, 7), (8,)])
@pytest.mark.parametrize("x_bits", [(2,), (4,), (8,), (16,)])
def test_at_all_bit_widths(
    w_bits: tuple[int, ...], x_bits: tuple[int, ...], tmp_path: Path
) -> None:
    expected, found = both(NETS["Residual"], tmp_path, w_bits, x_bits)

    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
