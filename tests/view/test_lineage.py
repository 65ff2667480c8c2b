from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from plinio_sweep.sweep.result import StudyRecord, TrialRecord
from plinio_sweep.view.lineage import growths, trained_nodes
from plinio_sweep.view.scene import name_of
from tests.view.panels import made


def trial(number: int, *nodes: str, state: str = "complete") -> TrialRecord:
    assert state in ("complete", "failed")
    return TrialRecord(
        number=number,
        state="complete" if state == "complete" else "failed",
        values=(0.5, 1.0),
        nodes=nodes,
    )


def study(*trials: TrialRecord) -> StudyRecord:
    return replace(made.study(0), trials=trials)


def found(*trials: TrialRecord) -> dict[int, tuple[int | str, int, bool]]:
    return {
        g.trial.number: (name_of(g.parent), len(g.shared), g.whole) for g in growths(study(*trials))
    }


def test_a_longer_plan_goes_on_where_a_shorter_one_ends_whichever_was_first() -> None:
    longer = trial(0, "warmup", "s", "f", "S", "F", "e")
    shorter = trial(1, "warmup", "s", "f", "e2")
    assert found(longer, shorter) == {0: (1, 3, True), 1: (0, 3, False)}


def test_siblings_begin_alike() -> None:
    first = trial(0, "warmup", "s", "f", "S1", "F1", "e1")
    second = trial(1, "warmup", "s", "f", "S2", "F2", "e2")
    assert found(first, second) == {0: ("seed", 1, False), 1: (0, 3, False)}


def test_twins_have_all_in_common() -> None:
    twins = [trial(number, "warmup", "s", "f", "e") for number in range(2)]
    assert found(*twins)[1] == (0, 3, True)


def test_what_failed_is_nobodys_parent() -> None:
    failed = trial(0, "warmup", "s", "f", "e", state="failed")
    assert found(failed, trial(1, "warmup", "s", "f", "e")) == {1: ("seed", 1, False)}


def test_a_trial_with_nothing_in_common_is_left_out() -> None:
    assert found(trial(0, "other", "s", "f", "e"), trial(1)) == {}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_what_is_shared_is_a_prefix_of_both_and_none_is_longer(count: int, seed: int) -> None:
    record = made.study(count, seed=seed)
    done = [t for t in record.trials if t.state == "complete"]
    grown = growths(record)
    assert [g.trial.number for g in grown] == [t.number for t in done]  # all share the warm-up
    for growth in grown:
        path, depth = trained_nodes(growth.trial), len(growth.shared)
        assert trained_nodes(growth.parent)[:depth] == path[:depth]
        earlier = [t for t in done if t.number < growth.trial.number]
        assert not [
            t
            for t in earlier
            if trained_nodes(t)[: depth + 1] == path[: depth + 1] > () and len(path) > depth
        ]
        assert growth.parent is not growth.trial
