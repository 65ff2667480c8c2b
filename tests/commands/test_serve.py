"""`plinio-sweep serve`: the dashboard as a process of its own."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote

import optuna
import pytest

from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.view.front import front
from plinio_sweep.view.panels.every import PANELS
from tests.conftest import Finished
from tests.messages import is_sentence
from tests.sweep.conftest import postgresql as postgresql
from tests.terminal import (
    NAME,
    WITH_DASHBOARD,
    Running,
    alive,
    arguments,
    children,
    refusal,
    run,
    sentence,
    started,
    wait_for,
    without,
    write_study,
)

pytest.importorskip("optuna_dashboard")

DATABASE = ".plinio-sweep/study.db"
TOKEN = "correct horse battery staple"


@pytest.fixture(scope="module")
def served(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(finished.copy(tmp_path_factory.mktemp("served"))) as served:
        yield served


@contextmanager
def serving(folder: Path, **extra: str) -> Iterator[Served]:
    with started(folder, "serve", NAME, "--port", "0", **WITH_DASHBOARD, **extra) as running:
        assert running.process.stdout is not None
        line = running.process.stdout.readline()
        found = re.fullmatch(r"study bars: (http://(.+):\d+) \(Ctrl-C ends it\)\n", line)
        assert found is not None, line
        yield Served(running, found[1], found[2])


class Served:
    """A dashboard that answers."""

    def __init__(self, running: Running, url: str, host: str) -> None:
        self.running, self.url, self.host = running, url, host

    def record(self) -> StudyRecord:
        path = self.running.folder / NAME
        return read_study(path, load_settings(path, {}))

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)


def test_it_listens_on_this_machine_alone(served: Served) -> None:
    assert served.host == "127.0.0.1"


def test_the_page_names_study_and_axes(served: Served) -> None:
    (summary,) = served.get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "bars"
    assert summary["directions"] == ["maximize", "minimize"]
    detail = served.get(f"/api/studies/{summary['study_id']}")
    assert detail["objective_names"] == ["accuracy", "size_bytes"]


def test_a_trial_has_its_note_and_its_files(served: Served) -> None:
    trials = served.get("/api/studies/1")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete"] * 4
    for trial in trials:
        assert "| method | strength |" in trial["note"]["body"]
        names = {file["filename"] for file in trial["artifacts"]}
        assert {"architecture.json", "report.json"} <= names


def test_a_trial_of_the_front_has_its_graph(served: Served) -> None:
    onnx = pytest.importorskip("onnx")
    trials = served.get("/api/studies/1")["trials"]
    graphs = {
        trial["number"]: f"/artifacts/1/{trial['trial_id']}/{file['artifact_id']}"
        for trial in trials
        for file in trial["artifacts"]
        if file["filename"] == "model.onnx"
    }
    assert set(graphs) == {trial.number for trial in front(served.record())}
    with urllib.request.urlopen(served.url + next(iter(graphs.values())), timeout=60) as answer:
        graph = onnx.load_from_string(answer.read())
    assert [value.name for value in graph.graph.output]


def test_the_study_shows_its_panels(served: Served) -> None:
    figures = served.get("/api/studies/1")["plotly_graph_objects"]
    drawn = {figure["id"]: json.loads(figure["graph_object"]) for figure in figures}
    assert tuple(drawn) == PANELS
    assert {"front", "seed (float)"} <= {trace.get("name") for trace in drawn["front"]["data"]}


@pytest.mark.slow
def test_a_study_on_a_database_server_has_the_same_page(
    postgresql: Callable[[], str], tmp_path: Path
) -> None:
    write_study(tmp_path)
    there = {"PLINIO_SWEEP_STORAGE": postgresql()}
    done = run(tmp_path, "run", NAME, "--trials", "2", **WITH_DASHBOARD, **there)
    assert done.returncode == 0, done.stderr
    with serving(tmp_path, **there) as served:
        wait_for(lambda: served.get("/api/studies/1")["plotly_graph_objects"])
        detail = served.get("/api/studies/1")
    assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Complete"]
    assert all("| method | strength |" in trial["note"]["body"] for trial in detail["trials"])
    figures = detail["plotly_graph_objects"]
    drawn = {figure["id"]: json.loads(figure["graph_object"]) for figure in figures}
    assert tuple(drawn) == PANELS
    assert all(any(len(t.get("x") or t.get("z") or ()) for t in f["data"]) for f in drawn.values())


def test_panels_follow_the_study(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path)
    study = optuna.load_study(study_name="bars", storage=f"sqlite:///{folder}/{DATABASE}")
    with started(folder, "serve", NAME, "--port", "0", **WITH_DASHBOARD) as running:
        assert running.process.stdout is not None
        found = re.search(r"http://\S+", running.process.stdout.readline())
        assert found is not None
        served = Served(running, found[0], "127.0.0.1")

        def told() -> str:
            figures = served.get("/api/studies/1")["plotly_graph_objects"]
            (figure,) = [f for f in figures if f["id"] == "front"]
            text: str = json.loads(figure["graph_object"])["layout"]["title"]["subtitle"]["text"]
            return text

        wait_for(lambda: told().startswith("4 of 4 trials complete"))
        study.add_trial(study.trials[0])
        wait_for(lambda: told().startswith("5 of 5 trials complete"))
    study._storage.remove_session()


def test_the_page_of_mlflow_needs_a_tracking_store(finished: Finished) -> None:
    done = run(finished.folder, "serve", NAME, "--port", "0", "--mlflow", **WITH_DASHBOARD)
    text = sentence(done)
    assert "tracking is off" in text
    assert is_sentence(text)


def test_a_port_of_mlflow_without_its_page_is_refused(finished: Finished) -> None:
    text = refusal("serve", finished.folder / NAME, "--mlflow-port", "5")
    assert "must go with `--mlflow`, but got 5 alone" in text
    assert is_sentence(text)


def test_the_page_of_mlflow_needs_mlflow(finished: Finished, tmp_path: Path) -> None:
    extra = {**without(tmp_path / "without", "mlflow"), "PLINIO_SWEEP_TRACKING": ""}
    done = run(finished.folder, "serve", NAME, "--port", "0", "--mlflow", **extra)
    assert "pip install 'plinio-sweep[mlflow]'" in sentence(done)


@pytest.mark.slow
def test_the_page_of_mlflow_comes_and_goes_with_the_dashboard(
    finished: Finished, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow")
    folder = finished.copy(tmp_path)
    words = ("serve", NAME, "--port", "0", "--mlflow", "--host", "0.0.0.0")
    extra = {"PLINIO_SWEEP_TRACKING": "", "PLINIO_SWEEP_TOKEN": TOKEN, "PATH": "/usr/bin:/bin"}
    with started(folder, *words, **WITH_DASHBOARD, **extra) as running:
        assert running.process.stdout is not None
        first, second = (running.process.stdout.readline() for _ in range(2))
        port = re.search(r"http://0\.0\.0\.0:(\d+)/", first)
        page = re.fullmatch(
            r"MLflow: (http://127\.0\.0\.1:\d+), on this machine alone: .*\n", second
        )
        assert port is not None and page is not None, (first, second)
        with urllib.request.urlopen(f"{page[1]}/health", timeout=60) as answer:
            assert answer.status == 200
        # Where its store is may hold a password: no process list shows it.
        assert not [line for line in arguments() if "mlflow.db" in line]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port[1]}/mlflow/runs/ab12",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.url == f"{page[1]}/#/runs/ab12"
        family = children([running.process.pid])
        family += children(family)
        assert family
        running.process.send_signal(signal.SIGINT)
        code, _, _ = running.end()
        assert code == 0
        wait_for(lambda: not alive(family))
    with pytest.raises(URLError):
        urllib.request.urlopen(f"{page[1]}/health", timeout=60)


def test_a_port_in_use_is_refused(finished: Finished) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = refusal("serve", finished.folder / NAME, "--port", port)
    assert f"port={port} is in use" in text
    assert "--port" in text


def test_a_host_that_is_not_ours_is_refused(finished: Finished) -> None:
    words = ("--port", 0, "--token", TOKEN)
    text = refusal("serve", finished.folder / NAME, "--host", "203.0.113.7", *words)
    assert "203.0.113.7" in text


def test_a_host_without_an_address_is_refused(finished: Finished) -> None:
    words = ("--port", 0, "--token", TOKEN)
    text = refusal("serve", finished.folder / NAME, "--host", "no such host", *words)
    assert "no such host" in text


@pytest.mark.parametrize("words", [(), ("--token", "short")])
def test_a_host_that_others_reach_needs_a_token(finished: Finished, words: tuple[str, ...]) -> None:
    text = refusal("serve", finished.folder / NAME, "--host", "0.0.0.0", *words)
    assert "token" in text
    assert is_sentence(text)


def test_with_a_token_nobody_comes_in_without(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "guarded")
    words = ("serve", NAME, "--port", "0", "--host", "0.0.0.0")
    with started(folder, *words, PLINIO_SWEEP_TOKEN=TOKEN, **WITH_DASHBOARD) as running:
        assert running.process.stdout is not None
        line = running.process.stdout.readline()
        found = re.search(r"http://0\.0\.0\.0:(\d+)/\?token=", line)
        assert found is not None, line
        url = f"http://127.0.0.1:{found[1]}"
        with pytest.raises(HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/api/studies", timeout=60)
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(f"{url}/dashboard?token={quote(TOKEN)}", timeout=60) as page:
            assert page.url == f"{url}/dashboard"
        with browser.open(f"{url}/api/studies", timeout=60) as answer:
            assert json.load(answer)["study_summaries"][0]["study_name"] == "bars"
        running.process.send_signal(signal.SIGINT)
        code, stdout, stderr = running.end()
    assert code == 0
    assert stderr.startswith("warning: whoever reaches this machine")
    assert TOKEN not in line + stdout + stderr


def test_serve_before_run_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("")
    assert "start it with plinio-sweep run" in refusal("serve", tmp_path / NAME)


def test_ctrl_c_ends_it(served: Served) -> None:
    served.running.process.send_signal(signal.SIGINT)
    code, _, stderr = served.running.end()
    assert (code, stderr) == (0, "")
