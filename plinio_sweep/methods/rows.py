"""All weights of a net as rows of a few matrices, so that one operation rounds many layers.

Layers whose rows have the same length `K` (weights of one output channel) lie in one matrix. Norms
that fold into their layers are folded on the way, with their parameters as they stand and with
their running statistics:

    scale = gamma / sqrt(var + eps)        W' = scale W        b' = (b - mean) scale + beta

Shapes: `R` rows of all layers, in the order of the matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from plinio_sweep.graph.fold import bias_learns


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayer:
    """A layer whose weights are rows."""

    name: str
    shares: str  # the first layer that has this very weight: itself, unless weights are tied
    norm: str | None  # that folds into it
    shape: tuple[int, ...]  # of the weight
    bias: bool  # whether it has one, folded or its own

    @property
    def rows(self) -> int:
        """Output channels."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Weights of one output channel."""
        return int(torch.Size(self.shape[1:]).numel())


class Rows:
    """Reads the layers of a net as matrices of rows, and takes such matrices apart again.

    Args:
        layers: In any order; `layers` holds them in the order of their rows.
    """

    def __init__(self, layers: Sequence[RowLayer]) -> None:
        lengths = list(dict.fromkeys(layer.columns for layer in layers))
        self.matrices = [[one for one in layers if one.columns == length] for length in lengths]
        self.layers = [layer for matrix in self.matrices for layer in matrix]
        self.sizes = [layer.rows for layer in self.layers]
        self.heights = [sum(layer.rows for layer in matrix) for matrix in self.matrices]
        starts = [sum(self.sizes[:index]) for index in range(len(self.sizes))]
        self.start = {layer.name: start for layer, start in zip(self.layers, starts, strict=True)}
        heights = torch.tensor(self.sizes, dtype=torch.long)
        self.layer = torch.arange(len(self.layers)).repeat_interleave(heights)  # `(R,)`
        firsts = [
            torch.arange(self.start[layer.shares], self.start[layer.shares] + layer.rows)
            for layer in self.layers
        ]
        # `(R,)` the first row that has this very weight
        self.base = torch.cat([torch.zeros(0, dtype=torch.long), *firsts])

    def read(self, net: nn.Module) -> tuple[list[Tensor], Tensor]:
        """The float weights of all layers, folded: a matrix for each length of rows; `(R,)` biases.

        A layer without a bias has zeros.
        """
        modules: list[Any] = [net.get_submodule(layer.name) for layer in self.layers]
        flat = iter([module.weight.flatten(1) for module in modules])
        matrices = [torch.cat([next(flat) for _ in matrix]) for matrix in self.matrices]
        first = matrices[0]
        none = first.new_zeros(max(self.sizes))
        sizes = self.sizes
        biases = torch.cat(
            [none[:n] if m.bias is None else m.bias for m, n in zip(modules, sizes, strict=True)]
        )
        if all(layer.norm is None for layer in self.layers):
            return matrices, biases
        scale, mean, shift = self._norms(net, none)
        scales = torch.split(scale, self.heights)
        scaled = [m * s[:, None] for m, s in zip(matrices, scales, strict=True)]
        return scaled, (biases - mean) * scale + shift

    def _norms(self, net: nn.Module, none: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(R,)` scale, mean and shift of the norms; 1, 0 and 0 of layers without one."""
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        one = torch.ones_like(none)
        for layer in self.layers:
            n = layer.rows
            if layer.norm is None:
                found.append((one[:n], one[:n], none[:n], none[:n]))
                continue
            norm: Any = net.get_submodule(layer.norm)
            gamma, beta = (norm.weight, norm.bias) if norm.affine else (one[:n], none[:n])
            found.append((gamma, norm.running_var + norm.eps, norm.running_mean, beta))
        gammas, variances, means, shifts = (torch.cat(parts) for parts in zip(*found, strict=True))
        return gammas / variances.sqrt(), means, shifts

    def write(
        self, net: nn.Module, matrices: Sequence[Tensor], biases: Tensor
    ) -> dict[str, Tensor]:
        """Overrides of the weights and biases of `net`: what `read` gave, changed."""
        changed: dict[str, Tensor] = {}
        rows = [
            part
            for matrix, layers in zip(matrices, self.matrices, strict=True)
            for part in torch.split(matrix, [layer.rows for layer in layers])
        ]
        parts = zip(self.layers, rows, torch.split(biases, self.sizes), strict=True)
        for layer, weight, bias in parts:
            own: Any = net.get_submodule(layer.name)
            changed[f"{layer.name}.weight"] = _shaped(weight, own.weight)
            if layer.bias:
                changed[f"{layer.name}.bias"] = bias
        return changed

    def bake(self, net: nn.Module) -> Rows:
        """Folds the norms for good: weights and biases of `net` become those that `read` gives.

        Returns:
            The same rows of layers without norms.
        """
        folded = self.write(net, *self.read(net))
        for layer in self.layers:
            if layer.norm is None:
                continue
            module: Any = net.get_submodule(layer.name)
            module.weight.data = folded[f"{layer.name}.weight"].detach().clone()
            learns = bias_learns(module, net.get_submodule(layer.norm))
            del module.bias
            bias = nn.Parameter(folded[f"{layer.name}.bias"].detach().clone(), learns)
            module.register_parameter("bias", bias)
        return Rows([replace(layer, norm=None) for layer in self.layers])


def _shaped(rows: Tensor, weight: Tensor) -> Tensor:
    """`(O, K)` rows in the shape and the memory format of `weight`.

    The format of a weight decides in which one a convolution computes: a net whose channels come
    last in memory must not fall back.
    """
    if not _is_channels_last(weight):
        return rows.reshape(weight.shape)
    outputs, inputs, *kernel = weight.shape
    moved = rows.reshape(outputs, inputs, -1).transpose(1, 2)
    # A clone, since `contiguous` leaves the strides of an axis of one as they are.
    last = moved.clone(memory_format=torch.contiguous_format)
    return last.reshape(outputs, *kernel, inputs).movedim(-1, 1)


def _is_channels_last(weight: Tensor) -> bool:
    # By its strides: with one channel or one tap `is_contiguous` holds for both formats.
    return weight.dim() > 3 and weight.stride(1) == 1 and weight.stride(-1) == weight.shape[1]
