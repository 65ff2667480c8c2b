"""Tells a tracking store what a study says, now or when it can be reached again.

Everything is written down first, so nothing is lost with the store or with the worker, and a trial
that never reached it has a run all the same: by a key of ours. Whoever reaches the store hands on
what all workers of the folder have written, in its order. What a note is about lies in the artefact
store: it says where, and holds no copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plinio_sweep.settings import redacted
from plinio_sweep.store.curves import Point
from plinio_sweep.store.mlflow_runs import RefusedError, new_key
from plinio_sweep.store.outbox import Note, Outbox
from plinio_sweep.store.usage import Usage
from plinio_sweep.sweep.result import PhaseRecord, StudyRecord, TrialResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    Net = tuple[nn.Module, tuple[Tensor, ...]]

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # [s] before a store that was away is asked again
PARTING = 60.0  # [s] at the end, for another worker to hand on what it has begun


class Dated(Protocol):
    """A tracking store that is told of what was before, as `MlflowTracker` is."""

    def start(
        self,
        number: int,
        params: Mapping[str, str | float],
        run: str | None,
        *,
        when: float | None,
    ) -> str:
        """As a tracker; creates the run for the key `run` where there is none."""
        ...

    def finish(self, run: str, result: TrialResult, folder: Path, *, when: float | None) -> None:
        """As a tracker."""
        ...

    def keep(
        self,
        run: str,
        folder: Path,
        net: nn.Module,
        example: tuple[Tensor, ...],
    ) -> None:
        """As a tracker."""
        ...

    def test(self, run: str, metrics: Mapping[str, float], *, when: float | None) -> None:
        """As a tracker."""
        ...

    def fail(self, run: str, reason: str, *, lost: bool, when: float | None) -> None:
        """As a tracker."""
        ...

    def measure(self, run: str, points: Iterable[Point]) -> None:
        """Adds points of curves."""
        ...

    def summarize(
        self,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        *,
        done: bool,
        when: float | None,
    ) -> None:
        """Brings the run of the study up to date."""
        ...


class Relay:
    """Implements `plinio_sweep.sweep.tracker.Tracker` on top of a store that may be away.

    Args:
        outbox: Where notes wait.
        reach: Opens the tracking store; raises where it is away.
        find: The folder of an artefact by its key, where it is.
        remake: The net that was measured, and inputs of it, from the folder of an artefact.
        summary: Numbers of a study, "complete" among them.
        usage: Measures the worker during each trial, when given.
        warn: Hears a sentence where the store is lost, and where it refuses something.
    """

    def __init__(
        self,
        outbox: Outbox,
        reach: Callable[[], Dated],
        *,
        find: Callable[[str], Path | None],
        remake: Callable[[Path], Net],
        summary: Callable[[StudyRecord], Mapping[str, float]],
        usage: Usage | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._outbox, self._reach = outbox, reach
        self._find, self._remake, self._summary = find, remake, summary
        self._usage, self._warn = usage, warn
        self._store: Dated | None = None
        self._pause, self._again = 0.0, 0.0  # [s], and until when [s of the monotonic clock]
        self._at_hand: tuple[str, Net] | None = None  # of the note that is being written

    # -- what is said ---------------------------------------------------------------------------

    def start(self, number: int, params: Mapping[str, str | float], run: str | None) -> str:
        """Opens the run of a trial; its key."""
        key = run or new_key()
        self._say({"do": "start", "run": key, "number": number, "params": dict(params)})
        if self._usage is not None:
            self._usage.begin()
        return key

    def finish(self, run: str, result: TrialResult, folder: Path) -> None:
        """Records a complete trial."""
        self._put_usage(run)
        known = {"artifact": result.artifact, "reused_epochs": result.reused_epochs}
        phases = [asdict(phase) for phase in result.phases]
        self._say({"do": "finish", "run": run, **known, "phases": phases})

    def keep(self, run: str, folder: Path, net: nn.Module, example: tuple[Tensor, ...]) -> None:
        """Records a trial of the front."""
        self._at_hand = (folder.name, (net, example))
        try:
            self._say({"do": "keep", "run": run, "artifact": folder.name})
        finally:
            self._at_hand = None

    def test(self, run: str, metrics: Mapping[str, float]) -> None:
        """Records what a trial came to on test data."""
        self._say({"do": "test", "run": run, "metrics": dict(metrics)})

    def fail(self, run: str, reason: str, *, lost: bool = False) -> None:
        """Records that a trial failed."""
        note = {"do": "fail", "run": run, "reason": redacted(reason), "lost": lost}
        if lost:  # said while the whole study waits for us: told with the next note
            self._put(note)
            return
        self._put_usage(run)
        self._say(note)

    def progress(self, record: StudyRecord) -> None:
        """Records how far the study is."""
        tags = {f"objective.{o.name}": o.direction for o in record.objectives}
        ended = sum(record.count(state) for state in ("complete", "failed", "pruned"))
        self._say(
            {
                "do": "summarize",
                "tags": {**tags, "trials": str(record.target_trials)},
                "metrics": dict(self._summary(record)),
                "done": ended >= record.target_trials,
            }
        )

    def _put(self, note: Note) -> None:
        self._outbox.put({**note, "when": time.time()})

    def _say(self, note: Note) -> None:
        self._put(note)
        self.hand_on()

    def _put_usage(self, run: str) -> None:
        points = [] if self._usage is None else self._usage.end()
        if points:
            self._put({"do": "measure", "run": run, "points": points})

    # -- what is told ---------------------------------------------------------------------------

    def hand_on(self) -> None:
        """Tells all that waits, unless the store was away just now or another worker is at it."""
        if time.monotonic() >= self._again:
            self._hand_on(0.0)

    def close(self) -> None:
        """Tries once more, at the end of the work, whenever the store was asked last."""
        if self._outbox.waiting():
            self._hand_on(PARTING)

    def _hand_on(self, wait: float) -> None:
        with self._outbox.held(wait) as held:
            if held:
                self._outbox.drain(self._deliver)

    def _deliver(self, path: Path) -> bool:
        """Tells one note; whether to go on with the next."""
        try:
            note = self._outbox.read(path)
        except ValueError as error:
            self._refuse(path, str(error))
            return True
        try:
            if self._store is None:
                self._store = self._reach()
        except Exception as error:  # a refusal, too: it is not of this note
            return self._lost(error)
        try:
            self._tell(self._store, note)
        except RefusedError as error:
            self._refuse(path, str(error))
            return True
        except Exception as error:
            return self._lost(error)
        self._outbox.done(path)
        self._pause = 0.0
        return True

    def _tell(self, store: Dated, note: Note) -> None:
        do, run, when = note["do"], note.get("run", ""), note["when"]
        if do == "start":
            store.start(note["number"], note["params"], run, when=when)
        elif do == "finish":
            result, folder = self._result(note)
            store.finish(run, result, folder, when=when)
        elif do == "keep":
            folder = self._folder(note)
            at_hand = self._at_hand if self._at_hand and self._at_hand[0] == folder.name else None
            net, example = at_hand[1] if at_hand else self._remake(folder)
            store.keep(run, folder, net, example)
        elif do == "test":
            store.test(run, note["metrics"], when=when)
        elif do == "fail":
            store.fail(run, note["reason"], lost=note["lost"], when=when)
        elif do == "measure":
            store.measure(run, [Point(*point) for point in note["points"]])
        elif do == "summarize":
            store.summarize(note["tags"], note["metrics"], done=note["done"], when=when)
        else:
            raise RefusedError(f"A note must be of a known kind, but is {do!r}; update this.")

    def _folder(self, note: Note) -> Path:
        folder = self._find(note["artifact"])
        if folder is None:
            raise RefusedError(
                f"What is told must be in the artefact store, but {note['artifact']} is gone."
            )
        return folder

    def _result(self, note: Note) -> tuple[TrialResult, Path]:
        from plinio_sweep.sweep.trial import read_result

        folder = self._folder(note)
        phases = tuple(PhaseRecord(**phase) for phase in note["phases"])
        known: dict[str, Any] = {"phases": phases, "reused_epochs": note["reused_epochs"]}
        return replace(read_result(folder), **known), folder

    def _lost(self, error: Exception) -> bool:
        first = not self._pause
        self._store = None  # another one may answer the next time
        self._pause = min(LONGEST_PAUSE, 2 * self._pause or FIRST_PAUSE)
        self._again = time.monotonic() + self._pause
        if first:
            reason = redacted(" ".join(str(error).split())[:300])
            place = self._outbox.folder
            self._warn(f"MLflow is away, what it should hear waits in {place}: {reason}")
        return False

    def _refuse(self, path: Path, reason: str) -> None:
        place = self._outbox.refuse(path)
        self._warn(f"MLflow does not take {place}: {redacted(reason)}")
