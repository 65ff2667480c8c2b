"""What a study *is*, as JSON: two runs of one study must agree in every field of it."""

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
from typing import Any

import costs

_OURS = (Path(__file__).parents[1], Path(costs.__file__).parent)


def describe(value: Any) -> Any:
    """`value` as JSON: records by their fields, functions and classes by name and source."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if isinstance(value, functools.partial):
        return {"partial": describe(value.func), "args": describe([value.args, value.keywords])}
    if is_dataclass(value) and not isinstance(value, type):
        return {"record": type(value).__name__} | {
            f.name: describe(getattr(value, f.name)) for f in fields(value)
        }
    return _describe_code(value)


def _describe_code(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "name", type(value).__name__)
    code = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    if _installed(code):
        # A study outlives an upgrade: what a library calls the same is the same.
        return f"{code.__module__}.{name}"
    try:
        # Without the layout: a study that was only moved or indented is the same study.
        source = textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError):
        return str(name)
    return f"{name} @{digest(source)[:12]}"


def _installed(code: Any) -> bool:
    """Whether `code` comes from a library, ours included, and not from the user."""
    file = getattr(sys.modules.get(code.__module__), "__file__", None)
    if file is None:
        return True
    homes = [*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), *_OURS]
    return any(Path(file).is_relative_to(home) for home in homes)


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
