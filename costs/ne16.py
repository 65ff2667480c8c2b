"""NE16, the neural engine of GAP9: 8-bit activations, weights of 2 to 8 bit, one bit at a time.

The engine computes tiles of 3 x 3 positions and 32 output channels (16 of a depthwise layer) from
16 input channels. With `n_s = ceil(H / 3) ceil(W / 3)` tiles of positions, `n_i = ceil(C_i / 16)`,
`n_o = ceil(C_o / 32)` (depthwise: `ceil(C_o / 16)`) and `w` bits,

    3 x 3         n_s (n_o (45 n_i + 22) + C_o (n_i w + 1))
    1 x 1         n_s (n_o (33 n_i + 22) + C_o (n_i + 1)), also linear layers
    depthwise     n_s (67 n_o + C_o (w + 2)), 3 x 3 only

This is the published model, tile by tile, added up: a tile of `k` channels takes
`n_i (45 + k w) + 22 + k` cycles, so that all full tiles and the rest have `C_o` channels together.
Thus there is no rest to take, which has no slope, and fractions of a channel count as fractions.
A grouped convolution is one convolution a group; weights of 0 bit take no time.

Valid for convolutions of 3 x 3 and 1 x 1 taps and linear layers; streaming from outer memory is
left out. A linear layer on time steps computes these as positions in one row.

References:
    github.com/pulp-platform/ne16, the engine; github.com/pulp-platform/dory, target GAP9_NE16,
    its performance model, of which these are the constants.
"""

from __future__ import annotations

from torch import Tensor

from costs import ste
from costs.bits import check_bits
from costs.spec import LayerSpec, Scalar, cost

WEIGHT_BITS, ACTIVATION_BITS = (0, 2, 4, 8), (8,)
TILE = 3  # positions a side
INPUTS, OUTPUTS, DEPTHWISE_OUTPUTS = 16, 32, 16  # channels of a tile
LOAD = 31  # cycles to fill the input buffer of 5 x 5 x 16
OFFSET, MATRIX, INDEX = 6, 6, 2  # cycles around the product of one tile of inputs
NORM, STREAM_OUT = 9, 13  # cycles around scaling a tile and writing it
SPATIAL = LOAD + OFFSET + MATRIX + INDEX  # 45
POINTWISE = 33  # the same for 1 x 1, whose products take as long at every width
END = NORM + STREAM_OUT  # 22
DEPTHWISE = SPATIAL + END  # 67


def covers(layer: LayerSpec) -> bool:
    """Convolutions of 3 x 3 and 1 x 1, depthwise ones of 3 x 3, linear layers.

    Example:
        >>> covers(LayerSpec(name="c", op="conv", cin=3, cout=8, kernel=(5, 5), out=(9, 9)))
        False
    """
    if layer.op == "linear":
        return True
    known = [(3, 3)] if layer.depthwise else [(3, 3), (1, 1)]
    # A kernel that is searched for is not looked at: only one-dimensional ones are.
    searched = any(isinstance(taps, Tensor) for taps in layer.kernel)
    return layer.op == "conv" and not searched and layer.kernel in known


@cost(unit="cycle", stacks=True, covers=covers)
def ne16_cycles(layer: LayerSpec) -> Scalar:
    """Cycles of one call on NE16 [cycle].

    The value steps from tile to tile; its slope is that of the same formula without rounding the
    numbers of tiles of channels.

    Raises:
        ValueError: For bit-widths that the engine does not have.

    Example:
        >>> conv = LayerSpec(name="c", op="conv", cin=16, cout=32, kernel=(3, 3), out=(9, 9))
        >>> from dataclasses import replace
        >>> ne16_cycles(replace(conv, w_bits=4, x_bits=8))
        2043.0
    """
    check_bits(ne16_cycles.name, layer, w=WEIGHT_BITS, x=ACTIVATION_BITS)
    spatial_tiles: Scalar = 1
    for size in layer.out:
        spatial_tiles = spatial_tiles * ste.ceil_div(size, TILE)
    if layer.depthwise:
        tiles = ste.ceil_div(layer.cout, DEPTHWISE_OUTPUTS)
        cycles = DEPTHWISE * tiles + layer.cout * (layer.w_bits + 2)
    else:
        inputs = ste.ceil_div(layer.fan_in, INPUTS)
        tiles = layer.groups * ste.ceil_div(layer.fan_out, OUTPUTS)
        pointwise = layer.kernel != (3, 3)
        start, bits = (POINTWISE, 1) if pointwise else (SPATIAL, layer.w_bits)
        cycles = tiles * (start * inputs + END) + layer.cout * (inputs * bits + 1)
    return ste.above(layer.w_bits, 0) * spatial_tiles * cycles
