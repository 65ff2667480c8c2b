"""What is measured of a trial that ends in integers, and what of one that does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from costs import params, peak_activation_bytes, size_bytes
from plinio_sweep.methods.mps import MPSSettings
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.settings import Settings
from plinio_sweep.ship.arena import arrange
from plinio_sweep.ship.packed import pack_program
from plinio_sweep.ship.reference import IntegerNet
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.shipped import COMPARED, shipped
from plinio_sweep.sweep.stage import Ground, Plan, Stage
from plinio_sweep.sweep.trial import load_net, run_trial
from plinio_sweep.train.loop import Watch, evaluate
from tests.studies import tiny

MODELS = {m.name: m for m in (size_bytes, peak_activation_bytes, params)}
ROUNDED = Stage(method=MPSSettings(w_bits=(2, 4, 8), x_bits=(8,)), strength=0.5)
PRUNED = Stage(method=PITSettings(), strength=0.5)


class Softened(tiny.TinyNet):
    """Has an operation that no integer does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


def grounded(folder: Path, net: type[nn.Module] = tiny.TinyNet) -> Ground:
    sweep = replace(tiny.sweep, task=replace(tiny.sweep.task, net=net))
    settings = Settings(folder=folder)
    return replace(ground_of(sweep, settings, open_store(settings)), models=MODELS)


def test_a_quantised_trial_is_scored_and_counted_as_integers(tmp_path: Path) -> None:
    ground = grounded(tmp_path)
    plan = Plan(stages=(ROUNDED,), seed=3)
    result, net, folder = run_trial(ground, plan, warmup_seed=0, watch=Watch())
    leaves = shipped(ground, net)
    assert isinstance(leaves.net, IntegerNet) and leaves.net is leaves.integers
    score = evaluate(leaves.integers, ground.data.part("validation"), ground.task)
    assert result.metrics["validation_loss"] == score.loss
    program = leaves.integers.program
    assert result.costs["size_bytes"] == len(pack_program(program))
    assert result.costs["peak_activation_bytes"] == arrange(program).size
    assert result.integers == leaves.notes
    assert result.integers["items"] == min(COMPARED, len(ground.data.part("validation")))
    assert result.integers["codes"] <= 1
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["integers"] == result.integers
    assert (
        report["differences"]["size_bytes"]
        == result.costs["size_bytes"] - result.estimates["size_bytes"]
    )


def test_a_stored_trial_becomes_the_same_integers(tmp_path: Path) -> None:
    ground = grounded(tmp_path)
    plan = Plan(stages=(ROUNDED,), seed=3)
    _, net, folder = run_trial(ground, plan, warmup_seed=0, watch=Watch())
    ours, again = (shipped(ground, n).integers for n in (net, load_net(ground, folder)))
    assert ours is not None and again is not None
    assert pack_program(ours.program) == pack_program(again.program)


@pytest.mark.parametrize("stages", [(), (PRUNED,)], ids=["seed", "pit"])
def test_a_float_trial_is_scored_as_it_is(tmp_path: Path, stages: tuple[Stage, ...]) -> None:
    ground = grounded(tmp_path)
    result, net, _ = run_trial(ground, Plan(stages=stages, seed=3), warmup_seed=0, watch=Watch())
    leaves = shipped(ground, net)
    assert leaves.net is net
    assert leaves.costs(MODELS) == {} == result.integers
    assert result.costs["size_bytes"] == 4 * result.costs["params"]


@torch.no_grad()
def test_a_net_without_integers_is_scored_in_floats_and_says_why(tmp_path: Path) -> None:
    ground = grounded(tmp_path, Softened)
    result, net, _ = run_trial(
        ground, Plan(stages=(ROUNDED,), seed=3), warmup_seed=0, watch=Watch()
    )
    assert "softmax at 'softmax' has none" in result.integers["reason"]
    score = evaluate(net, ground.data.part("validation"), ground.task)
    assert result.metrics["validation_loss"] == score.loss
