"""Hands out the trials of a study one at a time, and takes back those of dead workers.

Every step that reads the study and then changes it happens under one lock, so that any number of
workers come to exactly the trials that were asked for. A worker holds a lease on its trial. When it
dies, workers on its machine see that at once, those on others when the lease expires, and whoever
is first puts the trial back into the queue.

A server that is lost in the middle of a claim takes the lock with it. The claim then fails at its
end, where the lock is given back, and is made anew: what it had begun bears no name or our own, and
is put back like the trial of a dead worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.definition import digest
from plinio_sweep.sweep.drift import ACCEPTED
from plinio_sweep.sweep.failure import StoppedError
from plinio_sweep.sweep.life import DIED, ENDED, Life
from plinio_sweep.sweep.reading import is_lost
from plinio_sweep.sweep.stage import HeldLease, Leases, Plan
from plinio_sweep.sweep.storage import exclusive
from plinio_sweep.sweep.study import Sweep

DOUBLED = "it was queued twice"
INTERRUPTED = "it was interrupted"
SILENT = "its worker fell silent"
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
_KEPT = ("fixed_params",)  # what whoever enqueued a trial asked for
_TRIAL = "trial "  # begins the keys of trials' leases; others' studies may have some in the table
_TIDIED = 60.0  # [s] between two looks for leases that nobody will ask for

Say = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Claim:
    """A trial in the hands of one worker."""

    trial: optuna.Trial
    plan: Plan
    lease: HeldLease | None  # none without a table of leases


@dataclass(eq=False, kw_only=True)
class Claims:
    """The queue of one study, as one worker sees it.

    Args:
        sweep: What is searched.
        settings: Where.
        study: As it is stored.
        target: Number of trials in all.
        life: Of the worker.
        leases: Who works on what; without them locks of this machine.
        say: Hears of trials that were lost.
        stopping: Whether to hand out no more.
        lost: Told of a lost trial's run and of the reason.
    """

    sweep: Sweep
    settings: Settings
    study: optuna.Study
    target: int
    life: Life
    leases: Leases | None
    say: Say
    stopping: Callable[[], bool]
    lost: Callable[[str, str], None]

    def __post_init__(self) -> None:
        self._lease: HeldLease | None = None  # of a claim that is not made to its end
        self._tidied = -_TIDIED  # when leases were last looked through [s]

    def next(self) -> Claim | None:
        """The next trial; nothing when there are enough.

        Raises:
            StoppedError: When there are to be no more.
        """
        if self._lease is not None:  # of a claim that broke
            self._lease.release()
            self._lease = None
        with exclusive(self.settings):
            if self.stopping():
                raise StoppedError
            trials = self._reap()
            counted = sum(t.state in COUNTED or _failed(t) for t in trials)
            enough = counted >= self.target
            self._tidy(trials, last=enough)
            claim = None if enough else self._ask(trials)
        self._lease = None
        return claim

    def _ask(self, trials: list[FrozenTrial]) -> Claim:
        expected = _turn(trials)
        self._draw_from(expected)
        trial = self.study.ask()
        # What is handed out is another one where a lost server took the lock with it, or forgot to
        # say that it had handed it out: it is drawn from its own turn all the same.
        turn = trial.user_attrs.get("uid", _begun(trials))
        if turn != expected:
            self._draw_from(turn)
            trial = optuna.trial.Trial(self.study, trial._trial_id)
        if self.leases is not None:
            self._lease = self.leases.take(_lease_key(trial._trial_id))
        if "uid" not in trial.user_attrs:
            trial.set_user_attr("uid", turn)
        if accepted := self.study.user_attrs.get(ACCEPTED):
            trial.set_user_attr("drift", accepted)
        # Chosen under the lock, so that the next worker's sampler sees what is running. One seed
        # for all trials: those that begin alike share what they train.
        plan = self.sweep.space.suggest(trial, self.sweep.seed)
        # Last: a trial that bears no name was left in the middle of all this.
        trial.set_user_attr("worker", self.life.name)
        return Claim(trial=trial, plan=plan, lease=self._lease)

    def give_back(self, number: int) -> None:
        """Puts a trial of ours back into the queue, unless somebody else has done so."""
        with exclusive(self.settings):
            frozen = self._trials()[number]
            if frozen.state == TrialState.RUNNING:
                self._requeue(frozen, INTERRUPTED)

    def _draw_from(self, turn: int) -> None:
        seed = int(digest([self.sweep.seed, "sampler", turn])[:7], 16)
        self.study.sampler = self.sweep.sampler(seed)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _reap(self) -> list[FrozenTrial]:
        """Puts trials of dead workers back into the queue; all trials as they then are.

        One without a worker was left in the middle of a claim, for claims are made under the lock
        that is held here. One of our own is left from work that an error ended.
        """
        # Read once as long as nothing is lost: this is done under the lock, for every claim.
        trials, changed = self._trials(), False
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in running:
            worker = trial.user_attrs.get("worker")
            why = ENDED if worker in (None, self.life.name) else self._end_of(trial, worker)
            if why is not None:
                changed = True
                # Its worker may have told its values after the trials were read, and died then.
                if (now := self._trials()[trial.number]).state == TrialState.RUNNING:
                    self._requeue(now, why)
        trials = self._trials() if changed else trials
        return self._trials() if self._drop_doubles(trials) else trials

    def _tidy(self, trials: list[FrozenTrial], *, last: bool) -> None:
        """Whoever died after its work was done left a lease that nobody asks for any more."""
        if self.leases is None or (not last and time.monotonic() < self._tidied + _TIDIED):
            return
        ended = {_lease_key(t._trial_id): t.state.is_finished() for t in trials}
        self.leases.sweep(lambda key: ended.get(key, False if key.startswith(_TRIAL) else None))
        self._tidied = time.monotonic()

    def _drop_doubles(self, trials: list[FrozenTrial]) -> bool:
        """Keeps one successor of every lost trial; whether there were more.

        Optuna adds a trial once more when the connection breaks before it hears that it was added.
        And a worker that was frozen may wake and end its trial just when that is put back.
        """
        seen = {t.number for t in trials if t.state.is_finished() and not is_lost(t)}
        dropped = False
        for trial in trials:
            before = trial.user_attrs.get("retry_of", [])[-1:]
            if trial.state == TrialState.WAITING and seen.issuperset(before) and before:
                storage, identity = self.study._storage, trial._trial_id
                storage.set_trial_user_attr(identity, "lost", DOUBLED)
                storage.set_trial_state_values(identity, TrialState.FAIL)
                dropped = True
            seen.update(before)
        return dropped

    def _end_of(self, trial: FrozenTrial, worker: str) -> str | None:
        """How the worker of a trial ended; nothing while it lives."""
        seen, key = self.life.end_of(worker), _lease_key(trial._trial_id)
        if self.leases is None:
            return seen
        if seen is None:
            left = self.leases.remaining(key)
            # None at all: who took it over died before the trial was back in the queue.
            if left is not None:
                if left >= 0 or (taken := self.leases.take(key)) is None:
                    return None
                taken.release()  # whoever had it finds that out when it wakes up
        # Its stages too: nobody is to wait for them, and a stage that was done has no next asker.
        self.leases.bury(worker)
        return seen or SILENT

    def _requeue(self, trial: FrozenTrial, why: str) -> None:
        """Ends a lost trial, and puts its successor into the queue unless it is given up.

        May be cut anywhere: who comes next finds the trial running, and does what is missing.
        """
        attrs = trial.user_attrs
        losses = [*attrs.get("retry_of", []), trial.number]
        died = why in (DIED, SILENT)
        deaths = attrs.get("deaths", 0) + died
        doubled = self._begun_elsewhere(trial, losses)
        given_up = died and deaths > self.settings.retries and not doubled
        if doubled:
            told = {"lost": DOUBLED}
        elif given_up:
            told = {"error": f"given up: {deaths} workers died of it (trials {losses})"}
        else:
            told = {"lost": why}
            self._enqueue(trial, losses, deaths)
        storage, identity = self.study._storage, trial._trial_id
        try:
            for name, text in told.items():
                storage.set_trial_user_attr(identity, name, text)
            storage.set_trial_state_values(identity, TrialState.FAIL)
        except UpdateFinishedTrialError:
            # Its worker was frozen, and woke to end it before we could: the state of a trial is
            # changed once, and who was first is right. Its successor goes with the doubles.
            return
        self.say({"event": "lost", "trial": trial.number, "reason": why, "given_up": given_up})
        if "run" in attrs:
            self.lost(attrs["run"], why)

    def _begun_elsewhere(self, trial: FrozenTrial, losses: list[int]) -> bool:
        """Whether another trial has the same turn.

        Two claims come to that when a lost server took the lock of the first with it, whose claim
        fails at its end: that one was not begun.
        """
        uid = trial.user_attrs.get("uid")
        return uid is not None and any(
            other.user_attrs.get("uid") == uid
            and other.number not in losses
            and trial.number not in other.user_attrs.get("retry_of", [])
            and not is_lost(other)
            for other in self._trials()
        )

    def _enqueue(self, trial: FrozenTrial, losses: list[int], deaths: int) -> None:
        others = [other.user_attrs.get("retry_of", []) for other in self._trials()]
        if any(losses[-1:] == [trial.number] for losses in others):
            return  # done before
        attrs = trial.user_attrs
        kept = {k: v for k, v in attrs.items() if k in ("uid", "run", "nodes")}
        # Of a plan that was cut nothing is kept: its second half would be drawn otherwise.
        whole = "worker" in attrs or attrs.get("planned", False)
        self.study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=trial.params if whole else {},
                distributions=trial.distributions if whole else {},
                user_attrs={**kept, "planned": whole, "retry_of": losses, "deaths": deaths},
                system_attrs={k: v for k, v in trial.system_attrs.items() if k in _KEPT},
            )
        )


def _lease_key(identity: int) -> str:
    """Of a trial by its number in the database, which no other study's trial has."""
    return f"{_TRIAL}{identity}"


def _failed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and not is_lost(trial)


def _turn(trials: list[FrozenTrial]) -> int:
    """What sets the next claim apart from all others, and what its plan is drawn from.

    A trial that is tried again has the turn that it had: Optuna hands out the first that waits. A
    new one has that of an undisturbed study, where as many were begun before it.
    """
    waiting = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
    begun = _begun(trials)
    return begun if waiting is None else int(waiting.user_attrs.get("uid", begun))


def _begun(trials: list[FrozenTrial]) -> int:
    """How many turns were taken."""
    return len({t.user_attrs["uid"] for t in trials if "uid" in t.user_attrs})
