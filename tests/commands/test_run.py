"""`plinio-sweep run`: creates or continues, says what failed, and does without the extras."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.store import tracking
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.trial import rebuild
from tests.conftest import Finished
from tests.terminal import NAME, Done, environment, invoke, run, write_study


def completed(done: Done) -> list[int]:
    """Numbers of the trials that `run` said to be complete, in order."""
    words = [line.split() for line in done.stdout.splitlines() if " complete: " in line]
    return sorted(int(word[1]) for word in words)


def test_two_workers_come_to_exactly_the_trials_asked_for(finished: Finished) -> None:
    assert finished.first.returncode == 0, finished.first.stderr
    assert completed(finished.first) == [0, 1, 2]
    assert "3 of 3 trials complete, 0 failed" in finished.first.stdout


def test_run_says_where_things_are_and_what_comes_next(finished: Finished) -> None:
    lines = finished.first.stdout.splitlines()
    folder = finished.folder / ".plinio-sweep"
    assert lines[:2] == [f"study bars in sqlite:///{folder / 'study.db'}", f"files in {folder}"]
    assert lines[-4:][0] == "next:"
    assert lines[-1] == f"  plinio-sweep serve {NAME}"
    assert finished.first.stderr == ""


def test_the_same_number_again_trains_nothing(finished: Finished) -> None:
    assert finished.again.returncode == 0
    assert completed(finished.again) == []
    assert "3 of 3 trials complete" in finished.again.stdout
    assert finished.kept[1] == finished.kept[0]


def test_a_larger_number_adds_the_rest(finished: Finished) -> None:
    assert finished.more.returncode == 0
    assert completed(finished.more) == [3]
    assert "4 of 4 trials complete" in finished.more.stdout
    before, after = finished.kept[1:]
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1


def test_no_parameters_are_tried_twice(finished: Finished) -> None:
    record = read_study(finished.folder / NAME, load_settings(finished.folder / NAME))
    assert [trial.number for trial in record.trials] == [0, 1, 2, 3]
    assert {trial.state for trial in record.trials} == {"complete"}
    assert len({trial.params["pit.strength"] for trial in record.trials}) == 4


def test_a_trial_that_diverges_is_recorded_and_the_others_complete(tmp_path: Path) -> None:
    # From no pressure at all to more than a float holds.
    write_study(tmp_path, {"low=0.1, high=30.0": "low=1e-300, high=1e300"})
    done = run(tmp_path, "run", NAME, "--workers", "2")
    assert done.returncode == 1, done.stderr
    record = read_study(tmp_path / NAME, load_settings(tmp_path / NAME))
    failed = [trial for trial in record.trials if trial.state == "failed"]
    assert 1 <= len(failed) <= 3
    assert record.count("complete") == 4 - len(failed)
    for trial in failed:
        assert float(trial.params["pit.strength"]) > 1e30
        assert trial.reason.startswith("The loss must stay finite, but became nan in epoch ")
        assert f"trial {trial.number} failed: {trial.reason}" in done.stdout
    shown = invoke("show", tmp_path / NAME)
    assert shown.exit_code == 0
    assert f"{len(failed)} failed" in shown.stdout
    assert failed[0].reason in shown.stdout


def hide(folder: Path, *modules: str) -> str:
    """A folder for PYTHONPATH under which `modules` are not installed."""
    folder.mkdir()
    text = f"import sys\n\nsys.modules.update(dict.fromkeys({modules}))\n"
    (folder / "sitecustomize.py").write_text(text)
    return str(folder)


def test_without_extras_a_study_runs_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    write_study(tmp_path)
    extras = hide(tmp_path / "bare", "mlflow", "optuna_dashboard", "onnx", "onnxscript")
    bare = {"PYTHONPATH": extras, "PLINIO_SWEEP_TRACKING": ""}
    done = run(tmp_path, "run", NAME, "--trials", "2", **bare)
    assert done.returncode == 0, done.stderr
    assert "MLflow is not installed, so no run is tracked: pip install" in done.stdout
    assert "2 of 2 trials complete" in done.stdout
    exported = run(tmp_path, "export", NAME, "0", "model", **bare)
    assert exported.returncode == 0, exported.stderr
    assert "onnx: left out" in exported.stdout
    assert not (tmp_path / "model" / "model.onnx").exists()
    served = run(tmp_path, "serve", NAME, **bare)
    assert served.returncode == 2
    assert "pip install 'plinio-sweep[dashboard]'" in served.stderr


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
found = []
for run in runs:
    (model,) = client.search_logged_models(
        [experiments["bars"]], filter_string=f"source_run_id='{run.info.run_id}'"
    )
    net = mlflow.pytorch.load_model(f"models:/{model.model_id}")
    outputs = net(images) if callable(net) else net.module()(images)
    found.append(
        {
            "name": run.info.run_name,
            "status": run.info.status,
            "params": run.data.params,
            "metrics": run.data.metrics,
            "outputs": outputs.tolist(),
        }
    )
print(json.dumps({"experiments": sorted(experiments), "runs": found}))
"""


@pytest.mark.skipif(not tracking.available(), reason="needs mlflow")
def test_mlflow_holds_one_run_a_trial_whose_model_is_that_of_the_export(tmp_path: Path) -> None:
    write_study(tmp_path)
    done = run(tmp_path, "run", NAME, "--trials", "2", PLINIO_SWEEP_TRACKING="")
    assert done.returncode == 0, done.stderr
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
    assert sorted(runs) == ["trial 0", "trial 1"]
    record = read_study(tmp_path / NAME, load_settings(tmp_path / NAME))
    for trial in record.trials:
        tracked = runs[f"trial {trial.number}"]
        assert tracked["status"] == "FINISHED"
        assert float(tracked["params"]["pit.strength"]) == trial.params["pit.strength"]
        assert tracked["metrics"]["size_bytes"] == trial.costs["size_bytes"]
        net = stored_net(tmp_path / NAME, folder / "artifacts" / trial.artifact)
        images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(3))
        assert torch.allclose(torch.tensor(tracked["outputs"]), net(images), atol=1e-5)


def stored_net(study: Path, artifact: Path) -> nn.Module:
    """The net of a trial, made of the files of its artefact."""
    architecture = json.loads((artifact / "architecture.json").read_text(encoding="utf-8"))
    net = rebuild(load_study(study).task.net, architecture)
    net.load_state_dict(safetensors.torch.load_file(artifact / "model.safetensors"))
    return net.eval()
