"""Counts that need no hardware: parameters, multiplications, memory of the weights.

Each is one formula for convolutions over any number of axes (grouped and depthwise ones too),
linear layers and affine ones. Shapes: a count is a number, or broadcasts over `X` input bit-widths
`(X, 1)` and `W` weight bit-widths `(1, W)`.
"""

from __future__ import annotations

from costs import ste
from costs.spec import LayerSpec, Scalar, cost

BITS_PER_BYTE = 8
# Scales, shifts and uncovered modules stay in single precision; a bias is a single-precision number
# in a float net and the start of a 32-bit accumulator in an integer one.
UNQUANTIZED_BITS = 32


def _weight_bits(layer: LayerSpec) -> Scalar:
    bits = UNQUANTIZED_BITS if layer.op in ("affine", "other") else layer.w_bits
    return bits * layer.num_weights


@cost(unit="parameter", once=True)
def params(layer: LayerSpec) -> Scalar:
    """Weights and biases, scales and shifts [parameter].

    Example:
        >>> params(LayerSpec(name="fc", op="linear", cin=64, cout=10))
        650.0
    """
    return layer.num_weights + layer.num_biases


@cost(unit="MAC")
def macs(layer: LayerSpec) -> Scalar:
    """Multiply-accumulate operations of one call [MAC]; adding a bias is not one.

    Modules that no formula covers count 0: how often a parameter is used is not known.

    Example:
        >>> macs(LayerSpec(name="fc", op="linear", cin=64, cout=10, out=(7,)))
        4480.0
    """
    if layer.op == "other":
        return 0
    return layer.positions * layer.num_weights


@cost(unit="bit", once=True)
def size_bits(layer: LayerSpec) -> Scalar:
    """Memory of the parameters at their bit-widths, without padding [bit].

    Weights take `w_bits` each; biases, affine layers and uncovered modules 32 bit a parameter.

    Example:
        >>> size_bits(LayerSpec(name="fc", op="linear", cin=64, cout=10, w_bits=4))
        2880.0
    """
    return _weight_bits(layer) + UNQUANTIZED_BITS * layer.num_biases


@cost(unit="byte", once=True)
def size_bytes(layer: LayerSpec) -> Scalar:
    """Memory of the parameters, the weights of each layer packed into whole bytes [byte].

    The value steps from byte to byte; its slope is that of `size_bits`, divided by 8.

    Example:
        >>> size_bytes(LayerSpec(name="fc", op="linear", cin=3, cout=3, w_bits=2, bias=False))
        3.0
    """
    packed = ste.ceil_div(_weight_bits(layer), BITS_PER_BYTE)
    return packed + UNQUANTIZED_BITS // BITS_PER_BYTE * layer.num_biases
