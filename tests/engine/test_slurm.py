"""Workers as jobs: through the executor of submitit that needs no Slurm."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from plinio_sweep.plugin import load_study
from plinio_sweep.settings import Settings, load_settings
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.reading import read_study
from tests.conftest import Finished
from tests.messages import is_sentence
from tests.terminal import (
    NAME,
    arguments,
    children,
    refusal,
    started,
    states,
    values_of,
    wait_for,
    without,
    write_study,
)

pytest.importorskip("submitit")

RUN = ("run", NAME, "--engine", "slurm", "--workers", "2")
LOCAL = ('cluster = "local"',)
SERVER = "postgresql+psycopg://ada:s3cret@host/sweeps"


def write_table(folder: Path, *lines: str) -> None:
    """The settings of a study in `folder`."""
    (folder / "plinio-sweep.toml").write_text("\n".join(["[slurm]", *lines, ""]), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Preempted:
    """A study that was stopped, and whose worker lost its machine when it went on."""

    folder: Path
    code: int  # of the command that was stopped
    said: str
    left: Counter[str]  # states of the trials after it
    code_in_the_end: int
    said_in_the_end: str


@pytest.fixture(scope="module")
def preempted(tmp_path_factory: pytest.TempPathFactory) -> Preempted:
    folder = tmp_path_factory.mktemp("preempted")
    write_study(folder)
    write_table(folder, *LOCAL)
    lean = without(folder / "lean", "optuna_dashboard")
    with started(folder, *RUN, BARS_PAUSE="0.1", **lean) as running:
        running.wait_until_busy(2)
        running.process.send_signal(signal.SIGTERM)  # as clusters end what they started
        code, said, _ = running.end(seconds=40)
    # A cluster waits for jobs to end; what plays one here may have been quicker.
    wait_for(lambda: not states(folder)["RUNNING"])
    left = states(folder)
    with started(folder, *RUN, BARS_PAUSE="0.05", **lean) as running:
        jobs = children(running.wait_until_busy(2))
        # So Slurm says that another job needs the machine: to all processes at once.
        for pid in (jobs[0], *children(jobs[:1])):
            os.kill(pid, signal.SIGUSR2)
        code_in_the_end, said_in_the_end, _ = running.end()
    return Preempted(
        folder=folder,
        code=code,
        said=said,
        left=left,
        code_in_the_end=code_in_the_end,
        said_in_the_end=said_in_the_end,
    )


@pytest.mark.slow
def test_a_run_that_is_ended_cancels_its_jobs_which_put_their_trials_back(
    preempted: Preempted,
) -> None:
    assert preempted.code == 130
    assert "each worker puts its trial back" in preempted.said
    again = f"continue with: plinio-sweep run {NAME} --workers 2 --engine slurm\n"
    assert preempted.said.endswith(again)
    assert preempted.left["WAITING"] >= 1


@pytest.mark.slow
def test_a_job_that_is_queued_again_goes_on(preempted: Preempted) -> None:
    assert preempted.code_in_the_end == 0, preempted.said_in_the_end
    assert "4 of 4 trials complete, 0 failed" in preempted.said_in_the_end
    assert "its worker died" not in preempted.said_in_the_end
    logs = preempted.folder / ".plinio-sweep" / "logs"
    told = [path.read_text() for path in (logs / "slurm").glob("*_log.out")]
    assert sum("Requeued job" in text for text in told) == 1
    assert {path.name for path in logs.glob("*.log")} == {"worker-0.log", "worker-1.log"}


@pytest.mark.slow
def test_jobs_come_to_what_undisturbed_workers_come_to(
    preempted: Preempted, finished: Finished
) -> None:
    found = values_of(preempted.folder)
    assert len(found) == 4
    assert found == values_of(finished.folder)


@pytest.mark.slow
def test_progress_is_read_from_the_database(preempted: Preempted) -> None:
    record = read_study(preempted.folder / NAME, load_settings(preempted.folder / NAME))
    said = preempted.said + preempted.said_in_the_end
    for trial in record.trials:
        assert said.count(f"trial {trial.number} complete: {trial.values}") == 1


@pytest.mark.slow
def test_a_password_is_in_no_process_list_and_no_file(
    tmp_path: Path, postgresql: Callable[[], str]
) -> None:
    study = write_study(tmp_path)
    write_table(tmp_path, *LOCAL)
    url = postgresql().replace("postgres:@", "postgres:s3cret@")
    assert "s3cret" in url
    lean = without(tmp_path / "lean", "optuna_dashboard")
    words = ("run", NAME, "--engine", "slurm", "--trials", "1")
    with started(tmp_path, *words, PLINIO_SWEEP_STORAGE=url, **lean) as running:
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
    write_table(tmp_path, *lines)
    text = refusal("run", write_study(tmp_path), "--engine", "slurm")
    assert text.startswith("`[slurm]` must hold what submitit's update_parameters takes here")
    assert words in text
    assert "s3cret" not in text
    assert is_sentence(text)
