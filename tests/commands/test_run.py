"""`plinio-sweep run`: creates or continues, says what failed, and does without the extras."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.store import tracking
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.sweep.trial import rebuild
from plinio_sweep.view.front import front
from tests.conftest import Finished
from tests.terminal import NAME, Done, environment, invoke, run, sentence, without, write_study


def completed(stdout: str) -> list[int]:
    """Numbers of the trials that `run` said to be complete, in order."""
    words = [line.split() for line in stdout.splitlines() if " complete: " in line]
    return sorted(int(word[1]) for word in words)


def test_two_workers_come_to_exactly_the_trials_asked_for(finished: Finished) -> None:
    assert finished.first.returncode == 0, finished.first.stderr
    assert completed(finished.first.stdout) == [0, 1, 2]
    assert "3 of 3 trials complete, 0 failed" in finished.first.stdout


def test_run_says_where_things_are_and_what_comes_next(finished: Finished) -> None:
    lines = finished.first.stdout.splitlines()
    folder = finished.made / ".plinio-sweep"
    assert lines[:2] == [f"study bars in sqlite:///{folder / 'study.db'}", f"files in {folder}"]
    assert lines[-5:][0] == "next:"
    assert lines[-1] == f"  plinio-sweep serve {NAME}"
    assert finished.first.stderr == ""


def test_the_same_number_again_trains_nothing(finished: Finished) -> None:
    assert finished.again.returncode == 0, finished.again.stderr
    assert "epochs: " not in finished.again.stdout
    assert completed(finished.again.stdout) == []
    assert "3 of 3 trials complete" in finished.again.stdout
    assert finished.kept[1] == finished.kept[0]


def test_run_says_how_much_training_was_reused(finished: Finished) -> None:
    # The seed net takes 5 epochs with its warm-up, a trial 4 and the warm-up of the store.
    assert "epochs: 17 trained, 3 taken from the store" in finished.first.stdout.splitlines()
    assert "epochs: 4 trained, 1 taken from the store" in finished.more.stdout.splitlines()


def test_a_larger_number_adds_the_rest(finished: Finished) -> None:
    assert finished.more.returncode == 0
    assert completed(finished.more.stdout) == [3]
    assert "4 of 4 trials complete" in finished.more.stdout
    before, after = finished.kept[1:]
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3  # search, fine-tuning, evaluation


def test_no_parameters_are_tried_twice(finished: Finished) -> None:
    record = read_study(finished.folder / NAME, load_settings(finished.folder / NAME))
    assert [trial.number for trial in record.trials] == [0, 1, 2, 3]
    assert {trial.state for trial in record.trials} == {"complete"}
    assert len({trial.params["pit.strength"] for trial in record.trials}) == 4


@dataclass(frozen=True, kw_only=True)
class Troubled:
    """A study of which some trials diverge, where no extra is installed."""

    folder: Path
    bare: Mapping[str, Any]  # environment without the extras
    done: Done

    def record(self) -> StudyRecord:
        return read_study(self.folder / NAME, load_settings(self.folder / NAME))


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Troubled:
    folder = tmp_path_factory.mktemp("troubled")
    # From no pressure at all to more than a float holds.
    write_study(folder, {"low=0.1, high=30.0": "low=1e-300, high=1e300"})
    bare = without(folder / "bare", "mlflow", "optuna_dashboard", "onnx", "onnxscript")
    bare["PLINIO_SWEEP_TRACKING"] = ""
    return Troubled(folder=folder, bare=bare, done=run(folder, "run", NAME, **bare))


def test_trials_that_diverge_end_a_run_with_1_and_the_others_complete(troubled: Troubled) -> None:
    assert (troubled.done.returncode, troubled.done.stderr) == (1, "")
    record = troubled.record()
    assert record.count("complete") >= 1
    assert record.count("failed") >= 1
    assert record.count("complete") + record.count("failed") == 4


def test_a_trial_that_diverged_keeps_its_reason(troubled: Troubled) -> None:
    shown = invoke("show", troubled.folder / NAME)
    assert shown.exit_code == 0
    for trial in troubled.record().trials:
        if trial.state == "failed":
            assert float(trial.params["pit.strength"]) > 1e30
            assert trial.reason.startswith("The loss must stay finite, but became nan in epoch ")
            assert f"trial {trial.number} failed: {trial.reason}" in troubled.done.stdout
            assert f"trial {trial.number} failed: {trial.reason}" in shown.stdout


def test_a_run_without_mlflow_says_what_it_leaves_out(troubled: Troubled) -> None:
    said = "MLflow is not installed, so no run is tracked: pip install 'plinio-sweep[mlflow]'"
    assert said in troubled.done.stdout.splitlines()
    assert not (troubled.folder / ".plinio-sweep" / "mlflow.db").exists()


def test_an_export_without_onnx_says_what_it_leaves_out(troubled: Troubled) -> None:
    number = next(t.number for t in troubled.record().trials if t.state == "complete")
    done = run(troubled.folder, "export", NAME, str(number), "model", **troubled.bare)
    assert (done.returncode, done.stderr) == (0, "")
    assert "onnx: left out" in done.stdout
    files = {path.name for path in (troubled.folder / "model").iterdir()}
    assert files == {"architecture.json", "model.safetensors", "report.json"}


def test_serve_without_the_dashboard_says_what_to_install(troubled: Troubled) -> None:
    done = run(troubled.folder, "serve", NAME, **troubled.bare)
    assert "pip install 'plinio-sweep[dashboard]'" in sentence(done)


# Outside pytest: mlflow warns of itself, and a stranger who loads the model knows nothing of us.
LOAD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, torch
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
mlflow.set_tracking_uri(sys.argv[1])
experiments = {e.name: e.experiment_id for e in client.search_experiments()}
runs = client.search_runs([experiments["bars"]])
images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(3))
names = {run.info.run_id: run.info.run_name for run in runs}
found = []
for run in runs:
    outputs = None
    for model in client.search_logged_models(
        [experiments["bars"]], filter_string=f"source_run_id='{run.info.run_id}'"
    ):
        net = mlflow.pytorch.load_model(f"models:/{model.model_id}")
        outputs = (net(images) if callable(net) else net.module()(images)).tolist()
    found.append(
        {
            "name": run.info.run_name,
            "parent": names.get(run.data.tags.get("mlflow.parentRunId")),
            "status": run.info.status,
            "params": run.data.params,
            "metrics": run.data.metrics,
            "outputs": outputs,
        }
    )
print(json.dumps({"experiments": sorted(experiments), "runs": found}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not tracking.available(), reason="needs mlflow")
@pytest.mark.parametrize("away", [False, pytest.param(True, marks=pytest.mark.long)])
def test_mlflow_holds_one_run_a_trial_and_the_models_of_the_front(
    tmp_path: Path, away: bool
) -> None:
    write_study(tmp_path)
    if away:  # at first: a port of nobody
        nowhere = "http://127.0.0.1:9"
        done = run(tmp_path, "run", NAME, "--trials", "2", PLINIO_SWEEP_TRACKING=nowhere)
        assert (done.returncode, done.stderr) == (0, "")
        assert "notes for it wait in" in done.stdout
    done = run(tmp_path, "run", NAME, "--trials", "2", PLINIO_SWEEP_TRACKING="")
    assert done.returncode == 0, done.stderr
    assert "MLflow" not in done.stdout
    assert read_study(tmp_path / NAME, load_settings(tmp_path / NAME)).touched == ""
    tested = run(tmp_path, "show", NAME, "--test", PLINIO_SWEEP_TRACKING="")
    assert tested.returncode == 0, tested.stderr
    folder = tmp_path / ".plinio-sweep"
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, f"sqlite:///{folder / 'mlflow.db'}"],
        env=environment(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(loaded.stdout.splitlines()[-1])
    assert found["experiments"] == ["Default", "bars"]
    runs = {run["name"]: run for run in found["runs"]}
    assert sorted(name for name in runs if ":" not in name) == ["study bars", "trial 0", "trial 1"]
    parents = {name: run["parent"] for name, run in runs.items()}
    assert parents == {name: parent_of(name) for name in runs}
    assert runs["study bars"]["metrics"]["complete"] == 2
    record = read_study(tmp_path / NAME, load_settings(tmp_path / NAME))
    best = front(record)
    for trial in record.trials:
        tracked = runs[f"trial {trial.number}"]
        assert tracked["status"] == "FINISHED"
        assert float(tracked["params"]["pit.strength"]) == trial.params["pit.strength"]
        assert tracked["metrics"]["size_bytes"] == trial.costs["size_bytes"]
        if trial not in best:
            assert tracked["outputs"] is None
            continue
        assert tracked["metrics"]["test_accuracy"] == trial.metrics["test_accuracy"]
        net = stored_net(tmp_path / NAME, folder / "artifacts" / trial.artifact)
        images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(3))
        assert torch.allclose(torch.tensor(tracked["outputs"]), net(images), atol=1e-5)


def parent_of(name: str) -> str | None:
    """The run in which that of this name is."""
    trial, stage, _ = name.partition(":")
    if stage:
        return trial
    return "study bars" if trial != "study bars" else None


def stored_net(study: Path, artifact: Path) -> nn.Module:
    """The net of a trial, made of the files of its artefact."""
    architecture = json.loads((artifact / "architecture.json").read_text(encoding="utf-8"))
    net = rebuild(load_study(study).task.net, architecture)
    net.load_state_dict(safetensors.torch.load_file(artifact / "model.safetensors"))
    return net.eval()


def test_baselines_are_added_to_a_finished_study(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path)
    beside = "from plinio_sweep import Baseline, PITSettings, Stage, uniform\n"
    wild = "Stage(method=PITSettings(), strength=1e38, relative=False)"
    baselines = f'baselines=(*uniform(8), Baseline(name="wild", stages=({wild},))),'
    changes = {"sweep = Sweep(": f"{beside}sweep = Sweep(\n    {baselines}"}
    study = write_study(folder, changes)
    done = invoke("run", study)
    assert done.exit_code == 1, done.stderr
    assert "baseline wild failed: the loss must stay finite" in done.stdout.lower()
    rows = [line.split() for line in done.stdout.splitlines()]
    [quantised] = [row for row in rows if row[:1] == ["w8a8"]]
    assert len(quantised) >= 4  # with an accuracy, bytes and MACs
    assert "4 of 4 trials complete" in done.stdout
    assert "trained, 1 taken from the store" in done.stdout  # the warm-up is there
    again = invoke("run", study)
    assert again.exit_code == 1
    assert "trained" not in again.stdout
