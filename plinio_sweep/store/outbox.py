"""Notes that wait until somebody can be told: a folder that outlives workers and crashes.

One file a note, which appears whole or not at all and says by a checksum whether it is whole:

    plinio-sweep note 1 <sha256 in hexadecimal>
    {"do": "fail", "run": "run-0c1f…", "when": 1764257100.25, "reason": "…"}

The names give the order in which the notes were written. Whoever holds the lock hands them on,
those of all workers that share the folder.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

_FIRST = "plinio-sweep note 1 "
_DRAFT = ".draft"

Note = Mapping[str, Any]


class Outbox:
    """A folder of notes.

    Args:
        folder: Is made with the first note.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused = folder / "refused"  # what nobody wants to hear
        self._numbers = itertools.count()

    def put(self, note: Note) -> Path:
        """Writes `note` behind all that is there; the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        body = json.dumps(note) + "\n"
        # Clocks are coarse, and workers many.
        parts = (f"{time.time_ns():020d}", f"{next(self._numbers):06d}", secrets.token_hex(4))
        path = self.folder / f"{'-'.join(parts)}.json"
        draft = path.with_suffix(_DRAFT)
        with draft.open("w", encoding="utf-8") as file:
            file.write(f"{_FIRST}{_sum(body)}\n{body}")
            file.flush()
            os.fsync(file.fileno())
        return draft.rename(path)

    def waiting(self) -> list[Path]:
        """The files of all notes, in their order."""
        return sorted(self.folder.glob("*.json"))

    def read(self, path: Path) -> Note:
        """The note in `path`.

        Raises:
            ValueError: When it is not as it was written.
        """
        first, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        if first != f"{_FIRST}{_sum(body)}":
            raise ValueError(f"A note must be as it was written, but {path} is not; remove it.")
        note: Note = json.loads(body)
        return note

    def done(self, path: Path) -> None:
        """Removes a note that was handed on."""
        path.unlink(missing_ok=True)

    def refuse(self, path: Path) -> Path:
        """Puts aside a note that can never be handed on; where it lies then."""
        self.refused.mkdir(exist_ok=True)
        return path.rename(self.refused / path.name)

    @contextmanager
    def held(self, wait: float) -> Iterator[bool]:
        """Keeps all others from handing on notes; whether that came about within `wait` [s]."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=wait)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def drain(self, hand_on: Callable[[Path], bool]) -> None:
        """Hands on every note in its order, those that come meanwhile too; the lock must be held.

        Args:
            hand_on: Says whether to go on with the next.
        """
        while notes := self.waiting():
            for path in notes:
                if not hand_on(path):
                    return


def _sum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
