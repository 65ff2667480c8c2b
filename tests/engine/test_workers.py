"""Workers as processes: interrupted, killed, orphaned, and what is left of the study then.

One study meets every accident in turn, because a process takes seconds to start; each test looks
at one of them.
"""

from __future__ import annotations

import json
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import safetensors.torch

from plinio_sweep.engine.local import GRACE
from tests.terminal import NAME, alive, kill, started, states, wait_for, write_study

pytestmark = pytest.mark.slow
SLOW = {"BARS_PAUSE": "0.1"}  # [s] a step: two seconds a trial
TRIALS = 6
RUN = ("run", NAME, "--trials", str(TRIALS), "--workers", "2")


@dataclass(frozen=True, kw_only=True)
class Accident:
    """What a run came to."""

    code: int
    stdout: str
    stderr: str
    workers: int  # before
    survivors: int  # processes of the run that outlived the accident
    left: Counter[str]  # states of the trials after it


@dataclass(frozen=True, kw_only=True)
class Battered:
    """A study after all its accidents, in their order."""

    folder: Path
    interrupted: Accident  # Ctrl-C
    killed: Accident  # all processes at once
    orphaned: Accident  # the parent alone
    finished: Accident  # one worker alone; the run goes on to its end


@pytest.fixture(scope="module")
def battered(tmp_path_factory: pytest.TempPathFactory) -> Battered:
    folder = tmp_path_factory.mktemp("battered")
    write_study(folder)
    return Battered(
        folder=folder,
        interrupted=interrupt(folder),
        killed=kill_all(folder),
        orphaned=kill_parent(folder),
        finished=kill_worker(folder),
    )


def interrupt(folder: Path) -> Accident:
    with started(folder, *RUN, **SLOW) as running:
        workers = running.wait_until_busy(2, complete=1)
        running.process.send_signal(signal.SIGINT)
        # No sooner than workers are allowed to take for it.
        code, stdout, stderr = running.end(seconds=GRACE + 10)
        return Accident(
            code=code,
            stdout=stdout,
            stderr=stderr,
            workers=len(workers),
            survivors=len(alive(workers)),
            left=states(folder),
        )


def kill_all(folder: Path) -> Accident:
    with started(folder, *RUN, **SLOW) as running:
        workers = running.wait_until_busy(2)
        kill([running.process.pid, *workers])
        code, stdout, stderr = running.end()
        wait_for(lambda: not alive(workers))
        return Accident(
            code=code,
            stdout=stdout,
            stderr=stderr,
            workers=len(workers),
            survivors=0,
            left=states(folder),
        )


def kill_parent(folder: Path) -> Accident:
    with started(folder, *RUN, **SLOW) as running:
        workers = running.wait_until_busy(2)
        kill([running.process.pid])
        code, stdout, stderr = running.end()
        wait_for(lambda: not alive(workers), seconds=30)
        return Accident(
            code=code,
            stdout=stdout,
            stderr=stderr,
            workers=len(workers),
            survivors=0,
            left=states(folder),
        )


def kill_worker(folder: Path) -> Accident:
    with started(folder, *RUN, **SLOW) as running:
        victim, other = running.wait_until_busy(2)
        kill([victim])
        wait_for(lambda: not alive([victim]))
        survivors = len(alive([other, running.process.pid]))
        code, stdout, stderr = running.end()
        return Accident(
            code=code,
            stdout=stdout,
            stderr=stderr,
            workers=2,
            survivors=survivors,
            left=states(folder),
        )


def test_ctrl_c_ends_a_run_soon_and_tells_how_to_go_on(battered: Battered) -> None:
    run = battered.interrupted
    assert (run.code, run.stderr) == (130, "")
    assert run.stdout.endswith(f"continue with: plinio-sweep {' '.join(RUN)}\n")
    assert f" of {TRIALS} trials complete, 0 failed" in run.stdout
    assert (run.workers, run.survivors) == (2, 0)


def test_ctrl_c_puts_trials_back_into_the_queue(battered: Battered) -> None:
    left = battered.interrupted.left
    assert left["COMPLETE"] >= 1
    assert left["WAITING"] >= 1
    assert left["RUNNING"] == 0


def test_a_kill_of_everything_leaves_trials_to_the_next_run(battered: Battered) -> None:
    assert battered.killed.code == -signal.SIGKILL
    left = battered.killed.left["RUNNING"]  # nobody lived to say otherwise
    assert left in (1, 2)
    assert battered.orphaned.stdout.count(" is taken up again: ") == left


def test_workers_without_their_parent_put_their_trials_back_and_end(battered: Battered) -> None:
    assert battered.orphaned.code == -signal.SIGKILL
    assert battered.orphaned.left["RUNNING"] == 0
    assert battered.orphaned.left["WAITING"] >= 1


def test_a_worker_that_is_killed_is_replaced_while_the_run_goes_on(battered: Battered) -> None:
    run = battered.finished
    assert (run.code, run.stderr) == (0, "")
    assert run.survivors == 2
    assert "ended by SIGKILL and is started again" in run.stdout
    assert run.stdout.count("is taken up again: its worker died") == 1
    assert f"{TRIALS} of {TRIALS} trials complete, 0 failed" in run.stdout


def test_after_all_of_it_every_trial_is_there_once(battered: Battered) -> None:
    database = battered.folder / ".plinio-sweep" / "study.db"
    assert set(battered.finished.left) == {"COMPLETE", "FAIL"}
    study = optuna.load_study(study_name="bars", storage=f"sqlite:///{database}")
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(complete) == TRIALS
    assert len({trial.user_attrs["uid"] for trial in complete}) == TRIALS
    assert len({trial.params["pit.strength"] for trial in complete}) == TRIALS
    taken_up = study.get_trials(states=(optuna.trial.TrialState.FAIL,))
    assert all("lost" in trial.user_attrs for trial in taken_up)


def test_after_all_of_it_the_database_is_sound(battered: Battered) -> None:
    database = battered.folder / ".plinio-sweep" / "study.db"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]


def test_after_all_of_it_every_artefact_is_whole(battered: Battered) -> None:
    folders = list((battered.folder / ".plinio-sweep" / "artifacts").glob("[!.]*"))
    # Of each trial, and of the seed net, three: trained, fine-tuned, evaluated; and the warm-up.
    assert len(folders) == 3 * (TRIALS + 1) + 1
    for folder in folders:
        assert safetensors.torch.load_file(folder / "model.safetensors")
        for path in folder.glob("*.json"):
            assert json.loads(path.read_text(encoding="utf-8"))
