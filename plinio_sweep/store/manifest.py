"""What a stored folder holds, file by file: by it a reader knows that each is as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Sum:
    """Of one file."""

    size_bytes: int
    sha256: str  # in hexadecimal


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All files of a folder but its manifest.

    Args:
        files: By their names.
        place: Where a store keeps them, when not beside the manifest.
    """

    files: Mapping[str, Sum] = field(default_factory=dict)
    place: str = ""

    def to_bytes(self) -> bytes:
        """As JSON. No beginning of it is JSON, too: who can read it has all of it."""
        return json.dumps(asdict(self), indent=1).encode()


def sum_of(data: bytes) -> Sum:
    """The sum of a file that holds `data`.

    Example:
        >>> sum_of(b"").size_bytes
        0
    """
    return Sum(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def manifest_of(folder: Path) -> Manifest:
    """The manifest of what is in `folder` now."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    names.pop(NAME, None)
    return Manifest(files={name: sum_of(path.read_bytes()) for name, path in names.items()})


def parsed(data: bytes) -> Manifest | None:
    """The manifest that was written as `data`; nothing when a part of it is missing."""
    try:
        found: Any = json.loads(data)
        files = {name: Sum(**values) for name, values in found["files"].items()}
        return Manifest(files=files, place=found["place"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`; nothing when there is none that is whole."""
    try:
        return parsed((folder / NAME).read_bytes())
    except FileNotFoundError:
        return None


def fault_of(folder: Path) -> str:
    """What is wrong with the files of `folder`, in a few words; empty when nothing is."""
    manifest = read_manifest(folder)
    if manifest is None:
        return f"has no whole {NAME}"
    for name, known in manifest.files.items():
        try:
            found = sum_of((folder / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return f"lacks {name}"
        if found != known:
            return f"has other contents in {name}"
    return ""
