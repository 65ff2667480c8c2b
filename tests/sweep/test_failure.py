from __future__ import annotations

import errno

import pytest
import torch

from plinio_sweep.sweep.failure import StoreError, clause_of, hits_all, reason_of
from plinio_sweep.train.loop import DivergedError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("a sentence."), "a sentence."),
        (DivergedError("the loss\n is nan"), "the loss is nan"),
        (KeyError("label"), "KeyError: 'label'"),
        (RuntimeError("out of\n  memory"), "RuntimeError: out of memory"),
        (RuntimeError(), "RuntimeError"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_reason_is_one_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_within_another_sentence_it_has_no_full_stop() -> None:
    assert clause_of(ValueError("a sentence.")) == "a sentence"
    assert clause_of(KeyError("label")) == "KeyError: 'label'"


@pytest.mark.parametrize(
    ("error", "all_trials"),
    [
        (OSError(errno.ENOSPC, "no space"), True),
        (PermissionError(errno.EACCES, "no right"), True),
        (FileNotFoundError(errno.ENOENT, "none"), False),
        (OSError("of some library"), False),
        (ValueError("a sentence."), False),
        (StoreError("the store is away."), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), False),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_a_full_disk_or_a_lost_gpu_hits_every_trial_and_a_missing_file_does_not(
    error: Exception, all_trials: bool
) -> None:
    assert hits_all(error) is all_trials


@pytest.mark.parametrize("lost", [True, False])
def test_a_library_of_a_gpu_does_not_say_whether_it_is_lost(
    lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize() -> None:
        if lost:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert hits_all(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")) is lost
    assert not hits_all(torch.OutOfMemoryError("CUDA out of memory."))
