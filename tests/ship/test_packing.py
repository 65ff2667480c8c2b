"""Weights at their bit-width, there and back, and bit by bit against a slow writer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from plinio_sweep.ship.packing import pack, packed_size, row_order, stored_bits, unpack


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Codes `(R, K)` that use the whole range of their widths, and the widths `(R,)`."""
    widths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=9))
    num_columns = draw(st.integers(0, 11))
    rows = []
    for width in widths:
        code = st.sampled_from([-1, 1])
        if width > 1:
            code = st.integers(-(1 << width - 1), (1 << width - 1) - 1)
        rows.append(draw(st.lists(code, min_size=num_columns, max_size=num_columns)))
    return torch.tensor(rows, dtype=torch.int8), torch.tensor(widths, dtype=torch.uint8)


def slow(codes: Tensor, bits: Tensor) -> list[int]:
    """The bytes, one digit at a time, in strings."""
    packed = []
    for width in range(1, 9):
        digits = ""
        for row in range(len(codes)):
            if bits[row] != width:
                continue
            for code in codes[row].tolist():
                value = (code + 1) // 2 if width == 1 else code % (1 << width)
                digits += f"{value:0{width}b}"[::-1]
        digits += "0" * (-len(digits) % 8)
        packed += [int(digits[i : i + 8][::-1], 2) for i in range(0, len(digits), 8)]
    return packed


@given(layers())
def test_bytes_are_those_of_a_slow_writer_and_lead_back(layer: tuple[Tensor, Tensor]) -> None:
    codes, bits = layer
    packed = pack(codes, bits)

    assert packed.tolist() == slow(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_size(bits, codes.shape[1])
    assert torch.equal(unpack(packed, bits, codes.shape[1]), codes)


@given(layers())
def test_rows_in_another_order_take_as_many_bytes(layer: tuple[Tensor, Tensor]) -> None:
    codes, bits = layer
    order = row_order(bits)

    assert torch.equal(bits[order], bits.sort().values)
    assert torch.equal(pack(codes[order], bits[order]), pack(codes, bits))


def test_rows_of_one_width_keep_their_order() -> None:
    assert row_order(torch.tensor([4, 2, 4, 1, 2, 4])).tolist() == [3, 1, 4, 0, 2, 5]


def test_a_row_of_one_bit_that_holds_a_zero_takes_two() -> None:
    codes = torch.tensor([[1, -1], [0, 0], [1, 0], [0, 1]], dtype=torch.int8)
    bits = stored_bits(codes, torch.tensor([1, 1, 1, 4]))

    assert bits.tolist() == [1, 2, 2, 4]
    assert torch.equal(unpack(pack(codes, bits), bits, 2), codes)


def test_codes_that_are_not_contiguous_are_read_in_their_order() -> None:
    codes = torch.arange(-4, 4, dtype=torch.int8).reshape(2, 4).T
    bits = torch.full((4,), 3)

    assert torch.equal(unpack(pack(codes, bits), bits, 2), codes)


@pytest.mark.parametrize(
    ("code", "width"), [(0, 1), (2, 1), (2, 2), (-3, 2), (127, 7), (0, 0), (0, 9)]
)
def test_a_code_that_does_not_fit_is_refused(code: int, width: int) -> None:
    codes = torch.tensor([[1, 1], [1, code]], dtype=torch.int8)

    with pytest.raises(ValueError, match=f"row 1 of {width} bits"):
        pack(codes, torch.tensor([8, width]))


@pytest.mark.parametrize("size", [3, 5])
def test_bytes_of_another_number_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"must take 4 bytes, but there are {size}"):
        unpack(torch.zeros(size, dtype=torch.uint8), torch.tensor([4, 4]), 4)
