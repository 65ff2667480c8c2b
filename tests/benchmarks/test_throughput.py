"""What the outer loop costs: trials without training, beside what Optuna alone does.

An empty trial is all that a worker does for one but the training: the claim, its attributes, the
values; its result is there already. Optuna alone asks, makes the same choices and tells the same
values: once on a database as Optuna opens it ("plain": on SQLite not exactly once), once on ours,
and there once more with the attributes of a complete trial. All take turns; figures
are ratios to Optuna alone in the same round.

    pytest tests/benchmarks -m benchmark -k throughput -s
"""

from __future__ import annotations

import gc
import os
import queue
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages._rdb import models
from optuna.trial import TrialState, create_trial

from plinio_sweep.settings import Settings
from plinio_sweep.sweep import drive
from plinio_sweep.sweep.drive import Worker
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.result import TrialResult
from plinio_sweep.sweep.stage import Ground
from plinio_sweep.sweep.study import Sweep, tpe
from tests.postgres import started_server
from tests.studies.tiny import tiny
from tests.sweep.bench import CONTEXT, finish, make_worker, start
from tests.sweep.conftest import _closed_connections as _closed_connections
from tests.sweep.conftest import databases

TRIALS = 64  # of each kind in each round
ROUNDS = 2  # but one where there are 32 workers to start
FINISHED = (100, 1_000, 10_000)
CLAIMS = 20

RESULT = TrialResult(
    metrics={"validation_loss": 0.5, "validation_accuracy": 0.9},
    costs={"params": 500.0, "macs": 2e4, "size_bits": 8e3, "size_bytes": 1e3},
    integers={},
    estimates={"size_bytes": 1.1e3},
    units={},
    architecture={},
    layers=(),
    history=(),
    reused_epochs=0,
    artifact="0" * 64,
    seconds=1.0,
)
VALUES = (0.9, 1e3)
_NAMES = ("metrics", "costs", "estimates", "artifact", "seconds", "reused_epochs")
KEPT = {name: getattr(RESULT, name) for name in _NAMES}


def random_sampler(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


# The default would hide what the database costs behind its own arithmetic.
SWEEP = tiny(sampler=random_sampler, limits={"size_bytes": 2e3})

Trial = Callable[[], bool]  # whether it found one to do
Changed = Callable[[dict[str, Any], int], dict[str, Any]]  # a row, and the number of its trial


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Callable[[], str]]:
    """Databases of a server that 32 workers may connect to: each has up to three connections."""
    with started_server(connections=200) as server, databases(server) as create:
        yield create


# -- one trial after another, until it says that there are no more --------------------------------


@contextmanager
def ours(settings: Settings, sweep: Sweep, target: int = TRIALS) -> Iterator[Trial]:
    worker = make_worker(settings, SWEEP, target=target)
    worker._claims.sweep = sweep  # with another sampler: the study keeps that of its start
    ground = worker._ground()
    setattr(drive, "run_trial", lambda *_, **__: (RESULT, None, None))  # noqa: B010
    with worker._life.lived():  # or the others take its trials away
        yield lambda: work(worker, ground)


def work(worker: Worker, ground: Ground) -> bool:
    claim = worker._claims.next()
    if claim is not None:
        worker._run(ground, claim)
    return claim is not None


def asking(
    study: optuna.Study, sweep: Sweep, attributes: bool = False
) -> AbstractContextManager[Trial]:
    study.sampler = sweep.sampler(os.getpid())

    def trial() -> bool:
        trial = study.ask()
        sweep.space.suggest(trial, sweep.seed)
        if attributes:
            for name in ("uid", "worker", "nodes"):
                trial.set_user_attr(name, "0" * 64)
            trial.set_user_attr("result", KEPT)
            trial.set_constraint("size_bytes", -0.5)
        study.tell(trial, VALUES)
        return True

    return nullcontext(trial)


def plain(settings: Settings, sweep: Sweep) -> AbstractContextManager[Trial]:
    return asking(optuna.load_study(study_name=sweep.name, storage=settings.storage_url), sweep)


def hardened(settings: Settings, sweep: Sweep) -> AbstractContextManager[Trial]:
    return asking(open_study(SWEEP, settings), sweep)


def attributed(settings: Settings, sweep: Sweep) -> AbstractContextManager[Trial]:
    return asking(open_study(sweep, settings), sweep, attributes=True)


LOOPS: dict[str, Any] = {
    "Optuna, plain": plain,
    "Optuna, our storage": hardened,
    "Optuna, attributes": attributed,
    "plinio_sweep": ours,
}


# -- several workers ------------------------------------------------------------------------------


def loop(name: str, settings: Settings, share: int, gate: Any, told: Any) -> None:
    """One worker of `name`: does its share; tells when it began and ended, and what went wrong."""
    done = broken = 0
    with LOOPS[name](settings, SWEEP) as trial:
        gate.wait(200)
        begin = time.monotonic()
        # Ours know themselves when there are enough.
        while name == "plinio_sweep" or done + broken < share:
            try:
                if not trial():
                    break
                done += 1
            except optuna.exceptions.StorageInternalError:
                broken += 1  # "database is locked": Optuna as it comes gives up
        told.put((begin, time.monotonic(), done, broken))
        gate.wait(200)


def heard(told: Any, *processes: ForkServerProcess) -> list[Any]:
    """What every process tells before it ends; at once an error when one dies without a word."""
    found: list[Any] = []
    while len(found) < len(processes):
        try:
            found.append(told.get(timeout=1))
        except queue.Empty:
            assert not any(process.exitcode for process in processes)
    assert finish(*processes) == [0] * len(processes)
    return found


def rate(name: str, settings: Settings, workers: int) -> tuple[float, int]:
    """Trials per second of `workers` processes on a new study, and how many trials broke."""
    if name == "Optuna, plain":
        # Not as `open_study` makes it: its write-ahead log stays with a file of SQLite.
        settings.folder.mkdir()
        study = optuna.create_study(
            study_name=SWEEP.name, storage=settings.storage_url, directions=["maximize", "minimize"]
        )
    else:
        study = open_study(SWEEP, settings)
    gate, told = CONTEXT.Barrier(workers), CONTEXT.Queue()
    share = TRIALS // workers
    processes = [start(loop, name, settings, share, gate, told) for _ in range(workers)]
    begins, ends, done, broken = zip(*heard(told, *processes), strict=True)
    assert sum(done) + sum(broken) == TRIALS
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert states.count(TrialState.COMPLETE) >= sum(done)
    if name == "plinio_sweep":
        assert states == [TrialState.COMPLETE] * TRIALS
    return sum(done) / (max(ends) - min(begins)), sum(broken)


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        *(("sqlite", workers) for workers in (1, 4, 8)),
        *(("postgresql", workers) for workers in (1, 8, 32)),
    ],
)
def test_throughput(
    kind: str, workers: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    create = request.getfixturevalue("postgresql") if kind == "postgresql" else None
    rates: dict[str, list[tuple[float, int]]] = {name: [] for name in LOOPS}
    rounds = 1 if workers == 32 else ROUNDS
    for turn in range(rounds):
        for place, name in enumerate(LOOPS):
            settings = Settings(
                folder=tmp_path / f"{turn}-{place}",
                storage=create() if create else "",
                lock_timeout=300.0,
                tracking="none",
            )
            rates[name].append(rate(name, settings, workers))
    base = [found for found, _ in rates["Optuna, plain"]]
    print(f"\n{kind}, {workers} workers, {TRIALS} trials, {rounds} rounds")
    for name, measured in rates.items():
        found, broken = zip(*measured, strict=True)
        ratios = [own / other for own, other in zip(found, base, strict=True)]
        print(
            f"  {name:20} {statistics.median(found):6.1f} trials/s"
            f"  {statistics.median(ratios):5.2f} of plain ({min(ratios):.2f} to {max(ratios):.2f})"
            f"  {sum(broken)} broken"
        )
    assert not any(broken for _, broken in rates["plinio_sweep"])


# -- many finished trials -------------------------------------------------------------------------


def finished(number: int) -> optuna.trial.FrozenTrial:
    """A trial as a worker leaves it, somewhere in the space; better ones cost more."""
    params, values = outcome(number)
    return create_trial(
        params={"order": "pit", "pit.strength": params, "pit.gate": "norm"},
        distributions={
            "order": CategoricalDistribution(["pit"]),
            "pit.strength": FloatDistribution(0.1, 30.0, log=True),
            "pit.gate": CategoricalDistribution(["norm", "consumer"]),
        },
        values=values,
        user_attrs={"result": KEPT, "uid": 0, "worker": "host/1:2", "nodes": ["0" * 64] * 4},
        constraints={"size_bytes": -0.5},
    )


def outcome(number: int) -> tuple[float, list[float]]:
    """The strength and the values of a finished trial."""
    place = (number * 0.618) % 1.0
    values = [0.5 + 0.4 * (1 - place) + 0.01 * (number % 7), 2e3 - 1e3 * place]
    return 0.1 * 300.0**place, values


def fill(study: optuna.Study, count: int, changed: Changed | None = None) -> None:
    """Adds finished trials until there are `count`: row by row what Optuna writes for one.

    `add_trials` takes a transaction of 14 ms for each. With `changed`, which makes the rows of a
    trial out of those of the first one, they differ in more than their values.
    """
    storage: Any = study._storage
    study.add_trial(finished(begin := len(study.get_trials(deepcopy=False))))
    numbers = range(begin + 1, count)
    trials, *children = (kind.__table__ for kind in TABLES)
    with storage._backend.engine.begin() as connection:
        where = trials.c.study_id == study._study_id, trials.c.number == begin
        first = connection.execute(trials.select().where(*where)).one()._asdict()
        old = first.pop("trial_id")
        connection.execute(trials.insert(), [{**first, "number": n} for n in numbers])
        found = connection.execute(trials.select().where(trials.c.number > begin)).all()
        for table in children:
            rows = [
                {k: v for k, v in row._asdict().items() if k not in table.primary_key.columns}
                for row in connection.execute(table.select().where(table.c.trial_id == old))
            ]
            told = [
                (changed or _changed)(row, at.number) | {"trial_id": at.trial_id}
                for at in found
                for row in rows
            ]
            connection.execute(table.insert(), told)
    assert changed or same(study.get_trials(deepcopy=False)[-1], finished(count - 1))


TABLES = (
    models.TrialModel,
    models.TrialParamModel,
    models.TrialValueModel,
    models.TrialUserAttributeModel,
    models.TrialSystemAttributeModel,
)


def _changed(row: dict[str, Any], number: int) -> dict[str, Any]:
    strength, values = outcome(number)
    if row.get("param_name") == "pit.strength":
        return {**row, "param_value": strength}
    return {**row, "value": values[row["objective"]]} if "objective" in row else row


def same(one: optuna.trial.FrozenTrial, other: optuna.trial.FrozenTrial) -> bool:
    names = ("state", "params", "distributions", "values", "user_attrs", "system_attrs")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def claims(settings: Settings, sampler: Any, told: Any) -> None:
    """Times of trials, ours and Optuna's in turns, and the memory that the study takes."""
    sweep = replace(SWEEP, sampler=sampler)
    before, begin = megabytes(), time.perf_counter()
    with ours(settings, sweep, 10**9) as own:
        own()
        first, after = time.perf_counter() - begin, megabytes()
        with hardened(settings, sweep) as other:
            other()
            times: list[tuple[float, float]] = []
            for _ in range(CLAIMS):
                begin = time.perf_counter()
                own()
                middle = time.perf_counter()
                other()
                times.append((middle - begin, time.perf_counter() - middle))
    told.put((first, before, after, times))


def megabytes() -> float:
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_growth(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    storage = request.getfixturevalue("postgresql")() if kind == "postgresql" else ""
    settings = Settings(folder=tmp_path, storage=storage, lock_timeout=300.0, tracking="none")
    study = open_study(SWEEP, settings)
    print(f"\n{kind}: one worker, {CLAIMS} trials after many; median ms a trial, ours / Optuna's")
    for count in FINISHED:
        fill(study, count)
        for sampler in (random_sampler, tpe):
            told = CONTEXT.Queue()
            process = start(claims, settings, sampler, told)
            [(first, before, after, times)] = heard(told, process)
            own, other = (1e3 * statistics.median(found) for found in zip(*times, strict=True))
            ratios = [a / b for a, b in times]
            print(
                f"  {count:6} {sampler.__name__:15} {own:6.0f} / {other:6.0f}  "
                f"x {statistics.median(ratios):.2f}; first after {first:.1f} s, "
                f"{before:.0f} -> {after:.0f} MB"
            )
            assert own > 0 and after >= before
