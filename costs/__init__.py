"""Differentiable cost models of neural networks: one formula on one record of a layer.

Example:
    >>> from costs import LayerSpec, MODELS
    >>> MODELS["macs"](LayerSpec(name="fc", op="linear", cin=64, cout=10))
    640.0
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from costs.counts import macs, params, size_bits, size_bytes
from costs.spec import CostModel, LayerSpec, Scalar, cost, expected, total

MODELS: Mapping[str, CostModel] = MappingProxyType(
    {model.name: model for model in (params, macs, size_bits, size_bytes)}
)

__all__ = [
    "MODELS",
    "CostModel",
    "LayerSpec",
    "Scalar",
    "cost",
    "expected",
    "macs",
    "params",
    "size_bits",
    "size_bytes",
    "total",
]
