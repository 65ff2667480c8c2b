"""What workers train beside the trials: the seed net, the baselines of a study, and replicates.

Results lie among the attributes of the study, by name: "baseline:NAME" (or "replicate:NAME") holds
metrics, costs and the key of what was stored, or why there is nothing, and "nodes:NAME" what is
needed on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import optuna

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.claims import Say
from plinio_sweep.sweep.connect import DATABASE_ERRORS, patiently
from plinio_sweep.sweep.failure import StoppedError, clause_of, hits_all, reason_of
from plinio_sweep.sweep.path import path_of
from plinio_sweep.sweep.reading import values_of
from plinio_sweep.sweep.result import SEED
from plinio_sweep.sweep.stage import Ground, HeldLease, Leases, Plan
from plinio_sweep.sweep.storage import exclusive
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.sweep.trial import run_trial
from plinio_sweep.train.loop import Watch

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """One plan that nothing chooses.

    Args:
        name: Its own within the study.
        plan: Its stages, and the seed of all of them and of the warm-up.
        kind: What its result is filed under and its events are called.
        notes: What is stored beside its result.
    """

    name: str
    plan: Plan
    kind: Literal["baseline", "replicate"] = "baseline"
    notes: Mapping[str, str] = field(default_factory=dict)

    def keys(self, ground: Ground) -> list[str]:
        """Content keys of its training, one after another."""
        return [node.key for node in path_of(ground, self.plan, self.plan.seed)]


@dataclass(frozen=True, kw_only=True)
class FixedPlans:
    """The plans of a study that nothing chooses.

    Args:
        sweep: What is searched.
        settings: Where.
        study: As `open_study` gives it.
        leases: Who works on what.
        watch: Who looks on.
        say: Hears of results.
    """

    sweep: Sweep
    settings: Settings
    study: optuna.Study
    leases: Leases | None
    watch: Watch
    say: Say

    def plan(self, name: str) -> Plan:
        """The plan called `name`.

        Raises:
            KeyError: When the study has none.
        """
        sweep = self.sweep
        if name == SEED:
            return Plan(stages=(), seed=sweep.seed, net=sweep.reference)
        baseline = {baseline.name: baseline for baseline in sweep.baselines}[name]
        return Plan(stages=baseline.stages, seed=sweep.seed, net=baseline.net)

    def train_seed(self, ground: Ground) -> None:
        """Makes sure that there is a result of the seed net.

        Raises:
            ValueError: When there can't be one.
        """
        seed = Fixed(name=SEED, plan=self.plan(SEED))
        keys = seed.keys(ground)
        if self._known(seed, keys):
            return
        try:
            self._train(ground, seed, keys)
        except (StoppedError, *DATABASE_ERRORS):
            raise
        except Exception as error:
            if hits_all(error):
                raise
            raise ValueError(
                f"The seed net must be trained before it is searched, but that failed: "
                f"{clause_of(error)}; correct the net, the loss, the metrics or the recipe."
            ) from error

    def train_rest(self, ground: Ground, *, wait: bool) -> None:
        """Makes sure that there is a result of every baseline, or a reason why not.

        Args:
            ground: What the study stands on.
            wait: Whether also for those that another worker has in hand.
        """
        names = [baseline.name for baseline in self.sweep.baselines]
        self.train(ground, [Fixed(name=name, plan=self.plan(name)) for name in names], wait=wait)

    def train(self, ground: Ground, plans: Sequence[Fixed], *, wait: bool) -> None:
        """Makes sure that there is a result of each of `plans`, or a reason why not.

        Args:
            ground: What the study stands on.
            plans: In the order in which they are tried.
            wait: Whether also for those that another worker has in hand.
        """
        for fixed in plans:
            keys = fixed.keys(ground)
            if self._known(fixed, keys):
                continue
            taken, lease = self._take(fixed)
            try:
                if taken or wait:
                    self._attempt(ground, fixed, keys)
            finally:
                if lease is not None:
                    lease.release()

    def _take(self, fixed: Fixed) -> tuple[bool, HeldLease | None]:
        """Whether nobody else works on it: only to spread the work, nodes have leases too."""
        if self.leases is None:
            return True, None
        lease = self.leases.take(f"{fixed.kind} {fixed.name} of {self.study.study_name}")
        return lease is not None, lease

    def _attempt(self, ground: Ground, fixed: Fixed, keys: list[str]) -> None:
        try:
            self._train(ground, fixed, keys)
        except (StoppedError, *DATABASE_ERRORS):
            raise
        except Exception as error:
            if hits_all(error):
                raise  # it waits for the next run
            stored = {"error": reason_of(error)[:1000], "artifact": keys[-1], **fixed.notes}
            if self._tell(fixed, stored):
                told = {"name": fixed.name, "reason": stored["error"]}
                self.say({"event": f"{fixed.kind} failed", **told})

    def _train(self, ground: Ground, fixed: Fixed, keys: list[str]) -> None:
        self._patiently(lambda: self._need(fixed.name, keys))
        self.say({"event": f"{fixed.kind} start", "name": fixed.name})
        plan = fixed.plan
        result, *_ = run_trial(ground, plan, warmup_seed=plan.seed, watch=self.watch)
        values_of(self.sweep.axes, result.metrics, result.costs)
        found = {
            "metrics": result.metrics,
            "costs": result.costs,
            "artifact": keys[-1],
            "phases": [asdict(phase) for phase in result.phases],
        }
        if self._tell(fixed, {**found, **fixed.notes}):
            told = {"name": fixed.name, "reused_epochs": result.reused_epochs, **found}
            self.say({"event": fixed.kind, **told})

    def _known(self, fixed: Fixed, keys: list[str]) -> bool:
        attrs: Mapping[str, Any] = self._patiently(lambda: self.study.user_attrs)
        stored = attrs.get(f"{fixed.kind}:{fixed.name}", {})
        wanted = {"artifact": keys[-1], **fixed.notes}
        same = all(stored.get(name) == value for name, value in wanted.items())
        return same and attrs.get(f"nodes:{fixed.name}") == keys

    def _need(self, name: str, keys: list[str]) -> None:
        with exclusive(self.settings):  # whoever clears the store holds this, too
            self.study.set_user_attr(f"nodes:{name}", keys)

    def _tell(self, fixed: Fixed, stored: Mapping[str, Any]) -> bool:
        """Writes down what was found; false when another worker was first."""
        return self._patiently(partial(self._write, f"{fixed.kind}:{fixed.name}", stored))

    def _write(self, name: str, stored: Mapping[str, Any]) -> bool:
        with exclusive(self.settings):
            # Who was second took all of it from the store; else both say the same.
            known = {**self.study.user_attrs.get(name, {}), "phases": stored.get("phases")}
            if known == {**stored, "phases": stored.get("phases")}:
                return False
            self.study.set_user_attr(name, stored)
        return True

    def _patiently(self, action: Callable[[], Result]) -> Result:
        return patiently(action, self.settings.patience)
