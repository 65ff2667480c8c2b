"""The figures of the paper: where each starts from, what they share, and the table at the end."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest

import presets
from data.source import CACHE, FOLDER
from plinio_sweep import Sweep
from plinio_sweep.plugin import load_file
from plinio_sweep.settings import load_settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.path import path_of
from plinio_sweep.sweep.result import SEED, BaselineRecord
from plinio_sweep.sweep.stage import Ground, Plan
from presets import EPOCHS_VARIABLE, VARIABLE
from tests.messages import is_sentence
from tests.studies import published
from tests.terminal import environment, refusal, run

PAPER = Path(__file__).parents[2] / "studies" / "paper"
FIGURES = ("figure8_pit", "figure8_supernet", "figure9", "figure10")
POINT = "PLINIO_SWEEP_POINT"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results in a folder of their own, the data set in miniature, figures loaded anew."""
    (tmp_path / "data").mkdir()
    published.write_cifar10(tmp_path / "data")
    for name, value in places(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget(monkeypatch)


def places(folder: Path) -> dict[str, str]:
    return {
        "PLINIO_SWEEP_FOLDER": str(folder / "kept"),
        "PLINIO_SWEEP_TRACKING": "none",
        FOLDER: str(folder / "data"),
        CACHE: str(folder / "cache"),
        VARIABLE: "smoke",
        EPOCHS_VARIABLE: "1,1,1",
    }


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"chain", "icl_resnet8", "table2", *FIGURES}
    for name in [n for n in sys.modules if n in own or n.startswith("_plinio_sweep_")]:
        monkeypatch.delitem(sys.modules, name)


def load(name: str) -> ModuleType:
    return load_file(PAPER / f"{name}.py")


def result(accuracy: float, size: float, **more: float) -> dict[str, Any]:
    metrics = {"validation_accuracy": accuracy, **more}
    return {
        "metrics": metrics,
        "costs": {"size_bytes": size, "macs": 1e6, "params": size / 4},
        "artifact": "0",
    }


def record(name: str, accuracy: float, size: float, **more: float) -> BaselineRecord:
    found = result(accuracy, size, **more)
    return BaselineRecord(
        name=name, values=(accuracy, size), metrics=found["metrics"], costs=found["costs"]
    )


def tell(sweep: Sweep, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Stores made-up results of baselines of `sweep`, as if it had been run."""
    study = open_study(sweep, load_settings(PAPER / "chain.py"))
    for name, found in results.items():
        study.set_user_attr(f"baseline:{name}", found)


def told_of_figure_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figure 8 on a grid of three lambdas: the second keeps the accuracy of the seed."""
    monkeypatch.setattr(presets, "SMOKE", replace(presets.SMOKE, lambdas=(1e-3, 1e-5, 1e-7)))
    tell(load("figure8_pit").sweep, {SEED: result(0.8, 300.0)} | grid("pit"))
    tell(load("figure8_supernet").sweep, {SEED: result(0.9, 1200.0)} | grid("supernet"))


def grid(order: str) -> dict[str, dict[str, Any]]:
    return {
        f"{order} 0.001": result(0.5, 10.0),
        f"{order} 1e-05": result(0.8, 80.0),
        f"{order} 1e-07": result(0.85, 90.0),
    }


# -- where a figure starts ------------------------------------------------------------------------


def test_the_smallest_net_that_is_accurate_enough_is_gone_on_from() -> None:
    smallest = load("chain").smallest
    found = [
        record("small", 0.7, 10),
        record("enough", 0.8, 20),
        record("equal", 0.81, 20),
        record("large", 0.9, 30),
    ]
    assert smallest(found, 0.8).name == "equal"
    assert smallest(found, 0.85).name == "large"


def test_where_none_is_accurate_enough_it_is_the_most_accurate() -> None:
    smallest = load("chain").smallest
    found = [record("a", 0.7, 10), record("b", 0.75, 30), record("c", 0.75, 20)]
    assert smallest(found, 0.8).name == "c"


def test_test_data_have_no_part_in_the_choice() -> None:
    smallest = load("chain").smallest
    found = [
        record("a", 0.7, 10, test_accuracy=0.99),
        record("b", 0.8, 20, test_accuracy=0.01),
    ]
    assert smallest(found, 0.75).name == "b"


@pytest.mark.parametrize("name", ["figure9", "figure10"])
def test_a_figure_before_its_time_says_what_to_run_first(name: str) -> None:
    text = refusal("check", PAPER / f"{name}.py")
    assert is_sentence(text)
    assert f"first do plinio-sweep run {PAPER / 'figure8_pit.py'}" in text


def test_a_grid_that_is_not_done_is_not_chosen_from(monkeypatch: pytest.MonkeyPatch) -> None:
    told_of_figure_8(monkeypatch)
    study = open_study(load("figure8_supernet").sweep, load_settings(PAPER / "chain.py"))
    study.set_user_attr("baseline:supernet 1e-05", {})
    text = refusal("check", PAPER / "figure9.py")
    assert is_sentence(text)
    assert "no result yet of ['supernet 1e-05']" in text
    assert f"first do plinio-sweep run {PAPER / 'figure8_supernet.py'}" in text


def test_a_figure_goes_on_from_the_point_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_of_figure_8(monkeypatch)
    ninth = load("figure9")
    assert ninth.start.name == "supernet 1e-05"
    assert ninth.sweep.name == "icl-figure9-smoke-epochs1-1-1-from-1e-05"
    tell(ninth.sweep, {SEED: result(0.9, 1200.0)} | grid("supernet>pit"))
    tenth = load("figure10")
    assert tenth.start.name == "supernet>pit 1e-05"
    assert [baseline.name for baseline in tenth.sweep.baselines] == [
        "supernet>pit>w8a8",
        *(f"supernet>pit>mps {value}" for value in ("0.001", "1e-05", "1e-07")),
    ]
    strengths = {tuple(s.strength for s in b.stages[:2]) for b in tenth.sweep.baselines}
    assert strengths == {(1e-5, 1e-5)}


def test_another_point_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told_of_figure_8(monkeypatch)
    monkeypatch.setenv(POINT, "1e-7,1e-3")
    ninth = load("figure9")
    assert ninth.start.name == "supernet 1e-07"
    tell(ninth.sweep, {SEED: result(0.9, 1200.0)} | grid("supernet>pit"))
    assert load("figure10").start.name == "supernet>pit 0.001"


@pytest.mark.parametrize(
    ("point", "words"), [("2e-5", "got 2e-05"), ("low", "got 'low'"), ("1e-5;1e-3", "1e-5;1e-3")]
)
def test_a_point_that_there_is_not_is_refused(
    point: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_of_figure_8(monkeypatch)
    monkeypatch.setenv(POINT, point)
    text = refusal("check", PAPER / "figure9.py")
    assert is_sentence(text)
    assert POINT in text and words in text


# -- how much, and what is shared -----------------------------------------------------------------


def test_a_budget_of_epochs_makes_a_study_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EPOCHS_VARIABLE, "7, 5,0")
    sweep = load("figure8_pit").sweep
    assert sweep.name == "icl-figure8-pit-smoke-epochs7-5-0"
    recipe = sweep.recipe
    assert [recipe.warmup.epochs, recipe.search.epochs, recipe.finetune.epochs] == [7, 5, 0]


@pytest.mark.parametrize("text", ["3", "1,2", "1,2,3,4", "1,0,1", "1,-2,1", "a,b,c", "1.5,1,1"])
def test_a_budget_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EPOCHS_VARIABLE, text)
    told = refusal("check", PAPER / "figure8_pit.py")
    assert is_sentence(told)
    assert EPOCHS_VARIABLE in told and repr(text) in told


def keys(ground: Ground, plan: Plan) -> dict[str, str]:
    return {node.name: node.key for node in path_of(ground, plan, 0)[:-1]}


def plans(sweep: Sweep) -> list[Plan]:
    """Those of the baselines, and that of a trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    beside = [Plan(stages=b.stages, seed=sweep.seed) for b in sweep.baselines]
    return [*beside, sweep.space.suggest(trial, sweep.seed)]


def test_what_an_earlier_figure_trained_is_not_trained_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told_of_figure_8(monkeypatch)
    eighth, ninth = load("figure8_supernet"), load("figure9")
    tell(ninth.sweep, {SEED: result(0.9, 1200.0)} | grid("supernet>pit"))
    tenth = load("figure10")
    settings = load_settings(PAPER / "chain.py")
    for before, after in ((eighth, ninth), (ninth, tenth)):
        old, new = (ground_of(m.sweep, settings, open_store(settings)) for m in (before, after))
        known = keys(old, Plan(stages=after.start.stages, seed=0))
        assert len(known) == 1 + 2 * len(after.start.stages)
        for plan in plans(after.sweep):
            found = keys(new, plan)
            assert len(found) == len(known) + 2
            assert known.items() <= found.items()
        # The float net, too.
        assert keys(old, Plan(stages=(), seed=0)) == keys(new, Plan(stages=(), seed=0))


# -- the table ------------------------------------------------------------------------------------


def test_the_table_says_sizes_and_what_became_of_them() -> None:
    made = load("table2")
    seed = record("seed", 0.8, 300 * 1024, test_accuracy=0.79)
    small = record("supernet 1e-05", 0.81, 75 * 1024, test_accuracy=0.795)
    bare = record("supernet>pit 1e-06", 0.8, 60 * 1024)
    text = made.table(
        [
            made.Step(name="seed", record=seed),
            made.Step(name="SuperNet", record=small, strength=1e-5),
            made.Step(name="+ PIT", record=bare, strength=1e-6),
        ]
    )
    _, rule, *rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    assert set(rule) == {"---"}
    assert rows[0][:8] == ["seed", "-", "300.00", "1.00", "79.00", "80.00", "-", "-"]
    assert rows[1][:8] == [
        *("SuperNet", "1e-05", "75.00", "1.00", "79.50", "81.00", "-75.00", "+0.50"),
    ]
    assert rows[2][4:8] == ["-", "80.00", "-80.00", "-"]
    assert rows[1][8:] == ["80.90", "84.94"]


# -- all of it ------------------------------------------------------------------------------------

# Epochs of each figure, trained and taken from the store, of one warm-up, one epoch of each search
# and one of each fine-tuning. Figure 8 trains its seed (three epochs) and two of each plan behind
# the warm-up; figure 9 has three plans behind SuperNet's, and figure 10 behind PIT's.
EPOCHS = {
    "figure8_pit": (3 + 4 * 2, 4),
    "figure8_supernet": (3 + 3 * 2, 3),
    "figure9": (3 * 2, 3 + 3 * 3),
    "figure10": (3 * 2, 3 + 3 * 5),
}


@pytest.mark.long
def test_the_chain_runs_from_figure_8_to_the_table(tmp_path: Path) -> None:
    for name, (trained, taken) in EPOCHS.items():
        words = ("run", str(PAPER / f"{name}.py"), "--threads", "1")
        done = run(tmp_path, *words, **places(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"epochs: {trained} trained, {taken} taken from the store" in done.stdout, name
    told = subprocess.run(
        [sys.executable, str(PAPER / "table2.py"), "out"],
        cwd=tmp_path,
        env=environment(**places(tmp_path)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert told.returncode == 0, told.stderr
    names = ["figure8.png", "figure9.png", "figure10.png", "table2.md"]
    assert told.stdout.split() == [f"out/{name}" for name in names]
    out = tmp_path / "out"
    assert all((out / name).stat().st_size > 10_000 for name in names[:3])
    rows = (out / "table2.md").read_text(encoding="utf-8").splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| seed", "| SuperNet", "| + PIT", "| + MPS"]
    assert all(re.fullmatch(r"(\| [-+\w. ]+ )+\|", row) for row in rows)
    sizes = [float(row.split(" | ")[2]) for row in rows]
    assert sizes[3] < 0.5 * sizes[2]  # of 32 bits, 8 at most are left
