"""Table II and the pictures of figures 8 to 10, from what is stored: nothing is trained.

    python studies/paper/table2.py [FOLDER]

Sizes are in KiB, as in the paper. Ours are what a device stores: weights, and 32 bits for each bias
and for the scale of each output channel that is quantised.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import figure8_pit
import figure8_supernet
from chain import ACCURACY, HERE, NAME, grid_of, smallest, stored
from plinio_sweep import Sweep
from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.result import BaselineRecord, StudyRecord, TrialRecord
from plinio_sweep.view.figure import save_front

DROP = 0.01  # of accuracy, that the net with fewer bits may lose: that of the paper lost 0.0092
# arXiv 2307.09488, table II: memory [KiB], accuracy on test data [%].
PUBLISHED: Mapping[str, tuple[float, float]] = {
    "seed": (302.19, 84.03),
    "SuperNet": (80.90, 84.94),
    "+ PIT": (76.5, 84.93),
    "+ MPS": (17.09, 83.11),
}
HEAD = (
    "step",
    "lambda",
    "memory [KiB]",
    "MMAC",
    "accuracy, test [%]",
    "accuracy, validation [%]",
    "memory, change [%]",
    "accuracy, change [points]",
    "memory in the paper [KiB]",
    "accuracy in the paper [%]",
)
NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row of the table.

    Args:
        name: As the paper calls it.
        record: What the net came to.
        strength: The lambda of its last stage; nothing for the seed.
    """

    name: str
    record: BaselineRecord
    strength: float | None = None


def table(steps: Iterable[Step]) -> str:
    """The steps in Markdown; the first is what the others are compared with."""
    seed, *others = steps
    rows = [HEAD, ["---"] * len(HEAD), *(_row(step, seed) for step in (seed, *others))]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(step: Step, seed: Step) -> list[str]:
    size, whole = step.record.costs["size_bytes"], seed.record.costs["size_bytes"]
    test, first = _percent(step.record, "test"), _percent(seed.record, "test")
    validation = _percent(step.record, "validation")
    changes: list[float | None] = [None, None]
    if step is not seed:
        lost = None if test is None or first is None else test - first
        changes = [100 * (size / whole - 1), lost]
    return [
        step.name,
        NOTHING if step.strength is None else f"{step.strength:.3g}",
        f"{size / 1024:.2f}",
        f"{step.record.costs['macs'] / 1e6:.2f}",
        *(NOTHING if value is None else f"{value:.2f}" for value in (test, validation)),
        *(NOTHING if value is None else f"{value:+.2f}" for value in changes),
        *(f"{value:.2f}" for value in PUBLISHED[step.name]),
    ]


def _percent(record: BaselineRecord, split: str) -> float | None:
    value = record.metrics.get(f"{split}_accuracy")
    return None if value is None else 100 * value


def together(
    title: str, seed: BaselineRecord, record: StudyRecord, *others: StudyRecord
) -> StudyRecord:
    """Studies in one picture, over the float ResNet-8.

    Args:
        title: Of the picture.
        seed: The float ResNet-8.
        record: The study itself.
        others: What is drawn beside it; the numbers of their trials go on from those before.
    """
    trials: list[TrialRecord] = []
    for study in (record, *others):
        start = len(trials)
        trials += [replace(trial, number=start + k) for k, trial in enumerate(study.trials)]
    return replace(
        record,
        name=title,
        target_trials=len(trials),
        trials=tuple(trials),
        baseline=seed,
        baselines=tuple(b for study in (record, *others) for b in study.baselines),
    )


def beside(record: StudyRecord, *words: str) -> StudyRecord:
    """Of a study the baselines whose family has one of `words` in it, and no trials."""
    kept = tuple(b for b in record.baselines if any(word in b.family for word in words))
    return replace(record, trials=(), baselines=kept)


def written(folder: Path) -> Iterator[Path]:
    """Writes what the stored studies suffice for, one file after another.

    Raises:
        ValueError: When a figure was not run, with what to run; those before are written.
    """
    pit = stored(figure8_pit.sweep, "figure8_pit.py")
    supernet = stored(figure8_supernet.sweep, "figure8_supernet.py")
    seed = pit.baseline
    assert seed is not None
    yield _drawn(folder, "figure8", together(f"figure 8, {NAME}", seed, pit, supernet))

    import figure9  # starts from what was stored above

    ninth = stored(figure9.sweep, "figure9.py")
    others = (beside(supernet, "lambdas"), beside(pit, "uniform", "l1"))
    title = f"figure 9, {NAME}, from {figure9.start.name}"
    yield _drawn(folder, "figure9", together(title, seed, ninth, *others))

    import figure10

    tenth = stored(figure10.sweep, "figure10.py")
    others = (beside(ninth, "lambdas"), beside(pit, "uniform", "l1"))
    title = f"figure 10, {NAME}, from {figure10.start.name}"
    yield _drawn(folder, "figure10", together(title, seed, tenth, *others))

    last = _last(figure10.sweep, tenth, seed)
    steps = [Step(name="seed", record=seed)]
    for name, sweep, record, net in (
        ("SuperNet", figure8_supernet.sweep, supernet, figure9.start.name),
        ("+ PIT", figure9.sweep, ninth, figure10.start.name),
        ("+ MPS", figure10.sweep, tenth, last.name),
    ):
        found = next(baseline for baseline in record.baselines if baseline.name == net)
        strength = grid_of(sweep)[net].stages[-1].strength
        steps.append(Step(name=name, record=found, strength=strength))
    path = folder / "table2.md"
    path.write_text(table(steps), encoding="utf-8")
    yield path


def _drawn(folder: Path, name: str, study: StudyRecord) -> Path:
    path = folder / f"{name}.png"
    save_front(study, path)
    return path


def _last(sweep: Sweep, record: StudyRecord, seed: BaselineRecord) -> BaselineRecord:
    """The smallest net of the grid of bits that loses at most `DROP` to the seed."""
    found = [b for b in record.baselines if b.name in grid_of(sweep) and b.values]
    if not found:
        raise ValueError(
            f"The grid of {record.name!r} must have a net, but all of it failed; see "
            f"plinio-sweep show {HERE / 'figure10.py'}."
        )
    return smallest(found, seed.metrics[ACCURACY] - DROP)


def main(words: list[str]) -> int:
    """Writes table and pictures; the exit code, 2 when a figure is still to be run."""
    default = load_settings(HERE / "table2.py").folder / f"paper-{NAME}"
    folder = Path(words[0]) if words else default
    try:
        for path in written(folder):
            print(path)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
