from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna_dashboard import get_note

from plinio_sweep.sweep.result import StudyRecord, TrialResult
from plinio_sweep.view import dashboard
from plinio_sweep.view.board import Board
from plinio_sweep.view.dashboard import (
    DashboardAnnotator,
    application,
    save_panels,
    serve,
    with_runs,
)
from plinio_sweep.view.note import Beside, note
from tests.terminal import wait_for

SPACE = {
    "order": CategoricalDistribution(["pit>mps", "mps"]),
    "pit.strength": FloatDistribution(0.01, 10.0, log=True),
}

RESULT = TrialResult(
    metrics={"validation_accuracy": 0.91, "test_accuracy": 0.9},
    costs={"size_bytes": 12_345.0, "macs": 640.0},
    estimates={"size_bytes": 12_400.0},
    units={"size_bytes": "byte", "macs": "MAC"},
    architecture={"layers": {"stem.conv": {"in": 3, "out": 11, "seed_in": 3, "seed_out": 32}}},
    layers=(
        {"name": "stem.conv", "op": "conv", "size_bytes": 12_001.0, "macs": 640.0},
        {"name": "fc", "op": "linear", "size_bytes": 344.0},
    ),
    history=(),
    artifact="trial/0",
    seconds=1.5,
)

NOTE = """\
**order** `pit>mps`

**cut** 11 of 32 output channels are left in 1 layer.

| method | strength |
| --- | --- |
| `pit` | 0.123 |

| metric | value |
| --- | --- |
| validation accuracy | 0.9100 |
| test accuracy | 0.9000 |

| cost | unit | exported net | as searched |
| --- | --- | --- | --- |
| size | byte | 12,345 (12.3 kB) | 12,400 (12.4 kB) |
| MAC | MAC | 640 |  |

| layer | input channels | output channels |
| --- | --- | --- |
| `stem.conv` | 3 of 3 | 11 of 32 |

| costs by layer | kind | size [byte] | MAC |
| --- | --- | --- | --- |
| `stem.conv` | conv | 12,001 | 640 |
| `fc` | linear | 344 |  |"""


@contextlib.contextmanager
def new_study(folder: Path) -> Iterator[tuple[optuna.Study, str]]:
    """A study in a database of its own, closed at the end."""
    url = f"sqlite:///{folder / 'study.db'}"
    storage = optuna.storages.RDBStorage(url)
    try:
        study = optuna.create_study(
            study_name="digits-size",
            storage=storage,
            directions=["maximize", "minimize"],
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        with warnings.catch_warnings():
            # Optuna still calls the names of objectives an experiment.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["accuracy", "size_bytes"])
        yield study, url
    finally:
        storage.remove_session()
        storage.engine.dispose()


def fill(study: optuna.Study, folder: Path) -> None:
    """One trial within its limit, one beyond it and one without any limit."""
    annotator = DashboardAnnotator(folder / "shown")
    artifact = folder / "trial"
    artifact.mkdir()
    (artifact / "architecture.json").write_text('{"layers": {}}')
    (artifact / "weights.safetensors").write_bytes(b"not for reading")
    for values, constraint in [((0.9, 2e4), -1.5), ((0.95, 9e4), 2.5), ((0.5, 1e4), None)]:
        trial = study.ask(SPACE)
        if constraint is not None:
            trial.set_constraint("macs", constraint)
        annotator.annotate(trial, RESULT, artifact)
        study.tell(trial, values)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard of a filled study, served by a process of its own, as a user would."""
    folder = tmp_path_factory.mktemp("served")
    with new_study(folder) as (study, url):
        fill(study, folder)
        save_panels(study, record_of(study), lambda trial: None)
    script = (
        "import sys; from pathlib import Path; from plinio_sweep.view.dashboard import serve;"
        "serve(sys.argv[1], Path(sys.argv[2]), port=0, on_ready=lambda at: print(at, flush=True))"
    )
    root = Path(dashboard.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script, url, str(folder / "shown")],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        at = process.stdout.readline().strip()
        if not at:
            raise RuntimeError(process.communicate()[1])
        try:
            yield at
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert "GET /api" not in errors


def record_of(study: optuna.Study) -> StudyRecord:
    """The same study as plain data."""
    from plinio_sweep.sweep.result import Objective, TrialRecord

    return StudyRecord(
        name=study.study_name,
        objectives=(
            Objective(name="accuracy", maximize=True, kind="metric"),
            Objective(name="size_bytes", maximize=False, kind="cost", unit="byte"),
        ),
        limits={"macs": 1e6},
        units={"size_bytes": "byte"},
        target_trials=3,
        trials=tuple(
            TrialRecord(
                number=trial.number,
                state="complete",
                values=tuple(trial.values),
                feasible=all(value <= 0 for value in trial.constraints.values()),
            )
            for trial in study.get_trials()
        ),
    )


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        content: bytes = response.read()
    return content


@pytest.fixture(scope="module")
def shown(address: str) -> dict[str, Any]:
    """What the dashboard's page is told of the study."""
    answer: dict[str, Any] = json.loads(get(f"{address}/api/studies/1"))
    return answer


def test_the_page_itself_is_served_on_the_loopback_address(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    assert b"<title>" in get(f"{address}/dashboard/studies/1")


def test_constraints_reach_the_page(shown: dict[str, Any]) -> None:
    assert [trial["constraints"] for trial in shown["trials"]] == [[-1.5], [2.5], []]


def test_objectives_have_their_names(shown: dict[str, Any]) -> None:
    assert shown["objective_names"] == ["accuracy", "size_bytes"]


def test_every_trial_has_its_note(shown: dict[str, Any]) -> None:
    for trial in shown["trials"]:
        assert "| size | byte | 12,345 (12.3 kB) | 12,400 (12.4 kB) |" in trial["note"]["body"]


def test_the_front_is_on_the_page_of_the_study(shown: dict[str, Any]) -> None:
    (figure,) = [plot for plot in shown["plotly_graph_objects"] if plot["id"] == "front"]
    traces = {trace.get("name"): trace for trace in json.loads(figure["graph_object"])["data"]}
    assert traces["front"]["x"] == [10, 20]
    assert traces["infeasible"]["x"] == [90]


def test_known_files_can_be_read_and_weights_are_not_copied(
    address: str, shown: dict[str, Any]
) -> None:
    trial = shown["trials"][0]
    (file,) = trial["artifacts"]
    assert file["filename"] == "architecture.json"
    content = get(f"{address}/artifacts/1/{trial['trial_id']}/{file['artifact_id']}")
    assert content == b'{"layers": {}}'


def test_many_requests_at_once_are_answered(address: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(get, [f"{address}/api/studies"] * 24))
    assert {json.loads(answer)["study_summaries"][0]["study_name"] for answer in answers} == {
        "digits-size"
    }


def test_note_tells_order_strengths_metrics_costs_and_layers() -> None:
    assert note({"order": "pit>mps", "pit.strength": 0.12345}, RESULT) == NOTE


def test_note_tells_taps_and_dilation_where_a_layer_has_them() -> None:
    channels = {"in": 3, "out": 11, "seed_in": 3, "seed_out": 32}
    taps = {"taps": 3, "dilation": 4, "seed_taps": 9, "seed_dilation": 1}
    layers = {"conv": channels | taps, "fc": channels}
    written = note({}, replace(RESULT, architecture={"layers": layers}))
    table = "| kernel | taps | dilation |\n| --- | --- | --- |\n| `conv` | 3 of 9 | 4 |"
    assert table in written
    assert "22 of 64 output channels are left in 2 layers, 3 of 9 kernel taps." in written


def test_note_tells_bit_widths_where_a_layer_has_them() -> None:
    channels = {"in": 3, "out": 10, "seed_in": 3, "seed_out": 12}
    bits = {"w_bits": {"2": 4, "8": 6}, "x_bits": 8}
    layers = {"conv": channels | bits, "fc": channels}
    written = note({}, replace(RESULT, architecture={"layers": layers}))
    rows = "| rounded | output channels | input |\n| --- | --- | --- |\n"
    assert f"{rows}| `conv` | 4 at 2 bit, 6 at 8 bit | 8 bit |\n\n" in written
    assert ", at 5.6 bit on the mean of channels." in written


def test_note_tells_how_often_a_trial_was_begun_and_how_that_ended() -> None:
    beside = Beside(number=6, losses={1: "its worker died", 4: "it was interrupted"})
    assert note({"order": "pit"}, RESULT, beside).startswith(
        "**order** `pit`\n\n**attempts** took 3 attempts: 1 (its worker died), "
        "4 (it was interrupted), 6\n\n"
    )


def test_note_names_layers_that_were_left_whole() -> None:
    whole = {"in": 3, "out": 10, "seed_in": 3, "seed_out": 10}
    layers = {"conv": whole | {"out": 4}, "fc": whole}
    assert ", whole: `fc`." in note({}, replace(RESULT, architecture={"layers": layers}))


def test_note_links_to_the_run_and_the_files() -> None:
    beside = Beside(run="ab12", run_link="/mlflow/runs/ab12", files={"report.json": "/artifacts/7"})
    assert note({}, RESULT, beside).endswith(
        "**MLflow** [run ab12](/mlflow/runs/ab12)\n\n**files** [report.json](/artifacts/7)"
    )


def test_note_leaves_out_what_is_not_known() -> None:
    bare = replace(RESULT, costs={}, architecture={}, layers=(), metrics={"validation_loss": 0.5})
    assert note({}, bare) == "| metric | value |\n| --- | --- |\n| validation loss | 0.5000 |"


def test_a_link_to_a_tracking_server_has_no_password(tmp_path: Path) -> None:
    with new_study(tmp_path) as (study, _):
        trial = study.ask(SPACE)
        trial.set_user_attr("run", "ab12")
        server = "https://me:secret@tracking.example/there/"
        DashboardAnnotator(tmp_path / "shown", server).annotate(trial, RESULT, tmp_path)
        written = get_note(trial)
    assert "[run ab12](https://tracking.example/there/#/runs/ab12)" in written
    assert "secret" not in written


def test_the_note_of_a_trial_that_was_lost_before_says_why(tmp_path: Path) -> None:
    with new_study(tmp_path) as (study, _):
        lost = study.ask(SPACE)
        lost.set_user_attr("lost", "its worker died")
        study.tell(lost, state=optuna.trial.TrialState.FAIL)
        trial = study.ask(SPACE)
        trial.set_user_attr("retry_of", [0])
        DashboardAnnotator(tmp_path / "shown").annotate(trial, RESULT, tmp_path)
        written = get_note(trial)
    assert "**attempts** took 2 attempts: 0 (its worker died), 1" in written


def test_a_file_of_a_trial_that_is_done_is_added_once(tmp_path: Path) -> None:
    with new_study(tmp_path) as (study, url):
        study.tell(study.ask(SPACE), (0.9, 2e4))
        graph = tmp_path / "model.onnx"
        graph.write_bytes(b"a graph")
        annotator = DashboardAnnotator(tmp_path / "shown")
        for _ in range(2):
            annotator.keep(study, 0, graph)
        app = application(url, tmp_path / "shown")
        (trial,) = json.loads(b"".join(answer_of(app, "/api/studies/1")[1]))["trials"]
        (file,) = trial["artifacts"]
        place = f"/artifacts/1/{trial['trial_id']}/{file['artifact_id']}"
        assert b"".join(answer_of(app, place)[1]) == b"a graph"
    assert file["filename"] == "model.onnx"


def answer_of(app: Any, path: str) -> tuple[str, list[bytes], dict[str, str]]:
    """Status, content and headers of one request, without a server."""
    said: list[Any] = []
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["PATH_INFO"] = path
    found = app(environ, lambda status, headers, *_: said.extend((status, headers)))
    content = list(found)
    getattr(found, "close", lambda: None)()  # of a file, as a server does
    return said[0], content, dict(said[1])


def test_a_run_is_found_where_mlflow_is_served() -> None:
    def inner(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"the dashboard"]

    served = with_runs(inner, "http://127.0.0.1:5000")
    status, _, headers = answer_of(served, "/mlflow/runs/ab12")
    assert (status, headers["Location"]) == ("303 See Other", "http://127.0.0.1:5000/#/runs/ab12")
    status, content, _ = answer_of(with_runs(inner, None), "/mlflow/runs/ab12")
    assert status == "404 Not Found"
    assert b"--mlflow" in content[0]
    for path in ("/", "/mlflow/runs/", "/mlflow/runs/../secret", "/mlflow/runs/a%0Ab"):
        assert answer_of(served, path)[1] == [b"the dashboard"]


def test_a_board_is_shown_in_place_of_what_is_stored_in_the_order_of_a_page(
    tmp_path: Path, large_study: StudyRecord
) -> None:
    records = [replace(large_study, trials=large_study.trials[:5]), large_study]
    board = Board("digits-size", lambda: records[0], lambda trial: None)
    with new_study(tmp_path) as (study, url):
        save_panels(study, large_study, lambda trial: None)
        study._storage.set_study_system_attr(1, "dashboard:plot_data:mine:0", "{}")
        app = application(url, tmp_path / "shown", board)

        def plots() -> dict[str, Any]:
            found = json.loads(b"".join(answer_of(app, "/api/studies/1")[1]))
            return {p["id"]: json.loads(p["graph_object"]) for p in found["plotly_graph_objects"]}

        assert board.refresh() and not board.refresh()
        first = plots()
        assert list(first) == ["front", "strengths", "progress", "workers", "mine"]
        assert first["front"]["layout"]["title"]["subtitle"]["text"].startswith("5 of 60")
        records.pop(0)
        assert board.refresh()
        assert plots()["front"]["layout"]["title"]["subtitle"]["text"].startswith("60 of 60")


def test_a_board_outlives_a_database_that_is_away(large_study: StudyRecord) -> None:
    answers = [OSError("away"), large_study]
    drawn = threading.Event()

    def read() -> StudyRecord:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        drawn.set()
        return answer

    board = Board("digits-size", read, lambda trial: None, pause=0.01)
    with board.kept_fresh():
        assert drawn.wait(60)
        wait_for(lambda: board.figures)
    assert "front" in board.figures


def test_the_front_is_replaced_not_added(tmp_path: Path, large_study: StudyRecord) -> None:
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    with new_study(tmp_path) as (study, _):
        save_panels(study, large_study, lambda trial: None)
        fewer = replace(large_study, trials=large_study.trials[:5], target_trials=5)
        save_panels(study, fewer, lambda trial: None)
        attributes = study._storage.get_study_system_attrs(study._study_id)
    stored = get_plotly_graph_objects(attributes)
    assert set(stored) == {"front", "strengths", "workers", "progress"}
    subtitle = json.loads(stored["front"])["layout"]["title"]["subtitle"]["text"]
    assert subtitle.startswith("5 of 5 trials complete")


def test_a_port_in_use_is_said_in_one_sentence(tmp_path: Path) -> None:
    with new_study(tmp_path) as (_, url), socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port={port} is in use; .* --port\.$"):
            serve(url, tmp_path / "shown", port=port, on_ready=print)


def test_without_the_dashboard_installed_no_annotator_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ImportError):
        DashboardAnnotator(tmp_path)
