from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from plinio_sweep.sweep.result import StudyRecord, TrialResult
from plinio_sweep.view import dashboard
from plinio_sweep.view.dashboard import DashboardAnnotator, save_panels, serve
from plinio_sweep.view.note import Beside, note

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
    layers=(),
    history=(),
    artifact="trial/0",
    seconds=1.5,
)

NOTE = """\
**order** `pit>mps`

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
| `stem.conv` | 3 of 3 | 11 of 32 |"""


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
        save_front(study, record_of(study))
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
    (figure,) = shown["plotly_graph_objects"]
    assert figure["id"] == "front"
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
    assert written.endswith(table)


def test_note_tells_bit_widths_where_a_layer_has_them() -> None:
    channels = {"in": 3, "out": 10, "seed_in": 3, "seed_out": 12}
    bits = {"w_bits": {"2": 4, "8": 6}, "x_bits": 8}
    layers = {"conv": channels | bits, "fc": channels}
    written = note({}, replace(RESULT, architecture={"layers": layers}))
    rows = "| rounded | output channels | input |\n| --- | --- | --- |\n"
    assert written.endswith(f"{rows}| `conv` | 4 at 2 bit, 6 at 8 bit | 8 bit |")


def test_note_tells_how_often_a_trial_was_begun() -> None:
    assert note({"order": "pit"}, RESULT, (1, 4)).startswith(
        "**order** `pit`\n\n**attempt** 3, lost before: 1, 4\n\n"
    )


def test_note_leaves_out_what_is_not_known() -> None:
    bare = replace(RESULT, costs={}, architecture={}, metrics={"validation_loss": 0.5})
    assert note({}, bare) == "| metric | value |\n| --- | --- |\n| validation loss | 0.5000 |"


def test_the_front_is_replaced_not_added(tmp_path: Path, large_study: StudyRecord) -> None:
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    with new_study(tmp_path) as (study, _):
        save_front(study, large_study)
        save_front(study, replace(large_study, trials=large_study.trials[:5], target_trials=5))
        attributes = study._storage.get_study_system_attrs(study._study_id)
    stored = get_plotly_graph_objects(attributes)
    assert list(stored) == ["front"]
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
