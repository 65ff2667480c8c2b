"""GAP8: eight RISC-V cores with 8-bit vector instructions; cycles of a convolution library.

The library unrolls a matrix product over 4 output channels and 4 inputs, for 2 positions at a time,
and spreads rows of positions over 8 cores. With `K` kernel taps, `C_i` and `C_o` channels and
`O_x x O_y` positions,

    convolution   ceil(O_x / 2) ceil(O_y / 8) (2 h K C_i + ceil(C_o / 4) (15 + 14 ceil(K C_i / 4)))
    depthwise     4 ceil(C_o / 4) O_x O_y K
    linear        ceil(C_i / 2) ceil(C_o / 4), for each time step

where `h = min(C_o, 1)` is 1 unless there is nothing to compute. A grouped convolution is one
convolution a group. All at 8 bit: the cores have no narrower arithmetic, so that a narrower weight
saves memory and no cycle. The width is not looked at.

Valid for convolutions over two axes and linear layers whose tensors are in the on-chip memory.

References:
    Flamand et al., "GAP-8: A RISC-V SoC for AI at the Edge of the IoT", ASAP 2018 (IEEE 8445101);
    Garofalo et al., "PULP-NN", 2020 (arXiv 1908.11263), section 3, for the unrolling; Jahier
    Pagliari et al., "PLiNIO", 2023 (arXiv 2307.09488), whose published code has these constants.
"""

from __future__ import annotations

from costs import ste
from costs.spec import LayerSpec, Scalar, cost

PIXELS, CORES = 2, 8  # positions that are unrolled, and over which cores are spread
OUTPUTS, INPUTS = 4, 4  # channels and inputs that are unrolled in the matrix product
UNROLLED_INPUTS_OF_LINEAR = 2
COPY = 2  # cycles to bring one input into the column buffer
INNER, OUTER = 14, 15  # cycles of one step of the matrix product, and around it
DEPTHWISE = 4


def covers(layer: LayerSpec) -> bool:
    """Convolutions over two axes and linear layers.

    Example:
        >>> covers(LayerSpec(name="fc", op="linear", cin=64, cout=10))
        True
    """
    return layer.op == "linear" or (layer.op == "conv" and len(layer.out) == 2)


@cost(unit="cycle", stacks=True, covers=covers)
def gap8_cycles(layer: LayerSpec) -> Scalar:
    """Cycles of one call on the eight cores of GAP8 [cycle].

    The value steps from tile to tile; its slope is that of the same formula without rounding the
    numbers of tiles.

    Example:
        >>> gap8_cycles(LayerSpec(name="fc", op="linear", cin=64, cout=10))
        96.0
    """
    if layer.op == "linear":
        inputs = ste.ceil_div(layer.cin, UNROLLED_INPUTS_OF_LINEAR)
        return layer.positions * inputs * ste.ceil_div(layer.cout, OUTPUTS)
    if layer.depthwise:
        return DEPTHWISE * ste.ceil_div(layer.cout, OUTPUTS) * layer.positions * layer.taps
    height, width = layer.out
    tiles = ste.ceil_div(height, PIXELS) * ste.ceil_div(width, CORES)
    column = layer.fan_in * layer.taps
    product = OUTER + INNER * ste.ceil_div(column, INPUTS)
    steps = ste.ceil_div(layer.fan_out, OUTPUTS)
    return layer.groups * tiles * (COPY * layer.busy * column + steps * product)
