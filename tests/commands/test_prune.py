"""What `show --prune-cache` lists and removes, and what it must leave."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import DAMAGED, LOCKS, UNFINISHED, FolderStore
from plinio_sweep.sweep.failure import StoppedError
from plinio_sweep.sweep.needs import needs_of
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.train.checkpoints import Checkpoints
from tests.studies.tiny import sweep
from tests.sweep.bench import make_worker
from tests.sweep.conftest import _closed_connections
from tests.terminal import invoke, refusal

__all__ = ["_closed_connections"]

STUDY = 'Sweep(name="tiny")\n'  # only its name is read


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def litter(root: Path) -> dict[str, str]:
    """Leaves what a study may leave that nobody needs; each kind and where it lies."""
    store, old = FolderStore(root), time.time() - 100_000
    unneeded = store.write("ab" * 32, lambda draft: (draft / "weights").write_bytes(bytes(1000)))
    Checkpoints(store.unfinished("cd" * 32), key="").write((1, 0), {})
    draft, lock = root / ".abababababab-12345678", root / LOCKS / "ef.lock"
    lock.parent.mkdir(exist_ok=True)
    draft.mkdir()
    for path in (draft / "weights", lock):
        path.write_bytes(b"12345")
        os.utime(path, (old, old))
    os.utime(draft, (old, old))
    damaged = root / DAMAGED / "x"
    damaged.mkdir(parents=True)
    found = {"result": unneeded, "draft": draft, "lock": lock, "damaged": damaged}
    return {kind: str(path) for kind, path in found.items()} | {
        "checkpoint": str(root / UNFINISHED / ("cd" * 32))
    }


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tiny.py").write_text(STUDY, encoding="utf-8")
    return Settings(folder=tmp_path / ".plinio-sweep", tracking="none", checkpoint=0.0)


def test_what_nobody_needs_is_listed_and_then_removed(settings: Settings) -> None:
    make_worker(settings, target=1).work()
    study, root = settings.folder.parent / "tiny.py", settings.folder / "artifacts"
    clean = invoke("show", study, "--prune-cache")
    assert clean.exit_code == 0, clean.output
    assert "needs: 0 items, 0 bytes in" in clean.stdout
    before = files(root)
    left = litter(root)
    (root / ".cdcdcdcdcdcd-12345678").mkdir()  # its writer may be at it
    (root / "photos").mkdir()  # of somebody with whom the folder is shared
    littered = files(root)
    listed = invoke("show", study, "--prune-cache")
    rows = [line.split() for line in listed.stdout.splitlines() if " bytes  " in line]
    assert {row[0]: row[-1] for row in rows} == left
    assert "needs: 5 items" in listed.stdout and "--yes removes it" in listed.stdout
    assert files(root) == littered
    done = invoke("show", study, "--prune-cache", "--yes")
    assert done.exit_code == 0
    assert "removed: 5 items" in done.stdout
    assert files(root) == before
    assert (root / ".cdcdcdcdcdcd-12345678").is_dir()
    assert (root / "photos").is_dir()
    assert "needs: 0 items" in invoke("show", study, "--prune-cache").stdout


def test_other_options_make_no_sense_beside_it(settings: Settings) -> None:
    study = settings.folder.parent / "tiny.py"
    for words in (["--yes"], ["--prune-cache", "--json"], ["--yes", "--bits", "8,8"]):
        assert "must stand alone or with `--yes`" in refusal("show", study, *words)


def test_a_database_without_the_study_is_refused(settings: Settings) -> None:
    open_study(replace(sweep, name="other"), settings)
    study = settings.folder.parent / "tiny.py"
    assert "must have been started" in refusal("show", study, "--prune-cache", "--yes")


# -- several studies, and trials that are not complete ---------------------------------------------


def keys(settings: Settings) -> set[str]:
    return {path.name for path in (settings.folder / "artifacts").glob("[!.]*")}


def prune(settings: Settings) -> str:
    done = invoke("show", settings.folder.parent / "tiny.py", "--prune-cache", "--yes")
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_another_study_of_the_database_needs_stays(settings: Settings) -> None:
    make_worker(settings, target=1).work()
    ours = keys(settings)
    worker = make_worker(settings, replace(sweep, name="other", seed=7), target=1)
    worker.work()
    both = keys(settings)
    assert both > ours
    prune(settings)
    assert keys(settings) == both == needs_of(worker.study._storage).keys
    optuna.delete_study(study_name="other", storage=worker.study._storage)
    assert "result" in prune(settings)
    assert keys(settings) == ours


def test_a_trial_that_waits_keeps_its_nodes_and_its_checkpoint(settings: Settings) -> None:
    searched: list[int] = []

    def stopping() -> bool:
        found = list((settings.folder / "artifacts" / UNFINISHED).glob("*/*"))
        if worker.number is not None and found:
            searched.append(worker.number)
        return len(searched) > 3

    worker = make_worker(settings, target=1, stopping=stopping)
    with pytest.raises(StoppedError):
        worker.work()
    before = files(settings.folder / "artifacts")
    assert any(name.startswith(UNFINISHED) for name in before)
    waiting = [trial for trial in worker.study.get_trials() if trial.state.name == "WAITING"]
    assert waiting
    shutil.copytree(
        settings.folder / "artifacts" / next(iter(keys(settings))),
        settings.folder / "artifacts" / ("ab" * 32),
    )
    assert "removed: 1 items" in prune(settings)
    assert files(settings.folder / "artifacts") == before


def test_a_trial_that_does_not_say_what_it_needs_keeps_all_results(settings: Settings) -> None:
    worker = make_worker(settings, target=1)
    worker.work()
    litter(settings.folder / "artifacts")
    before = keys(settings)
    trial = worker.study.ask()
    said = prune(settings)
    assert "a trial of tiny does not say which" in said
    assert keys(settings) == before
    worker.study.tell(trial, state=optuna.trial.TrialState.FAIL)
    prune(settings)
    assert keys(settings) == before - {"ab" * 32}
