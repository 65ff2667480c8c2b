"""Differentiable cost models of neural networks: one formula on one record of a layer.

`MODELS` holds all by name. `COUNTS` are those among them that ask nothing of a net: no hardware, no
bit-widths. The others cost what they cover at the bit-widths of a layer; those of float layers are
stated with `assume_bits`.

Example:
    >>> from costs import LayerSpec, MODELS
    >>> MODELS["macs"](LayerSpec(name="fc", op="linear", cin=64, cout=10))
    640.0
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from costs.bits import assume_bits, check_bits
from costs.compose import max_of, strict, sum_of, weighted
from costs.counts import bit_ops, macs, ops, params, peak_activation_bytes, size_bits, size_bytes
from costs.diana import diana_cycles
from costs.gap8 import gap8_cycles
from costs.measured import lut
from costs.mpic import mpic_cycles, mpic_energy
from costs.ne16 import ne16_cycles
from costs.spec import CostModel, LayerSpec, Scalar, cost, expected, total
from costs.stack import stacked

COUNTS: Mapping[str, CostModel] = MappingProxyType(
    {model.name: model for model in (params, macs, size_bits, size_bytes)}
)
_OTHERS: tuple[CostModel, ...] = (
    *(ops, bit_ops, peak_activation_bytes),
    *(mpic_cycles, mpic_energy, gap8_cycles, ne16_cycles, diana_cycles),
)
MODELS: Mapping[str, CostModel] = MappingProxyType(
    {**COUNTS, **{model.name: model for model in _OTHERS}}
)

__all__ = [
    "COUNTS",
    "MODELS",
    "CostModel",
    "LayerSpec",
    "Scalar",
    "assume_bits",
    "bit_ops",
    "check_bits",
    "cost",
    "diana_cycles",
    "expected",
    "gap8_cycles",
    "lut",
    "macs",
    "max_of",
    "mpic_cycles",
    "mpic_energy",
    "ne16_cycles",
    "ops",
    "params",
    "peak_activation_bytes",
    "size_bits",
    "size_bytes",
    "stacked",
    "strict",
    "sum_of",
    "total",
    "weighted",
]
