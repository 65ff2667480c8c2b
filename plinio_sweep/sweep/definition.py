"""What a study *is*, as JSON: two runs of one study must agree in every field of it.

The user's code is its source and, by name, what it reaches: captured and global constants, helpers,
base classes, attributes. The code of libraries is its name.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import sysconfig
import textwrap
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

import costs

_Seen = dict[int, tuple[Any, str]]  # by `id`; the object is kept, so that it stays its own
_AT_ONCE = 2**26  # bytes of a tensor that are copied at once
_OURS = (Path(__file__).parents[1], Path(costs.__file__).parent)


def describe(value: Any) -> Any:
    """`value` as JSON: records by their fields, functions and classes by name and source."""
    return _describe(value, {})


def _describe(value: Any, seen: _Seen) -> Any:
    """As `describe`; code that was `seen` before is its source alone, so that circles end."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _describe(item, seen) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_describe(item, seen) for item in value]
    if isinstance(value, functools.partial):
        arguments = [value.args, value.keywords]
        return {"partial": _describe(value.func, seen), "args": _describe(arguments, seen)}
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)} @{_bytes_digest(value)[:12]}"
    if is_dataclass(value) and not isinstance(value, type):
        return {"record": type(value).__name__} | {
            f.name: _describe(getattr(value, f.name), seen) for f in fields(value)
        }
    return _describe_code(value, seen)


def _bytes_digest(tensor: Tensor) -> str:
    """That of all numbers of `tensor` in their order, item by item: data sets are large."""
    items = tensor.detach() if tensor.dim() else tensor.detach()[None]
    found = hashlib.sha256()
    for some in items.split(max(1, _AT_ONCE // max(1, items[:1].nbytes))):
        own = some.cpu().clone(memory_format=torch.contiguous_format)
        found.update(own.flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _describe_code(value: Any, seen: _Seen) -> Any:
    if id(value) in seen:
        return seen[id(value)][1]
    name = getattr(value, "__qualname__", None) or getattr(value, "name", type(value).__name__)
    code = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    text = _source(code, str(name))
    seen[id(value)] = (value, text)
    reached = {key: item for key, item in _reached(value).items() if _lasts(item)}
    uses = {key: _describe(reached[key], seen) for key in sorted(reached)}
    return {"code": text, "uses": uses} if uses else text


def _source(code: Any, name: str) -> str:
    if _installed(code):
        # A study outlives an upgrade: what a library calls the same is the same.
        return f"{code.__module__}.{name}"
    try:
        # Without the layout: a study that was only moved or indented is the same study.
        source = textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError):
        return name
    return f"{name} @{digest(source)[:12]}"


def _installed(code: Any) -> bool:
    """Whether `code` comes from a library, ours included, and not from the user."""
    file = getattr(sys.modules.get(code.__module__), "__file__", None)
    if file is None:
        return True
    return any(Path(file).is_relative_to(home) for home in (*_homes(), *_OURS))


@functools.cache
def _homes() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple(Path(paths[name]) for name in ("stdlib", "purelib", "platlib"))


def _reached(value: Any) -> dict[str, Any]:
    """What `value` means beside its source, by name."""
    if inspect.ismethod(value):
        return {"self": value.__self__, "function": value.__func__}
    if inspect.isroutine(value):
        function = inspect.unwrap(value)
        return {} if _installed(function) else _names(function)
    if inspect.isclass(value):
        members = [inspect.unwrap(m) for m in vars(value).values() if inspect.isroutine(m)]
        found = {base.__name__: base for base in value.__bases__}
        return found | {k: v for member in members for k, v in _names(member).items()}
    state = {k: v for k, v in vars(value).items() if not k.startswith("_") and k != "training"}
    if isinstance(value, nn.Module):
        state |= value.state_dict() | dict(value.named_children())
    return {"class": type(value), **state}


def _names(function: Any) -> dict[str, Any]:
    """What the body of `function` names outside of it."""
    if not isinstance(function, FunctionType):
        return {}
    scope, cells = function.__globals__, function.__closure__ or ()
    named = {name: scope[name] for name in _words(function.__code__) if name in scope}
    captured = zip(function.__code__.co_freevars, cells, strict=True)
    return named | {name: cell.cell_contents for name, cell in captured if name != "__class__"}


def _words(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_words, inner))


def _lasts(value: Any) -> bool:
    """Whether `value` is a setting or the user's code: no module of a library, no cache."""
    if value is None or isinstance(value, bool | int | float | str | Tensor | functools.partial):
        return True
    if isinstance(value, dict):
        named = all(isinstance(key, str) for key in value)
        return named and _lasts(list(value.values()))
    if isinstance(value, tuple | list):
        # Empty ones are about to be filled; those of tensors are caches.
        return bool(value) and all(_lasts(v) and not isinstance(v, Tensor) for v in value)
    if inspect.ismodule(value):
        return False
    if inspect.isroutine(value) or inspect.isclass(value):
        return not _installed(inspect.unwrap(value))
    return isinstance(value, nn.Module) or not _installed(type(value))


def digest(value: Any) -> str:
    """A key for a JSON value: equal values have equal keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The fields in which two definitions differ, as "recipe.search.epochs: 10 -> 20"."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
