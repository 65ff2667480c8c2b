"""Where data sets lie, and what was decoded from them: once, until a file of them changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from data.mapped import Keep, as_decoded, read_mapped, write_mapped
from plinio_sweep.sweep.definition import describe, digest

FOLDER = "PLINIO_SWEEP_DATA"
CACHE = "PLINIO_SWEEP_DATA_CACHE"
WAY = "copy that file there"  # to get what nobody publishes
Decode = Callable[[Sequence[Path]], Mapping[str, Tensor]]


def place(name: str) -> Path | None:
    """The file or folder `name` of the data folder; nothing where there is none."""
    folder = os.environ.get(FOLDER)
    path = Path(folder) / name if folder else None
    return path if path is not None and path.exists() else None


def needed(name: str, title: str, way: str = WAY) -> Path:
    """The file or folder `name` of the data folder, which holds `title`.

    Raises:
        FileNotFoundError: Where there is none; `way` says how to get it.
    """
    if (path := place(name)) is None:
        raise missing(title, (name,), way)
    return path


def missing(title: str, names: Sequence[str], way: str) -> FileNotFoundError:
    """What to raise where `title` is in none of the places `names`; `way` says how to get it."""
    folder = os.environ.get(FOLDER)
    where = f"{folder}, the folder in {FOLDER}" if folder else f"a folder that {FOLDER} names"
    state = "holds neither" if len(names) > 1 else "does not hold it"
    found = f"that {state}" if folder else f"{FOLDER} is not set"
    return FileNotFoundError(
        f"{title} must be in {where}, as {' or '.join(names)}, but {found}; {way}."
    )


def broken(rule: str, found: str, way: str) -> ValueError:
    """What to raise where a data set breaks `rule` by what was `found`; `way` says how to get it.

    Example:
        >>> broken("A page must be whole", "p.html is empty", "download it")
        ValueError('A page must be whole, but p.html is empty; download it anew.')
    """
    return ValueError(f"{rule}, but {found}; {way} anew.")


def decoded(
    name: str,
    sources: Sequence[Path],
    decode: Decode,
    *,
    keep: Keep = as_decoded,
    way: str = "unpack it there",
) -> Mapping[str, Tensor]:
    """What `decode` makes of `sources`, kept under a checksum for the next time.

    It is made anew when a source has another size or time, when the code that decodes is another,
    and when what was kept is damaged. Of several processes one decodes, and the others wait; what
    is kept is in the memory of a machine once, whatever the number of processes.

    Args:
        name: Of the file that it is kept in; sources in another folder have another file.
        sources: All files that are read.
        decode: Makes tensors of them.
        keep: Makes of some items of such a tensor what is kept of them.
        way: Says how to get the data set.

    Raises:
        FileNotFoundError: When there are no sources.
        ValueError: When it can't be kept.
    """
    if not sources:
        raise FileNotFoundError(
            f"The folder of {name} in {FOLDER} must hold the files of the data set, but holds none "
            f"of them; {way} anew."
        )
    root = Path(os.path.commonpath([path.resolve() for path in sources]))
    files = [(path.resolve().relative_to(root).as_posix(), path.stat()) for path in sources]
    stamps = [[name, found.st_size, found.st_mtime_ns] for name, found in files]
    key = digest([describe(decode), describe(keep), stamps])
    kept = _cache() / f"{name}-{digest(str(root))[:12]}.sealed"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):
        if (found := read_mapped(kept, key)) is None:
            _write(kept, key, decode(sources), keep)
            found = read_mapped(kept, key)
    assert found is not None
    return found


def _write(kept: Path, key: str, tensors: Mapping[str, Tensor], keep: Keep) -> None:
    try:
        write_mapped(kept, key, tensors, keep)
    except OSError as error:
        raise ValueError(
            f"There must be room in {kept.parent} for what is decoded, but it can't be written "
            f"there: {error.strerror or error}; name a folder on a larger disk in {CACHE}."
        ) from error


def _cache() -> Path:
    if own := os.environ.get(CACHE):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plinio-sweep"
