"""Training that was cut anywhere goes on bit by bit, in a net that is made anew."""

from __future__ import annotations

import copy
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from plinio_sweep.train.checkpoints import Checkpoints
from plinio_sweep.train.loop import Watch
from plinio_sweep.train.state import random_state
from tests.messages import is_sentence
from tests.nets import rows
from tests.train.runs import EPOCHS, RUNS, STEPS, Run, outcome
from tests.train.test_checkpoints import full_disk

TOTAL = EPOCHS * STEPS
PLAIN, SEARCH = RUNS["warm-up"], RUNS["supernet"]
# Kinds of runs that differ most in what a checkpoint holds.
DIFFERING = (
    "warm-up with momentum",  # no decisions
    "pit under a budget",  # a pressure that changes as it goes, two optimisers
    "pit with frozen weights",  # one optimiser, of decisions
    "supernet",  # noise, a temperature
    "mps with noise and learned ranges",  # all that a search may have
    "mps in double precision",
    "fine-tuning after mps",  # quantisers without a search
)


class CutError(Exception):
    """The end of a process, for a test."""


@functools.cache
def undisturbed(run: Run) -> bytes:
    net = run.open()
    return outcome(net, run.train(net))


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder, for tests that need one an example."""
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def confuse() -> None:
    """Leaves the random states wherever another process may have them."""
    torch.manual_seed(101)
    random.seed(102)
    np.random.seed(103)


def cut(
    run: Run, path: Path, *, after: int, seconds: float | None = None, killed: bool = False
) -> int:
    """Trains `run` for `after` steps at most, then ends it; how many steps it took.

    A kill leaves no time for a checkpoint, a stop does.
    """
    confuse()
    taken: list[int] = []

    def step() -> None:
        if len(taken) == after:
            # What no `except Exception` meets is as good as a kill.
            raise KeyboardInterrupt if killed else CutError
        taken.append(1)

    net = run.open()
    keeper = Checkpoints(path, key="run", seconds=seconds, warn=refuse)
    with suppress(KeyboardInterrupt, CutError):
        run.train(net, keeper, Watch(step=step))
    return len(taken)


def refuse(text: str) -> None:
    raise AssertionError(text)


def resumed(run: Run, path: Path, *, watch: Watch | None = None) -> bytes:
    """What `run` comes to from the checkpoints in `path`, which are whole."""
    confuse()
    net = run.open()
    confuse()
    return outcome(net, run.train(net, Checkpoints(path, key="run", warn=refuse), watch))


@pytest.mark.parametrize("name", rows(RUNS, DIFFERING))
@settings(max_examples=5, deadline=None, derandomize=True, database=None)
@given(
    cuts=st.lists(st.integers(0, TOTAL), min_size=1, max_size=3),
    seconds=st.sampled_from([None, 0.0]),
    killed=st.booleans(),
)
@example(cuts=[0], seconds=None, killed=False)
@example(cuts=[TOTAL - 1], seconds=None, killed=False)
@example(cuts=[TOTAL], seconds=None, killed=False)
@example(cuts=[STEPS + 1, 1], seconds=None, killed=False)
def test_a_run_that_is_cut_anywhere_comes_to_the_same_bits(
    name: str, cuts: list[int], seconds: float | None, killed: bool
) -> None:
    run = RUNS[name]
    with folder() as path:
        for after in cuts:
            cut(run, path, after=after, seconds=seconds, killed=killed)
        assert resumed(run, path) == undisturbed(run)


@functools.cache
def halfway() -> dict[str, Any]:
    """The state of a run in the midst of its last epoch."""
    found: list[Mapping[str, Any]] = []
    with folder() as path:
        cut(SEARCH, path, after=2 * STEPS + 2)
        Checkpoints(path, key="run").resume(found.append)
    return dict(found[0])


def from_state(state: Mapping[str, Any]) -> bytes:
    """What the run comes to from `state`."""
    with folder() as path:
        Checkpoints(path, key="run").write((2, 2), state)
        return resumed(SEARCH, path)


def test_a_state_that_was_read_and_written_again_is_the_same() -> None:
    assert from_state(halfway()) == undisturbed(SEARCH)


def changed(part: str) -> dict[str, Any]:
    """That state with one part of it from elsewhere."""
    state = copy.deepcopy(halfway())
    confuse()
    group, _, name = part.partition(".")
    if group == "random":
        state[group][name] = random_state(torch.device("cpu"))[name]
    elif group == "optimizers":
        for values in state[group][int(name)]["state"].values():
            values["exp_avg"].zero_()
    elif group == "net":
        next(value for key, value in state["net"]["kept"].items() if name in key).add_(0.25)
    else:
        others = {
            "order": torch.Generator().manual_seed(5).get_state(),
            "done": 0,
            "total": torch.zeros(()),
            "full": 2 * state["full"],
            "best": (False, -1.0),
            "history": state["history"] + state["history"],
        }
        state[group] = others[group]
    return state


@pytest.mark.parametrize(
    "part",
    [
        *("random.torch", "random.numpy", "random.python", "optimizers.0", "optimizers.1"),
        *("net.decisions", "net.running_mean", "net.weight", "net.temperature"),
        *("order", "done", "total", "full", "best", "history"),
    ],
)
def test_every_part_of_a_state_matters(part: str) -> None:
    """The comparison above notices what is not as it was."""
    assert from_state(changed(part)) != undisturbed(SEARCH)


@pytest.mark.parametrize("run", [PLAIN, SEARCH], ids=["plain", "search"])
@pytest.mark.parametrize("seconds", [None, 0.0, 1e6])
def test_who_is_stopped_trains_no_step_twice(
    run: Run, seconds: float | None, tmp_path: Path
) -> None:
    taken = [
        cut(run, tmp_path, after=after, seconds=seconds) for after in (0, 1, STEPS, 2, 1, TOTAL)
    ]
    assert taken == [0, 1, STEPS, 2, 1, TOTAL - STEPS - 4]
    assert resumed(run, tmp_path) == undisturbed(run)


def test_who_is_killed_trains_again_what_came_after_the_last_checkpoint(tmp_path: Path) -> None:
    def lost(seconds: float | None) -> int:
        path = tmp_path / str(seconds)
        done = STEPS + 2
        assert cut(PLAIN, path, after=done, seconds=seconds, killed=True) == done
        return done + cut(PLAIN, path, after=TOTAL) - TOTAL

    assert [lost(None), lost(0.0), lost(1e6)] == [2, 0, STEPS + 2]


def test_epochs_are_told_once_and_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    told: list[int] = []
    steps: list[int] = []
    watch = Watch(epoch=lambda epoch, of: told.append(epoch.index), step=lambda: steps.append(1))
    cut(PLAIN, tmp_path, after=STEPS + 1)
    for _ in range(2):
        assert resumed(PLAIN, tmp_path, watch=watch) == undisturbed(PLAIN)
        assert told == [1, 2]
        assert len(steps) == TOTAL - STEPS - 1


def test_the_end_is_kept_however_long_the_time_between(tmp_path: Path) -> None:
    net = PLAIN.open()
    PLAIN.train(net, Checkpoints(tmp_path, key="run", seconds=1e6, warn=refuse))
    assert len(list(tmp_path.iterdir())) == 1
    assert cut(PLAIN, tmp_path, after=TOTAL) == 0


@pytest.mark.parametrize("name", rows(RUNS, DIFFERING))
def test_a_keeper_changes_nothing(name: str, tmp_path: Path) -> None:
    run = RUNS[name]
    net = run.open()
    keeper = Checkpoints(tmp_path, key="run", seconds=0.0, warn=refuse)
    assert outcome(net, run.train(net, keeper)) == undisturbed(run)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_cost_time_and_no_bits(damaged: int, tmp_path: Path) -> None:
    cut(SEARCH, tmp_path, after=2 * STEPS + 2)
    for path in sorted(tmp_path.iterdir())[-damaged:]:
        path.write_bytes(path.read_bytes()[:-1000])
    said: list[str] = []
    confuse()
    net = SEARCH.open()
    keeper = Checkpoints(tmp_path, key="run", warn=said.append)
    assert outcome(net, SEARCH.train(net, keeper)) == undisturbed(SEARCH)
    assert len(said) == damaged
    assert all(is_sentence(text) for text in said)


def test_a_full_disk_ends_no_training(tmp_path: Path) -> None:
    cut(PLAIN, tmp_path, after=2 * STEPS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 2
    said: list[str] = []
    net = PLAIN.open()
    with full_disk(1000):
        history = PLAIN.train(net, Checkpoints(tmp_path, key="run", warn=said.append))
    assert outcome(net, history) == undisturbed(PLAIN)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(said) == 1
    assert "File too large" in said[0]


@pytest.mark.parametrize("other", ["pit at norms", "warm-up in double precision", "mps"])
def test_the_checkpoint_of_another_net_changes_nothing(other: str, tmp_path: Path) -> None:
    cut(RUNS[other], tmp_path, after=STEPS + 1)
    said: list[str] = []
    net = PLAIN.open()
    keeper = Checkpoints(tmp_path, key="run", warn=said.append)
    assert outcome(net, PLAIN.train(net, keeper)) == undisturbed(PLAIN)
    assert len(said) == 2
    assert all("must fit it, but differs in" in text and is_sentence(text) for text in said)


def test_that_of_another_optimiser_changes_nothing(tmp_path: Path) -> None:
    run = RUNS["pit at norms"]
    cut(run, tmp_path, after=STEPS + 1)
    keeper = Checkpoints(tmp_path, key="run")
    found: list[Mapping[str, Any]] = []
    keeper.resume(found.append)
    weights, decisions = found[0]["optimizers"]
    for index, others in enumerate(([weights], [decisions, weights])):
        keeper.write((99, index), {**found[0], "optimizers": others})
    said: list[str] = []
    confuse()
    net = run.open()
    history = run.train(net, Checkpoints(tmp_path, key="run", warn=said.append))
    assert outcome(net, history) == undisturbed(run)
    assert len(said) == 2


def test_a_state_that_fails_in_its_midst_changes_nothing(tmp_path: Path) -> None:
    cut(SEARCH, tmp_path, after=STEPS + 1)
    keeper = Checkpoints(tmp_path, key="run")
    found: list[Mapping[str, Any]] = []
    keeper.resume(found.append)
    damaged = {**found[0], "random": {**found[0]["random"], "python": (3, (1, 2), None)}}
    lacking = {name: value for name, value in found[0].items() if name != "best"}
    for index, state in enumerate((damaged, lacking)):
        keeper.write((99, index), state)
    said: list[str] = []
    confuse()
    net = SEARCH.open()
    history = SEARCH.train(net, Checkpoints(tmp_path, key="run", warn=said.append))
    assert outcome(net, history) == undisturbed(SEARCH)
    assert len(said) == 2
    assert all("must fit the run" in text and is_sentence(text) for text in said)


def odd(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam([{"params": list(parameters), "note": object()}], lr=lr)


def test_an_optimiser_that_is_no_data_is_trained_without_checkpoints(tmp_path: Path) -> None:
    said: list[str] = []
    net = PLAIN.open()
    keeper = Checkpoints(tmp_path, key="run", warn=said.append)
    history = replace(PLAIN, optimizer=odd).train(net, keeper)
    assert outcome(net, history) == undisturbed(PLAIN)
    assert list(tmp_path.iterdir()) == []
    assert len(said) == 1
    assert is_sentence(said[0])


def test_what_was_frozen_stays_so_and_can_learn_again(tmp_path: Path) -> None:
    run = RUNS["pit with frozen weights"]
    cut(run, tmp_path, after=STEPS + 1)
    net = RUNS["pit at norms"].open()  # nothing is frozen in it
    history = run.train(net, Checkpoints(tmp_path, key="run", warn=refuse))
    assert outcome(net, history) == undisturbed(run)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["decisions.channels"]
    net.unfreeze("net")
    assert all(p.requires_grad for p in net.parameters())


PROGRAM = """
import os, signal, sys
from pathlib import Path
from plinio_sweep.train.checkpoints import Checkpoints
from plinio_sweep.train.loop import Watch
from tests.train.runs import RUNS

name, folder, after = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
taken = []

def step():
    if len(taken) == after:
        os.kill(os.getpid(), signal.SIGKILL)
    taken.append(1)

net = RUNS[name].open()
RUNS[name].train(net, Checkpoints(folder / "run", key="run"), Watch(step=step))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["warm-up", "mps with noise and learned ranges"])
def test_a_process_that_is_killed_is_followed_by_another(name: str, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}

    def process(after: int) -> int:
        command = [sys.executable, "-c", PROGRAM, name, str(tmp_path), str(after)]
        return subprocess.run(command, env=environment, timeout=300).returncode

    assert process(STEPS + 1) == process(2 * STEPS - 1) == -signal.SIGKILL
    assert resumed(RUNS[name], tmp_path / "run") == undisturbed(RUNS[name])


def test_what_a_run_on_the_cpu_came_to_does_not_tell_of_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = PLAIN.open()
    before = outcome(net, [])
    one = [torch.device("cpu")]  # a stand-in for one that is in use by now
    monkeypatch.setattr("plinio_sweep.train.state._accelerators", lambda: one)
    assert outcome(net, []) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["warm-up with momentum", "supernet", "mps"])
def test_on_a_gpu_as_well(name: str, tmp_path: Path) -> None:
    run = replace(RUNS[name], device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        cut(run, tmp_path, after=STEPS + 1)
        assert resumed(run, tmp_path) == undisturbed(run)
    finally:
        torch.use_deterministic_algorithms(False)
