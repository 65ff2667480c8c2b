from __future__ import annotations

import json
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plinio_sweep import Splits
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.node import seed_net
from plinio_sweep.sweep.path import path_of
from plinio_sweep.sweep.stage import Ground, Plan, Stage
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.sweep.trial import load_net, read_result, rebuild, run_trial
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch, evaluate
from plinio_sweep.train.recipe import Phase, cosine
from tests.messages import is_sentence
from tests.studies.tiny import TinyNet, sweep, tiny

ONE = Plan(stages=(Stage(method=PITSettings(), strength=2.0),), seed=5)
TWO = Plan(stages=2 * (Stage(method=PITSettings(gate="consumer"), strength=0.7),), seed=5)
SEED = Plan(stages=(), seed=5)

GroundFor = Callable[[Sweep], Ground]


@pytest.fixture
def ground_for(tmp_path: Path) -> GroundFor:
    store = FolderStore(tmp_path / "artifacts")
    return lambda sweep: ground_of(sweep, Settings(folder=tmp_path), store)


def run(ground: Ground, plan: Plan = ONE, watch: Watch | None = None) -> Any:
    return run_trial(ground, plan, warmup_seed=0, watch=watch or Watch())


def counting() -> tuple[list[str], Watch]:
    phases: list[str] = []

    def note(epoch: Epoch, epochs: int) -> None:
        phases.append(epoch.phase)

    return phases, Watch(epoch=note)


# -- a trial and its files ------------------------------------------------------------------------


def test_a_trial_tells_what_its_stored_net_really_reaches(ground_for: GroundFor) -> None:
    ground = ground_for(sweep)
    result, net, folder = run(ground)
    score = evaluate(load_net(ground, folder), ground.data.part("validation"), ground.task)
    assert result.metrics == {
        "validation_loss": pytest.approx(score.loss, rel=1e-5),
        "validation_accuracy": score.metrics["accuracy"],
    }
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert result.costs["size_bytes"] == 4 * result.costs["params"]
    assert weights < result.costs["params"] < 518
    assert set(result.estimates) == set(result.costs) == set(result.units)
    assert [epoch.phase for epoch in result.history] == [
        *("warmup", "pit.search", "pit.search", "pit.search", "pit.finetune")
    ]
    assert [epoch.step for epoch in result.history] == list(range(5))
    assert not net.training


def test_a_stored_trial_is_read_back_whole(ground_for: GroundFor) -> None:
    result, _, folder = run(ground_for(sweep))
    assert read_result(folder) == replace(
        result, architecture=json.loads(json.dumps(result.architecture))
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        *("architecture.json", "history.json", "manifest.json", "model.safetensors"),
        *("report.json", "result.json"),
    ]
    assert json.loads((folder / "report.json").read_text())["costs"] == result.costs


@pytest.mark.parametrize("plan", [ONE, TWO, SEED], ids=["pit", "pit>pit", "seed"])
def test_a_net_is_rebuilt_from_json_and_weights_alone(
    plan: Plan, ground_for: GroundFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = ground_for(sweep)
    result, net, folder = run(ground, plan)
    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler"):
            patch.setattr(pickle, name, None)  # whoever unpickles, fails
        loaded = load_net(ground, folder)
    inputs = ground.data.part("validation").inputs
    assert torch.equal(loaded(*inputs), net(*inputs))
    architecture = json.loads((folder / "architecture.json").read_text())
    assert set(rebuild(TinyNet, architecture).state_dict()) == set(net.state_dict())
    if plan.stages:
        kept = {name: layer["out"] for name, layer in result.architecture["layers"].items()}
        assert kept["first"] == loaded.get_submodule("first").out_channels


class RowNet(nn.Module):
    """Two convolutions over the columns of an image, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(6, 8, 5, padding=2), nn.BatchNorm1d(8)
        self.second, self.classifier = nn.Conv1d(8, 4, 3, padding="same"), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x.squeeze(1))))
        return self.classifier(F.relu(self.second(x)).amax(2))


@pytest.mark.parametrize("unfold", [False, True])
def test_taps_and_folded_norms_go_through_json_and_back(
    ground_for: GroundFor, unfold: bool
) -> None:
    ground = ground_for(tiny(net=RowNet))
    settings = PITSettings(gate="consumer", fold=True, unfold=unfold)
    plan = Plan(stages=2 * (Stage(method=settings, strength=8.0),), seed=5)
    result, net, folder = run(ground, plan)
    inputs = ground.data.part("validation").inputs
    assert torch.equal(load_net(ground, folder)(*inputs), net(*inputs))
    layer = result.architecture["layers"]["first"]
    first = net.get_submodule("first")
    assert (layer["taps"],) == first.kernel_size
    assert (layer["dilation"],) == first.dilation
    assert layer["taps"] < layer["seed_taps"] == 5
    assert any(isinstance(module, nn.BatchNorm1d) for module in net.modules()) == unfold
    assert "taps" not in result.architecture["layers"]["classifier"]


def test_the_second_stage_goes_on_where_the_first_ended(ground_for: GroundFor) -> None:
    result, _, _ = run(ground_for(sweep), TWO)
    phases = list(dict.fromkeys(epoch.phase for epoch in result.history))
    assert phases == ["warmup", "pit.search", "pit.finetune", "pit#2.search", "pit#2.finetune"]
    layer = result.architecture["layers"]["second"]
    assert layer["out"] < layer["seed_out"] == 8
    assert len(result.architecture["stages"]) == 2


def test_a_trial_says_when_each_of_its_phases_came_and_what_was_there_already(
    ground_for: GroundFor,
) -> None:
    ground, before = ground_for(sweep), time.time()
    plans = (ONE, replace(ONE, stages=(*ONE.stages, TWO.stages[0])), ONE)
    first, longer, again = (run(ground, plan)[0].phases for plan in plans)
    names = ["warmup", "pit.search", "pit.finetune"]
    more = [*names, "pit#2.search", "pit#2.finetune", "evaluation"]
    assert [phase.name for phase in first] == [*names, "evaluation"]
    assert [phase.epochs for phase in first] == [1, 3, 1, 0]
    assert [phase.name for phase in longer] == more
    assert [phase.reused for phase in first] == 4 * [False]
    assert [phase.reused for phase in longer] == 3 * [True] + 3 * [False]
    assert [phase.reused for phase in again] == 4 * [True]
    assert [phase.key for phase in again] == [phase.key for phase in first]
    assert sum(phase.trained_epochs for phase in longer) == 4
    moments = [phase.begin for phase in (*first, *longer, *again)]
    assert moments == sorted(moments) and before <= moments[0] and moments[-1] <= time.time()
    stored = read_result(run(ground, ONE)[2])
    assert stored.phases == first and stored.seconds == sum(phase.seconds for phase in first)


def test_the_seed_net_is_trained_like_a_trial(ground_for: GroundFor) -> None:
    recipe = replace(
        sweep.recipe,
        search=Phase(epochs=3, lr=1e-2, arch_lr=0.3),
        finetune=Phase(epochs=1, lr=2e-2, schedule=cosine),
    )
    ground = ground_for(replace(sweep, recipe=recipe))
    alone, searched = (path_of(ground, plan, 0) for plan in (SEED, ONE))
    for node, other in zip(alone, searched, strict=True):
        assert replace(node.phase, arch_lr=0.3) == replace(other.phase, arch_lr=0.3)


def test_the_seed_net_is_trained_as_long_as_a_trial(ground_for: GroundFor) -> None:
    phases, watch = counting()
    result, _, _ = run(ground_for(sweep), SEED, watch)
    assert phases == ["warmup", *(3 * ["seed"]), "seed.finetune"]
    assert result.costs["params"] == 518
    assert result.estimates == {} == result.architecture["layers"]


# -- reuse ----------------------------------------------------------------------------------------


def test_the_warm_up_is_trained_once_for_all_trials(ground_for: GroundFor) -> None:
    ground = ground_for(sweep)
    phases, watch = counting()
    run(ground, ONE, watch)
    second, _, _ = run(ground, TWO, watch)
    assert phases.count("warmup") == sweep.recipe.warmup.epochs
    assert second.reused_epochs == sweep.recipe.warmup.epochs


def test_a_finished_trial_is_not_trained_again(ground_for: GroundFor) -> None:
    ground = ground_for(sweep)
    first, net, folder = run(ground)
    phases, watch = counting()
    again, loaded, same = run(ground, watch=watch)
    assert (phases, same) == ([], folder)
    assert again.metrics == first.metrics
    inputs = ground.data.example()
    assert torch.equal(loaded(*inputs), net(*inputs))


def test_who_comes_second_to_the_measuring_has_trained_what_it_trained(
    ground_for: GroundFor, tmp_path: Path
) -> None:
    first, _, folder = run(ground_for(sweep))
    store = FolderStore(tmp_path / "empty")
    phases: list[str] = []

    def look(epoch: Epoch, epochs: int) -> None:
        phases.append(epoch.phase)
        if epoch.phase == "pit.finetune":  # meanwhile another worker is quicker with the rest
            store.write(
                first.artifact, lambda draft: shutil.copytree(folder, draft, dirs_exist_ok=True)
            )

    ground = ground_of(sweep, Settings(folder=tmp_path), store)
    second, _, _ = run(ground, watch=Watch(epoch=look))
    assert phases.count("pit.finetune") == 1
    assert [phase.reused for phase in second.phases] == [False, False, False, True]
    assert second.reused_epochs == 0
    assert second.seconds == sum(phase.seconds for phase in second.phases)
    assert second.metrics == first.metrics


def test_a_trial_does_not_depend_on_what_ran_before_it(
    ground_for: GroundFor, tmp_path: Path
) -> None:
    ground = ground_for(sweep)
    first, _, _ = run(ground)  # its warm-up is trained
    shutil.rmtree(first_folder(ground, first.artifact))
    torch.rand(7)
    second, _, _ = run(ground)  # its warm-up is loaded
    assert second.metrics == first.metrics
    assert second.architecture == first.architecture


def first_folder(ground: Ground, key: str) -> Path:
    folder = ground.store.find(key)
    assert folder is not None
    return folder


def test_a_trial_that_is_cut_leaves_no_artefact(ground_for: GroundFor) -> None:
    class EnoughError(Exception):
        pass

    def stop(epoch: Epoch, epochs: int) -> None:
        if epoch.phase == "pit.finetune":
            raise EnoughError

    ground = ground_for(sweep)
    with pytest.raises(EnoughError):
        run(ground, watch=Watch(epoch=stop))
    kept = {n.name: ground.store.find(n.key) is not None for n in path_of(ground, ONE, 0)}
    assert kept == {
        "warmup": True,
        "pit.search": True,
        "pit.finetune": False,
        "evaluation": False,
    }


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, None])
@pytest.mark.parametrize("name", ["model.safetensors", "architecture.json"])
def test_a_damaged_file_is_refused_in_one_sentence(
    name: str, content: bytes | None, ground_for: GroundFor
) -> None:
    ground = ground_for(sweep)
    _, _, folder = run(ground)
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=f"{name} must be whole and .* remove") as error:
        load_net(ground, folder)
    assert is_sentence(error.value)


def test_weights_of_another_net_are_refused(ground_for: GroundFor) -> None:
    ground = ground_for(sweep)
    _, _, folder = run(ground)
    _, _, other = run(ground, SEED)
    shutil.copy(other / "model.safetensors", folder)
    with pytest.raises(
        ValueError, match=r"must be whole and fit the net, .*size mismatch"
    ) as error:
        load_net(ground, folder)
    assert is_sentence(error.value)


def test_a_damaged_result_is_refused_in_one_sentence(ground_for: GroundFor) -> None:
    ground = ground_for(sweep)
    _, _, folder = run(ground)
    (folder / "result.json").write_text('{"metrics":')
    with pytest.raises(
        ValueError, match=r"as it was written, but .* result.json; .* anew"
    ) as error:
        run(ground)
    assert is_sentence(error.value)


# -- nets of every kind ---------------------------------------------------------------------------


class TwoInputs(nn.Module):
    """Reads images and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.images = TinyNet()
        self.number = nn.Linear(1, 2)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"scores": self.images(x) + self.number(y)}


class Words(nn.Module):
    """Reads whole numbers, which no random float can stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 6)
        self.hidden = nn.Linear(6, 8)
        self.classifier = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.hidden(self.table(x).mean(1))))


def two_inputs() -> Splits:
    data = sweep.task.data()
    parts = {n: data.part(n) for n in ("train", "validation", "test")}
    return Splits(**{n: ((*p.inputs, p.target[:, None] * 1.0), p.target) for n, p in parts.items()})


def words() -> Splits:
    x = torch.randint(5, (64, 4), generator=torch.Generator().manual_seed(0))
    part = (x, (x[:, 0] > 2).long())
    return Splits(train=part, validation=part, test=part)


def scores_loss(outputs: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(outputs["scores"], target)


KINDS = {
    "two inputs and a dict": tiny(
        net=TwoInputs, data=two_inputs, loss=scores_loss, metrics={}, objectives=("size_bytes",)
    ),
    "whole numbers": tiny(net=Words, data=words),
}


@pytest.mark.parametrize("kind", KINDS)
def test_nets_of_every_kind_go_all_the_way(kind: str, ground_for: GroundFor) -> None:
    ground = ground_for(KINDS[kind])
    result, net, folder = run(ground)
    loaded, inputs = load_net(ground, folder), ground.data.example()
    torch.testing.assert_close(loaded(*inputs), net(*inputs))
    assert result.costs["params"] < run(ground, SEED)[0].costs["params"]


# -- what the task gives --------------------------------------------------------------------------


def fails() -> nn.Module:
    raise RuntimeError("no such\nwidth")


BAD_NETS: dict[str, tuple[Sweep, str]] = {
    "no module": (tiny(net=lambda: 3), "`net` must return a torch module, but returned int"),
    "raises": (
        tiny(net=fails),
        "`net` must make the seed net, but failed: RuntimeError: no such w",
    ),
    "shape": (tiny(net=lambda: nn.Linear(7, 2)), r"failed on inputs of shape \[\(2, 1, 6, 6\)\]"),
    "loss": (tiny(loss=F.binary_cross_entropy), "Net and loss must accept the data, but failed on"),
}


@pytest.mark.parametrize("case", BAD_NETS)
def test_a_net_that_does_not_fit_is_refused_in_one_sentence(
    case: str, ground_for: GroundFor
) -> None:
    other, message = BAD_NETS[case]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        seed_net(ground_for(other))
    assert is_sentence(error.value)


def test_the_seed_net_is_new_each_time_and_as_it_was_made(ground_for: GroundFor) -> None:
    ground = ground_for(sweep)
    first, second = seed_net(ground), seed_net(ground)
    assert first is not second
    assert first.training
    assert int(first.get_buffer("first_norm.num_batches_tracked")) == 0


def test_a_trial_may_go_without_warm_up_and_fine_tuning(ground_for: GroundFor) -> None:
    recipe = replace(sweep.recipe, warmup=Phase(epochs=0), finetune=Phase(epochs=0))
    ground = ground_for(tiny(recipe=recipe))
    result, _, folder = run(ground)
    assert [epoch.phase for epoch in result.history] == 3 * ["pit.search"]
    score = evaluate(load_net(ground, folder), ground.data.part("validation"), ground.task)
    assert result.metrics["validation_loss"] == pytest.approx(score.loss, rel=1e-5)
