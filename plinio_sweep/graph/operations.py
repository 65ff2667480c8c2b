"""What is known of each operation: which move channels, which keep them, which mix them.

Nothing here says *how* an operation moves channels: shape operations are run on channel labels as
they are (`labels.py`). An operation in none of these sets freezes the channels that reach it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# Run on labels with the same arguments. All of them only move, copy or drop elements.
SHAPE_FUNCTIONS = frozenset(
    {
        operator.getitem,
        torch.broadcast_to,
        torch.cat,
        torch.channel_shuffle,
        torch.chunk,
        torch.clone,
        torch.concat,
        torch.concatenate,
        torch.flatten,
        torch.flip,
        torch.index_select,
        torch.movedim,
        torch.moveaxis,
        torch.narrow,
        torch.permute,
        torch.repeat_interleave,
        torch.reshape,
        torch.roll,
        torch.select,
        torch.split,
        torch.squeeze,
        torch.stack,
        torch.swapaxes,
        torch.swapdims,
        torch.t,
        torch.tensor_split,
        torch.tile,
        torch.transpose,
        torch.unbind,
        torch.unflatten,
        torch.unsqueeze,
        F.pixel_shuffle,
        F.pixel_unshuffle,
    }
)
SHAPE_METHODS = frozenset(
    (
        "chunk clone contiguous detach expand expand_as flatten flip index_select movedim moveaxis "
        "narrow permute repeat repeat_interleave reshape reshape_as roll select split squeeze "
        "swapaxes swapdims t "
        "tensor_split tile transpose unbind unflatten unsqueeze view view_as"
    ).split()
)
# Read no more than the shape of their other argument.
SHAPE_LIKE_METHODS = frozenset(["expand_as", "reshape_as", "view_as"])
SHAPE_MODULES = (
    nn.ChannelShuffle,
    nn.Flatten,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Unflatten,
)

# Ask a tensor for its shape; the label tensor has the same one. No number of its own depends on
# its type or device.
METADATA_METHODS = frozenset(["size", "dim", "ndimension", "numel", "nelement", "stride"])
METADATA_ATTRIBUTES = frozenset(["device", "dtype", "ndim", "shape"])

# Act on each element, with a finite value at zero. Several operands share their channels.
ELEMENTWISE_FUNCTIONS = frozenset(
    {
        operator.add,
        operator.iadd,
        operator.imul,
        operator.isub,
        operator.mul,
        operator.neg,
        operator.sub,
        torch.abs,
        torch.add,
        torch.clamp,
        torch.clamp_max,
        torch.clamp_min,
        torch.clip,
        torch.erf,
        torch.exp,
        torch.hardshrink,
        torch.maximum,
        torch.minimum,
        torch.mul,
        torch.multiply,
        torch.neg,
        torch.negative,
        torch.relu,
        torch.relu_,
        torch.sigmoid,
        torch.sign,
        torch.sin,
        torch.cos,
        torch.square,
        torch.sub,
        torch.subtract,
        torch.tanh,
        F.alpha_dropout,
        F.celu,
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.elu,
        F.feature_alpha_dropout,
        F.gelu,
        F.hardsigmoid,
        F.hardswish,
        F.hardtanh,
        F.leaky_relu,
        F.logsigmoid,
        F.mish,
        F.relu,
        F.relu6,
        F.selu,
        F.sigmoid,
        F.silu,
        F.softplus,
        F.softsign,
        F.tanh,
    }
)
ELEMENTWISE_METHODS = frozenset(
    (
        "abs abs_ add add_ clamp clamp_ clamp_max clamp_min clip double "
        "exp float half bfloat16 maximum minimum mul mul_ multiply neg relu relu_ sigmoid "
        "sigmoid_ sign square sub sub_ subtract tanh tanh_ to type_as"
    ).split()
)
ELEMENTWISE_MODULES = (
    nn.AlphaDropout,
    nn.CELU,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.ELU,
    nn.FeatureAlphaDropout,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.RReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
# Division is safe in its numerator only: a removed channel would divide zero by zero.
DIVISIONS = frozenset(
    {operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide}
)
DIVISION_METHODS = frozenset(["div", "div_", "divide", "true_divide"])

# Act on each channel over its positions; number of spatial axes, None for all after the channel.
SPATIAL_MODULES: dict[type[nn.Module], int] = {
    **{nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3},
    **{nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3},
    **{nn.LPPool1d: 1, nn.LPPool2d: 2, nn.LPPool3d: 3},
    **{nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3},
    **{nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3},
    **{nn.ConstantPad1d: 1, nn.ConstantPad2d: 2, nn.ConstantPad3d: 3},
    **{nn.ZeroPad1d: 1, nn.ZeroPad2d: 2, nn.ZeroPad3d: 3},
    **{nn.ReflectionPad1d: 1, nn.ReflectionPad2d: 2, nn.ReflectionPad3d: 3},
    **{nn.ReplicationPad1d: 1, nn.ReplicationPad2d: 2, nn.ReplicationPad3d: 3},
    **{nn.CircularPad1d: 1, nn.CircularPad2d: 2, nn.CircularPad3d: 3},
}
# Over batched input only: the channel is axis 1.
BATCHED_MODULES = (
    nn.Upsample,
    nn.UpsamplingBilinear2d,
    nn.UpsamplingNearest2d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.PReLU,
)
SPATIAL_FUNCTIONS = frozenset(
    {
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
        F.adaptive_max_pool1d,
        F.adaptive_max_pool2d,
        F.adaptive_max_pool3d,
        F.avg_pool1d,
        F.avg_pool2d,
        F.avg_pool3d,
        F.interpolate,
        F.lp_pool1d,
        F.lp_pool2d,
        F.max_pool1d,
        F.max_pool2d,
        F.max_pool3d,
        F.pad,
        F.upsample,
        torch.adaptive_avg_pool1d,
        torch.avg_pool1d,
        torch.max_pool1d,
        torch.max_pool2d,
    }
)

# Reduce the axes named by `dim`; harmless where these axes hold one channel each.
REDUCTIONS = frozenset({torch.mean, torch.sum, torch.amax, torch.amin})
REDUCTION_METHODS = frozenset(["mean", "sum", "amax", "amin"])
SOFTMAXES = frozenset({F.softmax, F.log_softmax, torch.softmax, torch.log_softmax})
SOFTMAX_METHODS = frozenset(["softmax", "log_softmax"])
SOFTMAX_MODULES = (nn.Softmax, nn.LogSoftmax)

CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def instance_of(module: Any, stock: tuple[type, ...] | dict[type[nn.Module], int]) -> type | None:
    """The class among `stock` that `module` is, or derives from unchanged."""
    return next((c for c in type(module).__mro__ if c in stock), None)
