"""The studies of the benchmarks: sound on published formats in miniature, and run on real data."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.source import CACHE, FOLDER, place
from plinio_sweep import Phase
from plinio_sweep.graph.count import cost_of
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.node import seed_net
from plinio_sweep.sweep.stage import Plan, Stage
from plinio_sweep.sweep.trial import run_trial
from plinio_sweep.train.loop import Watch
from presets import DEFAULT, ORDERS_VARIABLE, SEED_VARIABLE, VARIABLE
from tests.messages import is_sentence
from tests.studies import published
from tests.terminal import invoke, refusal, run

STUDIES = Path(__file__).parents[2] / "studies"
WRITE: dict[str, Callable[[Path], object]] = {
    "icl_resnet8": published.write_cifar10,
    "icl_supernet": published.write_cifar10,
    "kws_dscnn": published.write_words,
    "kws_supernet": published.write_words,
    "vww_mobilenet": published.write_photos,
    "vww_supernet": published.write_photos,
    "ad_autoencoder": published.write_toys,
    "imu_tcn": published.write_watch,
}
SEED = {
    "icl_resnet8": "seed macs: 12,501,632",
    "kws_dscnn": "seed macs: 2,656,768",
    "vww_mobilenet": "seed macs: 7,489,664",
    "ad_autoencoder": "seed macs: 264,192",
    "imu_tcn": "seed macs: 1,536,224",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is run is kept in a folder of its own; studies are loaded anew."""
    monkeypatch.setenv("PLINIO_SWEEP_FOLDER", str(tmp_path / "kept"))
    monkeypatch.setenv("PLINIO_SWEEP_TRACKING", "none")
    monkeypatch.setenv(VARIABLE, "smoke")
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n in WRITE or n.startswith("_plinio_sweep_")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    "name",
    [
        # Choices between full convolutions take their time; those of words are checked each time.
        pytest.param(n, marks=pytest.mark.long) if n in ("icl_supernet", "vww_supernet") else n
        for n in WRITE
    ],
)
def test_a_study_passes_its_check(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("vww"):
        pytest.importorskip("PIL.Image")
    (tmp_path / "data").mkdir()
    WRITE[name](tmp_path / "data")
    monkeypatch.setenv(FOLDER, str(tmp_path / "data"))
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    done = invoke("check", STUDIES / f"{name}.py")
    assert done.exit_code == 0, done.stderr
    assert f"study {name.replace('_', '-')}-smoke: " in done.stdout
    assert SEED.get(name, "seed macs: ") in done.stdout


@pytest.mark.parametrize("name", WRITE)
def test_a_study_without_its_data_says_what_to_get(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    text = refusal("check", STUDIES / f"{name}.py")
    assert is_sentence(text)
    assert str(tmp_path) in text


def test_presets_are_studies_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {}
    for preset in ("smoke", "cpu", "full"):
        forget(monkeypatch)
        monkeypatch.setenv(VARIABLE, preset)
        sweep = load_study(STUDIES / "kws_dscnn.py")
        sizes[sweep.name] = (sweep.trials, sweep.recipe.warmup.epochs)
    assert list(sizes) == ["kws-dscnn-smoke", "kws-dscnn-cpu", "kws-dscnn-full"]
    assert list(sizes.values()) == sorted(sizes.values())
    forget(monkeypatch)
    monkeypatch.delenv(VARIABLE)
    assert load_study(STUDIES / "kws_dscnn.py").name == f"kws-dscnn-{DEFAULT}"


def test_a_seed_makes_a_study_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "smoke")
    found = []
    for seed in ("", "7"):
        forget(monkeypatch)
        monkeypatch.setenv(SEED_VARIABLE, seed)
        found.append(load_study(STUDIES / "kws_supernet.py"))
    assert [(sweep.name, sweep.seed) for sweep in found] == [
        ("kws-supernet-smoke", 0),
        ("kws-supernet-smoke-seed7", 7),
    ]
    monkeypatch.setenv(SEED_VARIABLE, "-1")
    forget(monkeypatch)
    text = refusal("check", STUDIES / "kws_dscnn.py")
    assert SEED_VARIABLE in text and "'-1'" in text
    assert is_sentence(text)


def test_other_orders_make_a_study_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "smoke")
    monkeypatch.setenv(ORDERS_VARIABLE, "pit, pit>mps")
    sweep = load_study(STUDIES / "kws_dscnn.py")
    assert sweep.name == "kws-dscnn-smoke-pit-pit.mps"
    assert sweep.space.orders == ("pit", "pit>mps")
    for orders, shown in (("prune", "'prune'"), ("pit,", "''")):
        monkeypatch.setenv(ORDERS_VARIABLE, orders)
        forget(monkeypatch)
        text = refusal("check", STUDIES / "kws_dscnn.py")
        assert shown in text
        assert is_sentence(text)


def test_a_preset_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "tiny")
    text = refusal("check", STUDIES / "kws_dscnn.py")
    assert VARIABLE in text and "'tiny'" in text


def test_pruning_of_the_watch_runs_on_real_data(tmp_path: Path) -> None:
    if place("imu_watch_128x6.npz") is None:
        pytest.skip(f"needs imu_watch_128x6.npz in the folder {FOLDER}")
    sweep = load_study(STUDIES / "imu_tcn.py")
    # Eight steps at the rate of the study cut nothing.
    quick = replace(sweep.recipe, search=Phase(epochs=2, lr=2e-3, arch_lr=0.2))
    sweep = replace(sweep, recipe=quick)
    settings = Settings(folder=tmp_path, tracking="none")
    ground = ground_of(sweep, settings, open_store(settings))
    plan = Plan(stages=(Stage(method=PITSettings(gate="consumer"), strength=10.0),), seed=0)
    result, _, _ = run_trial(ground, plan, warmup_seed=sweep.seed, watch=Watch())
    seed = cost_of(seed_net(ground), ground.data.example(), sweep.models).totals["macs"]
    assert result.costs["macs"] < seed
    assert 0 < result.metrics["validation_accuracy"] <= 1


def run_smoke(name: str, needed: str, folder: Path, *words: str) -> dict[str, Any]:
    """What `show --json` says of a study after `run` on real data, as a user types both."""
    if (path := place(needed)) is None:
        pytest.skip(f"needs {needed} in the folder {FOLDER}")
    extra = {
        "PLINIO_SWEEP_FOLDER": str(folder / "kept"),
        FOLDER: str(path.parent.resolve()),
        CACHE: str(folder / "cache"),
        VARIABLE: "smoke",
    }
    study = str(STUDIES / f"{name}.py")
    # One thread: where others are at work, two wait for each other most of the time.
    done = run(folder, "run", study, "--threads", "1", *words, **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    shown: dict[str, Any] = json.loads(run(folder, "show", study, "--json", **extra).stdout)
    assert shown["study"] == f"{name.replace('_', '-')}-smoke"
    return shown


@pytest.mark.slow
def test_the_study_of_the_watch_runs_wholly_on_real_data(tmp_path: Path) -> None:
    shown = run_smoke("imu_tcn", "imu_watch_128x6.npz", tmp_path)
    assert shown["trials"]["complete"] == 2
    assert shown["trials"]["failed"] == 0
    names = ["w8a8", "l1 50%", "pit 1e-05", "float +1 stage", "w8a8 +1 stage"]
    assert [name for name, baseline in shown["baselines"].items() if baseline["costs"]] == names
    seed = shown["baseline"]["costs"]["size_bytes"]
    assert shown["front"]
    for point in shown["front"]:
        assert 0 < point["costs"]["size_bytes"] < seed
        # Of seven exercises, after an epoch of 256 windows in each phase.
        assert point["metrics"]["validation_accuracy"] > 2 / 7


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("kws_dscnn", "kws12_mfcc.npz"),
        ("kws_supernet", "kws12_mfcc.npz"),
        ("icl_resnet8", "cifar10_exact_dev_40k_5k.npz"),
        ("icl_supernet", "cifar10_exact_dev_40k_5k.npz"),
    ],
)
def test_a_study_runs_on_real_data(name: str, needed: str, tmp_path: Path) -> None:
    shown = run_smoke(name, needed, tmp_path, "--trials", "1")
    assert shown["trials"]["complete"] == 1
    (point,) = shown["front"]
    seed = shown["baseline"]["costs"]["size_bytes"]
    assert 0 < point["costs"]["size_bytes"] < seed
