"""A trial that is cut anywhere, once or several times, comes to what it would have come to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.drive import StoppedError
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.stage import Ground
from plinio_sweep.sweep.trial import load_net, run_trial
from plinio_sweep.train.loop import Watch
from tests.studies import tiny
from tests.sweep.test_node import CHAIN, Noisy

pytestmark = pytest.mark.slow


class Steps:
    """Counts the steps of a training, and ends it before one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.count, self.last = 0, last

    def __call__(self) -> None:
        if self.last is not None and self.count >= self.last:
            raise StoppedError
        self.count += 1


def grounded(folder: Path) -> Ground:
    sweep = replace(tiny.sweep, task=replace(tiny.sweep.task, net=Noisy))
    settings = Settings(folder=folder, checkpoint=0.0)
    return ground_of(sweep, settings, open_store(settings))


def told(result: Any) -> dict[str, Any]:
    """What a trial came to, but for how long it took and what was there before."""
    found = asdict(result)
    for name in ("seconds", "reused_epochs", "phases"):
        del found[name]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any, int]:
    """The trial, its weights and how many steps it took, with nothing in between."""
    ground, steps = grounded(tmp_path_factory.mktemp("whole")), Steps()
    result, _, folder = run_trial(ground, CHAIN, warmup_seed=0, watch=Watch(step=steps))
    return told(result), load_net(ground, folder).state_dict(), steps.count


@examples(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_trial_that_is_cut_goes_on_bit_by_bit(
    data: st.DataObject,
    whole: tuple[dict[str, Any], Any, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    expected, weights, total = whole
    folder = tmp_path_factory.mktemp("cut")
    done = 0
    for _ in range(data.draw(st.integers(1, 3))):
        steps = Steps(data.draw(st.integers(0, total - done)))
        with suppress(StoppedError):
            run_trial(grounded(folder), CHAIN, warmup_seed=0, watch=Watch(step=steps))
        done += steps.count
    rest = Steps()
    ground = grounded(folder)
    result, _, stored = run_trial(ground, CHAIN, warmup_seed=0, watch=Watch(step=rest))
    assert done + rest.count == total  # no step was made twice
    assert told(result) == expected
    found = load_net(ground, stored).state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in found.items())
    unfinished = ground.store.unfinished("any").parent
    assert not unfinished.exists() or not list(unfinished.iterdir())


def test_checkpoints_that_are_damaged_are_told_and_left_out(
    whole: tuple[dict[str, Any], Any, int], tmp_path: Path
) -> None:
    expected, _, total = whole
    with pytest.raises(StoppedError):
        run_trial(grounded(tmp_path), CHAIN, warmup_seed=0, watch=Watch(step=Steps(total // 2)))
    files = [path for path in tmp_path.rglob("*.checkpoint")]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:-10])
    said: list[str] = []
    watch = Watch(warn=said.append)
    result, _, _ = run_trial(grounded(tmp_path), CHAIN, warmup_seed=0, watch=watch)
    assert len(said) == len(files)
    assert all("training goes on" in text for text in said)
    assert told(result) == expected
