"""What a tracking store hears that is away at times: everything, once, in its order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from plinio_sweep.store import relay
from plinio_sweep.store.curves import Point
from plinio_sweep.store.mlflow_runs import RefusedError
from plinio_sweep.store.outbox import Outbox
from plinio_sweep.store.relay import Relay
from plinio_sweep.sweep.files import save_json
from plinio_sweep.sweep.result import PhaseRecord, StudyRecord, TrialResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from plinio_sweep.sweep.tracker import Tracker

RESULT = TrialResult(
    metrics={"validation_accuracy": 0.5},
    costs={"size_bytes": 8.0},
    estimates={},
    units={},
    architecture={},
    layers=(),
    history=(),
    artifact="ab",
    seconds=1.0,
    phases=(PhaseRecord(name="warmup", key="k", begin=5.0, seconds=1.0, epochs=1, reused=True),),
)
KEY = r"run-[0-9a-f]{32}"


class Store:
    """A tracking store that can be away, refuse, or hear and break before it says so."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.asked = 0
        self.away = self.refuses = self.breaks = False

    def _hear(self, *words: Any) -> None:
        self.asked += 1
        if self.away:
            raise ConnectionError("nobody\nis there, http://me:secret@host")
        if self.refuses:
            raise RefusedError("never heard of it")
        self.heard.append(words)
        if self.breaks:
            raise ConnectionError("cut")

    def start(self, number: int, params: Any, run: str | None, *, when: float | None) -> str:
        self._hear("start", number, params, when)
        return "an identifier"

    def finish(self, run: str, result: TrialResult, folder: Path, *, when: float | None) -> None:
        self._hear("finish", result, folder.name, when)

    def keep(self, run: str, folder: Path, net: nn.Module, example: Any) -> None:
        self._hear("keep", net, folder.name)

    def test(self, run: str, metrics: Mapping[str, float], *, when: float | None) -> None:
        self._hear("test", metrics, when)

    def fail(self, run: str, reason: str, *, lost: bool, when: float | None) -> None:
        self._hear("fail", reason, lost, when)

    def measure(self, run: str, points: Iterable[Point]) -> None:
        self._hear("measure", list(points))

    def summarize(self, tags: Any, metrics: Any, *, done: bool, when: float | None) -> None:
        self._hear("summarize", tags, metrics, done, when)


NET, REMADE = nn.Linear(1, 1), nn.Linear(2, 2)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def make(tmp_path: Path, store: Store) -> Callable[..., Relay]:
    """A worker of the same folder, and what it was warned of."""
    folder = tmp_path / "artifacts" / "ab"
    folder.mkdir(parents=True)
    save_json({**vars(RESULT), "phases": [], "reused_epochs": 7}, folder / "result.json")

    def make(warned: list[str] | None = None, **changes: Any) -> Relay:
        found: dict[str, Any] = {
            "find": lambda key: folder if key == "ab" else None,
            "remake": lambda folder: (REMADE, (torch.ones(1),)),
            "summary": lambda record: {"complete": 1.0, "failed": 0.0},
            "warn": (warned if warned is not None else []).append,
        }
        return Relay(Outbox(tmp_path / "outbox"), lambda: store, **found | changes)

    return make


def whole_trial(tracker: Tracker, folder: Path) -> str:
    run = tracker.start(3, {"order": "pit"}, None)
    tracker.finish(run, RESULT, folder / "ab")
    tracker.keep(run, folder / "ab", NET, (torch.ones(1),))
    tracker.test(run, {"test_accuracy": 0.25})
    return run


def words(store: Store) -> list[str]:
    return [heard[0] for heard in store.heard]


def test_a_store_that_is_there_hears_at_once(
    make: Callable[..., Relay], store: Store, tmp_path: Path
) -> None:
    whole_trial(make(), tmp_path / "artifacts")
    assert words(store) == ["start", "finish", "keep", "test"]
    _, result, artifact, _ = store.heard[1]
    assert (artifact, result) == ("ab", RESULT)  # how this trial came to it, not who was first
    assert store.heard[2][1] is NET
    assert not Outbox(tmp_path / "outbox").waiting()


def test_what_was_said_while_it_was_away_is_told_by_a_later_worker(
    make: Callable[..., Relay], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(100, 200))
    monkeypatch.setattr(relay.time, "time", lambda: float(next(now)))
    store.away = True
    warned: list[str] = []
    tracker = make(warned)
    run = whole_trial(tracker, tmp_path / "artifacts")
    tracker.close()
    place = tmp_path / "outbox"
    assert warned == [
        f"MLflow is away, what it should hear waits in {place}: nobody is there, http://me:***@host"
    ]
    assert len(Outbox(place).waiting()) == 4
    assert run in Outbox(place).waiting()[0].read_text()

    store.away = False
    later = make()
    later.fail("run-0", "no sign of life", lost=True)  # only written: the study waits for it
    assert store.heard == []
    later.hand_on()
    assert words(store) == ["start", "finish", "keep", "test", "fail"]
    assert [heard[-1] for heard in store.heard] == [100.0, 101.0, "ab", 103.0, 104.0]
    assert store.heard[2][1] is REMADE
    later.close()
    assert len(store.heard) == 5


def test_a_store_that_is_away_is_asked_less_and_less(
    make: Callable[..., Relay], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(relay.time, "monotonic", lambda: now[0])
    store.away = True
    tracker, asked = make(), []
    for second in range(100):
        now[0], before = float(second), store.asked
        tracker.fail("run-0", str(second))
        asked += [second] * (store.asked - before)
    assert asked == [0, 5, 15, 35, 75]

    store.away = False
    tracker.close()  # without waiting
    assert [heard[1] for heard in store.heard] == [str(second) for second in range(100)]


def test_a_note_that_was_heard_but_not_confirmed_is_told_again(
    make: Callable[..., Relay], store: Store
) -> None:
    store.breaks = True
    tracker = make()
    tracker.fail("run-0", "first")
    store.breaks = False
    tracker.close()
    assert store.heard[0] == store.heard[1]  # to the moment: the store can tell that it is the same


def test_what_is_refused_keeps_nothing_else_from_being_told(
    make: Callable[..., Relay], store: Store, tmp_path: Path
) -> None:
    warned: list[str] = []
    tracker = make(warned)
    store.refuses = True
    tracker.fail("run-0", "first")
    store.refuses = False
    tracker.finish("run-0", replace(RESULT, artifact="gone"), tmp_path)
    Outbox(tmp_path / "outbox").put({"do": "fail", "when": 1.0}).write_text("half a no")
    tracker.fail("run-0", "second")
    assert [heard[1] for heard in store.heard] == ["second"]
    refused = tmp_path / "outbox" / "refused"
    assert len(list(refused.iterdir())) == 3
    assert [text.partition(": ")[2][:21] for text in warned] == [
        "never heard of it",
        "What is told must be ",
        "A note must be as it ",
    ]


def test_a_store_that_cannot_be_opened_is_away(
    make: Callable[..., Relay], store: Store, tmp_path: Path
) -> None:
    def reach() -> Store:
        raise RefusedError("the experiment was deleted")  # not for the note to suffer

    Relay(
        Outbox(tmp_path / "outbox"),
        reach,
        find=lambda key: None,
        remake=lambda folder: (NET, ()),
        summary=lambda record: {},
    ).fail("run-0", "first")
    assert len(Outbox(tmp_path / "outbox").waiting()) == 1
    make().close()
    assert words(store) == ["fail"]


class Usage:
    """Three points for every trial."""

    def __init__(self) -> None:
        self.begun = False

    def begin(self) -> None:
        self.begun = True

    def end(self) -> list[Point]:
        points = [Point("system/x", 1.0, 2.0, step) for step in range(3)] if self.begun else []
        self.begun = False
        return points


def test_what_a_worker_takes_goes_before_the_end_of_its_trial(
    make: Callable[..., Relay], store: Store, tmp_path: Path
) -> None:
    tracker = make(usage=Usage())
    run = tracker.start(0, {}, None)
    tracker.fail(run, "by itself")
    tracker.fail(run, "late")
    assert words(store) == ["start", "measure", "fail", "fail"]
    assert store.heard[1][1] == [Point("system/x", 1.0, 2.0, step) for step in range(3)]


def test_the_study_says_what_it_searches_and_how_far_it_is(
    make: Callable[..., Relay], store: Store
) -> None:
    record = StudyRecord(name="s", objectives=(), limits={}, units={}, target_trials=2, trials=())
    make().progress(record)
    assert store.heard[0][1:4] == ({"trials": "2"}, {"complete": 1.0, "failed": 0.0}, False)
