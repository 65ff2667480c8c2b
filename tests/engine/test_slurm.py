"""Workers as jobs: through the executor of submitit that needs no Slurm."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plinio_sweep.plugin import load_study
from plinio_sweep.settings import Settings, load_settings
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.reading import read_study
from tests.conftest import Finished
from tests.engine import interrupted
from tests.engine.interrupted import Interrupted
from tests.messages import is_sentence
from tests.terminal import (
    NAME,
    arguments,
    children,
    refusal,
    started,
    wait_for,
    write_study,
)

pytest.importorskip("submitit")

LOCAL = ('cluster = "local"',)
SERVER = "postgresql+psycopg://ada:s3cret@host/sweeps"


@pytest.fixture(scope="module")
def preempted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder = tmp_path_factory.mktemp("preempted")
    write_study(folder)
    interrupted.write_table(folder, "slurm", *LOCAL)

    def preempt(jobs: list[int]) -> None:
        """So Slurm says that another job needs the machine: to all processes of a job at once."""
        for pid in (jobs[0], *children(jobs[:1])):
            os.kill(pid, signal.SIGUSR2)

    return interrupted.interrupt(
        folder,
        "slurm",
        stop=signal.SIGTERM,  # as clusters end what they started
        disturb=preempt,
        variables={"BARS_PAUSE": "0.05"},
    )


@pytest.mark.slow
def test_a_run_that_is_ended_cancels_its_jobs_which_put_their_trials_back(
    preempted: Interrupted,
) -> None:
    interrupted.check_stopped(preempted, "slurm")


@pytest.mark.slow
def test_a_job_that_is_queued_again_goes_on(preempted: Interrupted) -> None:
    interrupted.check_ended(preempted)
    assert "its worker died" not in preempted.said_in_the_end
    logs = preempted.folder / ".plinio-sweep" / "logs"
    told = [path.read_text() for path in (logs / "slurm").glob("*_log.out")]
    assert sum("Requeued job" in text for text in told) == 1
    assert {path.name for path in logs.glob("*.log")} == {"worker-0.log", "worker-1.log"}


@pytest.mark.slow
def test_jobs_come_to_what_undisturbed_workers_come_to(
    preempted: Interrupted, finished: Finished
) -> None:
    interrupted.check_values(preempted, finished)


@pytest.mark.slow
def test_progress_is_read_from_the_database(preempted: Interrupted) -> None:
    record = read_study(preempted.folder / NAME, load_settings(preempted.folder / NAME))
    said = preempted.said + preempted.said_in_the_end
    for trial in record.trials:
        assert said.count(f"trial {trial.number} complete: {trial.values}") == 1


@pytest.mark.slow
def test_a_password_is_in_no_process_list_and_no_file(
    tmp_path: Path, postgresql: Callable[[], str]
) -> None:
    study = write_study(tmp_path)
    interrupted.write_table(tmp_path, "slurm", *LOCAL)
    url = postgresql().replace("postgres:@", "postgres:s3cret@")
    assert "s3cret" in url
    words = ("run", NAME, "--engine", "slurm", "--trials", "1")
    with started(tmp_path, *words, PLINIO_SWEEP_STORAGE=url) as running:
        seen: list[str] = []

        def ended() -> bool:
            seen.extend(arguments())
            time.sleep(0.3)
            return running.process.poll() is not None

        wait_for(ended)
        code, stdout, stderr = running.end()
    assert (code, stderr) == (0, ""), stdout
    assert any("plinio_sweep.engine.worker" in line for line in seen)
    assert not any("s3cret" in line for line in seen)
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.suffix == ".pkl" for path in written)
    assert not [path for path, content in written.items() if b"s3cret" in content]
    settings = Settings(folder=tmp_path / ".plinio-sweep", storage=url)
    states = [trial.state.name for trial in open_study(load_study(study), settings).get_trials()]
    assert states == ["COMPLETE"]


# -- what is refused -----------------------------------------------------------------------------


def test_without_submitit_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    text = refusal("run", write_study(tmp_path), "--engine", "slurm")
    assert "pip install 'plinio-sweep[slurm]'" in text
    assert is_sentence(text)
    assert not (tmp_path / ".plinio-sweep").exists()


def test_a_database_in_a_file_is_refused(tmp_path: Path) -> None:
    text = refusal("run", write_study(tmp_path), "--engine", "slurm")
    assert "must have a database that all machines reach, but `storage` is sqlite:///" in text
    assert is_sentence(text)
    assert not (tmp_path / ".plinio-sweep").exists()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        pytest.param([], "Could not detect", id="no Slurm here"),
        pytest.param([*LOCAL, 'slurm_partitoin = "gpu"'], "'slurm_partitoin'", id="unknown name"),
        pytest.param([*LOCAL, 'timeout_min = "1 day"'], '"timeout_min" expected', id="type"),
        pytest.param(['cluster = "slrm"'], "any executor named slrm", id="unknown cluster"),
    ],
)
def test_a_table_that_submitit_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], words: str
) -> None:
    monkeypatch.setenv("PLINIO_SWEEP_STORAGE", SERVER)
    monkeypatch.setenv("PATH", str(tmp_path))
    interrupted.write_table(tmp_path, "slurm", *lines)
    text = refusal("run", write_study(tmp_path), "--engine", "slurm")
    assert text.startswith("`[slurm]` must hold what submitit's update_parameters takes here")
    assert words in text
    assert "s3cret" not in text
    assert is_sentence(text)
