"""Finds what a user names: an object, "module:name", "file.py:name", or an entry point."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any


def resolve(reference: Any, group: str, known: dict[str, Any] | None = None) -> Any:
    """What `reference` stands for.

    Args:
        reference: An object, which stands for itself, or a string.
        group: Entry points to look among: "plinio_sweep.costs".
        known: Names that need no module.

    Raises:
        ValueError: When there is nothing of that name, with what was tried and what is near.
    """
    if not isinstance(reference, str):
        return reference
    known = known or {}
    if reference in known:
        return known[reference]
    place, _, name = reference.rpartition(":")
    if place:
        module = load_file(Path(place)) if place.endswith(".py") else _import(place)
        try:
            return getattr(module, name)  # not out of its dict: a package may resolve names lazily
        except AttributeError:
            names = [key for key in dir(module) if not key.startswith("_")]
            raise ValueError(_missing(reference, f"the names of {place}", name, names)) from None
    points = {point.name: point for point in importlib.metadata.entry_points(group=group)}
    if reference in points:
        return _load(points[reference])
    names = [*known, *points]
    raise ValueError(
        _missing(reference, f"built-in names and entry points {names}", reference, names)
    )


def _missing(reference: str, tried: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "write module:name or file.py:name."
    return f"`{reference}` must be a known name or a reference, but is not in {tried}; {hint}"


def load_file(path: Path) -> ModuleType:
    """Runs the Python file at `path` as a module; its folder can be imported from.

    Raises:
        ValueError: When there is no such file, or it fails, with the line.
    """
    if not path.is_file():
        raise ValueError(f"There must be a Python file at {path}, but is none; correct the path.")
    path = path.resolve()
    name = f"_plinio_sweep_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"A reference must name a Python file, but got {path}; it ends in .py.")
    module = importlib.util.module_from_spec(spec)
    # Siblings of a study (nets/, data/) are imported by their plain names.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(_failed(path, error)) from error
    return module


def _import(name: str) -> ModuleType:
    # An installed command does not look where the user is, as `python -m` does.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(
            f"A reference must name a module that can be imported, but {name} raised "
            f"{type(error).__name__}: {_reason(error)}; install it or correct the name."
        ) from error


def _load(point: importlib.metadata.EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise ValueError(
            f"An entry point must be loadable, but {point.name} = {point.value} raised "
            f"{type(error).__name__}: {_reason(error)}; upgrade or remove the package that "
            f"brings it."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"


def _failed(path: Path, error: Exception) -> str:
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = lines[-1].lineno if lines else 1
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno
    reason = _reason(error)
    if (unknown := _unknown_field(error)) is not None:
        return f"{path.name}:{line}: {unknown}"
    if isinstance(error, ValueError | TypeError):
        # Most of all our own checks of a record: they say what to do.
        return f"{path.name}:{line}: {reason}"
    return (
        f"{path.name} must run without errors, but line {line} raised {type(error).__name__}: "
        f"{reason}; correct that line."
    )


def _unknown_field(error: Exception) -> str | None:
    """What is wrong with a field that one of our records does not have; nothing otherwise."""
    pattern = r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'"
    found = re.fullmatch(pattern, str(error).split(". Did you mean")[0])
    record = getattr(importlib.import_module("plinio_sweep"), found[1], None) if found else None
    if found is None or not is_dataclass(record):
        return None
    names = [f.name for f in fields(record)]
    near = difflib.get_close_matches(found[2], names, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "drop it."
    return f"`{found[1]}` takes the fields {names}, but got {found[2]!r}; {hint}"


def load_study(path: Path) -> Any:
    """The one `Sweep` of a study file.

    Raises:
        ValueError: When there is no file, it fails, or holds no or several sweeps.
    """
    from plinio_sweep.sweep.study import Sweep

    module = load_file(path)
    found = {id(v): v for v in vars(module).values() if isinstance(v, Sweep)}
    if len(found) != 1:
        raise ValueError(
            f"A study must hold exactly one `Sweep` at its top level, but {path} holds "
            f"{len(found)}; write sweep = Sweep(...)."
        )
    return next(iter(found.values()))
