"""What a study does when something goes wrong."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.drift import DriftError, identity
from plinio_sweep.sweep.ground import device_of
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.sweep.space import Space
from plinio_sweep.sweep.storage import StorageError
from plinio_sweep.sweep.tracker import unkept
from plinio_sweep.train.metrics import accuracy
from plinio_sweep.train.recipe import Phase, Splits
from plinio_sweep.view.front import shown
from plinio_sweep.view.report import drifts
from tests.messages import is_sentence
from tests.studies.tiny import TinyNet, bars, sweep, tiny
from tests.sweep.bench import make_worker

Events = list[Mapping[str, Any]]

# Calls of a metric: after each of the 5 epochs of the seed net and for its score; before, after
# each of the 4 epochs of a trial and for its score.
OF_SEED, OF_TRIAL = 6, 6


def run(settings: Settings, study: Any = sweep, *, target: int = 2, **more: Any) -> StudyRecord:
    worker = make_worker(settings, study, target=target, **more)
    worker.work()
    return worker.record()


def late(goes_wrong: Callable[[], float], call: int = OF_SEED + OF_TRIAL) -> Any:
    """Metrics that go wrong in one call, that of the first trial's score, and in no other."""
    calls = count(1)

    def metric(outputs: Tensor, target: Tensor) -> float:
        return goes_wrong() if next(calls) == call else accuracy(outputs, target)

    return {"accuracy": metric}


def raising(error: BaseException) -> Callable[[], float]:
    def goes_wrong() -> float:
        raise error

    return goes_wrong


# -- trials that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goes_wrong", "reason"),
    [
        (raising(KeyError("label")), "KeyError: 'label'"),
        (raising(RuntimeError("out of\n  memory")), "RuntimeError: out of memory"),
        (raising(ValueError("a sentence.")), "a sentence."),
        (raising(FileNotFoundError(2, "None", "labels")), "FileNotFoundError: .*'labels'"),
        (lambda: float("nan"), "Objectives must be finite, but accuracy is nan; check .*"),
    ],
)
def test_a_trial_whose_metric_fails_is_recorded_and_the_study_goes_on(
    goes_wrong: Callable[[], float], reason: str, settings: Settings
) -> None:
    events: Events = []
    record = run(settings, tiny(metrics=late(goes_wrong)), say=events.append)
    assert [trial.state for trial in record.trials] == ["failed", "complete"]
    assert re.fullmatch(reason, record.trials[0].reason)
    (told,) = [event for event in events if event["event"] == "failed"]
    assert told["reason"] == record.trials[0].reason


def test_a_loss_that_is_no_number_fails_the_trial(settings: Settings) -> None:
    steps = count()

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        true = F.cross_entropy(outputs, target)
        return true * float("nan") if next(steps) in range(30, 34) else true

    record = run(settings, tiny(loss=loss))
    assert [trial.state for trial in record.trials] == ["failed", "complete"]
    assert "must stay finite, but became nan in epoch" in record.trials[0].reason


class Unsteady(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(self.classifier, NOISE)


NOISE = nn.Softplus()


def test_a_net_whose_export_fails_fails_its_trials(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count(1)
    monkeypatch.setattr(NOISE, "forward", lambda x: x + next(calls))
    record = run(settings, tiny(net=Unsteady))
    assert [trial.state for trial in record.trials] == ["failed", "failed"]
    assert "The exported net must equal the search net" in record.trials[0].reason
    assert record.baseline is not None


def test_a_limited_metric_that_is_no_number_fails_the_trial(settings: Settings) -> None:
    metrics = {"accuracy": accuracy, "recall": late(lambda: float("nan"))["accuracy"]}
    record = run(settings, tiny(metrics=metrics, limits={"-recall": -0.1}))
    assert [trial.state for trial in record.trials] == ["failed", "complete"]
    assert record.trials[0].reason.startswith("What is limited must be a number, but recall is nan")


def test_failed_trials_count_toward_the_target(settings: Settings) -> None:
    metrics = late(raising(KeyError("label")))
    run(settings, tiny(metrics=metrics), target=1)
    events: Events = []
    run(settings, tiny(metrics=metrics), target=1, say=events.append)
    assert not events


# -- what every trial would meet ------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_ends_the_worker_and_keeps_the_trial(number: int, settings: Settings) -> None:
    error = OSError(number, "it is full", "/disk/file")
    study = tiny(metrics=late(raising(error)))
    with pytest.raises(StorageError, match=r"must be writable, but /disk/file says .*full") as told:
        run(settings, study)
    assert is_sentence(told.value)
    record = run(settings, study)
    assert [trial.state for trial in record.trials] == ["complete", "complete"]


BASELINES: dict[str, tuple[Any, str]] = {
    "metric": (tiny(metrics=late(raising(KeyError("label")), 3)), "failed: KeyError: 'label'"),
    "objective": (
        tiny(metrics=late(lambda: float("nan"), OF_SEED)),
        "failed: Objectives must be finite, but accuracy is nan",
    ),
    "diverged": (
        tiny(loss=lambda outputs, target: outputs.mean() * float("nan")),
        "failed: The loss must stay finite, but became nan in epoch 1 of warmup",
    ),
}


@pytest.mark.parametrize("case", BASELINES)
def test_a_seed_net_that_cannot_be_trained_ends_the_study(case: str, settings: Settings) -> None:
    study, reason = BASELINES[case]
    with pytest.raises(ValueError, match=f"seed net must be trained .*{reason}.*; corr") as error:
        run(settings, study)
    assert is_sentence(error.value)


def no_data() -> Any:
    raise FileNotFoundError(2, "No such file or directory", "images.npz")


def test_data_that_cannot_be_loaded_are_no_matter_of_the_folder(settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"`data` must load .* FileNotFoundError: .*npz") as error:
        run(settings, tiny(data=no_data))
    assert not isinstance(error.value, StorageError)
    assert is_sentence(error.value)


def test_data_of_another_kind_are_refused(settings: Settings) -> None:
    with pytest.raises(TypeError, match=r"`data` must return Splits.* returned tuple") as error:
        run(settings, tiny(data=lambda: (bars(),)))
    assert is_sentence(error.value)


@pytest.mark.parametrize("device", ["cuda:97", "gpu", "meta:x"])
def test_a_device_that_is_not_there_is_refused(device: str, settings: Settings) -> None:
    if device.startswith("cuda") and torch.cuda.device_count() > 97:
        pytest.skip("there is such a device")
    with pytest.raises(ValueError, match=f"`device` must be one .* but '{device}' is") as error:
        run(replace(settings, device=device))
    assert is_sentence(error.value)


def test_a_gpu_with_a_number_is_the_one_that_is_meant_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meant: list[torch.device] = []
    monkeypatch.setattr(torch, "zeros", lambda *size, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", meant.append)
    for name in ("cpu", "cuda", "cuda:1"):
        assert device_of(name) == torch.device(name)
    assert meant == [torch.device("cuda:1")]


def test_a_net_that_cannot_run_is_refused_before_training(settings: Settings) -> None:
    with pytest.raises(ValueError, match="Net and loss must accept the data") as error:
        run(settings, tiny(net=lambda: nn.Linear(3, 2)))
    assert is_sentence(error.value)


# -- what a trial never depends on ----------------------------------------------------------------


class Broken:
    """A tracker and an annotator that fail at everything."""

    def start(self, number: int, params: Any, run: str | None) -> str:
        raise ConnectionError("the server is\ndown")

    def finish(self, *arguments: Any) -> None:
        raise AssertionError("it was never started")

    def fail(self, run: str, reason: str, *, lost: bool = False) -> None:
        raise AssertionError("it was never started")

    def progress(self, record: Any) -> None:
        pass

    def annotate(self, trial: Any, result: Any, folder: Path) -> None:
        raise RuntimeError("no ink")


def test_a_worker_outlives_its_tracker_and_annotator(settings: Settings) -> None:
    events: Events = []
    record = run(settings, target=1, tracker=Broken(), annotator=Broken(), say=events.append)
    assert record.count("complete") == 1
    assert [event["text"] for event in events if event["event"] == "warning"] == [
        "can't track trial 0: the server is down",
        "can't annotate trial 0: no ink",
    ]


class Noting:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def start(self, number: int, params: Any, run: str | None) -> str:
        self.told.append(("start", number, run))
        return run or f"run {number}"

    def finish(self, run: str, result: Any, folder: Path) -> None:
        self.told.append(("finish", run, folder.name == result.artifact))

    def keep(self, run: str, folder: Path, net: nn.Module, example: Any) -> None:
        net(*example)
        self.told.append(("keep", run, net.training))

    def test(self, run: str, metrics: Mapping[str, float]) -> None:
        self.told.append(("test", run, list(metrics)))

    def progress(self, record: Any) -> None:
        pass

    def fail(self, run: str, reason: str, *, lost: bool = False) -> None:
        self.told.append(("fail", run, reason, lost))


def test_a_tracker_hears_of_every_end_of_a_trial(settings: Settings) -> None:
    tracker = Noting()
    run(settings, tiny(metrics=late(raising(KeyError("label")))), tracker=tracker)
    assert tracker.told == [
        ("start", 0, None),
        ("fail", "run 0", "KeyError: 'label'", False),
        ("start", 1, None),
        ("finish", "run 1", True),
    ]


def test_a_tracker_keeps_what_is_on_the_front_once(settings: Settings) -> None:
    tracker = Noting()
    worker = make_worker(settings, target=1, tracker=tracker)
    worker.work()
    best = shown(worker.record())
    assert list(best) == ["0", "seed"]  # only trials have runs
    before = len(tracker.told)
    for _ in range(2):
        worker.keep(best)
    assert tracker.told[before:] == [("keep", "run 0", False)]
    for _ in range(2):
        worker.test(best)
    assert tracker.told[before + 1 :] == [("test", "run 0", ["test_accuracy"])]


class Deaf(Noting):
    """A tracker that is away."""

    def keep(self, run: str, net: nn.Module, example: Any) -> None:
        raise ConnectionError("the server is down")


def test_a_net_that_a_tracker_did_not_get_is_kept_another_time(settings: Settings) -> None:
    tracker = Noting()
    worker = make_worker(settings, target=1, tracker=tracker)
    worker.work()
    best = shown(worker.record())
    worker.tracker = None
    worker.keep(best)  # nobody is there to be told
    worker.tracker = Deaf()
    worker.keep(best)
    assert list(unkept(worker.study, best)) == ["0"]
    worker.tracker = tracker
    worker.keep(best)
    assert list(unkept(worker.study, best)) == []
    assert tracker.told[-1] == ("keep", "run 0", False)


def test_a_trial_that_is_tried_again_keeps_its_run(settings: Settings) -> None:
    tracker = Noting()
    study = tiny(metrics=late(raising(OSError(errno.ENOSPC, "full"))))
    with pytest.raises(StorageError):
        run(settings, study, tracker=tracker)
    run(settings, study, target=1, tracker=tracker)
    assert tracker.told == [
        ("start", 0, None),
        ("fail", "run 0", "its worker could not go on", True),
        ("start", 1, "run 0"),
        ("finish", "run 0", True),
    ]


# -- definitions that change ----------------------------------------------------------------------


def test_a_changed_definition_is_refused_with_what_changed(settings: Settings) -> None:
    open_study(sweep, settings).ask()
    search = replace(sweep.recipe.search, epochs=7)
    changed = tiny(recipe=replace(sweep.recipe, search=search), limits={"macs": 5.0}, trials=9)
    with pytest.raises(
        DriftError,
        match=r"changed in limits.macs: null -> 5.0; recipe.search.epochs: 3 -> 7; give",
    ) as error:
        open_study(changed, settings)
    assert is_sentence(error.value)
    assert "trials" not in str(error.value)


def test_a_definition_may_change_before_anything_is_trained(settings: Settings) -> None:
    open_study(sweep, settings)
    changed = tiny(recipe=replace(sweep.recipe, finetune=Phase(epochs=0)))
    assert open_study(changed, settings).user_attrs["definition"] == identity(changed)


def test_a_changed_definition_may_be_accepted_and_is_then_the_study(settings: Settings) -> None:
    open_study(sweep, settings).ask()
    changed = tiny(recipe=replace(sweep.recipe, finetune=Phase(epochs=0)))
    open_study(changed, settings, accept_drift=True)
    open_study(changed, settings)
    with pytest.raises(DriftError, match=r"recipe.finetune.epochs: 0 -> 1"):
        open_study(sweep, settings)


def test_an_accepted_change_is_written_on_every_later_trial(settings: Settings) -> None:
    run(settings, target=1)
    changed = tiny(recipe=replace(sweep.recipe, finetune=replace(sweep.recipe.finetune, epochs=0)))
    open_study(changed, settings, accept_drift=True)
    record = run(settings, changed, target=3)
    change = "recipe.finetune.epochs: 1 -> 0"
    assert [trial.drift for trial in record.trials] == [(), (change,), (change,)]
    assert drifts(record) == [f"since trial 1, as accepted: {change}"]


def test_packages_of_another_version_are_drift(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study(sweep, settings).ask()
    version = metadata.version("torch").partition("+")[0]
    monkeypatch.setattr(metadata, "version", lambda name: f"{name} of tomorrow")
    with pytest.raises(DriftError, match=f'packages.torch: "{version}" -> "torch of tom') as error:
        open_study(sweep, settings)
    assert is_sentence(error.value)


def test_the_build_of_a_package_is_no_drift(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study(sweep, settings).ask()
    version = metadata.version
    other = {"torch": f"{version('torch').partition('+')[0]}+cu999"}
    monkeypatch.setattr(metadata, "version", lambda name: other.get(name) or version(name))
    open_study(sweep, settings)


def relabelled() -> Splits:
    data, train = bars(), bars().part("train")
    return replace(data, train=(*train.inputs, 1 - train.target))


def test_other_data_are_drift_wherever_they_are_loaded(settings: Settings) -> None:
    run(settings, target=1)
    # As on a machine whose files are others: the study says the same.
    moved = replace(sweep, task=replace(sweep.task, data=relabelled))
    worker = make_worker(settings, target=2)
    worker.sweep = moved
    with pytest.raises(DriftError, match=r"data.train: \[.*tensor .* -> .*--accept-drift") as error:
        worker.work()
    assert is_sentence(error.value)
    assert worker.record().count("complete") == 1
    accepting = make_worker(settings, target=2, accept_drift=True)
    accepting.sweep = moved
    accepting.work()
    record = accepting.record()
    assert record.count("complete") == 2
    assert "data.train: " in record.trials[1].drift[0]


FIXED: dict[str, tuple[Any, str]] = {
    "sense": (tiny(objectives=("-accuracy", "-size_bytes")), "objectives: maximize, minimize ->"),
    "count": (tiny(objectives=("-accuracy",)), "objectives: maximize, minimize ->"),
    "orders": (tiny(space=replace(sweep.space, orders=("pit>pit",))), "space.orders: "),
    "choices": (
        tiny(space=Space(strength=sweep.space.strength, choices={"pit.gate": ("norm",)})),
        "space.choices.pit.gate: ",
    ),
}


@pytest.mark.parametrize("case", FIXED)
def test_what_a_database_cannot_mix_is_never_accepted(case: str, settings: Settings) -> None:
    open_study(sweep, settings).ask()
    changed, reason = FIXED[case]
    with pytest.raises(DriftError, match=f"must keep its choices .*{reason}") as error:
        open_study(changed, settings, accept_drift=True)
    assert is_sentence(error.value)
    open_study(sweep, settings)  # nothing was changed


def test_another_range_of_strengths_may_be_accepted(settings: Settings) -> None:
    run(settings, target=1)
    space = replace(sweep.space, strength=replace(sweep.space.strength, high=50.0))
    wider = tiny(space=space)
    open_study(wider, settings, accept_drift=True)
    assert run(settings, wider).count("complete") == 2
