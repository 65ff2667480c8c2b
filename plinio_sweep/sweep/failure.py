"""What went wrong in a trial: the trial alone, or what every trial stands on."""

from __future__ import annotations

import errno

_MACHINE = frozenset(
    {
        *(errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EIO, errno.EROFS),
        *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE),
    }
)


class StoppedError(Exception):
    """The worker was asked to end; its trial goes back into the queue."""


class TakenError(Exception):
    """The trial in hand belongs to another worker by now: this one was silent for too long."""


class StoreError(ValueError):
    """The artefact store can't be used; nothing that is stored was lost."""


def hits_all(error: Exception) -> bool:
    """Whether every trial would meet `error`: a full disk or lost rights, not a missing file."""
    if isinstance(error, StoreError):
        return True
    return isinstance(error, OSError) and error.errno in _MACHINE


def reason_of(error: Exception) -> str:
    """What happened, in one line; our own errors say it themselves, others by their kind, too."""
    text = " ".join(str(error).split())
    if text and isinstance(error, ArithmeticError | ValueError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def clause_of(error: Exception) -> str:
    """What happened, within a sentence of ours: `reason_of` without its full stop."""
    return reason_of(error).rstrip(".")
