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
    """Whether every trial of this worker would meet `error`.

    A full disk or lost rights, but not a missing file; a GPU that this process has lost, but not
    one whose memory did not suffice.
    """
    if isinstance(error, StoreError):
        return True
    if isinstance(error, OSError):
        return error.errno in _MACHINE
    return isinstance(error, RuntimeError) and _lost_device(error)


def _lost_device(error: RuntimeError) -> bool:
    """Whether no call to the GPU succeeds in this process any more: one may in a new one."""
    import torch

    if isinstance(error, torch.AcceleratorError):
        return True
    if isinstance(error, torch.OutOfMemoryError) or not torch.cuda.is_initialized():
        return False
    try:
        # The libraries of CUDA say it in words of their own.
        torch.cuda.synchronize()
    except torch.AcceleratorError:
        return True
    return False


def reason_of(error: Exception) -> str:
    """What happened, in one line; our own errors say it themselves, others by their kind, too."""
    text = " ".join(str(error).split())
    if text and isinstance(error, ArithmeticError | ValueError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def clause_of(error: Exception) -> str:
    """What happened, within a sentence of ours: `reason_of` without its full stop."""
    return reason_of(error).rstrip(".")
