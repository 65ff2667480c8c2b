"""Methods in a row: chosen, pruned, rounded, stored, and made again from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from torch import Tensor, nn

from costs import macs, params, size_bytes
from plinio_sweep.methods import METHODS
from plinio_sweep.methods.mps import MPS, MPSSettings
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.methods.supernet import SuperNetModule, SuperNetSettings
from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.space import Space
from plinio_sweep.sweep.stage import Ground, Plan, Stage
from plinio_sweep.sweep.trial import load_net, run_trial
from plinio_sweep.train.loop import Watch
from tests.studies import tiny
from tests.sweep.bench import run_stage


class Branched(nn.Module):
    """The tiny net with a choice in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.block = SuperNetModule(
            [nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 5, padding=2), nn.Identity()]
        )
        self.classifier = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.block(self.stem(x)).mean((2, 3)))


COUNTS = {"params": params, "macs": macs, "size_bytes": size_bytes}


def grounded(net: Callable[[], nn.Module], folder: Path) -> Ground:
    """What stages of the tiny study stand on, with another net."""
    sweep = replace(tiny.sweep, task=replace(tiny.sweep.task, net=net))
    settings = Settings(folder=folder)
    return replace(ground_of(sweep, settings, open_store(settings)), models=COUNTS)


SUPERNET = Stage(method=SuperNetSettings(), strength=0.5)
PRUNED = Stage(method=PITSettings(), strength=0.5)
ROUNDED = Stage(method=MPSSettings(w_bits=(0, 2, 4, 8), x_bits=(4, 8)), strength=0.5)
PER_LAYER = Stage(method=MPSSettings(per="layer", ranges="learned"), strength=0.5)


@pytest.mark.parametrize("stages", [(SUPERNET,), (SUPERNET, PRUNED)], ids=["supernet", "chain"])
def test_a_chain_ends_in_a_net_that_its_files_make_again(
    stages: tuple[Stage, ...], tmp_path: Path
) -> None:
    sweep = replace(tiny.sweep, task=replace(tiny.sweep.task, net=Branched))
    settings = Settings(folder=tmp_path)
    ground = ground_of(sweep, settings, open_store(settings))
    plan = Plan(stages=stages, seed=3)
    result, net, folder = run_trial(ground, plan, warmup_seed=0, watch=Watch())
    (inputs,) = ground.data.part("validation").inputs
    torch.testing.assert_close(load_net(ground, folder)(inputs), net.eval()(inputs))
    stored = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    assert [stage["method"] for stage in stored["stages"]] == [s.method.name for s in stages]
    assert stored["stages"][0]["decisions"]["branches"]["block"] in (0, 1, 2)
    assert result.costs["params"] == sum(
        p.numel() for n, p in net.named_parameters() if not n.startswith("stem.1")
    )


@pytest.mark.parametrize(
    "stages",
    [(ROUNDED,), (PER_LAYER,), (PRUNED, ROUNDED), (SUPERNET, PRUNED, ROUNDED), (ROUNDED, PRUNED)],
    ids=lambda stages: ">".join(stage.method.name for stage in stages),
)
def test_a_rounded_net_is_made_again_and_opened_by_every_method(
    stages: tuple[Stage, ...], tmp_path: Path
) -> None:
    ground = grounded(Branched if SUPERNET in stages else tiny.TinyNet, tmp_path)
    plan = Plan(stages=stages, seed=3)
    result, net, folder = run_trial(ground, plan, warmup_seed=0, watch=Watch())
    (inputs,) = ground.data.part("validation").inputs
    again = load_net(ground, folder)
    assert torch.equal(again(inputs), net(inputs))
    for record in (record for record in METHODS.values() if record.pressed):
        search = record().open(again, ground.data.example(), COUNTS)
        for name in ("params", "macs"):
            assert search.get_cost(name, hard=True).item() == result.costs[name]
        # The model of the search knows layers; the file has the word of the mean, too.
        assert search.get_cost("size_bytes", hard=True).item() + 4 == result.costs["size_bytes"]
    float_bytes = 4 * result.costs["params"]
    assert result.costs["size_bytes"] < float_bytes / 2


def test_the_layers_of_a_result_tell_their_bit_widths(tmp_path: Path) -> None:
    ground = grounded(tiny.TinyNet, tmp_path)
    plan = Plan(stages=(ROUNDED,), seed=3)
    result, _, folder = run_trial(ground, plan, warmup_seed=0, watch=Watch())
    stored = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    assert stored["layers"] == result.architecture["layers"]
    for layer in stored["layers"].values():
        assert sum(layer["w_bits"].values()) == layer["out"]
        assert set(layer["w_bits"]) <= {"2", "4", "8"}
        assert layer["x_bits"] in (4, 8)


def test_a_search_looks_at_training_data_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = grounded(tiny.TinyNet, tmp_path)
    seen: list[int] = []
    prepare = MPS.prepare

    def look(search: MPS, batches: Iterable[tuple[Tensor, ...]]) -> None:
        kept = list(batches)
        seen.append(sum(len(inputs[0]) for inputs in kept))
        prepare(search, kept)

    monkeypatch.setattr(MPS, "prepare", look)
    net = ground.task.net()
    run_stage(ground, net, ROUNDED, name="mps", seed=0, step=0, watch=Watch())
    assert seen == [2, len(ground.data.part("train"))]  # the example when it is opened, then data


def test_bit_widths_travel_as_words_in_a_space() -> None:
    space = Space(
        orders=("mps",),
        choices={"mps.w_bits": ((2, 4, 8), (0, 2, 4, 8)), "mps.x_bits": ((8,), (4, 8))},
    )
    trial = optuna.trial.FixedTrial(
        {"order": "mps", "mps.strength": 0.1, "mps.w_bits": "0 2 4 8", "mps.x_bits": "8"}
    )
    (stage,) = space.suggest(trial, seed=0).stages
    assert stage.method == MPSSettings(w_bits=(0, 2, 4, 8), x_bits=(8,))
    with pytest.raises(ValueError, match="`w_bits` must hold each bit-width"):
        Space(orders=("mps",), choices={"mps.w_bits": ((2, 2),)})


def test_the_temperature_falls_from_start_to_end_of_the_search(tmp_path: Path) -> None:
    sweep = replace(
        tiny.sweep,
        task=replace(tiny.sweep.task, net=Branched),
        recipe=replace(tiny.sweep.recipe, temperature=(2.0, 0.02)),
    )
    settings = Settings(folder=tmp_path)
    ground = ground_of(sweep, settings, open_store(settings))
    search = SuperNetSettings().open(Branched(), ground.data.example(), sweep.pressure)
    seen = []

    def look() -> None:
        seen.append(round(search.temperature.item(), 6))

    from plinio_sweep.train.loop import fit

    fit(
        search,
        ground.data,
        sweep.task,
        replace(sweep.recipe.search, epochs=3),
        name="supernet.search",
        batch_size=sweep.recipe.batch_size,
        seed=0,
        temperature=sweep.recipe.temperature,
        watch=Watch(step=look),
    )
    assert list(dict.fromkeys(seen)) == [2.0, 0.2, 0.02]


def test_an_order_may_chain_methods_and_choose_their_settings() -> None:
    space = Space(
        orders=("supernet>pit", "pit"),
        choices={"supernet.hard": (True, False), "pit.gate": ("norm", "consumer")},
    )
    assert space.orders[0] == "supernet>pit"
    with pytest.raises(ValueError, match="`choices` must name settings among"):
        Space(choices={"supernet.temperature": (1.0,)})


@pytest.mark.parametrize("temperature", [(1.0,), (0.0, 1.0), (1.0, -1.0)])
def test_a_temperature_must_be_a_start_and_an_end_above_zero(temperature: tuple[float]) -> None:
    with pytest.raises(ValueError, match="`temperature` must be a start and an end above 0"):
        replace(tiny.sweep.recipe, temperature=temperature)
