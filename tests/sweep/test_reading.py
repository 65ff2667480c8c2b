from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.reading import excesses_of, read_study, record_of, study_name, values_of
from plinio_sweep.sweep.result import Objective
from plinio_sweep.sweep.storage import StorageError, open_storage
from tests.messages import is_sentence
from tests.studies import tiny
from tests.sweep.bench import make_worker

STUDY = Path(tiny.__file__)
AXES = (
    Objective(name="accuracy", maximize=True, kind="metric"),
    Objective(name="macs", maximize=False, kind="cost", unit="MAC"),
)


def written(folder: Path, text: str) -> Path:
    path = folder / "some_study.py"
    path.write_text(text, encoding="utf-8")
    return path


# -- names ----------------------------------------------------------------------------------------


def test_the_name_of_a_study_is_read_without_running_it(tmp_path: Path) -> None:
    assert study_name(STUDY) == "tiny"
    text = "raise SystemExit\nsweep = Sweep(task=None, name='written down')\n"
    assert study_name(written(tmp_path, text)) == "written down"


@pytest.mark.parametrize(
    "text", ["sweep = Sweep(name=f'a{1}')\n", "sweep = make()\n", "def (\n", "Sweep('a')\n"]
)
def test_a_name_that_is_not_written_down_is_none(tmp_path: Path, text: str) -> None:
    assert study_name(written(tmp_path, text)) is None


def test_a_study_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a study file at .*none.*; correct") as error:
        study_name(tmp_path / "none.py")
    assert is_sentence(error.value)


# -- studies --------------------------------------------------------------------------------------


def test_a_stored_study_is_read_as_its_worker_sees_it(settings: Settings) -> None:
    worker = make_worker(settings)
    worker.work()
    worker.study.set_user_attr("target", 2)
    record = read_study(STUDY, settings)
    assert record == worker.record()
    assert (record.name, record.target_trials, record.folder) == ("tiny", 2, str(settings.folder))
    assert record.objectives == tiny.sweep.axes
    assert record.units["size_bytes"] == "byte"


def test_a_trial_is_read_with_its_worker_its_times_and_its_phases(settings: Settings) -> None:
    before = time.time()
    worker = make_worker(settings)
    worker.work()
    for trial in worker.record().trials:
        assert trial.worker == worker.name
        assert trial.begin is not None and trial.end is not None
        assert before - 1 <= trial.begin <= trial.phases[0].begin
        assert trial.phases[-1].begin <= trial.end <= time.time() + 1
        assert [phase.key for phase in trial.phases] == list(trial.nodes)
        assert trial.estimates.keys() == trial.costs.keys()
    seed = worker.record().baseline
    assert seed is not None
    assert [phase.name for phase in seed.phases][1:] == ["seed", "seed.finetune", "evaluation"]


def test_a_trial_of_an_earlier_version_has_no_phases(settings: Settings) -> None:
    study = open_study(tiny.sweep, settings)
    study.add_trial(optuna.trial.create_trial(values=[0.5, 1.0], user_attrs={"result": {}}))
    [trial] = record_of(study, settings.folder).trials
    assert (trial.phases, trial.worker) == ((), "")


def test_a_study_is_read_without_torch_and_without_its_file_being_run(settings: Settings) -> None:
    make_worker(settings, target=1).work()
    program = (
        "import sys, json\n"
        "from pathlib import Path\n"
        "from plinio_sweep.settings import Settings\n"
        "from plinio_sweep.sweep.reading import read_study\n"
        "study, folder = map(Path, sys.argv[1:])\n"
        "record = read_study(study, Settings(folder=folder))\n"
        "print(json.dumps([record.count('complete'), 'torch' in sys.modules, "
        "any('tiny' in name for name in sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(STUDY), str(settings.folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(done.stdout) == [1, False, False]


def test_a_computed_name_is_found_by_its_file(settings: Settings, tmp_path: Path) -> None:
    open_study(tiny.sweep, settings, file="some_study.py")
    path = written(tmp_path, "sweep = make()\n")
    assert read_study(path, settings).name == "tiny"
    # Of several the file itself says which is meant, and it is run for nothing less.
    assert read_study(path, settings, named=lambda: pytest.fail("was run")).name == "tiny"
    open_study(replace(tiny.sweep, name="later"), settings, file="some_study.py")
    assert read_study(path, settings, named=lambda: "tiny").name == "tiny"
    assert read_study(path, settings).name == "later"


@pytest.mark.parametrize("text", ["Sweep(name='other')\n", "sweep = make()\n"])
def test_a_study_that_was_not_started_is_told(
    settings: Settings, tmp_path: Path, text: str
) -> None:
    open_study(tiny.sweep, settings, file="tiny.py")
    with pytest.raises(StorageError, match=r"database holds \['tiny'\] and not '.*'; sta") as error:
        read_study(written(tmp_path, text), settings)
    assert is_sentence(error.value)


def test_every_state_of_a_trial_has_a_name_and_lost_ones_are_left_out(settings: Settings) -> None:
    storage = open_storage(settings, create=True)
    study = optuna.create_study(storage=storage, study_name="bare")
    for state in ("COMPLETE", "FAIL", "PRUNED"):
        value = 1.0 if state == "COMPLETE" else None
        study.tell(study.ask(), value, state=optuna.trial.TrialState[state])
    lost = study.ask()
    lost.set_user_attr("lost", "its worker died")
    study.tell(lost, state=optuna.trial.TrialState.FAIL)
    study.ask()
    study.enqueue_trial({})
    record = record_of(study, settings.folder)
    states = [trial.state for trial in record.trials]
    assert states == ["complete", "failed", "pruned", "running", "waiting"]
    assert record.baseline is None
    assert record.objectives == ()


# -- values ---------------------------------------------------------------------------------------


def test_values_are_in_the_order_of_the_objectives() -> None:
    metrics, costs = {"validation_accuracy": 0.5, "validation_loss": 2.0}, {"macs": 3, "params": 4}
    assert values_of(AXES, metrics, costs) == (0.5, 3.0)
    assert values_of(AXES[::-1], metrics, costs) == (3.0, 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ArithmeticError, match=f"macs is {value}; check") as error:
        values_of(AXES, {"validation_accuracy": 0.5}, {"macs": value})
    assert is_sentence(error.value)


def test_excesses_are_relative_to_their_limits() -> None:
    limits = {"macs": 200.0, "-macs": -50.0, "-accuracy": -0.8, "accuracy": 0.0}
    metrics, costs = {"validation_accuracy": 0.6}, {"macs": 100.0}
    found = excesses_of(limits, metrics, costs)
    assert found["macs"] == -0.5
    assert found["-macs"] == -1.0
    assert found["-accuracy"] == pytest.approx(0.25)
    assert found["accuracy"] > 0
