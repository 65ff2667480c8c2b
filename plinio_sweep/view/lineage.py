"""Which stored prefix each trial grew from: a pure function of results.

A plan is a path of nodes, each under a content key that follows from all before it. Two plans that
have a key in common have everything up to it in common, and it was trained once.
"""

from __future__ import annotations

from dataclasses import dataclass

from plinio_sweep.sweep.result import BaselineRecord, StudyRecord, TrialRecord
from plinio_sweep.view.report import Record, compared

EVALUATION = "evaluation"  # the last node of every path, where nothing is trained


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What a trial has in common with another result.

    Args:
        trial: Which one.
        parent: With which: the plan that ends where this one goes on, where there is one; else the
            first that has as much in common with it.
        shared: Names of the nodes in common, in their order.
        whole: Whether that is all that the parent was trained for.
    """

    trial: TrialRecord
    parent: Record
    shared: tuple[str, ...]
    whole: bool

    @property
    def beyond_warmup(self) -> bool:
        """Whether more is in common than the warm-up, which all trials of a study have."""
        return len(self.shared) > 1


def growths(study: StudyRecord) -> tuple[Growth, ...]:
    """What each complete trial grew from, by number; without those that have nothing in common."""
    trials = sorted(
        (trial for trial in study.trials if trial.state == "complete"), key=lambda t: t.number
    )
    records: list[Record] = [*compared(study), *trials]
    first: dict[str, Record] = {}  # that has a node
    ends: dict[str, Record] = {}  # whose training is over with a node
    for record in records:
        path = trained_nodes(record)
        for key in path:
            first.setdefault(key, record)
        if path:
            ends.setdefault(path[-1], record)
    found = (_growth(trial, first, ends) for trial in trials)
    return tuple(growth for growth in found if growth is not None)


def trained_nodes(record: Record) -> tuple[str, ...]:
    """Content keys of what is trained for a result, in its order."""
    if isinstance(record, BaselineRecord):
        return tuple(phase.key for phase in record.phases if phase.name != EVALUATION)
    return record.nodes[:-1]


def _growth(trial: TrialRecord, first: dict[str, Record], ends: dict[str, Record]) -> Growth | None:
    path = trained_nodes(trial)
    for depth in range(len(path), 0, -1):
        key = path[depth - 1]
        owner = ends.get(key) if depth < len(path) else None
        whole = owner is not None
        if owner is None and first[key] is not trial:
            owner = first[key]
            whole = trained_nodes(owner) == path
        if owner is not None:
            shared = tuple(_name(trial, place) for place in range(depth))
            return Growth(trial=trial, parent=owner, shared=shared, whole=whole)
    return None


def _name(trial: TrialRecord, place: int) -> str:
    """Of a node of a trial; studies of earlier versions have only their order."""
    return trial.phases[place].name if place < len(trial.phases) else f"node {place + 1}"
