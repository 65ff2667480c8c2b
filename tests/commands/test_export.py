"""`plinio-sweep export`: a folder that other tools read, with outputs that agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import plinio_sweep
from plinio_sweep.plugin import load_study
from plinio_sweep.ship.onnx import run_onnx
from plinio_sweep.sweep.trial import rebuild
from tests.conftest import Finished
from tests.ship.compiled import needs_gcc
from tests.terminal import NAME, invoke, refusal, run, write_study

pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def point(finished: Finished) -> dict[str, Any]:
    """The smallest point of the front."""
    return first_point(finished.folder)


@pytest.fixture(scope="module")
def exported(
    finished: Finished, point: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    done = invoke("export", finished.folder / NAME, point["trial"], folder)
    assert done.exit_code == 0, done.stderr
    assert f"trial {point['trial']} is in {folder}" in done.stdout
    return folder


def net_of(finished: Finished, exported: Path) -> nn.Module:
    """The exported net, made of its files."""
    sweep = load_study(finished.folder / NAME)
    net = rebuild(sweep.task.net, json.loads((exported / "architecture.json").read_text()))
    net.load_state_dict(safetensors.torch.load_file(exported / "model.safetensors"))
    return net.eval()


def inputs(count: int) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(3))


def test_the_folder_holds_weights_graph_architecture_and_report(exported: Path) -> None:
    files = {path.name for path in exported.iterdir()}
    assert files == {"architecture.json", "model.onnx", "model.safetensors", "report.json"}


@torch.no_grad()
def test_weights_and_onnx_give_the_same_outputs(finished: Finished, exported: Path) -> None:
    images = inputs(5)
    expected = net_of(finished, exported)(images)
    (found,) = run_onnx(exported / "model.onnx", [images])
    assert expected.shape == (5, 2)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)


@torch.no_grad()
def test_the_exported_net_is_the_one_that_was_measured(
    finished: Finished, exported: Path, point: dict[str, Any]
) -> None:
    sweep = load_study(finished.folder / NAME)
    split = sweep.task.data().part("validation")
    accuracy = (net_of(finished, exported)(*split.inputs).argmax(1) == split.target).double().mean()
    assert float(accuracy) == point["metrics"]["validation_accuracy"]


def test_the_weights_have_the_pruned_sizes(exported: Path, point: dict[str, Any]) -> None:
    weights = safetensors.torch.load_file(exported / "model.safetensors")
    layers = json.loads((exported / "architecture.json").read_text())["layers"]
    report = json.loads((exported / "report.json").read_text())
    assert weights["first.weight"].shape == (layers["first"]["out"], 1, 3, 3)
    assert weights["second.weight"].shape[:2] == (layers["second"]["out"], layers["first"]["out"])
    assert weights["classifier.weight"].shape == (2, layers["second"]["out"])
    # Norms are folded into biases when a net is counted: one number a channel.
    size = sum(weights[f"{n}.weight"].numel() + layers[n]["out"] for n in layers)
    assert 4 * size == report["costs"]["size_bytes"] == point["costs"]["size_bytes"] < 1616


def test_the_report_tells_metrics_costs_and_checks(exported: Path, point: dict[str, Any]) -> None:
    report = json.loads((exported / "report.json").read_text())
    assert report["metrics"] == point["metrics"]
    assert report["costs"] == point["costs"]
    assert report["checks"]["safetensors"] == 0
    assert report["checks"]["onnx"] < 1e-4


def test_a_trial_that_is_not_there_is_refused_with_those_that_are(
    finished: Finished, tmp_path: Path
) -> None:
    text = refusal("export", finished.folder / NAME, 99, tmp_path / "model")
    assert "[0, 1, 2, 3]" in text
    assert "got 99" in text
    assert not (tmp_path / "model").exists()


def test_a_filled_folder_is_refused_and_left_alone(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    assert "new or empty" in refusal("export", finished.folder / NAME, 0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_folder_below_a_file_is_refused(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    text = refusal("export", finished.folder / NAME, 0, tmp_path / "file" / "model")
    assert "you can write" in text


def test_an_artefact_that_is_gone_is_named(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path)
    (folder / ".plinio-sweep" / "artifacts").rename(folder / "elsewhere")
    text = refusal("export", folder / NAME, 0, tmp_path / "model")
    assert "artefact of trial 0" in text


def test_a_damaged_artefact_is_refused(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path)
    for path in folder.glob(".plinio-sweep/artifacts/*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    text = refusal("export", folder / NAME, 0, tmp_path / "model")
    assert "must be as it was written, but has other contents in model.safetensors" in text
    assert not (tmp_path / "model").exists()


# -- quantised ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose trials end in integers."""
    folder = tmp_path_factory.mktemp("quantised")
    write_study(folder, {"space=Space(": 'space=Space(orders=("mps",), ', "trials=4": "trials=2"})
    done = run(folder, "run", NAME)
    assert done.returncode == 0, done.stderr
    return folder


def first_point(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke("show", folder / NAME, "--json").stdout)
    point: dict[str, Any] = found["front"][0]
    return point


@needs_gcc
def test_a_quantised_trial_is_exported_in_every_form(quantised: Path, tmp_path: Path) -> None:
    target, trial = tmp_path / "model", first_point(quantised)
    done = invoke("export", quantised / NAME, trial["trial"], target)
    assert done.exit_code == 0, done.stderr
    for name in ("safetensors", "onnx", "integers", "integers_onnx", "c"):
        assert f"{name}: reloaded, largest difference " in done.stdout
    assert "bytes by " in done.stdout and ", arena " in done.stdout
    assert (target / "model.bin").stat().st_size == trial["costs"]["size_bytes"]


@torch.no_grad()
def test_the_integers_of_the_folder_score_as_the_trial_did(quantised: Path, tmp_path: Path) -> None:
    trial, target = first_point(quantised), tmp_path / "model"
    done = invoke("export", quantised / NAME, trial["trial"], target, "--format", "torch")
    assert done.exit_code == 0, done.stderr
    split = load_study(quantised / NAME).task.data().part("validation")
    right = plinio_sweep.load_integers(target)(*split.inputs).argmax(1) == split.target
    assert float(right.double().mean()) == trial["metrics"]["validation_accuracy"]


def test_a_format_is_all_that_is_written(quantised: Path, tmp_path: Path) -> None:
    base = {"architecture.json", "model.bin", "model.safetensors", "report.json"}
    for form, more in (
        ("torch", set()),
        ("c", {"model.c", "model.h"}),
        ("onnx", {"model.onnx", "integers.onnx"}),
    ):
        done = invoke("export", quantised / NAME, 0, tmp_path / form, "--format", form)
        assert done.exit_code == 0, done.stderr
        assert {path.name for path in (tmp_path / form).iterdir()} == base | more


def test_c_code_of_a_float_net_is_refused(finished: Finished, tmp_path: Path) -> None:
    text = refusal("export", finished.folder / NAME, 0, tmp_path / "model", "--format", "c")
    assert "was not quantised" in text
    assert not (tmp_path / "model").exists()


def test_a_bundle_is_replaced_by_force_alone(quantised: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    words = ("export", quantised / NAME, 0, target, "--format", "torch")
    assert invoke(*words).exit_code == 0
    assert "--force" in refusal(*words)
    assert invoke(*words, "--force").exit_code == 0
