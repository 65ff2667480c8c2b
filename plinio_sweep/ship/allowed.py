"""What a net may be made of that is rebuilt from a file: classes, functions and methods by name.

A file names them, and nothing that it names beyond these is ever looked up, let alone called. They
are what maps tensors to tensors: nothing here opens files, loads code, takes a callable or reads
memory that was never written.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn, overrides
from torch.nn import functional as F

from plinio_sweep.graph import operations as ops
from plinio_sweep.graph.quantize import Learned, MinMax, step_of
from plinio_sweep.graph.quantized import QUANTIZED, Quantizer

_OPERATORS = (
    "abs add and_ eq floordiv ge getitem gt iadd iand ifloordiv imod imul invert ior ipow isub "
    "itruediv ixor le lshift lt matmul mod mul ne neg not_ or_ pos pow rshift sub truediv truth xor"
).split()
# Make tensors of nothing, which is why PyTorch does not count them among those that it can override
_FACTORIES = "arange eye full linspace logspace ones rand randint randn randperm tensor zeros"
# Missing there although they are functions of tensors
_FUNCTIONAL = "celu_ elu_ hardsigmoid hardswish hardtanh_ leaky_relu_ relu_ selu_ sigmoid tanh"
# Parts of kernels that trust their arguments, or take a callable
_UNSAFE_FUNCTIONS = (
    *("as_strided", "batch_norm_", "choose_qparams", "empty", "fbgemm_", "fused_", "lobpcg"),
    *("miopen_", "native_", "quantized_", "rnn_", "slice_inverse", "unsafe_"),
)
_UNSAFE_METHODS = frozenset(
    "apply_ as_strided as_strided_ as_strided_scatter as_subclass backward const_data_ptr data_ptr "
    "map2_ map_ module_load new new_empty new_empty_strided numpy pin_memory record_stream "
    "register_hook register_post_accumulate_grad_hook reinforce requires_grad_ resize resize_ "
    "resize_as resize_as_ resize_as_sparse_ retain_grad set_ share_memory_ sparse_resize_ "
    "sparse_resize_and_clear_ storage storage_offset storage_type to_mkldnn tolist "
    "untyped_storage".split()
)
ATTRIBUTES = ops.METADATA_ATTRIBUTES | {"T", "mT", "real", "imag"}
RANGES = {"MinMax": MinMax(), "Learned": Learned()}


@functools.cache
def functions() -> Mapping[str, Callable[..., Any]]:
    """Every function by its public name.

    Example:
        >>> functions()["torch.nn.functional.relu"](torch.tensor(-1.0)), "os.system" in functions()
        (tensor(0.), False)
    """
    found: dict[str, Callable[..., Any]] = {
        "builtins.getattr": getattr,
        "builtins.len": len,
        "plinio_sweep.step_of": step_of,
    }
    found |= {f"operator.{name}": getattr(operator, name) for name in _OPERATORS}
    known = overrides.get_overridable_functions()
    tensorial = {id(f) for space in (torch, torch.functional, F) for f in known[space]}
    tensorial |= {id(f) for space in (torch.fft, torch.linalg, torch.special) for f in known[space]}
    for space in (torch.fft, torch.linalg, torch.special, F, torch):
        found |= {
            f"{space.__name__}.{name}": value
            for name, value in vars(space).items()
            if id(value) in tensorial and not name.startswith(("_", *_UNSAFE_FUNCTIONS))
        }
    found |= {f"torch.{name}": getattr(torch, name) for name in _FACTORIES.split()}
    found |= {f"torch.nn.functional.{name}": getattr(F, name) for name in _FUNCTIONAL.split()}
    return found


@functools.cache
def function_names() -> Mapping[int, str]:
    """The name of every function by its identity; some functions have no hash."""
    return {id(value): name for name, value in functions().items()}


@functools.cache
def methods() -> frozenset[str]:
    """The methods of a tensor.

    Example:
        >>> "flatten" in methods(), "apply_" in methods(), "__reduce_ex__" in methods()
        (True, False, False)
    """
    tensor = torch.Tensor
    names = {n for n in dir(tensor) if not n.startswith("_") and callable(getattr(tensor, n))}
    return frozenset(names - _UNSAFE_METHODS)


@functools.cache
def classes() -> Mapping[str, type[nn.Module]]:
    """The layers by their names: those of PyTorch, and those of ours that round.

    Example:
        >>> classes()["torch.nn.Conv2d"] is nn.Conv2d, classes()["plinio_sweep.Quantizer"].__name__
        (True, 'Quantizer')
    """
    stock = {
        f"torch.nn.{name}": value
        for name, value in {**vars(nn.modules.linear), **vars(nn)}.items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__.startswith("torch.nn.modules.")
    }
    own: tuple[type[nn.Module], ...] = (Quantizer, *QUANTIZED.values())
    ours = {f"plinio_sweep.{c.__name__}": c for c in own}
    return {**stock, **ours}
