"""Drives Optuna: what one worker does from claiming a trial to telling its values.

Every step that reads the study and then changes it happens under one lock, so that any number of
workers come to exactly the trials that were asked for. A worker holds a lease on its trial. When it
dies, workers on its machine see that at once, those on others when the lease expires, and whoever
is first puts the trial back into the queue. A worker that was only frozen finds its trial taken,
drops it and goes on with another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from plinio_sweep.graph.count import cost_of
from plinio_sweep.settings import Settings
from plinio_sweep.sweep.definition import digest
from plinio_sweep.sweep.drift import ACCEPTED, check_data
from plinio_sweep.sweep.failure import StoppedError, TakenError, hits_all, reason_of
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.life import DIED, ENDED, Life
from plinio_sweep.sweep.node import seed_net
from plinio_sweep.sweep.path import path_of
from plinio_sweep.sweep.reading import excesses_of, record_of, values_of
from plinio_sweep.sweep.result import StudyRecord, TrialResult
from plinio_sweep.sweep.shipped import shipped
from plinio_sweep.sweep.stage import Ground, HeldLease, LeaseLostError, Leases, Plan, Store
from plinio_sweep.sweep.storage import DATABASE_ERRORS, exclusive, explained
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.sweep.tracker import Annotator, Tracker
from plinio_sweep.sweep.trial import load_net, run_trial
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch, evaluate

SILENT = "its worker fell silent"
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)

Say = Callable[[Mapping[str, Any]], None]


@dataclass(eq=False, kw_only=True)
class Worker:
    """One process that works on a study.

    Args:
        sweep: What is searched.
        settings: Where.
        store: Where trained things are kept.
        study: As `open_study` gives it.
        target: Number of trials in all.
        leases: Who works on what; without them locks of this machine.
        life: By which others see whether this worker lives; the leases bear its name.
        tracker: Told of every trial, when given.
        annotator: Writes beside every trial, when given.
        accept_drift: Whether data that have changed are taken.
        say: Hears events: epochs, trials, warnings.
        stopping: Whether to end soon.
    """

    sweep: Sweep
    settings: Settings
    store: Store
    study: optuna.Study
    target: int
    leases: Leases | None = None
    life: Life | None = None
    tracker: Tracker | None = None
    annotator: Annotator | None = None
    accept_drift: bool = False
    say: Say = lambda event: None
    stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._life = self.life or Life(self.settings.folder)
        self.name = self._life.name
        self.lease: HeldLease | None = None  # on the trial in hand
        self.number: int | None = None  # of the trial in hand
        self.watch = Watch(epoch=self._epoch, step=self._step, warn=self._warn)

    # -- the loop -------------------------------------------------------------------------------

    def work(self) -> None:
        """Runs trials until there are `target`.

        Raises:
            StoppedError: When asked to stop.
            StorageError: When the database can't be used.
            ValueError: When net and data don't fit each other.
        """
        with explained(self.settings), self._life.lived():
            ground = self._ground()
            self._ensure_baseline(ground)
            while (claimed := self._claim()) is not None:
                self._run(ground, *claimed)

    def measure(self, artifacts: Mapping[str, str]) -> None:
        """Measures stored nets on the test split, each once for ever.

        Args:
            artifacts: By what the results are filed under: a trial's number, or "seed".
        """
        with explained(self.settings), self._life.lived():
            missing = {k: v for k, v in artifacts.items() if f"test:{k}" not in self.attrs}
            ground = self._ground() if missing else None
            for key, artifact in missing.items():
                folder = self.store.find(artifact)
                if folder is not None and ground is not None:
                    net = shipped(ground, load_net(ground, folder)).net
                    score = evaluate(net, ground.data.part("test"), self.sweep.task)
                    values = {f"test_{name}": value for name, value in score.metrics.items()}
                    self.study.set_user_attr(f"test:{key}", values)

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the study remembers beside its trials."""
        return self.study.user_attrs

    def record(self) -> StudyRecord:
        """The study as it stands."""
        return record_of(self.study, self.settings.folder)

    def _ground(self) -> Ground:
        ground = ground_of(self.sweep, self.settings, self.store, self.leases)
        check_data(self.study, self.settings, ground, accept=self.accept_drift)
        # Now, not after minutes of training: does the net run on the data, can it be traced?
        cost_of(seed_net(ground), ground.data.example(), ground.models)
        return ground

    def _ensure_baseline(self, ground: Ground) -> None:
        plan = Plan(stages=(), seed=self.sweep.seed)
        key = path_of(ground, plan, self.sweep.seed)[-1].key
        if self.attrs.get("baseline", {}).get("artifact") == key:
            return
        result = self._train_seed(ground, plan)
        stored = {"metrics": result.metrics, "costs": result.costs, "artifact": key}
        with exclusive(self.settings):
            if self.attrs.get("baseline") == stored:
                return  # another worker was first, and told it
            self.study.set_user_attr("baseline", stored)
        self.say({"event": "baseline", **stored, "reused_epochs": result.reused_epochs})

    def _train_seed(self, ground: Ground, plan: Plan) -> TrialResult:
        try:
            found = run_trial(ground, plan, warmup_seed=self.sweep.seed, watch=self.watch)
            values_of(self.sweep.axes, found[0].metrics, found[0].costs)
        except (StoppedError, *DATABASE_ERRORS):
            raise
        except Exception as error:
            if hits_all(error):
                raise
            raise ValueError(
                f"The seed net must be trained before it is searched, but that failed: "
                f"{reason_of(error)}; correct the net, the loss, the metrics or the recipe."
            ) from error
        return found[0]

    # -- claiming -------------------------------------------------------------------------------

    def _claim(self) -> tuple[optuna.Trial, Plan] | None:
        with exclusive(self.settings):
            if self.stopping():
                raise StoppedError
            self._reap()
            trials = self.study.get_trials(deepcopy=False)
            counted = sum(t.state in COUNTED or _failed(t) for t in trials)
            if counted >= self.target:
                return None
            turn = _turn(trials)
            self.study.sampler = self.sweep.sampler(self._seed("sampler", turn))
            trial = self.study.ask()
            if self.leases is not None:
                # Before the trial bears a name: one with a name and no lease was given back.
                self.lease = self.leases.take(_lease_key(trial._trial_id))
            attrs = self.study.get_trials(deepcopy=False)[trial.number].user_attrs
            if "uid" not in attrs:
                trial.set_user_attr("uid", turn)
            if accepted := self.attrs.get(ACCEPTED):
                trial.set_user_attr("drift", accepted)
            trial.set_user_attr("worker", self.name)
            # Chosen under the lock, so that the next worker's sampler sees what is running.
            plan = self._plan(trial)
            self.number = trial.number
            return trial, plan

    def _plan(self, trial: optuna.Trial) -> Plan:
        # One seed for all trials: those that begin alike share what they train.
        return self.sweep.space.suggest(trial, self.sweep.seed)

    def _seed(self, *what: Any) -> int:
        return int(digest([self.sweep.seed, *what])[:7], 16)

    def _reap(self) -> None:
        """Puts trials of dead workers back into the queue.

        A trial is claimed and named under the lock that is held here: one without a worker was
        left in the middle of it. One of our own is left from work that an error ended.
        """
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            why = ENDED if worker in (None, self.name) else self._end_of(trial, worker)
            if why is not None:
                self._requeue(trial, why)

    def _end_of(self, trial: optuna.trial.FrozenTrial, worker: str) -> str | None:
        """How the worker of a trial ended; nothing while it lives."""
        seen, key = self._life.end_of(worker), _lease_key(trial._trial_id)
        if self.leases is None:
            return seen
        if seen is not None:
            self.leases.drop(key)
            return seen
        left = self.leases.remaining(key)
        if left is None or left >= 0 or (taken := self.leases.take(key)) is None:
            return None
        taken.release()  # whoever had it finds that out when it wakes up
        return SILENT

    def _requeue(self, trial: optuna.trial.FrozenTrial, why: str) -> None:
        storage, identity = self.study._storage, trial._trial_id
        attrs = trial.user_attrs
        losses = [*attrs.get("retry_of", []), trial.number]
        died = why in (DIED, SILENT)
        deaths = attrs.get("deaths", 0) + died
        given_up = died and deaths > self.settings.retries
        if given_up:
            reason = f"given up: {deaths} workers died of it (trials {losses})"
            storage.set_trial_user_attr(identity, "error", reason)
        else:
            storage.set_trial_user_attr(identity, "lost", why)
        self.study.tell(trial.number, state=TrialState.FAIL)
        self.say({"event": "lost", "trial": trial.number, "reason": why, "given_up": given_up})
        if self.tracker is not None and "run" in attrs:
            self._tell_tracker(lambda t: t.fail(attrs["run"], why, lost=True))
        if given_up:
            return
        kept = {k: v for k, v in attrs.items() if k in ("uid", "run")}
        self.study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={**kept, "retry_of": losses, "deaths": deaths},
            )
        )

    # -- one trial ------------------------------------------------------------------------------

    def _run(self, ground: Ground, trial: optuna.Trial, plan: Plan) -> None:
        try:
            self._attempt_trial(ground, trial, plan)
        except (TakenError, UpdateFinishedTrialError):
            self.say({"event": "taken", "trial": trial.number})
        finally:
            if self.lease is not None:
                self.lease.release()
                self.lease = None
        self.number = None

    def _attempt_trial(self, ground: Ground, trial: optuna.Trial, plan: Plan) -> None:
        self.say({"event": "start", "trial": trial.number, "params": trial.params})
        run = self._start_run(trial)
        try:
            result, net, folder = run_trial(
                ground, plan, warmup_seed=self.sweep.seed, watch=self.watch
            )
            values = values_of(self.sweep.axes, result.metrics, result.costs)
            excesses = excesses_of(self.sweep.limits, result.metrics, result.costs)
        except StoppedError:
            with exclusive(self.settings):
                frozen = self.study.get_trials(deepcopy=False)[trial.number]
                if frozen.state == TrialState.RUNNING:
                    self._requeue(frozen, "it was interrupted")
            raise
        except (TakenError, *DATABASE_ERRORS):
            raise
        except Exception as error:
            if hits_all(error):
                raise  # this trial waits for the next run
            self._fail(trial, run, error)
            return
        self._confirm()
        self._record(trial, result, excesses)
        if self.annotator is not None:
            self._attempt("annotate", lambda: self._annotator().annotate(trial, result, folder))
        if run is not None:
            example = ground.data.example()
            self._tell_tracker(lambda t: t.finish(run, result, net, example, folder))
        self.study.tell(trial, values, skip_if_finished=True)
        told = {"values": values, "reused_epochs": result.reused_epochs}
        self.say({"event": "complete", "trial": trial.number, **told})

    def _confirm(self) -> None:
        """Makes sure that the trial is still ours, and for a while will be."""
        if self.lease is None:
            return
        try:
            with self.lease.sealed():
                pass
        except LeaseLostError as error:
            raise TakenError from error

    def _record(
        self, trial: optuna.Trial, result: TrialResult, excesses: Mapping[str, float]
    ) -> None:
        for name in ("metrics", "costs", "estimates", "artifact", "seconds", "reused_epochs"):
            trial.set_user_attr(name, getattr(result, name))
        for name, excess in excesses.items():
            trial.set_constraint(name, excess)

    def _fail(self, trial: optuna.Trial, run: str | None, error: Exception) -> None:
        self._confirm()
        reason = reason_of(error)
        trial.set_user_attr("error", reason[:1000])
        trial.set_user_attr("error_kind", type(error).__name__)
        if run is not None:
            self._tell_tracker(lambda t: t.fail(run, reason))
        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        self.say({"event": "failed", "trial": trial.number, "reason": reason})

    # -- what a trial never depends on ------------------------------------------------------------

    def _start_run(self, trial: optuna.Trial) -> str | None:
        known: str | None = trial.user_attrs.get("run")
        found: list[str] = []
        self._tell_tracker(lambda t: found.append(t.start(trial.number, trial.params, known)))
        if found and found[0] != known:
            trial.set_user_attr("run", found[0])
        return found[0] if found else None

    def _tell_tracker(self, action: Callable[[Tracker], None]) -> None:
        tracker = self.tracker
        if tracker is not None:
            self._attempt("track", lambda: action(tracker))

    def _annotator(self) -> Annotator:
        assert self.annotator is not None
        return self.annotator

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            # Tracking is a record for people: it may fail, the result is in the database.
            reason = " ".join(str(error).split())[:300]
            self.say({"event": "warning", "text": f"can't {what} trial {self.number}: {reason}"})

    def _epoch(self, epoch: Epoch, epochs: int) -> None:
        found = {"phase": epoch.phase, "epoch": epoch.index + 1, "epochs": epochs}
        self.say({"event": "epoch", "trial": self.number, **found})

    def _warn(self, text: str) -> None:
        self.say({"event": "warning", "text": text})

    def _step(self) -> None:
        if self.stopping():
            raise StoppedError
        if self.lease is not None:
            try:
                self.lease.check()
            except LeaseLostError as error:
                raise TakenError from error


def _lease_key(identity: int) -> str:
    """Of a trial by its number in the database, which no other study's trial has."""
    return f"trial {identity}"


def _failed(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and "lost" not in trial.user_attrs


def _turn(trials: list[optuna.trial.FrozenTrial]) -> int:
    """What sets a claim apart from those before it: how many trials were begun.

    Claims are made one at a time, so no two draws meet the same number; a trial that is tried again
    counts once, so that a study goes on after an interruption as it would have without.
    """
    return sum(t.state != TrialState.WAITING and "lost" not in t.user_attrs for t in trials)
