"""The seed net and the baselines of a study: trained beside the trials, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from costs import size_bytes
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.baseline import Baseline, grid, longer, magnitude, uniform
from plinio_sweep.sweep.needs import needs_of
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.result import SEED
from plinio_sweep.sweep.stage import Stage
from plinio_sweep.sweep.storage import open_storage
from plinio_sweep.view.front import shown
from tests.messages import is_sentence
from tests.studies.tiny import sweep
from tests.sweep.bench import CONTEXT, finish, make_worker, start, work_and_tell

BESIDE = (*uniform(8, 2), *magnitude(0.5), *grid(PITSettings(), (1e-4,)))
compared = replace(sweep, baselines=BESIDE)

ON_BOTH = pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
Events = list[Mapping[str, Any]]


@ON_BOTH
def test_every_baseline_is_trained_once_and_measured(settings: Settings) -> None:
    events: Events = []
    worker = make_worker(settings, compared, target=1, say=events.append)
    worker.work()
    record = worker.record()
    assert [b.name for b in record.baselines] == ["w8a8", "w2a8", "l1 50%", "pit 0.0001"]
    assert [b.family for b in record.baselines][:3] == ["uniform", "uniform", "l1"]
    sizes = {b.name: b.costs["size_bytes"] for b in record.baselines}
    assert record.baseline is not None
    seed = record.baseline.costs["size_bytes"]
    assert sizes["w2a8"] < sizes["w8a8"] < seed / 2
    assert sizes["l1 50%"] < 0.8 * seed
    told = [event["name"] for event in events if event["event"] == "baseline"]
    assert told == [SEED, *sizes]
    # The warm-up is that of the seed net: each of the others trains search and fine-tuning alone.
    reused = {e["name"]: e["reused_epochs"] for e in events if e["event"] == "baseline"}
    assert reused == {SEED: 0} | dict.fromkeys(sizes, sweep.recipe.warmup.epochs)

    worker.test(shown(record))
    tested = worker.record()
    assert all("test_accuracy" in b.metrics for b in tested.baselines)
    before = len(events)
    again = make_worker(settings, compared, target=1, say=events.append)
    again.work()
    assert again.record() == tested
    assert not [e for e in events[before:] if e["event"] != "warning"]


def test_what_is_trained_longer_has_the_epochs_of_a_chain(settings: Settings) -> None:
    beside = (*uniform(8), *longer(1, *uniform(8)))
    events: Events = []
    worker = make_worker(settings, replace(sweep, baselines=beside), target=1, say=events.append)
    worker.work()
    found = {b.name: b for b in worker.record().baselines}
    assert list(found) == ["w8a8", "float +1 stage", "w8a8 +1 stage"]
    epochs = {name: sum(phase.epochs for phase in b.phases) for name, b in found.items()}
    recipe = sweep.recipe
    stage = recipe.search.epochs + recipe.finetune.epochs
    assert epochs["w8a8"] == recipe.warmup.epochs + stage
    assert epochs["float +1 stage"] == epochs["w8a8 +1 stage"] == recipe.warmup.epochs + 2 * stage
    # Nothing is pruned, and bytes are those of the bits.
    seed = worker.record().baseline
    assert seed is not None
    assert found["float +1 stage"].costs == seed.costs
    assert found["w8a8 +1 stage"].costs == found["w8a8"].costs
    # What both begin with is trained once.
    reused = {e["name"]: e["reused_epochs"] for e in events if e["event"] == "baseline"}
    assert reused["w8a8 +1 stage"] == recipe.warmup.epochs + stage


def test_no_stage_is_no_longer() -> None:
    with pytest.raises(ValueError, match="`stages` must be 1 or more, but got 0") as error:
        longer(0)
    assert is_sentence(error.value)


def test_baselines_may_come_later_and_are_no_drift(settings: Settings) -> None:
    make_worker(settings, sweep, target=1).work()
    later = make_worker(settings, compared, target=1)
    later.work()
    assert all(b.values for b in later.record().baselines)
    fewer = make_worker(settings, replace(sweep, baselines=BESIDE[:1]), target=1)
    assert [b.name for b in fewer.record().baselines] == ["w8a8"]
    # What stands behind those that are left out stays: they may come back.
    needs = needs_of(open_storage(settings, create=False)).keys
    assert {b.artifact for b in later.record().baselines} <= needs


def test_a_baseline_that_fails_is_told_once_and_stops_nothing(settings: Settings) -> None:
    wild = Stage(method=PITSettings(), strength=1e38, relative=False)
    broken = replace(sweep, baselines=(Baseline(name="wild", stages=(wild,)), *uniform(8)))
    events: Events = []
    worker = make_worker(settings, broken, target=1, say=events.append)
    worker.work()
    wild_one, quiet = worker.record().baselines
    assert "loss must stay finite" in wild_one.reason
    assert (wild_one.values, quiet.reason) == ((), "")
    assert quiet.values
    assert [e["name"] for e in events if e["event"] == "baseline failed"] == ["wild"]
    make_worker(settings, broken, target=1, say=events.append).work()
    assert [e["name"] for e in events if e["event"] == "baseline failed"] == ["wild"]


def test_workers_share_the_baselines(settings: Settings) -> None:
    told = CONTEXT.Manager().Queue()
    assert finish(*(start(work_and_tell, settings, 1, told, compared) for _ in range(2))) == [0, 0]
    record = make_worker(settings, compared, target=1).record()
    assert all(b.values for b in record.baselines)
    events = [told.get() for _ in range(told.qsize())]
    names = [event["name"] for event in events if event["event"] == "baseline"]
    assert sorted(names) == sorted([SEED, *(b.name for b in BESIDE)])
    trained = [event["phase"] for event in events if event["event"] == "epoch"]
    # One warm-up and one trial, whoever does what: nothing is trained by both.
    assert len(trained) == 1 + 4 + 4 * (1 + len(BESIDE))


def test_what_was_lost_is_made_again(settings: Settings) -> None:
    worker = make_worker(settings, compared, target=1)
    worker.work()
    store = open_store(settings)
    found = next(b for b in worker.record().baselines if b.name == "l1 50%")
    folder = store.find(found.artifact)
    assert folder is not None
    weights = (folder / "model.safetensors").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    worker.keep(shown(worker.record()))
    made = open_store(settings).find(found.artifact)
    assert made is not None
    assert (made / "model.safetensors").read_bytes() == weights


def test_a_lambda_of_papers_is_the_loss_for_one_unit_of_cost(settings: Settings) -> None:
    # Twice as strong as the loss is large: nothing is left that may go.
    heavy = Stage(method=PITSettings(), strength=1e-2, relative=False)
    light = Stage(method=PITSettings(), strength=1e-12, relative=False)
    study = replace(
        sweep,
        pressure=size_bytes,
        baselines=(
            Baseline(name="heavy", stages=(heavy,)),
            Baseline(name="light", stages=(light,)),
        ),
    )
    worker = make_worker(settings, study, target=1)
    worker.work()
    sizes = {b.name: b.costs["size_bytes"] for b in worker.record().baselines}
    assert worker.record().baseline is not None
    assert sizes["heavy"] < sizes["light"]
    assert "relative" not in Stage(method=PITSettings(), strength=1.0).describe()
    assert heavy.describe()["relative"] is False


@pytest.mark.parametrize("name", ["", " ", "seed", "12", "3#1"])
def test_a_baseline_has_a_name_that_is_not_taken(name: str) -> None:
    with pytest.raises(ValueError, match="must be words") as error:
        Baseline(name=name, stages=(Stage(method=PITSettings()),))
    assert is_sentence(error.value)


def test_two_baselines_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a name of its own each") as error:
        replace(sweep, baselines=(*uniform(8), *uniform(8)))
    assert is_sentence(error.value)


def test_a_baseline_without_a_stage_is_the_seed_net() -> None:
    with pytest.raises(ValueError, match="one stage or more") as error:
        Baseline(name="nothing", stages=())
    assert is_sentence(error.value)


@pytest.mark.parametrize("strength", [-1.0, float("inf"), float("nan")])
def test_a_strength_is_a_number(strength: float) -> None:
    with pytest.raises(ValueError, match="`strength` must be at least 0 and finite") as error:
        Stage(method=PITSettings(), strength=strength)
    assert is_sentence(error.value)


def test_a_new_study_knows_its_baselines_before_they_are_trained(settings: Settings) -> None:
    open_study(compared, settings)
    record = make_worker(settings, compared).record()
    assert [b.values for b in record.baselines] == [()] * len(BESIDE)
    assert shown(record) == {}
