"""Content-addressed folders: what is written under a key appears whole or not at all.

Each has a manifest, and what a reader finds is what it says: a folder that a disk has spoilt is put
aside, and made anew as if it had not been there.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import filelock

from plinio_sweep.store.items import Item, Kind, is_key
from plinio_sweep.store.manifest import (
    NAME,
    Manifest,
    fault_of,
    manifest_of,
    read_manifest,
    sum_of,
)

UNFINISHED, LOCKS, DAMAGED = ".unfinished", ".locks", ".damaged"

# Of who finds something damaged and can't train.
WAY_OUT = "plinio-sweep run makes what is on the front anew, a copy of it brings back the rest"

Warn = Callable[[str], None]
Fill = Callable[[Path], None]
Seal = Callable[[], AbstractContextManager[None]]


class FolderStore:
    """Keeps each result in a folder of its own below `root`.

    Args:
        root: Is made when it is first written to.
        warn: Is told of a folder that is damaged, which is then put aside; without it, for those
            who can train nothing, such a folder is an error.
    """

    def __init__(self, root: Path, *, warn: Warn | None = None) -> None:
        self.root, self._warn = root, warn
        self._whole: set[str] = set()  # keys that this process has looked at

    def ready(self) -> None:
        """Finds out whether anything can be stored, before hours of training do."""
        self.root.mkdir(parents=True, exist_ok=True)

    def find(self, key: str) -> Path | None:
        """The folder of `key`, when it is complete. Its files are read once in a process.

        Raises:
            ValueError: When it is damaged, and nobody is there to be told.
        """
        folder = self.root / key
        if key not in self._whole and folder.is_dir():
            fault = fault_of(folder)
            if fault and folder.is_dir():  # else somebody removed it meanwhile
                self._put_aside(folder, fault)
            if not fault:
                self._whole.add(key)
        return folder if folder.is_dir() else None

    def read(self, key: str, names: Iterable[str]) -> dict[str, bytes] | None:
        """Some files of `key` alone: its weights, the most of it, stay unread.

        Raises:
            ValueError: When one is not as it was written.
        """
        folder = self.root / key
        if not folder.is_dir():
            return None
        manifest = read_manifest(folder) or Manifest()
        found: dict[str, bytes] = {}
        for name in names:
            path = folder / name
            found[name] = path.read_bytes() if path.is_file() else b""
            if sum_of(found[name]) != manifest.files.get(name):
                raise ValueError(
                    f"The stored folder {folder} must be as it was written, but its {name} is "
                    f"not; {WAY_OUT}."
                )
        return found

    def write(self, key: str, fill: Fill, sealed: Seal = nullcontext) -> Path:
        """Has `fill` write the files of `key` into a new folder that appears all at once.

        A folder that is there already stays: its key says that it holds the same.

        Args:
            key: Content key.
            fill: Writes into an empty folder.
            sealed: Is entered from when all is written until the folder has its name.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        folder = self.root / key
        draft = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=self.root))
        # As readable as its root: a temporary folder is its maker's alone.
        draft.chmod(self.root.stat().st_mode & 0o777)
        try:
            fill(draft)
            (draft / NAME).write_bytes(manifest_of(draft).to_bytes())
            with sealed():
                try:
                    draft.rename(folder)
                except OSError:
                    if not folder.is_dir():  # else another writer was first
                        raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder

    def drop(self, key: str) -> None:
        """Removes the folder of `key`."""
        self._whole.discard(key)
        # Its name goes first: nobody is to find half a folder.
        self._remove(self.root / key)

    def unfinished(self, key: str) -> Path:
        """Where checkpoints lie until `key` is complete; there is no such folder at first."""
        return self.root / UNFINISHED / key

    def mirror(self, key: str) -> None:
        """Nothing: whoever reaches this store reaches its checkpoints."""

    def lock(self, key: str) -> AbstractContextManager[Any]:
        """Keeps other processes on this machine from making `key` at the same time."""
        locks = self.root / LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(locks / f"{key}.lock")

    def items(self) -> Iterator[Item]:
        """All of ours that lies here; a folder that is shared may hold more."""
        for path in _inside(self.root):
            if is_key(path.name):
                yield self._item("result", path, path.name)
            elif re.fullmatch(r"\.[0-9a-f]{12}-\w{8}", path.name):
                yield self._item("draft", path)
        for path in _inside(self.root / UNFINISHED):
            if is_key(path.name):
                yield self._item("checkpoint", path, path.name)
        for path in _inside(self.root / DAMAGED):
            yield self._item("damaged", path)
        for path in _inside(self.root / LOCKS):
            yield self._item("lock", path, path.stem)

    def _item(self, kind: Kind, path: Path, key: str = "") -> Item:
        size, newest = 0, 0.0
        for file in (path, *path.rglob("*")):
            with suppress(FileNotFoundError):  # a worker goes on with its own
                status = file.lstat()
                size += 0 if file.is_dir() else status.st_size
                newest = max(newest, status.st_mtime)
        remove = partial(self.drop, key) if kind == "result" else partial(self._remove, path)
        age = time.time() - newest
        return Item(kind=kind, key=key, place=str(path), size_bytes=size, age=age, remove=remove)

    def _remove(self, path: Path) -> None:
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError):
            shutil.rmtree(path if path.name.startswith(".") else self._aside(path))

    def _aside(self, folder: Path) -> Path:
        """`folder` under another name, among the damaged ones."""
        place = self.root / DAMAGED
        place.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{folder.name[:12]}-", dir=place))
        try:
            return folder.rename(aside)
        except OSError:
            aside.rmdir()
            raise

    def _put_aside(self, folder: Path, fault: str) -> None:
        said = f"The stored folder {folder} must be as it was written, but {fault}"
        if self._warn is None:
            raise ValueError(f"{said}; {WAY_OUT}.")
        with suppress(FileNotFoundError):  # of two who saw it one moves it
            aside = self._aside(folder)
            self._warn(f"{said}; it was moved to {aside} and is made anew.")


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
