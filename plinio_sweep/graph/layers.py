"""Cuts one layer in place: its tensors and the numbers that tell their size."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from plinio_sweep.graph.quantized import is_quantized


def keep_rows(module: Any, rows: Tensor, columns: Tensor | None) -> None:
    """Cuts a convolution or a linear layer.

    Args:
        module: The layer.
        rows: Indices of the rows of its weight that stay, as many in each group.
        columns: Indices of the columns that stay; where there are none, each group reads a single
            channel, and a group without rows is gone.
    """
    weight = module.weight.detach().index_select(0, rows.to(module.weight.device))
    if columns is not None:
        weight = weight.index_select(1, columns.to(weight.device))
    replace_tensor(module, "weight", weight)
    if module.bias is not None:
        replace_tensor(module, "bias", module.bias.detach()[rows.to(weight.device)])
    if is_quantized(module):
        for name in ("w_bits", "log_span"):
            if getattr(module, name) is not None:
                replace_tensor(module, name, getattr(module, name).detach()[rows.to(weight.device)])
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = weight.shape[1], weight.shape[0]
        return
    if columns is None:
        module.groups = len(rows) * module.groups // module.out_channels
    module.in_channels, module.out_channels = weight.shape[1] * module.groups, weight.shape[0]


def keep_channels(module: nn.Module, channels: Tensor) -> None:
    """Cuts a norm over positions or a PReLU: all that they hold has one entry a channel."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.dim() == 1:
            replace_tensor(module, name, value.detach()[channels.to(value.device)])
    for name in ("num_features", "num_parameters"):
        if name in vars(module):
            setattr(module, name, len(channels))


def replace_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Puts a copy of `value` in the place of a parameter or buffer of `module`."""
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        module.register_parameter(name, nn.Parameter(value.clone(), old.requires_grad))
    else:
        setattr(module, name, value.clone())
