"""Content-addressed folders: what is written under a key appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import filelock


class FolderStore:
    """Keeps each result in a folder of its own below `root`.

    Args:
        root: Is made when it is first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Path | None:
        """The folder of `key`, when it is complete."""
        folder = self.root / key
        return folder if folder.is_dir() else None

    def write(self, key: str, fill: Callable[[Path], None]) -> Path:
        """Has `fill` write the files of `key` into a new folder that appears all at once.

        A folder that is there already stays: its key says that it holds the same.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        folder = self.root / key
        draft = Path(tempfile.mkdtemp(prefix=f".{key[:12]}-", dir=self.root))
        # As readable as its root: a temporary folder is its maker's alone.
        draft.chmod(self.root.stat().st_mode & 0o777)
        try:
            fill(draft)
            try:
                draft.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another writer was first
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder

    def unfinished(self, key: str) -> Path:
        """Where checkpoints lie until `key` is complete; there is no such folder at first."""
        return self.root / ".unfinished" / key

    def lock(self, key: str) -> AbstractContextManager[Any]:
        """Keeps other processes on this machine from making `key` at the same time."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(locks / f"{key}.lock")
