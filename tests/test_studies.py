"""The studies that ship with the project run, and search what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.node import seed_net
from plinio_sweep.sweep.stage import Plan, Stage
from plinio_sweep.sweep.trial import run_trial
from plinio_sweep.train.loop import Watch

DIGITS = Path(__file__).parent.parent / "studies" / "digits.py"

pytest.importorskip("sklearn")


def test_a_trial_of_digits_removes_most_of_the_net_and_keeps_its_accuracy(tmp_path: Path) -> None:
    sweep = load_study(DIGITS)
    settings = Settings(folder=tmp_path)
    ground = ground_of(sweep, settings, open_store(settings))
    plan = Plan(stages=(Stage(method=PITSettings(), strength=1.5),), seed=0)
    result, _, _ = run_trial(ground, plan, warmup_seed=sweep.seed, watch=Watch())
    scales = 4 * 24 + 48  # of the batch norms, which fold into the weights; their shifts are biases
    seed_bytes = 4 * (sum(p.numel() for p in seed_net(ground).parameters()) - scales)
    assert result.costs["size_bytes"] < seed_bytes / 3
    assert result.metrics["validation_accuracy"] > 0.95


def test_the_splits_of_digits_are_fixed_and_apart() -> None:
    sweep = load_study(DIGITS)
    first, again = sweep.task.data(), sweep.task.data()
    sizes = [len(first.part(name)) for name in ("train", "validation", "test")]
    assert sizes == [1077, 360, 360]
    rows = [
        {image.numpy().tobytes() for image in first.part(name).inputs[0]}
        for name in ("train", "validation", "test")
    ]
    assert not rows[0] & rows[2] and not rows[1] & rows[2] and not rows[0] & rows[1]
    assert first.part("test").target.equal(again.part("test").target)
