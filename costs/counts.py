"""Counts that need no hardware: parameters, multiplications, memory of the weights.

Each is one formula for convolutions over any number of axes (grouped and depthwise ones too),
linear layers and affine ones. Shapes: a count is a number, or broadcasts over `X` input bit-widths
`(X, 1)` and `W` weight bit-widths `(1, W)`, and over the layers of a stack.
"""

from __future__ import annotations

from costs import ste
from costs.bits import is_float
from costs.spec import FLOAT_BITS, LayerSpec, Scalar, cost

BITS_PER_BYTE = 8
SCALE_BITS = 32
"""Scale of an output channel that is rounded: a 24-bit multiplier and an 8-bit shift [bit]."""


def has_known_work(layer: LayerSpec) -> bool:
    """Whether the work of a layer follows from its parameters: not that of an "other".

    Example:
        >>> has_known_work(LayerSpec(name="gru", op="other", cin=1, cout=120))
        False
    """
    return layer.op != "other"


def is_moment(layer: LayerSpec) -> bool:
    """Whether `layer` is what is in memory while one operation runs.

    Example:
        >>> is_moment(LayerSpec(name="relu", op="moment", cin=0, cout=1024))
        True
    """
    return layer.op == "moment"


def _weight_bits(layer: LayerSpec) -> Scalar:
    # Scales, shifts and uncovered modules stay in single precision; a bias is a single-precision
    # number in a float net and the start of a 32-bit accumulator in an integer one.
    bits = FLOAT_BITS if layer.op in ("affine", "other") else layer.w_bits
    return bits * layer.num_weights


def _num_scales(layer: LayerSpec) -> Scalar:
    # What turns the accumulator of a channel into the codes of its output. Tensors are the bits of
    # a search, and all of them quantised: there is a choice of grids, none of them that of floats.
    rounds = layer.op in ("conv", "linear") and not is_float(layer.w_bits)
    return layer.cout if rounds else 0


@cost(unit="parameter", once=True, stacks=True)
def params(layer: LayerSpec) -> Scalar:
    """Weights and biases, scales and shifts [parameter].

    Example:
        >>> params(LayerSpec(name="fc", op="linear", cin=64, cout=10))
        650.0
    """
    return layer.num_weights + layer.num_biases


@cost(unit="MAC", stacks=True, covers=has_known_work)
def macs(layer: LayerSpec) -> Scalar:
    """Multiply-accumulate operations of one call [MAC]; adding a bias is not one.

    Example:
        >>> macs(LayerSpec(name="fc", op="linear", cin=64, cout=10, out=(7,)))
        4480.0
    """
    return layer.positions * layer.num_weights


@cost(unit="operation", stacks=True, covers=has_known_work)
def ops(layer: LayerSpec) -> Scalar:
    """Operations of one call: a multiply-accumulate is one, the addition of a bias another.

    Example:
        >>> ops(LayerSpec(name="fc", op="linear", cin=64, cout=10, out=(7,)))
        4550.0
    """
    return layer.positions * (layer.num_weights + layer.num_biases)


@cost(unit="bit operation", stacks=True, covers=has_known_work)
def bit_ops(layer: LayerSpec) -> Scalar:
    """Multiply-accumulates times the bit-widths of both factors; biases left out.

    Affine layers multiply in single precision, whatever the width of what they read.

    References:
        Baskin et al., "UNIQ: Uniform Noise Injection for Non-Uniform Quantization of Neural
        Networks", 2018 (arXiv 1804.10969), without its term for the accumulator.

    Example:
        >>> bit_ops(LayerSpec(name="fc", op="linear", cin=64, cout=10, w_bits=4, x_bits=8))
        20480.0
    """
    x_bits = FLOAT_BITS if layer.op == "affine" else layer.x_bits
    return layer.positions * x_bits * _weight_bits(layer)


@cost(unit="bit", once=True, stacks=True)
def size_bits(layer: LayerSpec) -> Scalar:
    """Memory of the parameters at their bit-widths, without padding [bit].

    Weights take `w_bits` each; biases, affine layers and uncovered modules 32 bit a parameter.
    Where weights are quantised, each output channel has a scale of 32 bit as well.

    Example:
        >>> fc = LayerSpec(name="fc", op="linear", cin=64, cout=10, w_bits=4)
        >>> size_bits(fc)  # 640 weights at 4 bit, 10 biases and 10 scales at 32
        3200.0
    """
    return _weight_bits(layer) + FLOAT_BITS * layer.num_biases + SCALE_BITS * _num_scales(layer)


@cost(unit="byte", once=True, stacks=True)
def size_bytes(layer: LayerSpec) -> Scalar:
    """Memory of the parameters, the weights of each layer packed into whole bytes [byte].

    The value steps from byte to byte; its slope is that of `size_bits`, divided by 8.

    Example:
        >>> fc = LayerSpec(name="fc", op="linear", cin=3, cout=3, w_bits=2, bias=False)
        >>> size_bytes(fc)  # 18 bit in 3 bytes, 3 scales
        15.0
    """
    words = FLOAT_BITS * layer.num_biases + SCALE_BITS * _num_scales(layer)
    return ste.ceil_div(_weight_bits(layer), BITS_PER_BYTE) + words / BITS_PER_BYTE


@cost(unit="byte", peak=True, stacks=True, covers=is_moment)
def peak_activation_bytes(moment: LayerSpec) -> Scalar:
    """Live activations while one operation runs [byte]; of a net, the most at any moment.

    An operation needs its inputs, its output and all that later operations will read. Which
    tensors these are is what the moments of a net say.

    Example:
        >>> peak_activation_bytes(LayerSpec(name="relu", op="moment", cin=0, cout=1024, x_bits=4))
        512.0
    """
    return moment.cout * moment.x_bits / BITS_PER_BYTE
