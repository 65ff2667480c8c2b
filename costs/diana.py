"""DIANA: a digital array for weights of 8 bit beside an analog one for ternary weights of 2 bit.

With `g` groups, `C_i` and `C_o` channels, a kernel of `k_x x k_y` and `O_x x O_y` positions,

    digital   ceil(C_o / g / 16) C_i ceil(O_x / 16) O_y k_x k_y + h O_x O_y (C_o + C_i) / 8
    analog    18.2 ceil(C_o / 512) ceil(C_i / 128) O_x O_y / u + 8 h C_i k_x k_y

where `h = min(C_o, 1)` is 1 unless there is nothing to compute, and `u`, how many copies of the
layer fit into the analog array, is the largest of 1, 2, 4, 8 with `u C_o <= 512` columns and
`(u + k_x - 1) max(64, C_i) k_y <= 1152` rows. A linear layer is a 1 x 1 kernel; its time steps are
positions. The analog array has no groups: a grouped layer runs on the digital one at either width.

The two arrays run side by side: a layer whose output channels are split between them takes as long
as the slower one. That is what `combine` says, with the share of each width in `C_o`.

Valid for convolutions over two axes and linear layers, activations of 8 bit.

References:
    Ueyoshi et al., "DIANA: An End-to-End Energy-Efficient Digital and ANAlog Hybrid Neural Network
    SoC", ISSCC 2022 (IEEE 9731716); Risso et al., "Precision-aware Latency and Energy Balancing on
    Multi-Accelerator Platforms for DNN Inference", ISLPED 2023 (arXiv 2306.05060), the two models.
"""

from __future__ import annotations

from torch import Tensor

from costs import ste
from costs.bits import check_bits
from costs.spec import LayerSpec, Scalar, cost

DIGITAL_BITS, ANALOG_BITS = 8, 2
WEIGHT_BITS, ACTIVATION_BITS = (0, ANALOG_BITS, DIGITAL_BITS), (8,)
ARRAY = 16  # processing elements a side of the digital array
LANES = 8  # bytes that move at a time
COLUMNS, ROWS, BLOCK = 512, 1152, 128  # of the analog array
FEWEST_INPUTS = 64  # that the analog array is wired for
CYCLES_PER_PASS = 70 * 0.26  # 70 ns at 260 MHz


def covers(layer: LayerSpec) -> bool:
    """Convolutions over two axes and linear layers.

    Example:
        >>> covers(LayerSpec(name="fc", op="linear", cin=64, cout=10))
        True
    """
    return layer.op == "linear" or (layer.op == "conv" and len(layer.out) == 2)


def side_by_side(costs: Tensor, probability: Tensor) -> Tensor:
    """The time of the slower array: a maximum over the widths of the weights.

    Args:
        costs: `(X, W)` or `(N, X, W)` cycles of what runs at each width, or any shape that
            broadcasts to that of `probability`.
        probability: `(X, W)` or `(N, X, W)`, the share of each candidate.

    Returns:
        A 0-d tensor, or `(N,)`. Its slope is that of a smooth maximum, so that both arrays are
        balanced.

    Example:
        >>> import torch
        >>> side_by_side(torch.tensor([[30.0, 40.0]]), torch.ones(1, 2)).item()
        40.0
    """
    shares = costs * probability
    if not shares.ndim:
        return shares
    return ste.largest(shares.sum(-2) if shares.ndim > 1 else shares)


@cost(unit="cycle", stacks=True, covers=covers, combine=side_by_side)
def diana_cycles(layer: LayerSpec) -> Scalar:
    """Cycles of one call on the array that the width of the weights stands for [cycle].

    The value steps from tile to tile; its slope is that of the same formula without rounding the
    numbers of tiles, and with the copies as they are. Along the width there is no slope: it names
    an array.

    Raises:
        ValueError: For bit-widths that stand for no array.

    Example:
        >>> diana_cycles(LayerSpec(name="fc", op="linear", cin=64, cout=10, w_bits=8, x_bits=8))
        73.25
    """
    check_bits(diana_cycles.name, layer, w=WEIGHT_BITS, x=ACTIVATION_BITS)
    is_digital = layer.depthwise or isinstance(layer.groups, Tensor) or layer.groups != 1
    if not isinstance(layer.w_bits, Tensor):  # one array only
        if layer.w_bits == 0:
            return 0
        return _digital(layer) if is_digital or layer.w_bits > ANALOG_BITS else _analog(layer)
    any_bits, many_bits = ste.above(layer.w_bits, 0), ste.above(layer.w_bits, ANALOG_BITS)
    if is_digital:
        return any_bits * _digital(layer)
    return many_bits * _digital(layer) + (any_bits - many_bits) * _analog(layer)


def _digital(layer: LayerSpec) -> Scalar:
    rows = ste.ceil_div(layer.out[0] if layer.kernel else layer.positions, ARRAY)
    tiles = 1.0 if layer.depthwise else ste.ceil_div(layer.fan_out, ARRAY)
    work = tiles * layer.cin * (rows * _columns(layer) * layer.taps)
    moved = (layer.cout + layer.cin) * (layer.positions / LANES)
    return work + layer.busy * moved


def _analog(layer: LayerSpec) -> Scalar:
    blocks = ste.ceil_div(layer.cout, COLUMNS) * ste.ceil_div(layer.cin, BLOCK)
    work = blocks * (CYCLES_PER_PASS * layer.positions) / _copies(layer)
    return work + layer.busy * layer.cin * (LANES * layer.taps)


def _columns(layer: LayerSpec) -> Scalar:
    """Output positions along the second axis; 1 for a linear layer."""
    return layer.out[1] if layer.kernel else 1


def _copies(layer: LayerSpec) -> Scalar:
    """How many copies of the layer fit: where 8 do, so do 4 and 2. Without a slope: a step."""
    return 1 + _fits(layer, 2) + 2 * _fits(layer, 4) + 4 * _fits(layer, 8)


def _fits(layer: LayerSpec, copies: int) -> bool | Tensor:
    across, along = layer.kernel or (1, 1)
    lines = (copies + across - 1) * along
    rows_left = (lines * layer.cin <= ROWS) & (lines * FEWEST_INPUTS <= ROWS)
    return (copies * layer.cout <= COLUMNS) & rows_left
