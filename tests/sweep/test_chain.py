"""Methods in a row: a SuperNet's choice is pruned by PIT, stored, and made again from its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.methods.supernet import SuperNetModule, SuperNetSettings
from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.sweep.drive import ground_of
from plinio_sweep.sweep.space import Space
from plinio_sweep.sweep.stage import Plan, Stage
from plinio_sweep.sweep.trial import load_net, run_trial
from plinio_sweep.train.loop import Watch
from tests.studies import tiny


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


SUPERNET = Stage(method=SuperNetSettings(), strength=0.5)
PRUNED = Stage(method=PITSettings(), strength=0.5)


@pytest.mark.parametrize("stages", [(SUPERNET,), (SUPERNET, PRUNED)], ids=["supernet", "chain"])
def test_a_chain_ends_in_a_net_that_its_files_make_again(
    stages: tuple[Stage, ...], tmp_path: Path
) -> None:
    sweep = replace(tiny.sweep, task=replace(tiny.sweep.task, net=Branched))
    settings = Settings(folder=tmp_path)
    ground = ground_of(sweep, settings, FolderStore(settings.artifacts))
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


def test_the_temperature_falls_from_start_to_end_of_the_search(tmp_path: Path) -> None:
    sweep = replace(
        tiny.sweep,
        task=replace(tiny.sweep.task, net=Branched),
        recipe=replace(tiny.sweep.recipe, temperature=(2.0, 0.02)),
    )
    settings = Settings(folder=tmp_path)
    ground = ground_of(sweep, settings, FolderStore(settings.artifacts))
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
