"""Replicates of trials and of the seed net: independent, trained once, whatever comes between."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.baseline import uniform
from plinio_sweep.sweep.failure import StoppedError
from plinio_sweep.sweep.needs import needs_of
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.result import BaselineRecord
from plinio_sweep.sweep.storage import open_storage
from plinio_sweep.train.metrics import accuracy
from plinio_sweep.view.confirm import stored
from plinio_sweep.view.front import shown
from tests.messages import is_sentence
from tests.studies.tiny import sweep, tiny
from tests.sweep.bench import CONTEXT, finish, make_worker, start

Events = list[Mapping[str, Any]]
ON_BOTH = pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
NAMES = ["0#1", "0#2", "seed#1", "seed#2"]


def values(replicates: tuple[BaselineRecord, ...]) -> dict[str, tuple[float, ...]]:
    return {replicate.name: replicate.values for replicate in replicates}


def trained(events: Events) -> list[Any]:
    return [event["phase"] for event in events if event["event"] == "epoch"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, ...]]:
    """What two replicates of a trial and of the seed net come to when nothing comes between."""
    settings = Settings(folder=tmp_path_factory.mktemp("straight"), tracking="none")
    worker = make_worker(settings, target=1)
    worker.work()
    worker.confirm(["0"], 2)
    return values(worker.record().replicates)


@ON_BOTH
def test_replicates_are_trained_once_and_needed_and_measured(
    settings: Settings, straight: dict[str, tuple[float, ...]]
) -> None:
    events: Events = []
    worker = make_worker(settings, target=1, say=events.append)
    worker.work()
    events.clear()
    worker.confirm(["0"], 2)
    record = worker.record()
    assert values(record.replicates) == straight
    assert [(r.name, r.family) for r in record.replicates] == [
        (name, name.partition("#")[0]) for name in NAMES
    ]
    # Two warm-ups, which trial and seed net share, and four epochs of each.
    assert len(trained(events)) == 2 * (1 + 4 + 4)
    assert [e["name"] for e in events if e["event"] == "replicate"] == [
        *("seed#1", "seed#2", "0#1", "0#2")
    ]
    # They are other trainings than that of the trial, and than each other.
    assert record.baseline is not None
    originals = [record.trials[0].artifact, record.baseline.artifact]
    artifacts = {replicate.artifact for replicate in record.replicates}
    assert len(artifacts.union(originals)) == 6
    assert artifacts <= needs_of(open_storage(settings, create=False)).keys

    events.clear()
    worker.confirm(["0"], 2)
    assert trained(events) == []
    assert worker.record() == record
    worker.confirm(["0"], 3)
    assert len(trained(events)) == 1 + 4 + 4

    worker.test(shown(worker.record(), [0], 2))
    tested = worker.record()
    assert tested.tested == 6
    assert ["test_accuracy" in r.metrics for r in tested.replicates] == [1, 1, 0, 1, 1, 0]


def test_what_was_interrupted_goes_on_where_it_was(
    settings: Settings, straight: dict[str, tuple[float, ...]]
) -> None:
    events: Events = []
    worker = make_worker(replace(settings, checkpoint=0.0), target=1)
    worker.work()
    worker.say = events.append
    steps = iter(range(10_000))
    worker.stopping = lambda: next(steps) > 40
    with pytest.raises(StoppedError):
        worker.confirm(["0"], 2)
    assert len(worker.record().replicates) < 4
    again = make_worker(replace(settings, checkpoint=0.0), target=1, say=events.append)
    again.confirm(["0"], 2)
    assert values(again.record().replicates) == straight
    assert len(trained(events)) == 2 * (1 + 4 + 4)


def confirm(settings: Settings, told: Any) -> None:
    """A worker of replicates in a process of its own."""
    make_worker(settings, target=1, known=True, say=told.put).confirm(["0"], 2)


def test_workers_share_the_replicates(
    settings: Settings, straight: dict[str, tuple[float, ...]]
) -> None:
    make_worker(settings, target=1).work()
    told = CONTEXT.Manager().Queue()
    assert finish(*(start(confirm, settings, told) for _ in range(2))) == [0, 0]
    events = [told.get() for _ in range(told.qsize())]
    assert len(trained(events)) == 2 * (1 + 4 + 4)
    assert sorted(e["name"] for e in events if e["event"] == "replicate") == NAMES
    assert values(make_worker(settings, target=1).record().replicates) == straight


def test_a_replicate_that_fails_is_told_and_stops_nothing(settings: Settings) -> None:
    calls = count(1)

    def sometimes(outputs: Any, target: Any) -> float:
        # Seed net and trial take 6 calls each, and so does the first replicate, with its score.
        return float("nan") if next(calls) == 18 else accuracy(outputs, target)

    study = tiny(metrics={"accuracy": sometimes})
    events: Events = []
    worker = make_worker(settings, study, target=1, say=events.append)
    worker.work()
    worker.confirm(["0"], 2)
    failed = [replicate for replicate in worker.record().replicates if replicate.reason]
    assert [replicate.name for replicate in failed] == ["seed#1"]
    assert "must be finite, but accuracy is nan" in failed[0].reason
    assert [e["name"] for e in events if e["event"] == "replicate failed"] == ["seed#1"]
    assert sum(bool(replicate.values) for replicate in worker.record().replicates) == 3
    assert "seed#1" not in shown(worker.record(), [0], 2)


def test_a_replicate_that_was_lost_is_made_again(settings: Settings) -> None:
    worker = make_worker(settings, target=1)
    worker.work()
    worker.confirm(["0"], 2)
    store = open_store(settings)
    lost = next(r for r in worker.record().replicates if r.name == "0#2")
    folder = store.find(lost.artifact)
    assert folder is not None
    before = (folder / "model.safetensors").read_bytes()
    shutil.rmtree(folder)
    worker.test(shown(worker.record(), [0], 2))
    made = open_store(settings).find(lost.artifact)
    assert made is not None
    assert (made / "model.safetensors").read_bytes() == before


def test_only_complete_trials_have_replicates(settings: Settings) -> None:
    worker = make_worker(settings, target=1)
    worker.work()
    with pytest.raises(ValueError, match=r"among \['seed', '0'\], but got 7") as error:
        worker.confirm(["0", "7"], 2)
    assert is_sentence(error.value)
    assert worker.record().replicates == ()


def test_baselines_have_replicates_when_they_are_asked_for(settings: Settings) -> None:
    compared = replace(sweep, baselines=uniform(8, 4))
    worker = make_worker(settings, compared, target=1)
    worker.work()
    worker.confirm(["w8a8", "0"], 2)
    record = worker.record()
    again = {(r.name, r.family) for r in record.replicates}
    assert again == {(f"{key}#{n}", key) for key in ("seed", "w8a8", "0") for n in (1, 2)}
    sizes = {r.costs["size_bytes"] for r in (*record.replicates, *record.baselines)}
    original = next(b for b in record.baselines if b.name == "w8a8")
    repeated = [r for r in record.replicates if r.family == "w8a8"]
    assert {r.costs["size_bytes"] for r in repeated} == {original.costs["size_bytes"]} < sizes
    assert len({r.artifact for r in (original, *repeated)}) == 3
    # Only those that are asked for are measured on test data.
    assert "w8a8#1" not in shown(record, [0], 2)
    worker.test(shown(record, [0], 2, ["w8a8"]))
    tested = [r.name for r in worker.record().replicates if "test_accuracy" in r.metrics]
    assert sorted(tested) == ["0#1", "0#2", "seed#1", "seed#2", "w8a8#1", "w8a8#2"]
    nets = stored(worker.record())
    assert nets is not None and [net.name for net in nets.nets] == ["seed", "w8a8", "0"]
    with pytest.raises(ValueError, match=r"among \['seed', 'w8a8', 'w4a8', '0'\], but got w2a8"):
        worker.confirm(["w2a8"], 2)


def test_a_baseline_that_would_be_trained_otherwise_has_none(settings: Settings) -> None:
    worker = make_worker(settings, replace(sweep, baselines=uniform(8)), target=1)
    worker.work()
    wild = replace(uniform(8)[0], stages=uniform(4)[0].stages)
    changed = make_worker(settings, replace(sweep, baselines=(wild,)), target=1)
    with pytest.raises(ValueError, match="as the baseline 'w8a8' was, but the study has") as error:
        changed.confirm(["w8a8"], 2)
    assert is_sentence(error.value)


def test_what_would_be_trained_otherwise_has_no_replicates(settings: Settings) -> None:
    worker = make_worker(settings, target=1)
    worker.work()
    worker.confirm(["0"], 2)
    recipe = replace(sweep.recipe, search=replace(sweep.recipe.search, epochs=2))
    changed = tiny(recipe=recipe)
    open_study(changed, settings, accept_drift=True)
    later = make_worker(settings, changed, target=1)
    with pytest.raises(ValueError, match="as the seed net was") as error:
        later.confirm(["0"], 2)
    assert is_sentence(error.value)
    later.work()  # trains the seed net anew
    with pytest.raises(ValueError, match="as trial 0 was, but the study has changed"):
        later.confirm(["0"], 2)
    # Those of the old seed net say nothing of the new one.
    assert list(values(later.record().replicates)) == ["0#1", "0#2"]


def test_a_space_that_has_no_such_plan_any_more_is_a_changed_study(settings: Settings) -> None:
    worker = make_worker(settings, target=1)
    worker.work()
    worker.sweep = tiny(space=replace(sweep.space, choices={"pit.channels": (True, False)}))
    worker._fixed = replace(worker._fixed, sweep=worker.sweep)
    with pytest.raises(ValueError, match="as trial 0 was, but the study has changed"):
        worker.confirm(["0"], 2)
