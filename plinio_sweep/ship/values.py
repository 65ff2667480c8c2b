"""What stands in a graph or in an attribute beside tensors, as JSON and back.

What JSON lacks is a mapping with its kind as the only key: `{"slice": [0, null, 2]}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import fx

from plinio_sweep.ship.allowed import RANGES, function_names, functions

_WORDS: Mapping[str, type] = {
    "dtype": torch.dtype,
    "memory_format": torch.memory_format,
    "layout": torch.layout,
}


def encode(value: Any, place: str) -> Any:
    """`value` as JSON.

    Args:
        value: Of a net.
        place: Where it was found, for the message.

    Raises:
        ValueError: When a file cannot hold it.

    Example:
        >>> encode((1, slice(None), float("inf"), torch.float16), "here")["tuple"][2:]
        [{'float': 'inf'}, {'dtype': 'float16'}]
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if type(value) in (tuple, torch.Size):
        return {"tuple": [encode(item, place) for item in value]}
    if isinstance(value, list):
        return [encode(item, place) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(k, place), encode(v, place)] for k, v in value.items()]}
    if isinstance(value, slice):
        return {"slice": [encode(v, place) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": None}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    return _encode_word(value, place)


def _encode_word(value: Any, place: str) -> Any:
    for kind, cls in _WORDS.items():
        if isinstance(value, cls):
            return {kind: str(value).removeprefix("torch.")}
    for name, ranges in RANGES.items():
        if type(value) is type(ranges):
            return {"ranges": name}
    if id(value) in function_names():
        return {"function": function_names()[id(value)]}
    raise foreign(f"a value of type {type(value).__name__!r} at {place!r}")


def decode(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """What `encode` wrote.

    Args:
        value: JSON; anything else than `encode` writes ends in an error of some kind.
        nodes: Those of the graph so far, by name.

    Example:
        >>> decode({"tuple": [1, {"ellipsis": None}]}, {})
        (1, Ellipsis)
    """
    if isinstance(value, list):
        return [decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "node":
            return nodes[inner]
        case "float":
            return float(inner)
        case "tuple":
            return tuple(decode(item, nodes) for item in inner)
        case "dict":
            return {_key(k): decode(v, nodes) for k, v in inner}
        case "slice":
            start, stop, step = (decode(item, nodes) for item in inner)
            return slice(start, stop, step)
        case "ellipsis":
            return ...
        case "device":
            return torch.device(inner)
        case "ranges":
            return RANGES[inner]
        case "function":
            return functions()[inner]
    return _word(kind, inner)


def _key(value: Any) -> Any:
    if type(value) not in (str, int, bool):
        raise ValueError(f"{value!r} is no key of a mapping")
    return value


def _word(kind: str, name: str) -> Any:
    word = vars(torch)[name]
    if not isinstance(word, _WORDS[kind]):
        raise ValueError(f"{name!r} is no {kind}")
    return word


def dtype_of(name: str) -> torch.dtype:
    """The type of numbers of that name."""
    return cast(torch.dtype, _word("dtype", name))


def foreign(what: str) -> ValueError:
    """Why a net can't be stored."""
    return ValueError(
        f"A net to be stored must be made of layers and functions of PyTorch, but has {what}; "
        f"rebuild it with its study."
    )
