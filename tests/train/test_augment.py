"""Augmentation: of training batches alone, drawn from the seed, and part of the key of a net."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.path import path_of
from plinio_sweep.sweep.stage import Plan
from plinio_sweep.train.augment import augmented, step_generator
from plinio_sweep.train.loop import evaluate, fit
from plinio_sweep.train.recipe import AugmentFn, Phase, Splits
from tests.messages import is_sentence
from tests.studies.tiny import TinyNet, bars, sweep, tiny
from tests.train.runs import flipped

Inputs = tuple[Tensor, ...]
DATA: Splits = bars()


def same(inputs: Inputs, generator: torch.Generator) -> Inputs:
    torch.rand(3, generator=generator)
    return inputs


def noisy(inputs: Inputs, generator: torch.Generator) -> Inputs:
    return (inputs[0] + torch.randn(inputs[0].shape, generator=generator),)


def trained(augment: AugmentFn | None, seed: int = 0) -> tuple[bytes, float]:
    """Weights, and the validation loss that the last epoch noted."""
    torch.manual_seed(0)
    net, task = TinyNet(), replace(sweep.task, augment=augment)
    history = fit(net, DATA, task, Phase(epochs=2), name="a", batch_size=32, seed=seed)
    weights = torch.cat([p.detach().flatten() for p in net.parameters()])
    return weights.numpy().tobytes(), history[-1].validation_loss


def test_who_changes_nothing_changes_nothing() -> None:
    assert trained(same) == trained(None)


def test_the_seed_says_what_is_drawn() -> None:
    assert trained(noisy) == trained(noisy)
    assert trained(noisy) != trained(None)
    assert trained(noisy, seed=1) != trained(noisy)


def test_only_batches_that_are_trained_on_are_augmented_and_each_anew() -> None:
    seen, drawn = [], []

    def watched(inputs: Inputs, generator: torch.Generator) -> Inputs:
        seen.append(len(inputs[0]))
        drawn.append(float(torch.rand((), generator=generator)))
        return (torch.zeros_like(inputs[0]),)

    torch.manual_seed(0)
    net, task = TinyNet(), replace(sweep.task, augment=watched)
    history = fit(net, DATA, task, Phase(epochs=2), name="a", batch_size=32, seed=0)
    assert seen == [32] * 6
    assert len(set(drawn)) == 6
    # The scores of the epochs are those of the images as they are.
    best = min(epoch.validation_loss for epoch in history)
    assert evaluate(net, DATA.part("validation"), sweep.task).loss == best
    assert len(seen) == 6


def test_neighbouring_seeds_epochs_and_steps_draw_other_numbers() -> None:
    places = [(s, e, k) for s in range(3) for e in range(3) for k in range(3)]
    cpu = torch.device("cpu")
    found = [torch.rand(4, generator=step_generator(*p, cpu)).tolist() for p in places]
    assert len({tuple(numbers) for numbers in found}) == len(places)


def first_key(folder: Path, augment: AugmentFn | None) -> str:
    study = tiny()
    settings = Settings(folder=folder, tracking="none")
    own = replace(study, task=replace(study.task, augment=augment))
    ground = ground_of(own, settings, open_store(settings))
    return path_of(ground, Plan(stages=(), seed=0), 0)[0].key


def test_nets_of_other_augmentations_are_not_mixed_up(tmp_path: Path) -> None:
    keys = [first_key(tmp_path, augment) for augment in (None, same, noisy, flipped)]
    assert len(set(keys)) == 4
    assert first_key(tmp_path, noisy) == keys[2]


@pytest.mark.parametrize(
    "augment",
    [
        lambda inputs, generator: inputs[0],
        lambda inputs, generator: (inputs[0][:1],),
        lambda inputs, generator: (inputs[0].double(),),
        lambda inputs, generator: (*inputs, inputs[0]),
        lambda inputs, generator: None,
    ],
)
def test_what_comes_back_must_be_inputs_of_the_net(augment: Any) -> None:
    with pytest.raises(ValueError, match="`augment` must") as caught:
        augmented(augment, (torch.zeros(4, 2),), torch.Generator())
    assert is_sentence(caught.value)
