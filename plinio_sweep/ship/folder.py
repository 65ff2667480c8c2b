"""A folder that appears all at once, or not at all."""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk, or a share of it, that is full."""


@contextmanager
def writing(directory: Path, *, replaces: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A folder beside `directory` that takes its name at the end, or vanishes on any error.

    Args:
        directory: The name; nothing, or an empty folder, has it yet.
        replaces: Tells of a filled folder of that name whether it may go.

    Raises:
        ValueError: When the name is taken, or the system refuses the folder or its files.
    """
    staging = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    try:
        filled = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
        if filled and (replaces is None or not directory.is_dir() or not replaces(directory)):
            raise ValueError(_taken(directory, replaces is not None))
        staging.mkdir(parents=True)
    except OSError as error:
        raise _refusal(directory, error) from error
    try:
        yield staging
        _take_over(staging, directory)
    except OSError as error:
        if error.errno not in FULL:  # of what is written, so nothing about the folder
            raise
        raise _refusal(directory, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # gone already if all went well


def _take_over(staging: Path, directory: Path) -> None:
    if not directory.exists():
        staging.rename(directory)
        return
    # Not every system renames onto a folder; the old one goes when the new one is there.
    old = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    directory.rename(old)
    try:
        staging.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _taken(directory: Path, forced: bool) -> str:
    if forced:
        return (
            f"`directory` must be new, empty or a bundle to be replaced, but {str(directory)!r} "
            f"holds something else; choose another folder."
        )
    return (
        f"`directory` must be new or empty, but {str(directory)!r} is not; choose another folder, "
        f"or replace a bundle with --force."
    )


def _refusal(directory: Path, error: OSError) -> ValueError:
    """What the system refused, as a sentence about the argument."""
    rule = "have room for the bundle" if error.errno in FULL else "lie in a folder you can write"
    return ValueError(
        f"`directory` must {rule}, but {str(directory)!r} failed with {error.strerror!r}; "
        "choose another folder."
    )
