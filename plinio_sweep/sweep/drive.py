"""What one worker does, from claiming a trial to telling its values.

A worker that was frozen for so long that its trial went to another finds that out, drops it and
goes on with the next.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from torch import nn

from plinio_sweep.graph.count import cost_of
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.settings import Settings
from plinio_sweep.sweep.claims import Claim, Claims, Say
from plinio_sweep.sweep.confirm import plan_of, replicates_of
from plinio_sweep.sweep.connect import DATABASE_ERRORS, patiently
from plinio_sweep.sweep.drift import check_data
from plinio_sweep.sweep.failure import StoppedError, TakenError, hits_all, reason_of
from plinio_sweep.sweep.fixed import FixedPlans
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.life import Life
from plinio_sweep.sweep.node import seed_net
from plinio_sweep.sweep.path import path_of
from plinio_sweep.sweep.reading import excesses_of, is_tested, record_of, values_of
from plinio_sweep.sweep.result import StudyRecord, TrialResult
from plinio_sweep.sweep.shipped import Shipped, shipped, write_graph
from plinio_sweep.sweep.stage import Ground, LeaseLostError, Leases, Store
from plinio_sweep.sweep.storage import exclusive, explained
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.sweep.tracker import Annotator, Tracker, unkept
from plinio_sweep.sweep.trial import load_net, run_trial
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch, evaluate

STUDY_RUN = "run"  # attribute of the study: key of its run in the tracking store

Result = TypeVar("Result")


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
        self._claim: Claim | None = None  # in hand
        self._known: Ground | None = None  # once its data were loaded
        self.number: int | None = None  # of the trial that is trained
        self._claims = Claims(
            sweep=self.sweep,
            settings=self.settings,
            study=self.study,
            target=self.target,
            life=self._life,
            leases=self.leases,
            say=self.say,
            stopping=self.stopping,
            lost=self._lost,
        )
        self.watch = Watch(epoch=self._epoch, step=self._step, warn=self._warn)
        self._fixed = FixedPlans(
            sweep=self.sweep,
            settings=self.settings,
            study=self.study,
            leases=self.leases,
            watch=self.watch,
            say=self.say,
        )

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
            self._tell_progress()
            self._fixed.train_seed(ground)
            self._fixed.train_rest(ground, wait=False)
            while (claim := self._patiently(self._claims.next)) is not None:
                self._run(ground, claim)
            self._fixed.train_rest(ground, wait=True)

    def confirm(self, keys: Sequence[str], count: int) -> None:
        """Trains `count` replicates of each of `keys` and of the seed net.

        Args:
            keys: Numbers of trials, and names of baselines.
            count: Of each.

        Raises:
            ValueError: For a net without a result, or one that would be trained otherwise today.
        """
        with explained(self.settings), self._life.lived():
            ground = self._ground()
            plans = replicates_of(ground, self.study, self._fixed, keys, count)
            for wait in (False, True):
                self._fixed.train(ground, plans, wait=wait)

    def keep(self, artifacts: Mapping[str, str]) -> None:
        """Has stored nets kept in the store, and told of, each once: to the tracking store and, as
        a graph, to the dashboard.

        What was lost from the store, or was damaged there, is trained again from what is left.

        Args:
            artifacts: By what the results are filed under: a trial's number, or a baseline's name.
        """
        with explained(self.settings), self._life.lived():
            folders = {key: self.store.find(artifact) for key, artifact in artifacts.items()}
            untold = {*self._untracked(artifacts), *self._undrawn(artifacts)}
            missing = [k for k, folder in folders.items() if folder is None or k in untold]
            ground = self._ground() if missing else None
            for key in missing:
                assert ground is not None
                folder = folders[key] or self._remade(ground, key, artifacts[key])
                if folder is not None and key in untold:
                    self._tell_of(ground, key, folder)

    def _keep_graph(self, ground: Ground, number: int, leaves: Shipped) -> None:
        """Beside the trial: not of every one, for that takes a second or more."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write_graph(leaves, ground.data.example(), path)
            self._annotator().keep(self.study, number, path)

    def measured(self, folder: Path) -> tuple[nn.Module, Inputs]:
        """The net of a stored trial as it is measured, and inputs of it."""
        ground = self._known or self._ground()
        return shipped(ground, load_net(ground, folder)).net, ground.data.example()

    def study_run(self, make: Callable[[], str]) -> str:
        """The key of the study's own run, made by the first worker that asks."""

        def key() -> str:
            with exclusive(self.settings):
                if STUDY_RUN not in self.study.user_attrs:
                    self.study.set_user_attr(STUDY_RUN, make())
                return str(self.study.user_attrs[STUDY_RUN])

        return self._patiently(key)

    def test(self, artifacts: Mapping[str, str]) -> None:
        """Measures stored nets on the test split, each once for ever.

        Args:
            artifacts: By what the results are filed under: a trial's number, or the name of a
                baseline or a replicate.
        """
        with explained(self.settings), self._life.lived():
            new = {k: a for k, a in artifacts.items() if not is_tested(self.attrs, k, a)}
            ground = self._ground() if new else None
            for key, artifact in new.items():
                assert ground is not None
                folder = self.store.find(artifact) or self._remade(ground, key, artifact)
                if folder is not None:
                    self._test(ground, key, folder, artifact)

    def _untracked(self, keys: Iterable[str]) -> dict[str, str]:
        """Runs of those trials whose nets the tracking store is still to be given."""
        return self._patiently(lambda: unkept(self.study, keys)) if self.tracker else {}

    def _undrawn(self, keys: Iterable[str]) -> set[str]:
        """Trials whose nets the dashboard is still to be given as graphs."""
        if self.annotator is None or find_spec("onnx") is None:
            return set()
        attrs = self.attrs
        return {key for key in keys if key.isdigit() and f"graph:{key}" not in attrs}

    def _tell_of(self, ground: Ground, key: str, folder: Path) -> None:
        with self._alone(f"net {key}"):
            run, undrawn = self._untracked([key]).get(key), self._undrawn([key])
            if run is None and not undrawn:
                return  # another worker was first
            leaves, example = shipped(ground, load_net(ground, folder)), ground.data.example()
            if run is not None and self._tell_tracker(
                lambda t: t.keep(run, folder, leaves.net, example)
            ):
                self._patiently(lambda: self.study.set_user_attr(f"kept:{key}", True))
            if undrawn:
                done = self._attempt("annotate", lambda: self._keep_graph(ground, int(key), leaves))
                # Once: a net that can't be written so can't be the next time.
                self._patiently(lambda: self.study.set_user_attr(f"graph:{key}", done))

    def _test(self, ground: Ground, key: str, folder: Path, artifact: str) -> None:
        with self._alone(f"test {key}"):
            if is_tested(self.attrs, key, artifact):
                return  # another worker was first
            self._patiently(self._touch)
            net = shipped(ground, load_net(ground, folder)).net
            score = evaluate(net, ground.data.part("test"), self.sweep.task)
            values = {f"test_{name}": value for name, value in score.metrics.items()}
            # In this order: measured is what has both.
            for name, value in ((f"test:{key}", values), (f"tested:{key}", artifact)):
                self._patiently(partial(self.study.set_user_attr, name, value))
        self.say({"event": "tested", "name": key})
        if key.isdigit():
            trials = self._patiently(lambda: self.study.get_trials(deepcopy=False))
            run: str | None = trials[int(key)].user_attrs.get("run")
            if run is not None:
                self._tell_tracker(lambda t: t.test(run, values))

    def _touch(self) -> None:
        """Notes when test data were first looked at, before they are."""
        with exclusive(self.settings):
            if "touched" not in self.study.user_attrs:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                self.study.set_user_attr("touched", now)

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """No other worker does `what` meanwhile."""
        if self.leases is None:
            yield
            return
        with self.leases.hold(f"{what} of {self.study.study_name}", self._step):
            yield

    def _remade(self, ground: Ground, key: str, artifact: str) -> Path | None:
        """Where the result filed under `key` lies again; nothing when it can't be had any more."""
        plan = plan_of(self.sweep, self.study, key, self._fixed)
        if path_of(ground, plan, plan.seed)[-1].key != artifact:
            self._warn(
                f"The result of {key} must be in the store, but is gone, and the study has changed "
                f"since; bring {artifact} back from a copy."
            )
            return None
        self.number = int(key) if key.isdigit() else None
        found = run_trial(ground, plan, warmup_seed=plan.seed, watch=self.watch)
        self.number = None
        return found[2]

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the study remembers beside its trials."""
        return self._patiently(lambda: self.study.user_attrs)

    def record(self) -> StudyRecord:
        """The study as it stands."""
        return record_of(self.study, self.settings.folder)

    def _ground(self) -> Ground:
        ground = ground_of(self.sweep, self.settings, self.store, self.leases)
        accept = self.accept_drift
        self._patiently(lambda: check_data(self.study, self.settings, ground, accept=accept))
        # Now, not after minutes of training: does the net run on the data, can it be traced?
        for make in self.sweep.nets:
            cost_of(seed_net(ground.on(make)), ground.data.example(), ground.models)
        self._known = ground
        return ground

    # -- one trial ------------------------------------------------------------------------------

    def _run(self, ground: Ground, claim: Claim) -> None:
        self._claim, self.number = claim, claim.trial.number
        try:
            self._attempt_trial(ground, claim)
        except (TakenError, UpdateFinishedTrialError):
            self.say({"event": "taken", "trial": claim.trial.number})
        finally:
            if claim.lease is not None:
                claim.lease.release()
        self._claim = self.number = None

    def _attempt_trial(self, ground: Ground, claim: Claim) -> None:
        trial = claim.trial
        self.say({"event": "start", "trial": trial.number, "params": trial.params})
        run = self._start_run(trial)
        try:
            # Before any of it is read or trained: what a trial says it needs is not cleared away.
            nodes = [node.key for node in path_of(ground, claim.plan, self.sweep.seed)]
            self._patiently(lambda: trial.set_user_attr("nodes", nodes))
            result, _, folder = run_trial(
                ground, claim.plan, warmup_seed=self.sweep.seed, watch=self.watch
            )
            values = values_of(self.sweep.axes, result.metrics, result.costs)
            excesses = excesses_of(self.sweep.limits, result.metrics, result.costs)
        except StoppedError:
            self._patiently(lambda: self._claims.give_back(trial.number))
            raise
        except (TakenError, *DATABASE_ERRORS):
            raise
        except Exception as error:
            if hits_all(error):
                raise  # this trial waits for the next run
            self._fail(trial, run, error)
            return
        self._confirm()
        self._patiently(lambda: self._record(trial, result, excesses))
        if self.annotator is not None:
            self._attempt("annotate", lambda: self._annotator().annotate(trial, result, folder))
        if run is not None:
            self._tell_tracker(lambda t: t.finish(run, result, folder))
        self._patiently(lambda: self.study.tell(trial, values, skip_if_finished=True))
        told = {"values": values, "reused_epochs": result.reused_epochs}
        self.say({"event": "complete", "trial": trial.number, **told})
        self._tell_progress()

    def _patiently(self, action: Callable[[], Result]) -> Result:
        return patiently(action, self.settings.patience)

    def _confirm(self) -> None:
        """Makes sure that the trial is still ours, and for a while will be."""
        if self._claim is None or self._claim.lease is None:
            return
        try:
            with self._claim.lease.sealed():
                pass
        except LeaseLostError as error:
            raise TakenError from error

    def _record(
        self, trial: optuna.Trial, result: TrialResult, excesses: Mapping[str, float]
    ) -> None:
        names = ("metrics", "costs", "estimates", "artifact", "seconds", "reused_epochs")
        known = {name: getattr(result, name) for name in names}
        phases = [asdict(phase) for phase in result.phases]
        for name, excess in excesses.items():
            trial.set_constraint(name, excess)
        # As one attribute: each is a transaction.
        trial.set_user_attr("result", known | {"phases": phases})

    def _fail(self, trial: optuna.Trial, run: str | None, error: Exception) -> None:
        self._confirm()
        reason = reason_of(error)
        told = {"error": reason[:1000], "error_kind": type(error).__name__}
        for name, text in told.items():
            self._patiently(partial(trial.set_user_attr, name, text))
        if run is not None:
            self._tell_tracker(lambda t: t.fail(run, reason))
        failed = partial(self.study.tell, trial, state=TrialState.FAIL, skip_if_finished=True)
        self._patiently(failed)
        self.say({"event": "failed", "trial": trial.number, "reason": reason})
        self._tell_progress()

    # -- what a trial never depends on ------------------------------------------------------------

    def _start_run(self, trial: optuna.Trial) -> str | None:
        known: str | None = trial.user_attrs.get("run")
        found: list[str] = []
        self._tell_tracker(lambda t: found.append(t.start(trial.number, trial.params, known)))
        if found and found[0] != known:
            self._patiently(partial(trial.set_user_attr, "run", found[0]))
        return found[0] if found else None

    def _lost(self, run: str, why: str) -> None:
        self._tell_tracker(lambda t: t.fail(run, why, lost=True))

    def _tell_tracker(self, action: Callable[[Tracker], None]) -> bool:
        tracker = self.tracker
        return tracker is not None and self._attempt("track", lambda: action(tracker))

    def _tell_progress(self) -> None:
        self._tell_tracker(lambda t: t.progress(self._patiently(self.record)))

    def _annotator(self) -> Annotator:
        assert self.annotator is not None
        return self.annotator

    def _attempt(self, what: str, action: Callable[[], None]) -> bool:
        try:
            action()
            return True
        except Exception as error:
            # Tracking is a record for people: it may fail, the result is in the database.
            reason = " ".join(str(error).split())[:300]
            self.say({"event": "warning", "text": f"can't {what} trial {self.number}: {reason}"})
            return False

    def _epoch(self, epoch: Epoch, epochs: int) -> None:
        found = {"phase": epoch.phase, "epoch": epoch.index + 1, "epochs": epochs}
        self.say({"event": "epoch", "trial": self.number, **found})

    def _warn(self, text: str) -> None:
        self.say({"event": "warning", "text": text})

    def _step(self) -> None:
        if self.stopping():
            raise StoppedError
        if self._claim is not None and self._claim.lease is not None:
            try:
                self._claim.lease.check()
            except LeaseLostError as error:
                raise TakenError from error
