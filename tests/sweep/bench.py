"""Workers for the tests, in this process and in others."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimiser of a process imports it: here once for all processes
from torch import nn

from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.settings import Settings
from plinio_sweep.store.leases import TIME_TO_LIVE, open_leases
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.drive import Worker
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.life import Life
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.result import TrialRecord
from plinio_sweep.sweep.stage import (
    Ground,
    Plan,
    Stage,
    StageOutcome,
    Store,
    run_search,
    train_net,
)
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.sweep.trial import run_trial
from plinio_sweep.train.loop import Watch
from tests.studies import tiny

# A server that has all modules loaded and forks in a moment.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def make_worker(
    settings: Settings,
    sweep: Sweep = tiny.sweep,
    *,
    target: int = 2,
    time_to_live: float = TIME_TO_LIVE,
    store: Store | None = None,
    known: bool = False,
    **changes: Any,
) -> Worker:
    """A worker on the study of `sweep`, which is opened for it."""
    study, life = open_study(sweep, settings, known=known), Life(settings.folder)
    return Worker(
        sweep=sweep,
        settings=settings,
        store=store or open_store(settings, known=True),
        study=study,
        leases=open_leases(settings, life, time_to_live=time_to_live),
        life=life,
        target=target,
        **changes,
    )


def outcome(trial: TrialRecord) -> tuple[Any, ...]:
    """What must be the same whatever happened to the study on its way."""
    return trial.state, trial.params, trial.values, trial.metrics, trial.costs


def run_stage(
    ground: Ground,
    net: nn.Module,
    stage: Stage,
    *,
    name: str,
    seed: int,
    step: int,
    watch: Watch,
) -> StageOutcome:
    """Search and fine-tuning of one stage, without a store."""
    found = run_search(ground, net, stage, name=f"{name}.search", seed=seed, step=step, watch=watch)
    history = train_net(
        ground,
        found.net,
        ground.recipe.finetune,
        name=f"{name}.finetune",
        seed=seed + 1,
        step=step + len(found.history),
        watch=watch,
    )
    return replace(found, history=found.history + history)


# -- in processes of their own --------------------------------------------------------------------


def start(action: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Starts `action`, a function of a module, in a process of its own."""
    process = CONTEXT.Process(target=_run, args=(action, *arguments), daemon=True)
    process.start()
    return process


def finish(*processes: ForkServerProcess, patience: float = 100) -> list[int | None]:
    """Waits for processes, and returns their exit codes; kills what hangs for `patience` [s]."""
    for process in processes:
        process.join(patience)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _run(action: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    action(*arguments)


def work(settings: Settings, target: int) -> None:
    """Works on the tiny study to its end."""
    make_worker(settings, target=target).work()


def die_in_training(settings: Settings, target: int) -> None:
    """Is killed in the middle of its first trial."""

    def stopping() -> bool:
        if worker.number is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    worker = make_worker(settings, target=target, stopping=stopping)
    worker.work()


def freeze_in_training(settings: Settings, target: int, time_to_live: float, told: Any) -> None:
    """Stops like a frozen machine in its first trial; goes on when it is woken, and tells all."""
    frozen: list[int] = []

    def stopping() -> bool:
        if worker.number is not None and not frozen:
            frozen.append(worker.number)
            told.put({"event": "frozen", "trial": worker.number})
            os.kill(os.getpid(), signal.SIGSTOP)
        return False

    worker = make_worker(
        settings, target=target, time_to_live=time_to_live, stopping=stopping, say=told.put
    )
    worker.work()


def work_and_tell(settings: Settings, target: int, told: Any, sweep: Sweep = tiny.sweep) -> None:
    """Works on a study to its end and tells all events."""
    make_worker(settings, sweep, target=target, say=told.put).work()


def work_on_host(
    settings: Settings,
    environment: Mapping[str, str],
    time_to_live: float,
    told: Any,
    steps: int | None = None,
) -> None:
    """Works on one trial and tells all events; is killed after some steps of the trial, if told."""
    os.environ.update(environment)
    done = count()

    def stopping() -> bool:
        if steps is not None and worker.number is not None and next(done) == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    worker = make_worker(
        settings, target=1, time_to_live=time_to_live, stopping=stopping, say=told.put
    )
    worker.work()


def open_when_told(settings: Settings, gate: Any) -> None:
    """Opens the study at the same moment as its siblings."""
    gate.wait(60)
    open_study(tiny.sweep, settings)


def pop_when_told(settings: Settings, gate: Any, popped: Any) -> None:
    """Takes waiting trials until there are none, and tells which."""
    study = open_study(tiny.sweep, settings)
    gate.wait(60)
    while "queued" in (attrs := study.ask().user_attrs):
        popped.put(attrs["queued"])


def train_and_tell(folder: Path, told: Any) -> None:
    """Trains one trial in a folder without a database, and tells the phase of every epoch."""
    ground = ground_of(tiny.sweep, Settings(folder=folder), open_store(Settings(folder=folder)))
    plan = Plan(stages=(Stage(method=PITSettings(), strength=0.5),), seed=5)
    watch = Watch(epoch=lambda epoch, epochs: told.put(epoch.phase))
    run_trial(ground, plan, warmup_seed=0, watch=watch)
