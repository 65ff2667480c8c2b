"""Bit-widths that a net does not say: what float layers run at, stated by the user."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from costs.spec import FLOAT_BITS, CostModel, LayerSpec, Scalar
from costs.wrap import Wrapper


def is_float(bits: Scalar) -> bool:
    """Whether a bit-width is that of a tensor which no method has quantised.

    Example:
        >>> is_float(32), is_float(8)
        (True, False)
    """
    return not isinstance(bits, Tensor) and bits == FLOAT_BITS


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Assumed(Wrapper):
    """A cost model that takes float layers to have other bit-widths: what `assume_bits` makes."""

    w: float
    x: float

    def covers(self, layer: LayerSpec, /) -> bool:
        """Whether the model knows such layers at these bit-widths."""
        return self.model.covers(self._at_bits(layer))

    def __call__(self, layer: LayerSpec, /) -> Scalar:
        """The cost of one call of `layer` at these bit-widths."""
        return self.model(self._at_bits(layer))

    def _at_bits(self, layer: LayerSpec) -> LayerSpec:
        return replace(
            layer,
            w_bits=self.w if is_float(layer.w_bits) else layer.w_bits,
            x_bits=self.x if is_float(layer.x_bits) else layer.x_bits,
            y_bits=self.x if is_float(layer.y_bits) else layer.y_bits,
        )


def assume_bits(model: CostModel, *, w: float, x: float) -> CostModel:
    """The cost of a net as if it were quantised, for searches that leave it in float.

    Layers that a method has quantised keep their own bit-widths.

    Args:
        model: Any cost model; the new one has its name and unit.
        w: Bit-width of the weights [bit].
        x: Bit-width of the activations [bit].

    Raises:
        ValueError: If a bit-width is not above 0.

    Example:
        >>> from costs import MODELS
        >>> layer = LayerSpec(name="fc", op="linear", cin=64, cout=10, bias=False)
        >>> assume_bits(MODELS["size_bits"], w=8, x=8)(layer)  # with 10 scales
        5440.0
    """
    for name, bits in (("w", w), ("x", x)):
        if not bits > 0:
            raise ValueError(
                f"`{name}` must be above 0, but got {name}={bits}; state the bits of a quantised "
                "net, such as 8."
            )
    return Assumed(model=model, w=w, x=x)


def check_bits(model: str, layer: LayerSpec, *, w: Collection[float], x: Collection[float]) -> None:
    """Refuses bit-widths that hardware does not have.

    Numbers are checked. Tensors are not, since looking at one would stall the device that
    computes it: they hold the candidates of a search, which has checked them.

    Args:
        model: Name of the cost model, for the message.
        layer: The layer.
        w: Bit-widths of weights that there are [bit].
        x: Bit-widths of input activations that there are [bit].

    Raises:
        ValueError: If there is another bit-width, or none was stated.

    Example:
        >>> fc = LayerSpec(name="fc", op="linear", cin=64, cout=10, w_bits=8, x_bits=8)
        >>> check_bits("my_chip", fc, w=(4, 8), x=(8,))
    """
    for field, known, bits in (("w_bits", w, layer.w_bits), ("x_bits", x, layer.x_bits)):
        if not isinstance(bits, Tensor) and bits not in known:
            way_out = "take the candidates of the search from these"
            if is_float(bits):
                stated = f"assume_bits({model}, w={max(w)}, x={max(x)})"
                way_out = f"state the bits of float layers: {stated}, or --bits {max(w)},{max(x)}"
            raise ValueError(
                f"`{field}` must be among {tuple(known)} for {model}, but got {field}={bits} in "
                f"layer {layer.name!r}; {way_out}."
            )
