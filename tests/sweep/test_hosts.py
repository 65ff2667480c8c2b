"""Two machines with one database and one store of artefacts, and nothing else in common."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.result import TrialRecord
from plinio_sweep.sweep.stage import Store
from tests.s3 import Server
from tests.sweep.bench import CONTEXT, finish, make_worker, start, work_on_host
from tests.sweep.test_processes import events, remaining

pytestmark = pytest.mark.slow

TIME_TO_LIVE = 2.0  # [s]
STEPS = 4  # of the search, whose epochs have three


class Host:
    """A machine at work until it is through with its trial, or killed after some steps of it."""

    def __init__(self, settings: Settings, server: Server, steps: int | None = None) -> None:
        self.told, self.steps = CONTEXT.Manager().Queue(), steps
        environment = dict(server.environment)
        self.process = start(work_on_host, settings, environment, TIME_TO_LIVE, self.told, steps)

    def end(self) -> list[Mapping[str, Any]]:
        """All that it said."""
        assert finish(self.process) == [0 if self.steps is None else -signal.SIGKILL]
        return events(self.told)


def epochs(told: Any) -> list[tuple[str, int]]:
    return [(event["phase"], event["epoch"]) for event in told if event["event"] == "epoch"]


def came_to(store: Store, trial: TrialRecord) -> tuple[Any, bytes]:
    """All that a trial is, but for how long it took and what was there before."""
    folder = store.find(trial.artifact)
    assert folder is not None
    result = json.loads((folder / "result.json").read_text())
    for name in ("seconds", "reused_epochs", "phases"):
        del result[name]
    return [trial.values, trial.params, result], (folder / "model.safetensors").read_bytes()


def test_a_trial_begun_on_one_machine_is_finished_on_another(
    postgresql: Callable[[], str], s3: Server, tmp_path: Path
) -> None:
    common = {"storage": postgresql(), "artifacts": s3.bucket(), "tracking": "none"}
    first, second, third = (
        Settings(folder=tmp_path / name, checkpoint=0.0, **common) for name in "abc"
    )
    alone = Settings(folder=tmp_path / "alone", tracking="none")
    undisturbed = Host(alone, s3)
    begun = Host(first, s3, STEPS).end()
    watcher = make_worker(third)
    (trial,) = watcher.study.get_trials()
    assert trial.state.name == "RUNNING"
    while (left := remaining(watcher, 0)) is None or left >= 0:  # it can't be seen to have died
        time.sleep(0.1)
    ended = Host(second, s3).end()
    assert [e["reason"] for e in ended if e["event"] == "lost"] == ["its worker fell silent"]
    assert not [event for event in (*begun, *ended) if event["event"] == "warning"]

    # The first epoch of the search is not trained again, and no other either.
    assert ("pit.search", 1) in epochs(begun) and ("pit.search", 2) in epochs(ended)
    assert epochs(begun) + epochs(ended) == epochs(undisturbed.end())

    (found,) = watcher.record().trials
    assert (found.state, list(found.losses)) == ("complete", [0])
    (expected,) = make_worker(alone).record().trials
    # What the third machine reads, which trained nothing, is bit for bit what was never cut.
    assert came_to(watcher.store, found) == came_to(open_store(alone), expected)
