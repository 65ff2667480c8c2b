"""The group of workers, without a study."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from plinio_sweep.engine.local import Workers

Heard = list[Mapping[str, Any]]


def write_interpreter(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has workers do what `script` says, in place of Python."""
    interpreter = folder / "interpreter"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    return interpreter


def run_group(
    folder: Path, script: str, monkeypatch: pytest.MonkeyPatch, workers: int = 1
) -> tuple[Workers, Heard]:
    """Runs workers that do what `script` says, in place of Python."""
    write_interpreter(folder, script, monkeypatch)
    heard: Heard = []
    group = Workers(
        folder / "study.py", workers, [], folder, lambda worker, event: heard.append(event)
    )
    group.run()
    return group, heard


def test_events_are_heard_and_half_a_line_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """echo '{"event": "start", "trial": 0}'; echo '{"event": "comp'"""
    group, heard = run_group(tmp_path, script, monkeypatch, workers=2)
    assert heard == [{"event": "start", "trial": 0}] * 2
    assert group.errors == []


def test_a_worker_that_keeps_dying_is_given_up_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "echo out of memory >&2; kill -KILL $$"
    group, heard = run_group(tmp_path, script, monkeypatch)
    assert [event["text"] for event in heard] == [
        "worker 0 ended by SIGKILL and is started again"
    ] * 2
    assert group.errors == [
        f"A worker must not die 3 times in a row, but worker 0 did: it ended by SIGKILL; its log "
        f"is {tmp_path / 'worker-0.log'}."
    ]
    assert (tmp_path / "worker-0.log").read_text() == "out of memory\n" * 3


def test_a_worker_that_gets_somewhere_may_die_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dies at its first four starts, each time after a trial; then there is nothing left to do.
    script = f"""echo x >> {tmp_path}/starts
[ $(wc -l < {tmp_path}/starts) -gt 4 ] && exit 0
echo '{{"event": "complete", "trial": 0}}'
exit 1"""
    group, heard = run_group(tmp_path, script, monkeypatch)
    assert [event["event"] for event in heard] == ["complete", "warning"] * 4
    assert group.errors == []


def test_wrong_use_is_not_tried_again_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """echo '{"event": "error", "text": "The net must be a net."}'; exit 2"""
    group, heard = run_group(tmp_path, script, monkeypatch, workers=2)
    assert [event["event"] for event in heard] == ["error", "error"]
    assert group.errors == ["The net must be a net."]


def test_a_worker_that_was_asked_to_stop_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, heard = run_group(tmp_path, "exit 3", monkeypatch)
    assert (heard, group.errors, group.stopped) == ([], [], True)


def test_workers_are_numbered_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """echo said >&2; echo "{\\"device\\": \\"$PLINIO_SWEEP_DEVICE\\"}\""""
    interpreter = write_interpreter(tmp_path, script, monkeypatch)
    heard: list[tuple[int, Mapping[str, Any]]] = []
    group = Workers(
        interpreter, 1, [], tmp_path, lambda *event: heard.append(event), devices=("b",), first=3
    )
    group.run()
    assert heard == [(3, {"device": "b"})]
    assert (tmp_path / "worker-3.log").read_text() == "said\n"


def test_a_worker_that_is_terminated_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """echo '{"event": "start"}'; exec sleep 60"""
    interpreter = write_interpreter(tmp_path, script, monkeypatch)
    heard: Heard = []

    def hear(worker: int, event: Mapping[str, Any]) -> None:
        heard.append(event)
        group.terminate()

    group = Workers(interpreter, 1, [], tmp_path, hear)
    group.run()
    assert heard == [{"event": "start"}]
    assert group.stopped
    assert group.errors == []


STEPS = """
import json, resource, torch

def step():
    return [torch.zeros(2**20) for _ in range(40)]  # 4 MiB each

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(json.dumps({"faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are glibc's")
def test_memory_that_a_step_frees_stays_with_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")  # large pages hang on what the system has free
    (tmp_path / "steps.py").write_text(STEPS)
    script = f"exec {sys.executable} {tmp_path / 'steps.py'}"
    group, heard = run_group(tmp_path, script, monkeypatch)
    assert group.errors == []
    (told,) = heard
    # 5 steps of 40 tensors: 51,200 pages of 4 KiB, were each of them cleared anew.
    assert told["faults"] < 10_240


@pytest.mark.parametrize(("said", "expected"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_products_on_a_gpu_are_repeatable_unless_the_user_says_otherwise(
    said: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if said is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", said)
    script = """echo '{"workspace": "'$CUBLAS_WORKSPACE_CONFIG'"}'"""
    assert run_group(tmp_path, script, monkeypatch)[1] == [{"workspace": expected}]


def test_what_the_user_says_of_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    script = """echo '{"pages": "'$THP_MEM_ALLOC_ENABLE'", "free": "'$MALLOC_TRIM_THRESHOLD_'"}'"""
    _, heard = run_group(tmp_path, script, monkeypatch)
    assert heard == [{"pages": "0", "free": str(2**32)}]
