"""A study that is killed at random comes to what it would have come to: the promise as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from plinio_sweep.settings import Settings
from plinio_sweep.store.leases import TABLE
from plinio_sweep.sweep.result import StudyRecord
from tests.postgres import restart, started_server, url_of
from tests.sweep.bench import make_worker, outcome
from tests.sweep.chaos import Killer, study

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[Any]:
    """A database server of our own, to be taken down."""
    with started_server() as server:
        yield server


def undisturbed(folder: Path, target: int) -> StudyRecord:
    worker = make_worker(Settings(folder=folder, tracking="none"), study, target=target)
    worker.work()
    return worker.record()


def ordered(record: StudyRecord) -> list[Any]:
    """What the trials came to, whichever was first."""
    return sorted((outcome(trial) for trial in record.trials), key=repr)


def check(killer: Killer, target: int) -> None:
    record = killer.record()
    assert Counter(trial.state for trial in record.trials) == {"complete": target}, odd(killer)
    assert ordered(record) == ordered(undisturbed(killer.folder / "undisturbed", target))
    made = Counter((killer.folder / "made.txt").read_text().split())
    assert made.most_common(1)[0][1] == 1
    with sqlalchemy.create_engine(killer.storage).connect() as connection:
        assert connection.execute(TABLE.select()).all() == []
    for log in killer.folder.glob("*.log"):
        assert "Traceback" not in log.read_text()


def odd(killer: Killer) -> list[Any]:
    """All of the trials that share a turn with none that is complete, or with more than one."""
    url = {"study_name": study.name, "storage": killer.storage}
    trials = optuna.load_study(**url).get_trials(deepcopy=False)
    turns = Counter(t.user_attrs.get("uid") for t in trials if t.state == TrialState.COMPLETE)
    found = [trial for trial in trials if turns[trial.user_attrs.get("uid")] != 1]
    return [(t.number, t.state.name, t.datetime_complete, t.user_attrs) for t in found]


def killer_on(server: Any, folder: Path, **changes: Any) -> Killer:
    again = partial(restart, server)
    return Killer(folder=folder, storage=url_of(server), restart=again, **changes)


def test_a_study_under_a_killer_comes_to_what_it_would_have(server: Any, tmp_path: Path) -> None:
    killer = killer_on(server, tmp_path, target=60)
    killer.run()
    check(killer, 60)
    assert killer.done["kill"] >= 3 and killer.done["restart"] >= 1
    lost = sum(len(trial.losses) for trial in killer.record().trials)
    assert lost >= 3


@pytest.mark.long
def test_a_thousand_kills(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killer = killer_on(server, tmp_path, target=0, every=2, restarts=(100, 400, 700, 1000))
    while killer.kills < 1000:
        killer.target += 100
        killer.run()
        with capsys.disabled():
            print(f"\n{killer.target} trials, {dict(killer.done)}", end="", flush=True)
    check(killer, killer.target)
