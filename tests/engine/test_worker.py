"""What a worker says, and how it hears that nobody listens."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from plinio_sweep.engine.worker import Events, _work
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import Fill, FolderStore, Seal
from plinio_sweep.sweep.drive import Worker
from plinio_sweep.sweep.failure import StoppedError
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.storage import StorageError
from tests.terminal import write_study


class Pipe:
    """What writes events, and the end from which they are read."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.stream = os.fdopen(writer, "w", encoding="utf-8")
        self.events = Events(self.stream)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    with suppress(BrokenPipeError):  # closing writes what could not be written before
        pipe.stream.close()


def test_a_worker_stops_before_its_next_word_when_nobody_listens(pipe: Pipe) -> None:
    assert not pipe.events.stopping()
    os.close(pipe.reader)
    assert pipe.events.stopping()


def test_a_word_that_nobody_hears_is_no_error(pipe: Pipe) -> None:
    os.close(pipe.reader)
    pipe.events.say({"event": "epoch"})
    assert pipe.events.stopping()


def test_an_event_is_a_line_of_json(pipe: Pipe) -> None:
    pipe.events.say({"event": "failed", "reason": "two\nlines"})
    with os.fdopen(pipe.reader, encoding="utf-8") as lines:
        assert json.loads(lines.readline()) == {"event": "failed", "reason": "two\nlines"}
        assert not pipe.events.stopping()


class FullStore(FolderStore):
    """A folder on a full disk."""

    def write(self, key: str, fill: Fill, sealed: Seal = nullcontext) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(self.root))


def test_a_trial_waits_for_space_however_often_it_is_tried(tmp_path: Path) -> None:
    sweep, settings = load_study(write_study(tmp_path)), Settings(folder=tmp_path / "folder")

    def worker(store: type[FolderStore], target: int) -> Worker:
        study = open_study(sweep, settings)
        return Worker(
            sweep=sweep,
            settings=settings,
            store=store(settings.folder / "artifacts"),
            study=study,
            target=target,
        )

    worker(FolderStore, 1).work()
    for _ in range(4):
        with pytest.raises(StorageError, match="No space left on device"):
            worker(FullStore, 2).work()
    last = worker(FolderStore, 2)
    last.work()
    trials: list[Any] = list(last.record().trials)
    assert [trial.state for trial in trials] == ["complete", "complete"]
    assert len(trials[1].losses) == 4


@pytest.mark.parametrize(("device", "asked"), [("cpu", []), ("cuda:97", [True])])
def test_a_worker_asks_a_gpu_alone_to_be_repeatable(
    device: str, asked: list[bool], tmp_path: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []

    def stop(*_: Any, **__: Any) -> None:
        raise StoppedError

    monkeypatch.setattr("plinio_sweep.sweep.opening.open_study", stop)
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda on, *, warn_only: found.append(on)
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setenv("PLINIO_SWEEP_DEVICE", device)
    with pytest.raises(StoppedError):
        _work(
            pipe.events,
            write_study(tmp_path),
            trials=1,
            threads=1,
            finish=False,
            points=None,
            baselines=(),
            confirm=0,
            test=False,
            accept_drift=False,
        )
    assert found == asked
