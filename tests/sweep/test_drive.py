"""One worker after another, in this process."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from plinio_sweep.settings import Settings
from plinio_sweep.store.leases import TABLE, TableLeases, open_leases
from plinio_sweep.sweep import claims
from plinio_sweep.sweep.drive import Worker
from plinio_sweep.sweep.failure import StoppedError
from plinio_sweep.sweep.life import DIED, Life
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.sweep.stage import LeaseLostError
from plinio_sweep.train.recipe import Phase
from tests.messages import is_sentence
from tests.studies.tiny import sweep, tiny
from tests.sweep.bench import make_worker, outcome

Events = list[Mapping[str, Any]]


def run(settings: Settings, study: Any = sweep, *, target: int = 2, **changes: Any) -> StudyRecord:
    worker = make_worker(settings, study, target=target, **changes)
    worker.work()
    return worker.record()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """Two trials that nothing came between."""
    return run(Settings(folder=tmp_path_factory.mktemp("straight")))


def stop_after(steps: int) -> Any:
    """Asks to stop at some step of the first trial."""
    calls = iter(range(10_000))
    return lambda: next(calls) > steps


ON_BOTH = pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)

# A baseline takes one look at `stopping` a step: 3 of warm-up and 12 of training.
IN_THE_FIRST_TRIAL = 20


# -- a study --------------------------------------------------------------------------------------


@ON_BOTH
def test_a_study_runs_to_its_target(settings: Settings) -> None:
    events: Events = []
    worker = make_worker(settings, say=events.append)
    worker.work()
    record = worker.record()
    assert [trial.state for trial in record.trials] == ["complete", "complete"]
    for trial in record.trials:
        assert set(trial.params) == {"order", "pit.strength", "pit.gate"}
        assert trial.values == (trial.metrics["validation_accuracy"], trial.costs["size_bytes"])
        assert trial.costs["size_bytes"] < 2072
        assert trial.feasible
        assert trial.seconds > 0
        assert worker.store.find(trial.artifact)
    told = [event["event"] for event in events if event["event"] != "epoch"]
    assert told == ["baseline start", "baseline", "start", "complete", "start", "complete"]


def test_the_seed_net_is_the_baseline(settings: Settings) -> None:
    baseline = run(settings, target=1).baseline
    assert baseline is not None
    assert baseline.values == (baseline.metrics["validation_accuracy"], 2072.0)
    assert baseline.values[0] > 0.8


def test_the_warm_up_and_the_baseline_are_trained_once(settings: Settings) -> None:
    events: Events = []
    run(settings, target=2, say=events.append)
    run(settings, target=3, say=events.append)
    phases = [event["phase"] for event in events if event["event"] == "epoch"]
    assert phases.count("warmup") == sweep.recipe.warmup.epochs
    assert phases.count("seed") == sweep.recipe.search.epochs
    assert phases.count("seed.finetune") == sweep.recipe.finetune.epochs
    assert phases.count("pit.search") == 3 * sweep.recipe.search.epochs


def test_the_number_of_trials_may_grow(settings: Settings) -> None:
    first = run(settings, target=1)
    second = run(settings, tiny(trials=99), target=2)
    assert [outcome(trial) for trial in second.trials[:1]] == [outcome(first.trials[0])]
    assert second.count("complete") == 2
    assert run(settings, target=1).count("complete") == 2  # and is never cut


def test_several_objectives_and_limits(settings: Settings) -> None:
    study = tiny(
        objectives=("-accuracy", "size_bytes", "macs"),
        limits={"size_bytes": 400.0, "-accuracy": -0.5, "macs": 1e6},
    )
    record = run(settings, study, target=4)
    assert [axis.name for axis in record.objectives] == ["accuracy", "size_bytes", "macs"]
    assert record.limits == study.limits
    stored = open_study(study, settings).get_trials()
    for trial, frozen in zip(record.trials, stored, strict=True):
        accuracy, size, macs = trial.values
        assert frozen.constraints == pytest.approx(
            {
                "size_bytes": (size - 400) / 400,
                "-accuracy": (0.5 - accuracy) / 0.5,
                "macs": (macs - 1e6) / 1e6,
            }
        )
        assert trial.feasible == (size <= 400 and accuracy >= 0.5)
    assert {trial.feasible for trial in record.trials} == {True, False}


def test_the_same_seed_gives_the_same_study(settings: Settings, straight: StudyRecord) -> None:
    record = run(settings)
    assert [outcome(trial) for trial in record.trials] == [outcome(t) for t in straight.trials]


def test_another_seed_gives_another_study(settings: Settings, straight: StudyRecord) -> None:
    record = run(settings, tiny(seed=1), target=1)
    assert record.trials[0].params != straight.trials[0].params


def test_each_claim_gives_the_sampler_a_seed_of_its_own(settings: Settings) -> None:
    seeds: list[int] = []

    def sampler(seed: int) -> optuna.samplers.BaseSampler:
        seeds.append(seed)
        return optuna.samplers.RandomSampler(seed=seed)

    record = run(settings, tiny(sampler=sampler), target=3)
    assert len(set(seeds)) == 3
    assert len({trial.params["pit.strength"] for trial in record.trials}) == 3


# -- trials that are put back ---------------------------------------------------------------------


def test_a_stopped_worker_puts_its_trial_back(settings: Settings, straight: StudyRecord) -> None:
    events: Events = []
    stopped = make_worker(settings, stopping=stop_after(IN_THE_FIRST_TRIAL), say=events.append)
    with pytest.raises(StoppedError):
        stopped.work()
    assert events[-1]["event"] == "lost"
    assert "interrupted" in events[-1]["reason"]
    (waiting,) = stopped.record().trials
    assert waiting.state == "waiting"
    assert waiting.losses == {0: "it was interrupted"}
    record = run(settings)
    assert [trial.state for trial in record.trials] == ["complete", "complete"]
    assert [outcome(t) for t in record.trials] == [outcome(t) for t in straight.trials]


def test_a_trial_may_be_stopped_any_number_of_times(settings: Settings) -> None:
    run(settings, target=1)
    for _ in range(5):
        with pytest.raises(StoppedError):
            make_worker(settings, stopping=stop_after(2)).work()
    record = run(settings)
    assert record.count("complete") == 2
    assert len(record.trials[-1].losses) == 5


def test_a_worker_may_be_stopped_before_its_first_trial(settings: Settings) -> None:
    with pytest.raises(StoppedError):
        make_worker(settings, stopping=lambda: True).work()
    assert run(settings, target=1).count("complete") == 1


class DeathError(BaseException):
    """Ends a worker as a kill would: nothing is told, its lock comes free."""


def die_in_trial(settings: Settings, target: int = 2, **changes: Any) -> None:
    def stopping() -> bool:
        if worker.number is not None:
            raise DeathError
        return False

    worker = make_worker(settings, target=target, stopping=stopping, **changes)
    with pytest.raises(DeathError):
        worker.work()


@ON_BOTH
def test_the_trial_of_a_dead_worker_is_taken_up_again(
    settings: Settings, straight: StudyRecord
) -> None:
    die_in_trial(settings)
    events: Events = []
    record = run(settings, say=events.append)
    assert [trial.state for trial in record.trials] == ["complete", "complete"]
    assert record.trials[0].losses == {0: "its worker died"}
    assert [e["reason"] for e in events if e["event"] == "lost"] == ["its worker died"]
    assert [outcome(t) for t in record.trials] == [outcome(t) for t in straight.trials]


def test_a_trial_that_was_queued_twice_runs_once(settings: Settings, straight: StudyRecord) -> None:
    die_in_trial(settings)
    die_in_trial(settings)  # puts a successor of trial 0 into the queue, and dies of it
    study = open_study(sweep, settings)
    queued = study.get_trials()[1]
    for _ in range(2):
        study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=queued.params,
                distributions=queued.distributions,
                user_attrs={"uid": 0, "planned": True, "retry_of": [0, 1], "deaths": 2},
            )
        )
    record = run(settings)
    assert [outcome(t) for t in record.trials] == [outcome(t) for t in straight.trials]
    assert [t.user_attrs.get("lost") for t in study.get_trials()] == [
        *("its worker died", "its worker died", None, "it was queued twice", None)
    ]


def test_a_trial_that_ends_while_its_worker_is_looked_for_is_done(settings: Settings) -> None:
    first, second = make_worker(settings, target=2), make_worker(settings, target=2)
    claim = first._claims.next()
    assert claim is not None and claim.lease is not None

    class LateLife(Life):
        def end_of(self, worker: str) -> str | None:
            first.study.tell(claim.trial, [0.5, 1e3])
            return super().end_of(worker)

    second._claims.life = LateLife(settings.folder)
    assert second._claims.next() is not None
    states = [trial.state for trial in second.study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING]


@pytest.mark.parametrize("moment", ["queued", "about to be called lost", "called lost"])
@pytest.mark.parametrize("failing", [False, True], ids=["done", "failed"])
def test_a_trial_that_ends_while_it_is_put_back_counts_once(
    settings: Settings, moment: str, failing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker was frozen between its last look at its lease and its last word."""
    first, second = make_worker(settings, target=2), make_worker(settings, target=2)
    claim = first._claims.next()
    assert claim is not None and claim.lease is not None
    claim.lease.release()
    second._claims.life = SilentLife(settings.folder)

    def wake() -> None:
        if failing:
            first.study.tell(claim.trial, state=TrialState.FAIL, skip_if_finished=True)
        else:
            first.study.tell(claim.trial, [0.5, 1e3], skip_if_finished=True)

    if moment == "queued":
        monkeypatch.setattr(second.study, "add_trial", then(second.study.add_trial, wake))
    else:
        storage = second.study._storage
        write = storage.set_trial_user_attr
        both = (first_then if moment.startswith("about") else then)(write, wake)
        monkeypatch.setattr(storage, "set_trial_user_attr", both)
    after = second._claims.next()
    assert after is not None
    monkeypatch.undo()
    lost = failing and moment == "called lost"  # nobody can tell it from one that was put back
    assert after.trial.number == (1 if lost else 2)
    first.study.tell(after.trial, [0.6, 2e3])
    claims_left = 0
    while (more := second._claims.next()) is not None:
        first.study.tell(more.trial, [0.7, 2e3])
        claims_left += 1
    record = second.record()
    ends = ["failed" if failing and not lost else "complete", "complete"]
    assert [trial.state for trial in record.trials] == ends
    assert claims_left == (1 if lost else 0)


class SilentLife(Life):
    """Knows of no worker that works."""

    def end_of(self, worker: str) -> str | None:
        return None if worker == self.name else DIED


def then(action: Any, after: Any) -> Any:
    def both(*words: Any, **named: Any) -> Any:
        found = action(*words, **named)
        after()
        return found

    return both


def first_then(action: Any, before: Any) -> Any:
    def both(*words: Any, **named: Any) -> Any:
        before()
        return action(*words, **named)

    return both


def test_a_trial_that_kills_its_workers_is_given_up(settings: Settings) -> None:
    for _ in range(3):
        die_in_trial(settings)
    events: Events = []
    record = run(settings, say=events.append)
    assert [trial.state for trial in record.trials] == ["failed", "complete"]
    assert record.trials[0].reason == "given up: 3 workers died of it (trials [0, 1, 2])"
    assert [e["given_up"] for e in events if e["event"] == "lost"] == [True]


def test_what_was_trained_before_the_death_is_not_trained_again(settings: Settings) -> None:
    class Killer:
        def annotate(self, trial: Any, result: Any, folder: Any) -> None:
            raise DeathError

    with pytest.raises(DeathError):
        make_worker(settings, annotator=Killer()).work()
    events: Events = []
    record = run(settings, target=1, say=events.append)
    assert record.count("complete") == 1
    assert "epoch" not in [event["event"] for event in events]


def test_a_worker_takes_up_its_own_trial_after_an_error(settings: Settings) -> None:
    calls = iter(range(1000))

    def stopping() -> bool:
        if next(calls) == IN_THE_FIRST_TRIAL:
            raise DeathError
        return False

    worker = make_worker(settings, stopping=stopping)
    with pytest.raises(DeathError):
        worker.work()
    worker.work()
    assert [trial.state for trial in worker.record().trials] == ["complete", "complete"]


def test_a_trial_that_nobody_put_a_name_on_is_taken_up(settings: Settings) -> None:
    open_study(sweep, settings).ask()  # killed before it was named
    record = run(settings)
    assert [trial.state for trial in record.trials] == ["complete", "complete"]


def elsewhere(settings: Settings, time_to_live: float) -> Any:
    """A worker of another machine that has just begun a trial; its lease."""
    trial = open_study(sweep, settings).ask()
    leases = open_leases(settings, Life(settings.folder), time_to_live=time_to_live)
    lease = leases.take(f"trial {trial._trial_id}")
    trial.set_user_attr("worker", "elsewhere/1:2")
    return lease


@ON_BOTH
def test_the_trial_of_a_machine_that_fell_silent_is_taken_up(settings: Settings) -> None:
    lease = elsewhere(settings, time_to_live=0.2)
    lease._done.set()  # it is heard of no more
    time.sleep(0.5)
    events: Events = []
    record = run(settings, say=events.append)
    assert [trial.state for trial in record.trials] == ["complete", "complete"]
    assert [e["reason"] for e in events if e["event"] == "lost"] == ["its worker fell silent"]
    with pytest.raises(LeaseLostError), lease.sealed():
        raise AssertionError("both had it")


@ON_BOTH
def test_the_trial_of_a_machine_that_is_heard_of_is_left_alone(settings: Settings) -> None:
    lease = elsewhere(settings, time_to_live=60.0)
    assert [trial.state for trial in run(settings).trials] == ["running", "complete"]
    lease.release()


@ON_BOTH
def test_a_trial_whose_next_worker_died_before_it_was_queued_is_taken_up(
    settings: Settings,
) -> None:
    elsewhere(settings, time_to_live=60.0).release()
    events: Events = []
    record = run(settings, say=events.append)
    assert [trial.state for trial in record.trials] == ["complete", "complete"]
    assert [e["reason"] for e in events if e["event"] == "lost"] == ["its worker fell silent"]


def left_by(worker: Worker) -> list[str]:
    """The leases in the table when `worker` is done."""
    leases = worker.leases
    assert isinstance(leases, TableLeases)
    worker.work()
    with leases.engine.connect() as connection:
        return [row.key for row in connection.execute(TABLE.select())]


def silence(lease: Any) -> None:
    """As if the holder had been killed: its lease is neither renewed nor given back."""
    lease._done.set()
    lease._thread.join()


@ON_BOTH
def test_the_last_look_leaves_no_lease_of_work_that_is_done(settings: Settings) -> None:
    worker = make_worker(settings, target=1)
    claim = worker._claims.next()
    assert claim is not None and claim.lease is not None
    worker.study.tell(claim.trial, (0.5, 1e3))
    silence(claim.lease)  # told, and killed before it gave its lease back, which lasts for long
    there = replace(settings, folder=settings.folder / "there", storage=settings.storage_url)
    assert left_by(make_worker(there, target=1)) == []


@ON_BOTH
def test_with_a_trial_go_the_stages_of_its_worker(settings: Settings) -> None:
    lease = elsewhere(settings, time_to_live=60.0)
    lost = open_leases(settings, Life(settings.folder))
    lost.holder = "elsewhere/1:2"
    silence(lost.take("a stage that was done"))
    lease.release()
    assert left_by(make_worker(settings)) == []


@ON_BOTH
def test_the_last_look_leaves_the_trials_of_other_studies_alone(settings: Settings) -> None:
    lease = elsewhere(settings, time_to_live=0.0)
    silence(lease)  # that its worker fell silent is for the workers of its own study to see
    assert left_by(make_worker(settings, tiny(name="another"))) == [lease._key]


def test_a_folder_of_its_own_makes_a_worker_one_of_another_machine(tmp_path: Path) -> None:
    here, there = Life(tmp_path / "a"), Life(tmp_path / "b")
    assert here.end_of(there.name) is None
    assert here.end_of(Life(tmp_path / "a").name) == "its worker could not go on"
    with here.lived():
        assert Life(tmp_path / "a").end_of(here.name) is None


def test_the_trial_of_a_living_worker_is_left_alone(settings: Settings) -> None:
    seen: list[StudyRecord] = []

    def stopping() -> bool:
        if worker.number == 1 and not seen:
            seen.append(run(settings, target=3))  # another worker, while this one is at it
        return False

    worker = make_worker(settings, target=3, stopping=stopping)
    worker.work()
    assert [trial.state for trial in seen[0].trials] == ["complete", "running", "complete"]
    assert [trial.state for trial in worker.record().trials] == 3 * ["complete"]


# -- after the search -----------------------------------------------------------------------------


def test_the_test_split_is_touched_once(settings: Settings) -> None:
    worker = make_worker(settings, target=1)
    worker.work()
    record = worker.record()
    assert record.baseline is not None
    assert not any(name.startswith("test_") for name in record.trials[0].metrics)
    wanted = {"0": record.trials[0].artifact, "seed": record.baseline.artifact}
    worker.keep(wanted)
    assert worker.record() == record  # untouched by all that nobody asked for
    assert (record.tested, record.touched) == (0, "")
    before = datetime.now(UTC).isoformat(timespec="seconds")
    worker.test(wanted)
    measured = worker.record()
    assert measured.baseline is not None
    assert measured.tested == 2
    assert before <= measured.touched <= datetime.now(UTC).isoformat(timespec="seconds")
    first = measured.trials[0].metrics["test_accuracy"]
    assert first > 0.5
    assert measured.baseline.metrics["test_accuracy"] > 0.8

    def unread() -> Any:
        raise AssertionError("the data were loaded again")

    again = make_worker(settings, target=1)
    again.sweep = tiny(data=unread)
    again.test({key: wanted[key] for key in ("0", "seed")})
    assert again.record() == measured
    assert again.record().trials[0].metrics["test_accuracy"] == first


def test_another_seed_net_is_measured_anew_and_the_first_look_stays(settings: Settings) -> None:
    worker = make_worker(settings, target=1)
    worker.work()
    seed = worker.record().baseline
    assert seed is not None
    worker.test({"seed": seed.artifact})
    touched = worker.record().touched
    worker.study.set_user_attr("touched", "2001-01-01T00:00:00+00:00")
    assert touched

    recipe = replace(sweep.recipe, search=replace(sweep.recipe.search, epochs=2))
    changed = tiny(recipe=recipe)
    open_study(changed, settings, accept_drift=True)
    later = make_worker(settings, changed, target=1)
    later.work()
    other = later.record().baseline
    assert other is not None and other.artifact != seed.artifact
    assert "test_accuracy" not in other.metrics  # it was that of another net
    later.test({"seed": other.artifact})
    tested = later.record()
    assert tested.baseline is not None
    assert "test_accuracy" in tested.baseline.metrics
    assert tested.touched.startswith("2001")


def test_workers_measure_a_net_once(settings: Settings) -> None:
    events: Events = []
    worker = make_worker(settings, target=1)
    worker.work()
    wanted = {"0": worker.record().trials[0].artifact}
    first, second = (make_worker(settings, target=1, say=events.append) for _ in range(2))
    second.stopping = lambda: True
    with first._alone("test 0"), pytest.raises(StoppedError):
        second.test(wanted)  # waits for the one who is at it
    first.test(wanted)
    second.test(wanted)
    assert [event["event"] for event in events] == ["tested"]


def test_a_result_that_was_lost_is_made_anew_from_what_is_left(settings: Settings) -> None:
    told: list[Any] = []
    worker = make_worker(settings, target=1, say=told.append)
    worker.work()
    record = worker.record()
    assert record.baseline is not None
    wanted = {"0": record.trials[0].artifact, "seed": record.baseline.artifact}
    before = {}
    for key, artifact in wanted.items():
        folder = worker.store.find(artifact)
        assert folder is not None
        before[key] = (folder / "model.safetensors").read_bytes()
        shutil.rmtree(folder)
    told.clear()
    worker.keep(wanted)
    for key, artifact in wanted.items():
        folder = worker.store.find(artifact)
        assert folder is not None
        assert (folder / "model.safetensors").read_bytes() == before[key]
    assert told == []  # no epoch was trained
    worker.keep({"0": "an artefact of before the study changed"})
    (warning,) = told
    assert "the study has changed since" in warning["text"] and is_sentence(warning["text"])


def test_a_short_recipe_is_enough(settings: Settings) -> None:
    recipe = sweep.recipe
    short = type(recipe)(warmup=Phase(epochs=0), search=Phase(epochs=1), finetune=Phase(epochs=0))
    assert run(settings, tiny(recipe=short), target=1).count("complete") == 1


def test_a_plan_that_was_cut_is_drawn_as_it_would_have_been_whoever_waits_behind_it(
    settings: Settings,
) -> None:
    drawn = tiny(sampler=lambda seed: optuna.samplers.RandomSampler(seed=seed))
    plain = make_worker(replace(settings, folder=settings.folder / "plain"), drawn, target=4)
    params = [claimed_params(plain) for _ in range(4)]

    worker = make_worker(replace(settings, folder=settings.folder / "cut"), drawn, target=4)
    study = worker.study
    distributions = plain.study.get_trials(deepcopy=False)[0].distributions
    for number in (0, 2):  # 1 was begun before 2, and lost after 3, which was cut
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                values=(0.5, 1e3),
                params=params[number],
                distributions=distributions,
                user_attrs={"uid": number},
            )
        )
    for uid, known in ((3, {}), (1, params[1])):
        study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=known,
                distributions=distributions if known else {},
                user_attrs={"uid": uid, "planned": bool(known)},
            )
        )
    assert [claimed_params(worker) for _ in range(2)] == [params[3], params[1]]


def test_a_claim_whose_lock_was_lost_doubles_no_trial_and_draws_none_otherwise(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = tiny(sampler=lambda seed: optuna.samplers.RandomSampler(seed=seed))
    plain = make_worker(replace(settings, folder=settings.folder / "plain"), drawn, target=4)
    params = [claimed_params(plain) for _ in range(4)]

    first, second = (make_worker(settings, drawn, target=4) for _ in range(2))
    found: list[dict[str, Any]] = []
    for uid in (0, 1):  # both were cut in the middle of their claims
        waiting = create_trial(state=TrialState.WAITING, user_attrs={"uid": uid, "planned": False})
        first.study.add_trial(waiting)

    def overtaken(seed: int) -> Any:
        """The second claims in the middle of the first's claim."""
        first._claims.sweep = drawn
        patch.undo()  # it is the first's lock that is lost
        found.append(claimed_params(second))
        return optuna.samplers.RandomSampler(seed=seed)

    class LostError(Exception):
        pass

    @contextmanager
    def lost(settings: Settings) -> Iterator[None]:
        with suppress(UpdateFinishedTrialError):
            yield
        raise LostError

    for _ in range(2):
        first._claims.sweep = replace(drawn, sampler=overtaken)
        with monkeypatch.context() as patch, pytest.raises(LostError):
            patch.setattr(claims, "exclusive", lost)
            second._claims.settings = replace(settings, folder=settings.folder / "second")
            first._claims.next()
        found.append(claimed_params(first))
    assert found == params
    why = [trial.user_attrs.get("lost") for trial in first.study.get_trials()]
    assert Counter(filter(None, why)) == {"it was queued twice": 1, "its worker could not go on": 1}


def claimed_params(worker: Worker) -> dict[str, Any]:
    """What the next trial is to be; it ends at once."""
    claim = worker._claims.next()
    assert claim is not None
    worker.study.tell(claim.trial, (0.5, 1e3))
    return dict(claim.trial.params)
