"""A worker whose MLflow server is away, or never answers: it trains, and all is told later."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from plinio_sweep.engine.track import left_over, open_relay
from plinio_sweep.settings import Settings
from plinio_sweep.store import relay, tracking
from plinio_sweep.sweep.drive import Worker
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.view.front import front, shown
from tests.messages import is_sentence
from tests.studies import tiny
from tests.sweep.bench import finish, make_worker, start
from tests.terminal import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not tracking.available(), reason="needs mlflow"),
]


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """MLflow's own server, with a database of its own."""
    folder.mkdir(exist_ok=True)
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    words += ["--artifacts-destination", str(folder / "artifacts")]
    # It starts uvicorn by its bare name, which a virtual environment has beside its Python.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        env={**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=folder,
    )

    def answers() -> bool:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                return True
        except (URLError, ConnectionError):
            return False

    try:
        wait_for(answers, 300.0)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


def work(settings: Settings, target: int, warned: list[str], sweep: Sweep = tiny.sweep) -> Worker:
    """What a worker does, to the test data and the last note."""
    worker = make_worker(settings, sweep, target=target)
    worker.study.set_user_attr("target", target)
    worker.tracker = told = open_relay(worker, warned.append)
    assert told is not None
    worker.work()
    worker.keep(shown(worker.record()))
    worker.test(shown(worker.record()))
    told.close()
    return worker


def work_to_the_end(settings: Settings, target: int, sweep: Sweep) -> None:
    warned: list[str] = []
    work(settings, target, warned, sweep)
    assert warned == []


def hand_on(settings: Settings) -> None:
    warned: list[str] = []
    told = open_relay(make_worker(settings, target=2), warned.append)
    assert told is not None
    told.close()
    assert warned == []


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study that was done while its server was down, which has come up since."""

    settings: Settings
    worker: Worker
    warned: list[str]
    waits: str
    begin: float
    end: float


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    folder, port = tmp_path_factory.mktemp("down"), free_port()
    settings = Settings(
        folder=folder / "study", tracking=f"http://127.0.0.1:{port}", system_metrics=True
    )
    warned: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in tracking.PATIENCE:  # the tracker sets them for its process
            patch.setenv(name, "60" if "TIMEOUT" in name else "0")
        begin = time.time()
        worker = work(settings, 2, warned)
        end = time.time()
        known = {"warned": list(warned), "waits": left_over(settings), "begin": begin, "end": end}
        with server(folder / "server", port):
            yield Study(settings=settings, worker=worker, **known)


def test_a_study_whose_server_is_down_is_done_and_says_what_waits(study: Study) -> None:
    assert study.worker.record().count("complete") == 2
    assert [text.partition(",")[0] for text in study.warned] == ["MLflow is away"]
    assert "notes for it wait in" in study.waits
    assert is_sentence(ValueError(f"{study.waits}."))


def test_a_server_that_was_down_during_the_study_has_all_of_it_later(study: Study) -> None:
    # Several at once: one hands on what waits, and none of them begins a second study.
    workers = [start(hand_on, study.settings) for _ in range(3)]
    assert finish(*workers, patience=300) == [0, 0, 0]
    assert left_over(study.settings) == ""
    assert not (study.settings.outbox / "refused").exists()
    runs, models, files = read(study.settings)
    record = study.worker.record()
    assert sorted(run.info.run_name for run in runs) == sorted(
        ["study tiny"]
        + [f"trial {number}" for number in range(2)]
        + [
            f"trial {number}: {stage}"
            for number in range(2)
            for stage in ("warmup", "pit.search", "pit.finetune")
        ]
    )
    for run in runs:
        assert run.info.status == "FINISHED"
        if run.info.run_name != "study tiny":  # told of once more by those who came later
            assert 1000 * study.begin - 1 <= run.info.start_time <= run.info.end_time
            assert run.info.end_time <= 1000 * study.end + 1
    trials = {run.info.run_name: run for run in runs if run.data.tags["level"] == "trial"}
    for trial in record.trials:
        metrics = trials[f"trial {trial.number}"].data.metrics
        assert metrics["size_bytes"] == trial.costs["size_bytes"]
        assert metrics["system/memory_usage_megabytes"] > 0
    kept = {trials[f"trial {trial.number}"].info.run_id for trial in front(record)}
    assert sorted(model.source_run_id for model in models) == sorted(kept)
    assert files == {"architecture.json", "report.json", "history.json"}


def read(settings: Settings, name: str = "tiny") -> tuple[list[Any], list[Any], set[str]]:
    """All runs and models, and the files of the first trial."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=settings.tracking)
    experiment = client.get_experiment_by_name(name).experiment_id
    runs = list(client.search_runs([experiment]))
    trial = next(run for run in runs if run.info.run_name == "trial 0")
    files = {file.path for file in client.list_artifacts(trial.info.run_id)}
    return runs, list(client.search_logged_models([experiment])), files


def test_a_server_that_never_answers_is_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(relay, "FIRST_PAUSE", 1e6)
    monkeypatch.setattr(relay, "LONGEST_PAUSE", 1e6)
    asked: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    asked.append(silent.accept())

        threading.Thread(target=accept, daemon=True).start()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        warned: list[str] = []
        record = work(Settings(folder=tmp_path, tracking=address), 2, warned).record()
        silent.shutdown(socket.SHUT_RDWR)
    for connection, _ in asked:
        connection.close()
    assert record.count("complete") == 2
    assert len(warned) == 1
    assert warned[0].startswith("MLflow is away, what it should hear waits in ")
    assert len(asked) == 2  # by the first note, and at the end


def test_workers_of_one_server_share_one_run_of_the_study(study: Study, tmp_path: Path) -> None:
    settings = replace(study.settings, folder=tmp_path)
    other = replace(tiny.sweep, name="shared")
    workers = [start(work_to_the_end, settings, 3, other) for _ in range(3)]
    assert finish(*workers, patience=300) == [0] * 3
    runs, _, _ = read(settings, "shared")
    levels = sorted(run.data.tags["level"] for run in runs)
    assert levels == ["stage"] * 9 + ["study"] + ["trial"] * 3
    assert {run.info.status for run in runs} == {"FINISHED"}
