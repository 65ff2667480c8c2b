from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import results
from plinio_sweep.sweep.result import (
    BaselineRecord,
    Objective,
    PhaseRecord,
    StudyRecord,
    TrialRecord,
)

AXES = (
    Objective(name="accuracy", maximize=True, kind="metric"),
    Objective(name="size_bytes", maximize=False, kind="cost", unit="byte"),
)
ROOT = Path(__file__).parents[2]


def phase(name: str, seconds: float, epochs: int, reused: bool = False) -> PhaseRecord:
    return PhaseRecord(
        name=name, key=name, begin=100.0, seconds=seconds, epochs=epochs, reused=reused
    )


def measured(validation: float, test: float, size: float) -> dict[str, object]:
    return {
        "values": (validation, size),
        "metrics": {"validation_accuracy": validation, "test_accuracy": test},
        "costs": {"size_bytes": size, "macs": 10 * size},
    }


def trial(number: int, order: str, validation: float, test: float, size: float) -> TrialRecord:
    found = TrialRecord(number=number, state="complete", params={"order": order}, end=200.0)
    return replace(found, **measured(validation, test, size))


STUDY = StudyRecord(
    name="made-up",
    objectives=AXES,
    limits={},
    units={"size_bytes": "byte", "macs": "MAC"},
    target_trials=4,
    trials=(
        replace(
            trial(0, "mps", 0.91, 0.90, 40_000),
            phases=(phase("warmup", 4.0, 4, True), phase("mps.search", 9.0, 3)),
        ),
        trial(1, "pit>mps", 0.88, 0.89, 12_000),
        trial(2, "pit>mps", 0.80, 0.79, 30_000),  # dominated
        TrialRecord(number=3, state="failed", reason="the loss is nan"),
    ),
    baseline=replace(
        BaselineRecord(phases=(phase("warmup", 4.0, 4), phase("seed", 8.0, 4))),
        **measured(0.90, 0.92, 300_000),
    ),
    baselines=(
        replace(BaselineRecord(name="w2a8", family="uniform"), **measured(0.7, 0.7, 20_000)),
        replace(BaselineRecord(name="tiny", family="uniform"), **measured(0.65, 0.6, 9_000)),
        BaselineRecord(name="w4a8", family="uniform", reason="out of memory"),
    ),
)


# -- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1.0, 2_000.0)], 1.0),
        ([(0.6, 2_000.0)], 0.0),
        ([(0.9, 400_000.0)], 0.0),
        ([(0.3, 1.0)], 0.0),  # below the axes
        ([(1.0, 1.0)], 1.0),  # beyond them
        ([(0.8, 2_000.0), (1.0, math.sqrt(400_000 * 2_000))], 0.75),
    ],
)
def test_the_volume_of_known_points(points: list[tuple[float, float]], expected: float) -> None:
    assert results.volume(points) == pytest.approx(expected)


# Of ResNet-8 on CIFAR-10, accuracy [%] and size [kB]: figures of arXiv 2307.09488 and 2407.01054.
UNIFORM = ((71.80, 19.36), (85.48, 38.76), (86.26, 77.36))
LAYERS = ((56.99, 19.36), (85.94, 42.74), (86.8, 77))
CHANNELS = ((73.96, 19.59), (77.75, 20.34), (79.04, 21.67), (85, 34), (85.79, 57.83), (86.8, 77))
JOINT = ((61.97, 2.90), (72.76, 5.90), (81.89, 15.29), (84.45, 26.4), (86.2, 59.7))
PRUNED = ((66.74, 8.80), (75.76, 9.65), (78.95, 13.09), (83.57, 19.99), (84.17, 22.17), (85.3, 33))
CHAIN = ((83.11, 17.5),)


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        pytest.param(UNIFORM, 0.325, id="uniform"),
        pytest.param(LAYERS, 0.280, id="bits by layer"),
        pytest.param(CHANNELS, 0.354, id="bits by channel"),
        pytest.param(PRUNED, 0.418, id="channels, then bits"),
        pytest.param((*UNIFORM, *LAYERS, *CHANNELS, *JOINT, *PRUNED, *CHAIN), 0.470, id="all"),
    ],
)
def test_the_volume_of_published_fronts(
    published: tuple[tuple[float, float], ...], expected: float
) -> None:
    found = results.volume((percent / 100, 1000 * size) for percent, size in published)
    assert found == pytest.approx(expected, abs=5e-4)


points = st.lists(st.tuples(st.floats(0, 1), st.floats(100, 1e6)), max_size=6)


@examples(max_examples=50)
@given(points=points, more=points)
def test_more_points_never_have_less_volume(
    points: list[tuple[float, float]], more: list[tuple[float, float]]
) -> None:
    assert 0 <= results.volume(points) <= results.volume([*points, *more]) <= 1


def test_epochs_are_weighed_by_what_they_cost_and_the_store_is_free() -> None:
    phases = results.phases_of(STUDY)
    # Plain epochs take 1 s and 2 s: 1.5 s; an epoch of the search takes 3 s.
    assert results.weights(phases) == {"warmup": 1 / 1.5, "seed": 2 / 1.5, "mps.search": 2.0}
    assert results.equivalents(phases) == pytest.approx(4 / 1.5 + 8 / 1.5 + 6)
    assert results.weights(()) == {} and results.equivalents(()) == 0


def test_points_are_chosen_by_validation_data() -> None:
    assert results.at_most(STUDY, 50_000) == STUDY.trials[0]
    assert results.at_most(STUDY, 39_999) == STUDY.trials[1]
    assert results.at_most(STUDY, 11_999) is None
    assert results.as_good(STUDY, 0.9) == STUDY.trials[0]
    assert results.as_good(STUDY, 0.85) == STUDY.trials[1]
    assert results.as_good(STUDY, 0.95) is None


# -- the page -------------------------------------------------------------------------------------


def test_the_page_says_all_of_it() -> None:
    text = results.page(STUDY, "plinio-sweep run made_up.py")
    for expected in (
        "# made-up, ",
        "`plinio-sweep run made_up.py`",
        "| trial 0 | 0.9100 | 0.9000 | 40,000 | 400,000 | `mps` |",
        "| trial 1 | 0.8800 | 0.8900 | 12,000 | 120,000 | `pit>mps` |",
        "| w2a8 | 0.7000 | 0.7000 | 20,000 | 200,000 |  |",
        "- trial 3: the loss is nan\n- w4a8: out of memory",
        "trial 0 with 40,000 bytes, 13.3% of the seed net's; test 0.9000 against 0.9200.",
        "| w2a8 | 20,000 | 0.7000 / 0.7000 | 0.8800 / 0.8900 (1) |",
        "| tiny | 9,000 | 0.6500 / 0.6000 | nothing so small |",
        "4 trials and 4 baselines, replicates not counted: 11 epochs trained, ",
        "4 taken from the store, 14 epoch-equival",
        "25 seconds of workers in 100 seconds",
    ):
        assert expected in text, text
    assert "| trial 2 |" not in text


def test_the_page_names_the_gpus_that_the_study_ran_on(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cuda:0": "Some GPU", "cuda:1": "Some GPU", "cuda": "Another"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[str(device)])
    assert " cores, Some GPU, " in results.page(STUDY, "", ("cuda:0", "cuda:1"))
    assert " cores, Another, Some GPU, " in results.page(STUDY, "", ("cuda", "cuda:0"))
    assert "GPU" not in results.page(STUDY, "", ("cpu",))
    assert "GPU" not in results.page(STUDY, "", ("cuda:2",))  # of another machine


def test_the_page_says_what_other_seeds_came_to() -> None:
    assert "other seeds" not in results.page(STUDY, "made so")
    again = [
        replace(BaselineRecord(name=f"{key}#{number}"), **measured(value, value - 0.01, size))
        for key, size in (("seed", 400_000), ("0", 40_000))
        for number, value in enumerate((0.90, 0.92, 0.94) if key == "0" else (0.95, 0.95, 0.95), 1)
    ]
    again += [
        replace(BaselineRecord(name="1#1"), **measured(0.8, 0.7, 9_000)),
        BaselineRecord(name="1#2", reason="it diverged"),
        BaselineRecord(name="2#1", reason="out of memory"),
    ]
    text = results.page(replace(STUDY, replicates=tuple(again)), "made so")
    assert "| trial 1 | 1 | 0.8000 ± ? | 0.7000 ± ? |" in text
    assert "- 1#2 failed: it diverged\n- 2#1 failed: out of memory\n" in text
    row = (
        "| trial 0 | 3 | 0.9200 ± 0.0497 | 0.9100 ± 0.0497 | 0.0300 ± 0.0497 | 0.0300 ± 0.0497 | "
        "40,000 (40,000 to 40,000) |"
    )
    assert row in text
    assert "| seed | 3 | 0.9500 ± 0.0000 | 0.9400 ± 0.0000 |  |  | 400,000" in text


def test_without_test_data_there_is_no_page() -> None:
    metrics = {"validation_accuracy": 0.91}
    first = replace(STUDY.trials[0], metrics=metrics)
    with pytest.raises(ValueError, match="must have been measured on test data, but was not; run"):
        results.page(replace(STUDY, trials=(first, *STUDY.trials[1:])), "")
    with pytest.raises(ValueError, match="must have been measured on test data, but was not; run"):
        results.page(replace(STUDY, trials=()), "")


def test_a_seed_net_that_no_point_reaches_is_told() -> None:
    assert STUDY.baseline is not None
    seed = replace(STUDY.baseline, **measured(0.99, 0.99, 300_000))
    text = results.page(replace(STUDY, baseline=seed), "")
    assert "No point of the front reaches the seed net's 0.9900 on validation data." in text


def test_a_study_that_was_never_started_is_refused_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "studies" / "results.py"), str(ROOT / "studies/digits.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PLINIO_SWEEP_FOLDER": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert "must have been started" in done.stderr and "Traceback" not in done.stderr
