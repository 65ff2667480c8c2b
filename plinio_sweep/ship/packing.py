"""Weights at their bit-width: the bytes that a layer's codes take, and the codes that bytes hold.

Rows are sorted by bit-width, those of one width in their order. All codes of one width form a
stream of bits, row after row without gaps; each stream is filled up to a whole byte, and the
streams follow each other. A code is written least significant bit first, into the least
significant bits of a byte first: two's complement in `b` bits, except for `b = 1`, where 0 stands
for -1 and 1 for +1.

Shapes: `R` rows (output channels), `K` columns (weights of a row).
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_BITS = 8


def stored_bits(codes: Tensor, bits: Tensor) -> Tensor:
    """The width at which each row can be stored: 2 for a row of one bit that holds a 0.

    One bit has room for -1 and +1 alone. A row of weights that are all 0 has codes of 0.

    Args:
        codes: `(R, K)` int8.
        bits: `(R,)` width of each row, 1 to 8 [bit].

    Returns:
        `(R,)` uint8 [bit].

    Example:
        >>> codes = torch.tensor([[1, -1], [0, 0]], dtype=torch.int8)
        >>> stored_bits(codes, torch.tensor([1, 1]))
        tensor([1, 2], dtype=torch.uint8)
    """
    return torch.where((bits == 1) & (codes == 0).any(1), 2, bits).to(torch.uint8)


def row_order(bits: Tensor) -> Tensor:
    """`(R,)` the rows in the order in which they are stored.

    Example:
        >>> row_order(torch.tensor([8, 2, 8, 2]))
        tensor([1, 3, 0, 2])
    """
    return torch.argsort(bits, stable=True)


def packed_size(bits: Tensor, num_columns: int) -> int:
    """Bytes of `(R, K)` codes whose rows have these widths.

    Args:
        bits: `(R,)` [bit].
        num_columns: `K`.

    Example:
        >>> packed_size(torch.tensor([2, 3, 3]), 3)  # 6 bits, 18 bits
        4
    """
    return sum(_stream_size(width, rows, num_columns) for width, rows in _streams(bits))


def pack(codes: Tensor, bits: Tensor) -> Tensor:
    """The bytes of a layer's weights.

    Args:
        codes: `(R, K)` int8.
        bits: `(R,)` width of each row, 1 to 8 [bit]; see `stored_bits`.

    Returns:
        `(packed_size(bits, K),)` uint8.

    Raises:
        ValueError: When a code does not fit its width.

    Example:
        >>> codes = torch.tensor([[1, -2, 0], [1, -1, 1]], dtype=torch.int8)
        >>> [f"{byte:08b}" for byte in pack(codes, torch.tensor([2, 1])).tolist()]
        ['00000101', '00001001']
    """
    _check(codes, bits)
    streams = [_stream(codes[bits == width], width) for width, _ in _streams(bits)]
    return torch.cat([torch.empty(0, dtype=torch.uint8), *streams])


def unpack(packed: Tensor, bits: Tensor, num_columns: int) -> Tensor:
    """The codes that `pack` wrote.

    Args:
        packed: `(packed_size(bits, K),)` uint8.
        bits: `(R,)` width of each row [bit].
        num_columns: `K`.

    Returns:
        `(R, K)` int8.

    Raises:
        ValueError: When there are more or fewer bytes than the rows take.

    Example:
        >>> unpack(torch.tensor([5, 9], dtype=torch.uint8), torch.tensor([2, 1]), 3)
        tensor([[ 1, -2,  0],
                [ 1, -1,  1]], dtype=torch.int8)
    """
    size = packed_size(bits, num_columns)
    if packed.numel() != size:
        raise ValueError(
            f"Packed weights of {len(bits)} rows and {num_columns} columns must take {size} bytes, "
            f"but there are {packed.numel()}; pack them again with the same widths."
        )
    codes = torch.empty(len(bits), num_columns, dtype=torch.int8)
    start = 0
    for width, rows in _streams(bits):
        stop = start + _stream_size(width, rows, num_columns)
        values = _codes(packed[start:stop], width, rows * num_columns)
        codes[bits == width] = values.reshape(rows, num_columns)
        start = stop
    return codes


def _streams(bits: Tensor) -> list[tuple[int, int]]:
    """Width and number of rows of each stream, in their order."""
    widths, rows = torch.unique(bits, return_counts=True)
    return list(zip(widths.tolist(), rows.tolist(), strict=True))


def _stream_size(width: int, rows: int, num_columns: int) -> int:
    """Bytes of one stream."""
    return (rows * num_columns * width + 7) // 8


def _stream(codes: Tensor, width: int) -> Tensor:
    """The bytes of codes of one width."""
    flat = (codes > 0).to(torch.uint8) if width == 1 else codes.contiguous().view(torch.uint8)
    digits = (flat.reshape(-1, 1) >> _places(width)) & 1
    filled = digits.new_zeros(_stream_size(width, *codes.shape) * 8)
    filled[: digits.numel()] = digits.flatten()
    return (filled.reshape(-1, 8) << _places(8)).sum(1, dtype=torch.uint8)


def _codes(stream: Tensor, width: int, count: int) -> Tensor:
    """The first `count` codes of a stream, int8."""
    digits = ((stream.reshape(-1, 1) >> _places(8)) & 1).flatten()[: count * width]
    values = (digits.reshape(-1, width) << _places(width)).sum(1, dtype=torch.int16)
    if width == 1:
        return (2 * values - 1).to(torch.int8)
    half = 1 << (width - 1)
    return ((values ^ half) - half).to(torch.int8)


def _places(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.uint8)


def _check(codes: Tensor, bits: Tensor) -> None:
    """Refuses codes that their rows have no room for."""
    widths = bits.long()
    half = (1 << (widths.clamp(1, MAX_BITS) - 1))[:, None]
    wide = codes.long()
    fits = torch.where(half > 1, (wide >= -half) & (wide < half), wide.abs() == 1).all(1)
    wrong = (~fits | (widths < 1) | (widths > MAX_BITS)).nonzero().flatten().tolist()
    if wrong:
        row = wrong[0]
        raise ValueError(
            f"Each row of weights must fit its width of 1 to {MAX_BITS} bits (-1 and +1 alone in "
            f"one bit), but row {row} of {widths[row].item()} bits holds "
            f"{sorted(set(codes[row].tolist()))[:4]}; take the widths that `stored_bits` gives."
        )
