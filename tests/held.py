"""Leases that a test leaves held, as a process does that dies: their threads end with the test.

Else they go on and beat on a database that is gone, or whose connections are being closed.
"""

from __future__ import annotations

from typing import Any

from plinio_sweep.store.leases import TableLease

_held: list[TableLease] = []
_made = TableLease.__init__


def _noted(self: TableLease, *words: Any) -> None:
    _made(self, *words)
    _held.append(self)


def note_leases() -> None:
    """From now on every lease of this process is known."""
    TableLease.__init__ = _noted  # type: ignore[method-assign]


def end_leases() -> None:
    """Ends the threads of all leases, and leaves their rows as they are."""
    while _held:
        lease = _held.pop()
        lease._done.set()
        lease._thread.join()
