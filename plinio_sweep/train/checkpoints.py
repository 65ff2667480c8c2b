"""Checkpoints of one run in a folder: the last two, each whole or not there.

A file is written under another name, flushed to the disk and renamed. Its name is how far the run
is, so that a worker that was long asleep and writes an old state takes nothing from who goes on.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, final

from plinio_sweep.train.sealed import seal, unseal

SUFFIX = ".checkpoint"
_DRAFT = ".draft"


class Mirror(Protocol):
    """Where the checkpoints of one run are kept for other machines, too.

    Whatever fails is an `OSError`, and ends no training.
    """

    def fetch(self) -> None:
        """Brings those that are not here into the folder of the run."""
        ...

    def share(self, path: Path) -> None:
        """Keeps `path` for others, and of those before it what the folder of the run has."""
        ...

    def clear(self) -> None:
        """Removes all of this run."""
        ...


@final
class Checkpoints:
    """Keeps the last two states of one run, and finds the further one that is whole.

    Nothing here ends a training: what can't be written or read is told in a sentence.

    Args:
        folder: Of this run alone; is made when it is first written to.
        key: Of all that can change the outcome of the run: a state of another one is not used.
        seconds: At least so long between two states, which are then taken inside of epochs, too;
            one after every epoch when left out.
        warn: Is told in a sentence what could not be written or read.
        mirror: Keeps them for other machines, where these can't read `folder`.

    Raises:
        ValueError: For a time below 0.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> kept = Checkpoints(folder, key="warm-up of seed 3")
        >>> kept.write((4, 0), {"loss": 0.25})
        >>> found = []
        >>> Checkpoints(folder, key="warm-up of seed 3").resume(found.append)
        True
        >>> found
        [{'loss': 0.25}]
        >>> kept.clear()
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: str,
        seconds: float | None = None,
        warn: Callable[[str], None] = lambda text: None,
        mirror: Mirror | None = None,
    ) -> None:
        if seconds is not None and not seconds >= 0:
            raise ValueError(
                f"`seconds` must be at least 0, but got {seconds}; leave it out for a checkpoint "
                f"after every epoch."
            )
        self.folder, self.key, self.seconds, self.warn = folder, key, seconds, warn
        self._mirror = mirror
        self._behind = False  # whether the mirror lacks the last one
        self._last: Path | None = None  # the last one that is known to be whole
        self._failing = False
        self._tried = time.monotonic()

    def due(self, *, epoch: bool) -> bool:
        """Whether a state is to be written now.

        Args:
            epoch: Whether an epoch has just ended.
        """
        if self.seconds is None:
            return epoch
        return time.monotonic() - self._tried >= self.seconds

    def write(self, position: tuple[int, int], state: Mapping[str, Any]) -> None:
        """Keeps `state` and the one before; a warning is all that comes of a full disk.

        Args:
            position: How far the run is: finished epochs, and steps of the one that is not.
            state: As `seal` takes it.
        """
        path = self.folder / ("{:08d}-{:010d}".format(*position) + SUFFIX)
        if path == self._last and path.exists():
            if self._behind:
                self._share(path)
            return  # stopped where it was kept a moment ago: the one before is to stay, too
        try:
            write_whole(path, seal({"key": self.key, "state": state}))
        except (OSError, TypeError) as error:
            if not self._failing:  # else it has been said
                self.warn(
                    f"Checkpoints must be written to {self.folder}, but that failed: "
                    f"{_reason(error)}; training goes on without, so free space or mend this "
                    f"before it is interrupted."
                )
            self._failing = True
        else:
            self._failing = False
            self._drop_before(path)
            self._last = path
            self._share(path)
        self._tried = time.monotonic()

    def resume(self, restore: Callable[[Mapping[str, Any]], None]) -> bool:
        """Hands the furthest state that is whole to `restore`.

        Args:
            restore: Takes the state; raises a `ValueError`, having changed nothing, where it does
                not fit.

        Returns:
            Whether there was one.
        """
        self._fetch()
        for path in sorted(self.folder.glob(f"*{SUFFIX}"), reverse=True):
            try:
                restore(self._read(path))
            except (OSError, ValueError) as error:
                self.warn(
                    f"The checkpoint {path} must be whole and of this run, but can't be used: "
                    f"{_reason(error)}; training goes on from the one before it, or anew."
                )
            else:
                self._last = path
                return True
        return False

    def clear(self) -> None:
        """Removes all of this run, whose outcome is stored elsewhere by now."""
        for suffix in (SUFFIX, _DRAFT):
            for path in self.folder.glob(f"*{suffix}"):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
        if self._mirror is not None:
            with suppress(OSError):
                self._mirror.clear()
        self._last = None

    def _fetch(self) -> None:
        if self._mirror is not None:
            try:
                self._mirror.fetch()
            except OSError as error:
                self.warn(
                    f"Checkpoints of other machines must be at hand, but reading them failed: "
                    f"{_reason(error)}; training goes on from what is here, or anew."
                )

    def _share(self, path: Path) -> None:
        if self._mirror is None:
            return
        try:
            self._mirror.share(path)
        except OSError as error:
            if not self._behind:  # else it has been said
                self.warn(
                    f"Checkpoints must reach other machines, too, but that failed: "
                    f"{_reason(error)}; training goes on, and only this machine can take it up."
                )
            self._behind = True
        else:
            self._behind = False

    def _read(self, path: Path) -> Mapping[str, Any]:
        found = unseal(path.read_bytes())
        if found["key"] != self.key:
            raise ValueError(
                f"The key of a state must be {self.key!r}, but is {found['key']!r}; leave it to "
                f"that run."
            )
        state: Mapping[str, Any] = found["state"]
        return state

    def _drop_before(self, path: Path) -> None:
        """Removes all that lies before `path`, but for the last that is known to be whole."""
        for old in self.folder.glob(f"*{SUFFIX}"):
            if old.name < path.name and old != self._last:
                with suppress(OSError):
                    old.unlink(missing_ok=True)
        for draft in self.folder.glob(f"*{_DRAFT}"):  # of a process that was killed
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Puts `data` at `path`, all of it or nothing."""
    with written_whole(path) as file:
        file.write(data)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that is at `path` when it is written, all of it, and not at all when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(suffix=_DRAFT, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            # As readable as its folder: a temporary file is its maker's alone.
            os.chmod(draft, path.parent.stat().st_mode & 0o666)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            os.unlink(draft)
    if os.name == "posix":
        with suppress(OSError):  # not every file system can: the file itself is there
            _sync(path.parent)


def _sync(folder: Path) -> None:
    """Has a new name in `folder` be on the disk, not only what is under it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """What `error` says, to stand inside of a sentence."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
