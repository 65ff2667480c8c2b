"""What is heard of a run while it goes on, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plinio_sweep.sweep.result import SEED
from plinio_sweep.view.standing import Standing, seconds_left

if TYPE_CHECKING:
    from plinio_sweep.sweep.result import State


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker is at, and how far."""

    text: str
    epoch: int = 0
    epochs: int = 0  # 0 before the first has ended


class Tally:
    """Counts the events of all workers of a run.

    One thread writes and others may read: what it holds is replaced, never changed.

    Args:
        target: How many trials there are to be in all.
        workers: How many there are.
        standing: Of the study before the run; may be replaced by a later one.
        now: When the run begins [s].
    """

    def __init__(self, target: int, workers: int, standing: Standing, now: float) -> None:
        self.target, self.workers, self.begun = target, workers, now
        self.standing = standing
        self.works: Mapping[int, Work] = {}
        self.trained, self.reused = 0, 0  # epochs
        self._ended: Mapping[int, State] = {}
        self._retried: frozenset[int] = frozenset()
        self._baselines: dict[int, str] = {}  # what each worker trained last of them
        self._since: Mapping[int, float] = {}  # when each worker began its trial [s]
        self._told = False  # whether trials are heard of when they begin
        self._here = 0  # trials that were done in this run
        self._spent, self._last = 0.0, now  # on these [s], and when the last of them was done

    def hear(self, worker: int, event: Mapping[str, Any], now: float) -> None:
        """Counts one event of one worker.

        Args:
            worker: Its number.
            event: As workers say it; unknown ones count for nothing.
            now: When it is heard [s].
        """
        kind = event.get("event")
        self.reused += event.get("reused_epochs", 0)
        if kind == "start":
            self._told = True
            self._since = {**self._since, worker: now}
            self._at(worker, Work(text=f"trial {event['trial']}"))
        elif kind == "baseline start":
            self._baselines[worker] = event["name"]
            self._at(worker, Work(text=_named(event["name"])))
        elif kind == "epoch":
            self.trained += 1
            self._epoch(worker, event)
        elif kind in ("complete", "failed"):
            self._ended = {**self._ended, event["trial"]: kind}
            self._here, self._last = self._here + 1, now
            self._leave(worker, now)
        elif kind == "taken":
            self._leave(worker, None)
        elif kind == "lost" and event.get("given_up"):
            self._ended = {**self._ended, event["trial"]: "failed"}
        elif kind == "lost":
            self._retried |= {event["trial"]}

    def _at(self, worker: int, work: Work) -> None:
        self.works = {**self.works, worker: work}

    def _epoch(self, worker: int, event: Mapping[str, Any]) -> None:
        number = event["trial"]
        what = _named(self._baselines.get(worker, SEED)) if number is None else f"trial {number}"
        phase = str(event["phase"]).replace(".", " ")
        text = what if phase == SEED else f"{what}, {phase}"  # of the seed net itself
        self._at(worker, Work(text=text, epoch=event["epoch"], epochs=event["epochs"]))

    def _leave(self, worker: int, now: float | None) -> None:
        """A worker has ended its trial; without a time, one that does not count."""
        since = self._since.get(worker)
        if since is not None and now is not None:
            self._spent += now - since
        self._since = {other: when for other, when in self._since.items() if other != worker}

    def ended(self, state: State) -> int:
        """Number of trials that ended so, by what is stored and what was heard since."""
        return sum(found == state for found in self._all().values())

    def _all(self) -> dict[int, State]:
        # By their numbers: what is heard of may have been read before, or the other way round.
        return {**self.standing.ended, **self._ended}

    @property
    def done(self) -> int:
        """Number of trials that are over."""
        return len(self._all())

    @property
    def retried(self) -> int:
        """How often a trial was lost and tried again."""
        return len(self._retried | self.standing.retried)

    def seconds_left(self, now: float) -> float | None:
        """Time until all trials are done [s]; nothing when it can't be known yet, or all are."""
        remaining = self.target - self.done
        if remaining <= 0:
            return None
        since = tuple(self._since.values())
        if self._told:
            spent, begun = self._spent, [now - when for when in since]
        else:  # all workers were at work all the time, as far as we know
            spent = self.workers * (self._last - self.begun)
            begun = [now - self._last] * min(self.workers, remaining)
        return seconds_left(self._here, spent, remaining, begun, self.workers)


def _named(baseline: str) -> str:
    return "seed net" if baseline == SEED else f"baseline {baseline}"
