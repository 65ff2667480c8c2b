from __future__ import annotations

import math
from typing import Any

import optuna
import pytest

from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.sweep.space import LogUniform, Space, canonical
from plinio_sweep.sweep.stage import Stage
from tests.messages import is_sentence

CHOICES = {"pit.gate": ("norm", "consumer")}


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def test_a_plan_holds_what_the_trial_was_given(study: optuna.Study) -> None:
    space = Space(strength=LogUniform(low=0.5, high=2.0), choices=CHOICES)
    trial = study.ask()
    plan = space.suggest(trial, seed=7)
    (stage,) = plan.stages
    assert trial.params == {
        "order": "pit",
        "pit.strength": stage.strength,
        "pit.gate": stage.method.gate,
    }
    assert 0.5 <= stage.strength <= 2.0
    assert (plan.order, plan.seed) == ("pit", 7)


def test_strengths_are_uniform_in_their_logarithm(study: optuna.Study) -> None:
    space = Space(strength=LogUniform(low=0.01, high=100.0))
    drawn = [space.suggest(study.ask(), 0).stages[0].strength for _ in range(200)]
    below = sum(strength < 1.0 for strength in drawn)
    assert 70 < below < 130


def test_the_second_turn_of_a_method_has_names_of_its_own(study: optuna.Study) -> None:
    trial = study.ask()
    plan = Space(orders=("pit>pit",), choices=CHOICES).suggest(trial, 0)
    assert list(trial.params) == [
        *("order", "pit.strength", "pit.gate"),
        *("pit#2.strength", "pit#2.gate"),
    ]
    assert [stage.strength for stage in plan.stages] == [
        trial.params["pit.strength"],
        trial.params["pit#2.strength"],
    ]
    assert plan.order == "pit>pit"


def test_only_what_an_order_needs_is_asked_for(study: optuna.Study) -> None:
    space = Space(orders=("pit", "pit>pit"))
    asked = {}
    for _ in range(20):
        trial = study.ask()
        space.suggest(trial, 0)
        asked[trial.params["order"]] = set(trial.params)
    assert asked == {
        "pit": {"order", "pit.strength"},
        "pit>pit": {"order", "pit.strength", "pit#2.strength"},
    }


def test_what_comes_first_is_given_and_not_asked_for(study: optuna.Study) -> None:
    given = Stage(method=PITSettings(), strength=1e-5, relative=False)
    trial = study.ask()
    plan = Space(orders=("pit>mps",), first=(given,)).suggest(trial, 0)
    assert set(trial.params) == {"order", "mps.strength"}
    assert plan.stages[0] == given
    assert (plan.order, plan.stages[1].strength) == ("pit>mps", trial.params["mps.strength"])
    turns = Space(orders=("pit>pit",), first=(given,))
    chosen = {"order": "pit>pit", "pit#2.strength": 2.0}
    plan = turns.suggest(optuna.trial.FixedTrial(chosen), 0)
    assert [stage.strength for stage in plan.stages] == [1e-5, 2.0]


def test_a_waiting_trial_gives_its_own_plan_back(study: optuna.Study) -> None:
    space = Space(orders=("pit", "pit>pit"), choices=CHOICES)
    first = study.ask()
    plan = space.suggest(first, 3)
    study.enqueue_trial(first.params)
    assert space.suggest(study.ask(), 3) == plan


@pytest.mark.parametrize(
    ("value", "word"),
    [((2, 4, 8), "2 4 8"), ([2], "2"), ("norm", "norm"), (True, "True"), (8, "8"), (0.5, "0.5")],
)
def test_settings_travel_as_one_string(value: Any, word: str) -> None:
    assert canonical(value) == word


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"orders": ()}, "`orders` must hold each order once, but got "),
        ({"orders": ("pit", "pit")}, "`orders` must hold each order once, but got "),
        (
            {"orders": ("pot",)},
            r"made of \['l1', 'mps', 'pit'.* joined by '>', but 'pot' has \['pot'\]",
        ),
        (
            {"orders": ("mps",), "first": (Stage(method=PITSettings()),)},
            r"go on from `first`, which is 'pit', but 'mps' does not",
        ),
        ({"first": (Stage(method=PITSettings()),)}, "but 'pit' does not; write .*'pit>pit'"),
        ({"orders": ("pit>",)}, r"but 'pit>' has \[''\]"),
        ({"choices": {"pit.gates": ("norm",)}}, r"among \[.*'pit.gate'.*\], but got 'pit.gates'"),
        ({"choices": {"pit.gate": ()}}, r"`choices\['pit.gate'\]` must hold each value once"),
        ({"choices": {"pit.gate": ("norm", "norm")}}, "must hold each value once, but got"),
        ({"choices": {"pit.gate": ("gnome",)}}, "`gate` must be among .* but got gate='gnome'"),
    ],
)
def test_a_space_checks_its_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Space(**changes)
    assert is_sentence(error.value)
    assert ";" in str(error.value)  # and says what to do


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 1), (1, math.inf), (math.nan, 1)])
def test_a_range_checks_its_ends(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="`0 < low <= high` must hold") as error:
        LogUniform(low=low, high=high)
    assert is_sentence(error.value)


def test_settings_left_out_are_those_of_the_method(study: optuna.Study) -> None:
    assert Space().suggest(study.ask(), 0).stages[0].method == PITSettings()
