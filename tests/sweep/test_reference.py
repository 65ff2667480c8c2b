"""A study of a net of choices beside a net of layers: what starts from which."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plinio_sweep import SuperNetModule, SuperNetSettings, grid, uniform
from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.drift import DriftError
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.result import SEED
from plinio_sweep.sweep.space import Space
from plinio_sweep.sweep.trial import load_net, load_structure
from plinio_sweep.view.front import hypervolume, shown
from tests.messages import is_sentence
from tests.studies.tiny import TinyNet, sweep
from tests.sweep.bench import make_worker

Events = list[Mapping[str, Any]]


class ChoiceNet(TinyNet):
    """With a choice in the place of the second convolution."""

    def __init__(self) -> None:
        super().__init__()
        small = nn.Conv2d(6, 8, 1, bias=False)
        self.second: nn.Module = SuperNetModule([self.second, small])


plain = replace(sweep, name="plain", baselines=uniform(8))
choices = replace(
    sweep,
    name="choices",
    task=replace(sweep.task, net=ChoiceNet),
    space=Space(orders=("supernet",)),
    baselines=(
        *(replace(b, net=TinyNet) for b in uniform(8)),
        *grid(SuperNetSettings(), (1e-4,)),
    ),
    reference=TinyNet,
)


def test_seed_and_baselines_are_those_of_the_plain_study(settings: Settings) -> None:
    first = make_worker(settings, plain, target=1)
    first.work()
    events: Events = []
    worker = make_worker(settings, choices, target=1, say=events.append)
    worker.work()
    ours, theirs = worker.record(), first.record()
    assert ours.baseline is not None and theirs.baseline is not None
    assert replace(ours.baseline, phases=()) == replace(theirs.baseline, phases=())
    assert all(phase.reused for phase in ours.baseline.phases if phase.epochs)
    assert [b.name for b in ours.baselines] == ["w8a8", "supernet 0.0001"]
    assert ours.baselines[0].artifact == theirs.baselines[0].artifact
    # Of the net of layers nothing is trained again; the other one has a warm-up of its own.
    phases = [event["phase"] for event in events if event["event"] == "epoch"]
    assert phases.count("warmup") == 1
    assert not {"seed", "seed.finetune", "mps.search"}.intersection(phases)
    sizes = [ours.baseline.costs["params"], ours.trials[0].costs["params"]]
    assert sizes[1] <= sizes[0]
    assert hypervolume(ours) is not None


def test_what_starts_from_either_net_is_read_and_measured(settings: Settings) -> None:
    worker = make_worker(settings, choices, target=1)
    worker.work()
    worker.confirm(["w8a8", "0"], 2)
    record = worker.record()
    wanted = shown(record, [0], 2, ["w8a8"])
    worker.test(wanted)
    tested = worker.record()
    every = (*tested.trials, *tested.baselines, *tested.replicates)
    assert all("test_accuracy" in result.metrics for result in every)
    store = open_store(settings)
    ground = ground_of(choices, settings, store)
    for key, artifact in wanted.items():
        folder = store.find(artifact)
        assert folder is not None
        net, (structure, example) = load_net(ground, folder), load_structure(choices.nets, folder)
        assert net.state_dict().keys() == structure.state_dict().keys(), key
        architecture = json.loads((folder / "architecture.json").read_text())
        layers = key.partition("#")[0] in (SEED, "w8a8")
        assert ("ChoiceNet" in json.dumps(architecture["net"])) is not layers
        with torch.no_grad():
            assert net(*ground.data.example()).shape == structure(*example).shape == (2, 2)


def test_what_was_lost_is_made_again_from_its_own_net(settings: Settings) -> None:
    worker = make_worker(settings, choices, target=1)
    worker.work()
    baseline = worker.record().baselines[0]
    folder = open_store(settings).find(baseline.artifact)
    assert folder is not None
    before = (folder / "model.safetensors").read_bytes()
    shutil.rmtree(folder)
    later = make_worker(settings, choices, target=1)
    later.test({baseline.name: baseline.artifact})
    found = open_store(settings).find(baseline.artifact)
    assert found is not None
    assert (found / "model.safetensors").read_bytes() == before


def test_a_study_without_one_says_nothing_of_it() -> None:
    assert "reference" not in sweep.definition()
    assert "TinyNet" in json.dumps(choices.definition()["reference"])
    assert sweep.nets == (TinyNet,)
    assert choices.nets == (ChoiceNet, TinyNet)


def test_another_reference_is_another_study(settings: Settings) -> None:
    make_worker(settings, choices, target=1).work()
    with pytest.raises(DriftError, match="changed in reference: ") as error:
        open_study(replace(choices, reference=None), settings)
    assert is_sentence(error.value)


def test_a_reference_that_does_not_run_is_told_before_anything_is_trained(
    settings: Settings, tmp_path: Path
) -> None:
    broken = replace(choices, reference=lambda: nn.Linear(3, 2))
    events: Events = []
    with pytest.raises(ValueError, match="Net and loss must accept the data") as error:
        make_worker(settings, broken, target=1, say=events.append).work()
    assert is_sentence(error.value)
    assert not [event for event in events if event["event"] == "epoch"]
