"""What is trained once under a key, read back, shared, and waited for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from costs import macs, params, size_bytes
from plinio_sweep.methods.mps import MPSSettings
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.methods.supernet import SuperNetModule, SuperNetSettings
from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.store.leases import open_leases
from plinio_sweep.store.manifest import NAME, manifest_of
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.life import Life
from plinio_sweep.sweep.node import outcome_of
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.path import Node, path_of
from plinio_sweep.sweep.stage import Ground, Plan, Stage
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.sweep.trial import run_trial
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch
from tests.messages import is_sentence
from tests.studies.tiny import sweep, tiny


class Noisy(nn.Module):
    """A choice and a dropout: what a search draws may depend on what was drawn before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.block = SuperNetModule([nn.Conv2d(6, 6, 3, padding=1), nn.Identity()])
        self.rest = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(6, 6, 1), nn.ReLU())
        self.classifier = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.rest(self.block(self.stem(x))).mean((2, 3)))


STAGES = {
    "supernet": Stage(method=SuperNetSettings(), strength=0.5),
    "pit": Stage(method=PITSettings(), strength=0.5),
    "mps": Stage(method=MPSSettings(w_bits=(2, 4, 8), x_bits=(4, 8)), strength=0.5),
}
CHAIN = Plan(stages=tuple(STAGES.values()), seed=5)
COUNTS = {"params": params, "macs": macs, "size_bytes": size_bytes}


def plan(order: str) -> Plan:
    return Plan(stages=tuple(STAGES[name] for name in order.split(">")), seed=5)


def grounded(folder: Path, study: Sweep | None = None, **changes: Any) -> Ground:
    study = tiny(net=Noisy) if study is None else study
    ground = ground_of(study, Settings(folder=folder), FolderStore(folder / "artifacts"))
    return replace(ground, models=COUNTS, **changes)


def run(ground: Ground, plan: Plan) -> tuple[Any, list[str]]:
    """The result of `plan` and the phases that were trained for it."""
    phases: list[str] = []

    def note(epoch: Epoch, epochs: int) -> None:
        phases.append(epoch.phase)

    result, _, folder = run_trial(ground, plan, warmup_seed=0, watch=Watch(epoch=note))
    assert (folder / "model.safetensors").is_file()
    return result, phases


def values(result: Any) -> Any:
    """All of a result that an interruption may not change."""
    return replace(
        result,
        seconds=0.0,
        reused_epochs=0,
        phases=(),
        architecture=json.loads(json.dumps(result.architecture)),
    )


def weights(ground: Ground, result: Any) -> bytes:
    folder = ground.store.find(result.artifact)
    assert folder is not None
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ground, Any]:
    """The whole chain, trained at once."""
    ground = grounded(tmp_path_factory.mktemp("straight"))
    result, phases = run(ground, CHAIN)
    assert len(phases) == 1 + 3 * 4 == len(result.history)
    assert result.reused_epochs == 0
    return ground, result


# -- reuse ----------------------------------------------------------------------------------------


@examples(max_examples=12, deadline=None, derandomize=True)
@given(kept=st.integers(0, 7), drawn=st.integers(0, 3))
def test_a_chain_that_goes_on_from_any_stored_node_ends_bit_equal(
    kept: int, drawn: int, straight: tuple[Ground, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, whole = straight
    ground = grounded(tmp_path_factory.mktemp("other"))
    path = path_of(ground, CHAIN, 0)
    for node in path[:kept]:
        source = first.store.find(node.key)
        assert source is not None
        shutil.copytree(source, tmp_path_of(ground) / node.key)
    torch.rand(drawn)  # what was drawn before changes nothing
    result, phases = run(ground, CHAIN)
    assert values(result) == values(whole)
    assert weights(ground, result) == weights(first, whole)
    assert result.reused_epochs == len(whole.history) - len(phases)
    assert phases == [epoch.phase for epoch in whole.history][result.reused_epochs :]


def tmp_path_of(ground: Ground) -> Path:
    assert isinstance(ground.store, FolderStore)
    return ground.store.root


def test_orders_share_what_they_begin_with(tmp_path: Path) -> None:
    ground = grounded(tmp_path)
    trained = {}
    for order in ("supernet>pit", "supernet>pit>mps", "supernet>mps", "supernet", "mps", "pit>mps"):
        _, phases = run(ground, plan(order))
        trained[order] = list(dict.fromkeys(phase.partition(".")[0] for phase in phases))
    assert trained == {
        "supernet>pit": ["warmup", "supernet", "pit"],
        "supernet>pit>mps": ["mps"],
        "supernet>mps": ["mps"],
        "supernet": [],
        "mps": ["mps"],
        "pit>mps": ["pit", "mps"],
    }


def test_another_study_with_the_same_store_trains_only_what_is_its_own(tmp_path: Path) -> None:
    first, _ = run(grounded(tmp_path), plan("pit>mps"))
    wider = grounded(tmp_path, tiny(net=Noisy, name="other", objectives=("macs",)))
    ours = replace(wider, models={"macs": macs, "params": params})
    second, phases = run(ours, plan("pit>mps"))
    assert phases == []
    assert second.reused_epochs == len(second.history)
    assert second.artifact != first.artifact
    assert second.costs == {name: first.costs[name] for name in ("macs", "params")}
    assert second.estimates == {name: first.estimates[name] for name in ("macs", "params")}
    assert {name for epoch in second.history for name in epoch.costs} == {"macs", "params"}


@pytest.mark.parametrize("order", STAGES)
def test_an_estimate_does_not_depend_on_who_trained_the_search(order: str, tmp_path: Path) -> None:
    poor = replace(grounded(tmp_path / "a"), models={"size_bytes": size_bytes})
    run(poor, plan(order))
    rich = replace(grounded(tmp_path / "a"), models=COUNTS)
    result, phases = run(rich, plan(order))
    alone, _ = run(grounded(tmp_path / "b"), plan(order))
    assert phases == []
    assert result.estimates == alone.estimates
    # What the first study did not report was not noted, epoch by epoch; the rest is the same.
    assert [e.costs["size_bytes"] for e in result.history if e.costs] == [
        e.costs["size_bytes"] for e in alone.history if e.costs
    ]
    assert not any("macs" in epoch.costs for epoch in result.history)


def test_tied_weights_are_stored_and_read_back(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(36, 36), nn.Linear(36, 36)
            self.second.weight = self.first.weight
            self.classifier = nn.Linear(36, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.second(self.first(x.flatten(1)).relu()).relu())

    ground = grounded(tmp_path, tiny(net=Tied))
    first, _ = run(ground, plan("pit"))
    shutil.rmtree(tmp_path_of(ground) / first.artifact)
    again, phases = run(ground, plan("pit"))
    assert phases == []
    assert values(again) == values(first)


# -- damage ---------------------------------------------------------------------------------------


def vouch(folder: Path) -> None:
    """Has the manifest say that `folder` is as it was written."""
    (folder / NAME).write_bytes(manifest_of(folder).to_bytes())


def test_a_damaged_stage_is_trained_again_and_all_that_stands_on_it_is_taken(
    straight: tuple[Ground, Any], tmp_path: Path
) -> None:
    first, whole = straight
    root = shutil.copytree(tmp_path_of(first), tmp_path / "artifacts")
    nodes = path_of(first, CHAIN, 0)
    shutil.rmtree(root / nodes[-1].key)
    weights_of = root / nodes[3].key / "model.safetensors"
    weights_of.write_bytes(weights_of.read_bytes()[:-1] + b"\0")
    said: list[str] = []
    result, phases = run(replace(first, store=FolderStore(root, warn=said.append)), CHAIN)
    assert len(said) == 1 and f"{nodes[3].key} must be as it was written" in said[0]
    assert phases == [nodes[3].name] * 3
    assert values(result) == values(whole)


@pytest.mark.parametrize("name", ["search.safetensors", "stage.json", "history.json"])
def test_a_damaged_stage_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    ground = grounded(tmp_path)
    result, _ = run(ground, plan("pit"))
    shutil.rmtree(tmp_path_of(ground) / result.artifact)
    path = tmp_path_of(ground) / path_of(ground, plan("pit"), 0)[1].key / name
    path.write_bytes(path.read_bytes()[:40])
    vouch(path.parent)
    with pytest.raises(ValueError, match=f"{name} must be whole and .* remove") as error:
        run(ground, plan("pit"))
    assert is_sentence(error.value)


def test_a_stage_of_another_net_is_refused_in_one_sentence(tmp_path: Path) -> None:
    ground, other = grounded(tmp_path), grounded(tmp_path / "b", sweep)
    result, _ = run(ground, plan("pit"))
    run(other, plan("pit"))
    shutil.rmtree(tmp_path_of(ground) / result.artifact)
    mine, theirs = (path_of(g, plan("pit"), 0)[1].key for g in (ground, other))
    for name in ("search.safetensors", "stage.json"):
        shutil.copy(tmp_path_of(other) / theirs / name, tmp_path_of(ground) / mine)
    vouch(tmp_path_of(ground) / mine)
    with pytest.raises(ValueError, match=r"search.safetensors must be whole and fit") as error:
        run(ground, plan("pit"))
    assert is_sentence(error.value)


# -- two at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
def test_who_was_overtaken_drops_what_it_trained(
    settings: Settings, straight: tuple[Ground, Any]
) -> None:
    open_study(sweep, settings)
    first, second = (
        grounded(settings.folder, leases=open_leases(settings, Life(settings.folder)))
        for _ in range(2)
    )
    search = path_of(first, CHAIN, 0)[1]
    trained: list[str] = []
    overtaken: list[float] = []

    def note(epoch: Epoch, epochs: int) -> None:
        trained.append(epoch.phase)
        if epoch.phase == search.name and not overtaken:
            assert first.leases is not None
            first.leases.drop(search.key)  # as if it had slept for too long
            outcome_of(second, search, warmed(second), Watch())
            overtaken.append(stored(second, search).stat().st_mtime)

    result, _, _ = run_trial(first, CHAIN, warmup_seed=0, watch=Watch(epoch=note))
    assert stored(first, search).stat().st_mtime == overtaken[0]
    assert values(result) == values(straight[1])
    # It trained the search to its end, which was for nothing, and then went on from the other's.
    assert trained.count(search.name) == 3
    assert result.reused_epochs == 3


def stored(ground: Ground, node: Node) -> Path:
    folder = ground.store.find(node.key)
    assert folder is not None
    return folder / "model.safetensors"


def warmed(ground: Ground) -> nn.Module:
    return outcome_of(ground, path_of(ground, CHAIN, 0)[0], None, Watch()).net
