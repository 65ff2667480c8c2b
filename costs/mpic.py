"""MPIC: a RISC-V core whose vector unit multiplies 2, 4 and 8 bit, at different widths as well.

    cycles = (MACs + positions * biases) / rate[x_bits][w_bits]

with the measured rate of each pair of widths [MAC / cycle]; the accumulator starts with the bias,
which takes as long as a MAC. Weights of 0 bit take no time. Between the widths that the core has,
cycles per MAC follow straight lines, so that a width can be learnt.

Valid for convolutions over any axes and linear layers, at weights of 0, 2, 4, 8 bit and inputs of
2, 4, 8 bit.

References:
    Ottavi et al., "A Mixed-Precision RISC-V Processor for Extreme-Edge DNN Inference", ISVLSI 2020
    (arXiv 2010.04073), rates and power, as PLiNIO's published code quotes them; Risso et al.,
    "Channel-wise Mixed-precision Assignment for DNN Inference on Constrained Edge Nodes", IGSC 2022
    (arXiv 2206.08852), the model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from costs.bits import check_bits
from costs.interpolate import on_grid
from costs.spec import LayerSpec, Scalar, cost

WEIGHT_BITS, ACTIVATION_BITS = (0, 2, 4, 8), (2, 4, 8)
MACS_PER_CYCLE = {  # [MAC / cycle], by width of the inputs, then of the weights
    2: {2: 6.5, 4: 4.0, 8: 2.2},
    4: {2: 3.9, 4: 3.5, 8: 2.1},
    8: {2: 2.5, 4: 2.3, 8: 2.1},
}
CYCLES_PER_MAC = {
    (x, w): 1 / MACS_PER_CYCLE[x][w] if w else 0.0 for x in ACTIVATION_BITS for w in WEIGHT_BITS
}
CLOCK = 250e6  # [Hz]
POWER = (5.30e-3 + 5.39e-3 + 5.46e-3 + 5.38e-3) / 4  # [W], the mean of four measurements
JOULE_PER_CYCLE = POWER / CLOCK


def covers(layer: LayerSpec) -> bool:
    """Convolutions and linear layers.

    Example:
        >>> covers(LayerSpec(name="norm", op="affine", cin=8, cout=8))
        False
    """
    return layer.op in ("conv", "linear")


@cost(unit="cycle", stacks=True, covers=covers)
def mpic_cycles(layer: LayerSpec) -> Scalar:
    """Cycles of one call on MPIC [cycle].

    Raises:
        ValueError: For bit-widths that the core does not have.

    Example:
        >>> mpic_cycles(LayerSpec(name="fc", op="linear", cin=20, cout=1, w_bits=8, x_bits=8))
        10.0
    """
    check_bits(mpic_cycles.name, layer, w=WEIGHT_BITS, x=ACTIVATION_BITS)
    work = layer.positions * (layer.num_weights + layer.num_biases)
    return work * _cycles_per_mac(layer.x_bits, layer.w_bits)


@cost(unit="joule", stacks=True, covers=covers)
def mpic_energy(layer: LayerSpec) -> Scalar:
    """Energy of one call on MPIC at 250 MHz [joule].

    Raises:
        ValueError: For bit-widths that the core does not have.

    Example:
        >>> fc = LayerSpec(name="fc", op="linear", cin=20, cout=1, w_bits=8, x_bits=8)
        >>> f"{mpic_energy(fc):.3g}"
        '2.15e-10'
    """
    return JOULE_PER_CYCLE * mpic_cycles(layer)


def _cycles_per_mac(x_bits: Scalar, w_bits: Scalar) -> Scalar:
    if not isinstance(x_bits, Tensor) and not isinstance(w_bits, Tensor):
        return CYCLES_PER_MAC[int(x_bits), int(w_bits)]
    like = x_bits if isinstance(x_bits, Tensor) else w_bits
    assert isinstance(like, Tensor)
    points = [torch.as_tensor(bits).to(like) for bits in (x_bits, w_bits)]
    return on_grid((ACTIVATION_BITS, WEIGHT_BITS), tuple(CYCLES_PER_MAC.values()), points)
