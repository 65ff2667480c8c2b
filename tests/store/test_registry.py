"""What keeps a model out of the registry: it must give, once loaded, what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from plinio_sweep.settings import Settings
from plinio_sweep.store import tracking
from plinio_sweep.store.registry import Registration, register
from plinio_sweep.store.tracking import open_tracker
from plinio_sweep.sweep.result import TrialResult
from tests.messages import is_sentence
from tests.zoo.shipped import Residual, TwoInputs

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not tracking.available(), reason="needs mlflow"),
]


class Changing(nn.Module):
    """Another net once it is a graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-3 if torch.compiler.is_exporting() else x


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(folder=tmp_path_factory.mktemp("study"))


@pytest.fixture
def client(settings: Settings) -> MlflowClient:
    return open_tracker(settings, "digits").client


@pytest.fixture
def put(settings: Settings, tmp_path: Path) -> Callable[..., tuple[str, float]]:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.bin").write_bytes(b"integers")

    def put(net: nn.Module, *example: Tensor, **changes: Any) -> tuple[str, float]:
        given: dict[str, Any] = {"name": "net", "alias": "champion", "tolerance": 1e-6, **changes}
        wanted = Registration(
            trial=3, params={}, net=net, example=example, bundle=bundle, tags={}, **given
        )
        return register(settings, "digits", wanted)

    return put


def test_versions_are_counted_and_the_alias_moves(
    put: Callable[..., tuple[str, float]], client: MlflowClient
) -> None:
    net = Residual().eval()
    versions = [put(net, torch.randn(2, 3, 8, 8), name="counted")[0] for _ in range(2)]
    assert versions == ["1", "2"]
    assert put(net, torch.randn(2, 3, 8, 8), name="counted", alias="")[0] == "3"
    assert int(client.get_model_version_by_alias("counted", "champion").version) == 2
    runs = {client.get_model_version("counted", version).run_id for version in "123"}
    assert len(runs) == 1


def test_what_is_told_of_a_trial_after_it_was_registered_comes_to_the_same_run(
    settings: Settings, put: Callable[..., tuple[str, float]], tmp_path: Path
) -> None:
    trial, study = "run-00ab", "run-00cd"
    begin = time.time() - 60
    put(nn.Linear(2, 2), torch.randn(1, 2), name="late", run=trial, study_run=study)
    later = open_tracker(settings, "digits", study)
    later.start(3, {"order": "pit"}, trial, when=begin)
    result = TrialResult(
        metrics={"validation_accuracy": 0.5},
        costs={},
        estimates={},
        units={},
        architecture={},
        layers=(),
        history=(),
        artifact="ab",
        seconds=1.0,
    )
    later.finish(trial, result, tmp_path, when=begin + 1)
    runs = later.client.search_runs([later.experiment_id], f"tags.run_key = '{trial}'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert runs[0].data.params == {"order": "pit"}
    assert runs[0].data.metrics["validation_accuracy"] == 0.5
    parent = later.client.get_run(runs[0].data.tags["mlflow.parentRunId"])
    assert parent.data.tags["run_key"] == study
    assert later.client.get_model_version("late", "1").run_id == runs[0].info.run_id


def test_a_net_is_compared_on_the_cpu_where_there_is_a_gpu(
    put: Callable[..., tuple[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", "cuda")  # as MLflow finds one
    _, difference = put(nn.Linear(4, 2).eval(), torch.randn(2, 4), name="elsewhere")
    assert difference <= 1e-6


def test_a_net_of_several_inputs_is_compared_too(put: Callable[..., tuple[str, float]]) -> None:
    _, difference = put(TwoInputs().eval(), torch.randn(2, 4), torch.randn(2, 4), name="several")
    assert difference <= 1e-6


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        pytest.param(
            Changing(), "must give what trial 3 gives, but its outputs differ", id="other"
        ),
        pytest.param(Branching(), "must be written as a graph of torch.export", id="no graph"),
    ],
)
def test_what_is_another_net_once_it_is_loaded_is_refused(
    put: Callable[..., tuple[str, float]], client: MlflowClient, net: nn.Module, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        put(net, torch.ones(2, 4), name="refused")
    assert is_sentence(error.value)
    assert not client.search_registered_models("name = 'refused'")
