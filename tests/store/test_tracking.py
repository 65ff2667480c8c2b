"""The MLflow leaf against a real SQLite store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from plinio_sweep.store import tracking
from plinio_sweep.store.tracking import MlflowTracker
from plinio_sweep.sweep.result import Epoch, TrialResult
from tests.zoo.shipped import Residual, TwoInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlflow import MlflowClient

    from plinio_sweep.sweep.tracker import Tracker

# Reading back is done with mlflow itself, outside the tracker's silence.
pytestmark = pytest.mark.filterwarnings("ignore")
needs_mlflow = pytest.mark.skipif(not tracking.available(), reason="needs mlflow")


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"double": 2 * x}


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def epochs(number: int) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(
            phase="pit.search",
            index=step,
            step=step,
            train_loss=1 / (1 + step),
            validation_loss=2 / (1 + step),
            metrics={"accuracy": 0.1 * step, "f1@0.5": 0.5},
            strength=0.25,
            costs={"size_bytes": 1000.0 - step},
        )
        for step in range(number)
    )


RESULT = TrialResult(
    metrics={"validation_accuracy": 0.05, "validation_f1@0.5": 0.5},
    costs={"size_bytes": 800.0},
    estimates={"size_bytes": 810.0},
    units={"size_bytes": "byte"},
    architecture={},
    layers=(),
    history=epochs(3),
    artifact="ab/cd",
    seconds=1.0,
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow that is all but empty: to make one takes seconds."""
    folder = tmp_path_factory.mktemp("tables")
    MlflowTracker(f"sqlite:///{folder}/mlflow.db", "other", folder)
    return folder / "mlflow.db"


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """An address in a folder with a space, seen from a working folder that must stay empty."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    # The tracker sets these for its process; the next test starts without them.
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "false")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    yield f"sqlite:///{tmp_path}/my study/mlflow.db", tmp_path / "my study" / "artifacts"
    assert not list(elsewhere.iterdir())


@pytest.fixture
def store(tables: Path, fresh: tuple[str, Path]) -> tuple[str, Path]:
    """The same with a database that is there."""
    database = Path(fresh[0].removeprefix("sqlite:///"))
    database.parent.mkdir()
    shutil.copy(tables, database)
    return fresh


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The artefact of a trial."""
    artefact = tmp_path / "artefact"
    artefact.mkdir()
    (artefact / "architecture.json").write_text(json.dumps({"stages": []}))
    (artefact / "history.json").write_text("[]")
    (artefact / "model.safetensors").write_bytes(b"weights")
    return artefact


@pytest.fixture
def client(store: tuple[str, Path]) -> MlflowClient:
    """A reader that shares nothing with the tracker."""
    MlflowTracker(store[0], "digits", store[1])
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store[0])


def finished(store: tuple[str, Path], net: nn.Module, example: Any, folder: Path) -> str:
    """A whole trial; a warning that leaves the tracker is an error."""
    params = {"order": "pit>mps", "mps.w_bits": "2,4,8", "pit.strength": 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker: Tracker = MlflowTracker(store[0], "digits", store[1])
        run = tracker.start(7, params, None)
        tracker.finish(run, RESULT, folder)
        tracker.keep(run, folder, net, example)
        tracker.test(run, {"test_accuracy": 0.04})
    return run


def load(uri: str, model: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Loads as a user would, with unpickling forbidden."""
    import mlflow.pytorch

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return mlflow.pytorch.load_model(model)


def test_importing_the_leaf_and_asking_for_mlflow_does_not_import_it() -> None:
    code = (
        "import sys; from plinio_sweep.store import tracking; tracking.available(); "
        "sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=child_environment()).returncode == 0


@needs_mlflow
def test_a_finished_trial_can_be_read_back_whole(
    store: tuple[str, Path], client: MlflowClient, folder: Path
) -> None:
    run = client.get_run(finished(store, Residual(), (torch.randn(1, 3, 8, 8),), folder))

    assert run.info.run_name == "trial 7"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"order": "pit>mps", "mps.w_bits": "2,4,8", "pit.strength": "0.5"}
    expected = {"study": "digits", "trial": "7", "unit.size_bytes": "byte"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.metrics["size_bytes"] == 800
    assert run.data.metrics["estimate.size_bytes"] == 810
    assert run.data.metrics["validation_accuracy"] == 0.05  # the exported net's, not the best
    assert run.data.metrics["test_accuracy"] == 0.04
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"architecture.json", "history.json"}

    def curve(name: str) -> list[tuple[int, float]]:
        points = client.get_metric_history(run.info.run_id, name)
        return sorted((point.step, point.value) for point in points)

    assert curve("train_loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert curve("validation_loss") == [(0, 2.0), (1, 1.0), (2, 2 / 3)]
    assert curve("strength") == [(0, 0.25), (1, 0.25), (2, 0.25)]
    assert curve("cost.size_bytes") == [(0, 1000.0), (1, 999.0), (2, 998.0)]
    assert curve("validation_accuracy") == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.05)]
    assert curve("validation_f1_0.5")[-1] == (3, 0.5)  # "@" is not allowed in a key


@needs_mlflow
def test_more_points_than_one_request_may_hold_are_all_kept(
    store: tuple[str, Path], client: MlflowClient, folder: Path
) -> None:
    tracker = MlflowTracker(store[0], "digits", store[1])
    run = tracker.start(0, {}, None)
    tracker.finish(run, replace(RESULT, history=epochs(300)), folder)

    for name in ("train_loss", "cost.size_bytes", "validation_f1_0.5"):
        history = client.get_metric_history(run, name)
        assert {point.step for point in history} >= set(range(300))


@needs_mlflow
def test_a_result_without_history_has_its_final_values_at_step_zero(
    store: tuple[str, Path], client: MlflowClient, folder: Path
) -> None:
    tracker = MlflowTracker(store[0], "digits", store[1])
    run = tracker.start(0, {}, None)
    tracker.finish(run, replace(RESULT, history=()), folder)

    assert [point.step for point in client.get_metric_history(run, "size_bytes")] == [0]


@needs_mlflow
@pytest.mark.parametrize("batch", [1, 2])
def test_the_logged_model_gives_the_same_outputs_for_other_batch_sizes(
    store: tuple[str, Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    torch.manual_seed(0)
    net = Residual().train()
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    run = finished(store, net, (torch.randn(batch, 3, 8, 8),), folder)

    assert net.training
    assert all(torch.equal(weights[name], value) for name, value in net.state_dict().items())
    loaded = load(store[0], f"runs:/{run}/model", monkeypatch)
    net.eval()
    for size in (1, 5):
        x = torch.randn(size, 3, 8, 8)
        torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=1e-6)


@needs_mlflow
def test_a_logged_model_is_listed_as_ready_with_its_requirement(
    store: tuple[str, Path],
    client: MlflowClient,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = finished(store, Residual(), (torch.randn(2, 3, 8, 8),), folder)

    assert capfd.readouterr() == ("", "")
    experiment = client.get_experiment_by_name("digits")
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert (model.name, model.source_run_id, str(model.status)) == ("model", run, "READY")
    assert model.params["order"] == "pit>mps"
    assert [output.model_id for output in client.get_run(run).outputs.model_outputs] == [
        model.model_id
    ]
    assert experiment.artifact_location == store[1].resolve().as_uri()
    (requirements,) = store[1].glob("models/*/artifacts/requirements.txt")
    assert f"torch=={torch.__version__.split('+')[0]}" in requirements.read_text().splitlines()
    assert not list(store[1].rglob("*.pth"))


@needs_mlflow
def test_a_net_with_two_inputs_and_two_outputs_is_logged_too(
    store: tuple[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(store, TwoInputs(), (torch.randn(1, 4), torch.randn(1, 4)), folder)

    x, y = torch.randn(3, 4), torch.randn(3, 4)
    outputs = load(store[0], f"runs:/{run}/model", monkeypatch)(x, y)
    torch.testing.assert_close(outputs, (x + y, x - y))


@needs_mlflow
@pytest.mark.parametrize(
    ("net", "words"), [(Named(), "flat sequence of tensors"), (Branching(), "data-dependent")]
)
def test_a_net_that_cannot_be_logged_leaves_a_reason_and_no_model(
    store: tuple[str, Path],
    client: MlflowClient,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    net: nn.Module,
    words: str,
) -> None:
    run = client.get_run(finished(store, net, (torch.ones(2, 4),), folder))

    assert capfd.readouterr() == ("", "")
    assert run.info.status == "FINISHED"
    assert words in run.data.tags["model.skipped"]
    assert run.data.metrics["size_bytes"] == 800
    assert not client.search_logged_models([run.info.experiment_id])


@needs_mlflow
def test_a_failed_trial_is_told_from_a_lost_one(
    store: tuple[str, Path], client: MlflowClient
) -> None:
    tracker = MlflowTracker(store[0], "digits", store[1])
    failed, lost = tracker.start(0, {}, None), tracker.start(1, {}, None)
    tracker.fail(failed, "loss is not a number")
    tracker.fail(lost, "no sign of life", lost=True)

    runs = [client.get_run(run) for run in (failed, lost)]
    assert [run.info.status for run in runs] == ["FAILED", "KILLED"]
    assert [run.data.tags["reason"] for run in runs] == ["loss is not a number", "no sign of life"]


@needs_mlflow
def test_a_run_opened_again_keeps_its_identity_and_its_parameters(
    store: tuple[str, Path], client: MlflowClient
) -> None:
    first = MlflowTracker(store[0], "digits", store[1])
    run = first.start(3, {"order": "pit"}, None)
    first.fail(run, "no sign of life", lost=True)

    again = MlflowTracker(store[0], "digits", store[1])
    assert again.start(4, {"order": "mps", "seed": 1}, run) == run
    opened = client.get_run(run)
    assert opened.info.status == "RUNNING"
    assert opened.data.params == {"order": "pit", "seed": "1"}
    assert "reason" not in opened.data.tags
    assert opened.data.tags["trial"] == "3"


@needs_mlflow
def test_the_process_keeps_its_own_tracking_address_and_active_run(
    store: tuple[str, Path], client: MlflowClient, folder: Path
) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    finished(store, Residual(), (torch.randn(2, 3, 8, 8),), folder)
    assert mlflow.get_tracking_uri() == before
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert mlflow.active_run() is None
    assert mlflow.last_active_run() is None


def child_environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


WORKER = """
import sys
import threading
import warnings
from pathlib import Path

from plinio_sweep.store.tracking import MlflowTracker

warnings.simplefilter("error")
uri, root, number = sys.argv[1:]
tracker = MlflowTracker(uri, "digits", Path(root))
run = tracker.start(int(number), {"order": "pit"}, None)
tracker.fail(run, "done")
from mlflow.telemetry.utils import is_telemetry_disabled

assert is_telemetry_disabled()
print(run)
"""


@needs_mlflow
def test_four_processes_open_a_fresh_folder_at_once_in_silence(fresh: tuple[str, Path]) -> None:
    command = [sys.executable, "-c", WORKER, fresh[0], str(fresh[1])]
    workers = [
        subprocess.Popen(
            [*command, str(number)],
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    said = [worker.communicate() for worker in workers]

    assert [errors for _, errors in said] == [""] * 4
    assert [worker.returncode for worker in workers] == [0] * 4
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=fresh[0])
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    (study,) = (run for run in runs if run.data.tags["level"] == "study")
    trials = [run for run in runs if run.data.tags["level"] == "trial"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    found = {run.info.run_id for run in trials}
    assert found == {run.strip() for run, _ in said}
    assert len(found) == 4


# -- a database server ----------------------------------------------------------------------------


def test_a_schema_on_a_server_is_made_by_one_at_a_time(postgresql: Callable[[], str]) -> None:
    url = postgresql()
    order: list[str] = []

    def second() -> None:
        with tracking.creation_lock(url):
            order.append("second")

    waiting = threading.Thread(target=second)
    with tracking.creation_lock(url):
        waiting.start()
        waiting.join(1)
        order.append("first")
    waiting.join(60)
    assert order == ["first", "second"]


def test_a_server_that_keeps_silent_is_not_waited_for() -> None:
    plain = "postgresql+psycopg://ada:s3cret@host/runs"
    assert tracking._hasty(plain) == f"{plain}?connect_timeout=10"
    assert tracking._hasty(f"{plain}?connect_timeout=3") == f"{plain}?connect_timeout=3"
    assert tracking._hasty("sqlite:///runs.db") == "sqlite:///runs.db"
