"""What a finished study came to, as a dated page of Markdown: `python studies/results.py STUDY`.

Points are chosen on validation data; the volume is that of the chosen points at their test values.
Its axes are those of published fronts on CIFAR-10, the same for every task, so that nobody moves
them afterwards: accuracy from 60 to 100 %, and the logarithm of bytes from 400 kB to 2 kB.

Epoch-equivalents are epochs weighed by what one costs: the median time of an epoch of a phase over
that of an epoch of the plain net, both in this study; what was taken from the store counts nothing.

    PLINIO_SWEEP_DATA=… python studies/results.py studies/imu_tcn.py > docs/results/imu.md
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import moocore
import torch

from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.result import (
    SEED,
    BaselineRecord,
    PhaseRecord,
    StudyRecord,
    TrialRecord,
)
from plinio_sweep.view.confirm import LEVEL, Confirmed, Estimate, stored
from plinio_sweep.view.front import front, hypervolume

Record = TrialRecord | BaselineRecord

ACCURACY = 0.6, 1.0
BYTES = 400_000.0, 2_000.0
PLAIN = ("warmup", SEED, f"{SEED}.finetune")  # phases that train the plain net of the task
PACKAGES = ("plinio-sweep", "torch", "optuna", "numpy")


# -- figures --------------------------------------------------------------------------------------


def volume(points: Iterable[tuple[float, float]]) -> float:
    """Share of the fixed axes that points of (accuracy, bytes) dominate.

    >>> volume([(1.0, 2_000.0)]), volume([(0.8, 400_000.0 / 200**0.5)]), volume([])
    (1.0, 0.25, 0.0)
    """
    (low, high), (large, small) = ACCURACY, BYTES
    placed = [
        (
            min(max((accuracy - low) / (high - low), 0.0), 1.0),
            min(max(math.log(large / size) / math.log(large / small), 0.0), 1.0),
        )
        for accuracy, size in points
    ]
    if not placed:
        return 0.0
    return round(float(moocore.hypervolume(placed, ref=(0.0, 0.0), maximise=True)), 12)


def at_test(records: Iterable[Record], metric: str) -> list[tuple[float, float]]:
    """Test metric and bytes of each of `records`."""
    return [(r.metrics[f"test_{metric}"], r.costs["size_bytes"]) for r in records]


def phases_of(study: StudyRecord) -> tuple[PhaseRecord, ...]:
    """Every phase of every trial and baseline."""
    seed = [] if study.baseline is None else [study.baseline]
    return tuple(p for record in (*study.trials, *seed, *study.baselines) for p in record.phases)


def weights(phases: Sequence[PhaseRecord]) -> dict[str, float]:
    """What an epoch of each kind of phase costs in epochs of the plain net."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for phase in phases:
        if not phase.reused and phase.epochs:
            seconds[phase.name].append(phase.seconds / phase.epochs)
    plain = [value for name in PLAIN for value in seconds.get(name, [])]
    if not plain:
        return {}
    unit = statistics.median(plain)
    return {name: statistics.median(found) / unit for name, found in seconds.items()}


def equivalents(phases: Sequence[PhaseRecord]) -> float:
    """Epochs that were trained, each weighed by its cost."""
    known = weights(phases)
    return sum(known.get(phase.name, 1.0) * phase.trained_epochs for phase in phases)


def at_most(study: StudyRecord, size: float) -> TrialRecord | None:
    """The point of the front of at most `size` bytes that validation data like best."""
    fitting = [trial for trial in front(study) if trial.costs["size_bytes"] <= size]
    metric = metric_of(study)
    return max(fitting, key=lambda trial: trial.metrics[f"validation_{metric}"], default=None)


def as_good(study: StudyRecord, value: float) -> TrialRecord | None:
    """The smallest point of the front that reaches `value` on validation data."""
    metric = metric_of(study)
    fitting = [t for t in front(study) if t.metrics[f"validation_{metric}"] >= value]
    return min(fitting, key=lambda trial: trial.costs["size_bytes"], default=None)


def metric_of(study: StudyRecord) -> str:
    """The first metric among the objectives."""
    return next(objective.name for objective in study.objectives if objective.kind == "metric")


def only(study: StudyRecord, order: str) -> StudyRecord:
    """The study with the trials of one order alone."""
    trials = tuple(trial for trial in study.trials if trial.params.get("order") == order)
    return replace(study, trials=trials)


# -- the page -------------------------------------------------------------------------------------


def page(study: StudyRecord, command: str, devices: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        study: Finished, with its front and baselines measured on test data.
        command: That made it.
        devices: That it ran on; a GPU of this machine is named.

    Raises:
        ValueError: When test data were not touched yet.
    """
    metric, best = metric_of(study), front(study)
    if not best or any(f"test_{metric}" not in trial.metrics for trial in best):
        raise ValueError(
            f"The front of {study.name!r} must have been measured on test data, but was not; run "
            f"plinio-sweep show STUDY --test first."
        )
    parts = (
        f"# {study.name}, {datetime.now(UTC):%d %B %Y}",
        _machine(command, devices),
        "## Front, chosen on validation data",
        _table(study, best),
        "## What it is compared with",
        _table(study, [b for b in (study.baseline, *study.baselines) if b and b.values]),
        _failures(study),
        *_replicates(study),
        "## What it says",
        _claims(study),
        "## Volumes",
        _volumes(study),
        "## What was spent",
        _spent(study),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(command: str, devices: Sequence[str]) -> str:
    cuda = [torch.device(name) for name in devices if name.startswith("cuda")]
    here = [device for device in cuda if (device.index or 0) < torch.cuda.device_count()]
    gpus = {torch.cuda.get_device_name(device) for device in here}
    parts = (f"{os.cpu_count()} cores", *sorted(gpus), platform.system())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return (
        f"`{command}`\n\n{platform.machine()}, {', '.join(parts)}, "
        f"Python {platform.python_version()}; {versions}."
    )


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (header, ["---", *("---:" for _ in header[1:])], *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table(study: StudyRecord, records: Sequence[Record]) -> str:
    metric = metric_of(study)
    header = ("net", f"{metric}, validation", f"{metric}, test", "bytes", "MAC", "order")
    return _rows(header, [_row(record, metric) for record in records])


def _row(record: Record, metric: str) -> tuple[str, ...]:
    trial = isinstance(record, TrialRecord)
    values = [record.metrics.get(f"{split}_{metric}") for split in ("validation", "test")]
    return (
        f"trial {record.number}" if isinstance(record, TrialRecord) else record.name,
        *("" if value is None else f"{value:.4f}" for value in values),
        f"{record.costs['size_bytes']:,.0f}",
        f"{record.costs['macs']:,.0f}",
        f"`{record.params['order']}`" if trial else "",
    )


def _failures(study: StudyRecord) -> str:
    lines = [f"- trial {t.number}: {t.reason}" for t in study.trials if t.state == "failed"]
    lines += [f"- {b.name}: {b.reason}" for b in study.baselines if b.reason]
    return "Failed:\n\n" + "\n".join(lines) if lines else "No trial and no baseline failed."


def _replicates(study: StudyRecord) -> tuple[str, ...]:
    """What other seeds say of the points that were trained again."""
    found = stored(study)
    if found is None:
        return ()
    metric = metric_of(study)
    names = [f"{split}_{metric}" for split in ("validation", "test")]

    def spread(estimates: Mapping[str, Estimate], name: str) -> str:
        if name not in estimates:
            return ""
        own = estimates[name]
        half = own.high - own.mean
        return f"{own.mean:.4f} ± {f'{half:.4f}' if math.isfinite(half) else '?'}"

    def row(net: Confirmed) -> tuple[str, ...]:
        size = net.costs["size_bytes"]
        return (
            f"trial {net.name}" if net.name.isdigit() else net.name,
            str(net.seeds),
            *(spread(net.metrics, name) for name in names),
            *(spread(net.losses, name) for name in names),
            f"{size.mean:,.0f} ({size.low:,.0f} to {size.high:,.0f})",
        )

    header = ("net", "seeds", f"{metric}, validation", f"{metric}, test")
    header += ("loss, validation", "loss, test", "bytes, least to most")
    return (
        "## The same plans from other seeds",
        f"Means of the other seeds alone; ± is half of an interval of {LEVEL:.0%} (Student's t, of "
        f"the loss against the seed net Welch's). The whole search is repeated, not the net alone.",
        _rows(header, [row(net) for net in found.nets if net.seeds]),
        "\n".join(
            f"- {name} failed: {why}" for net in found.nets for name, why in net.failures.items()
        ),
    )


def _claims(study: StudyRecord) -> str:
    metric = metric_of(study)
    assert study.baseline is not None
    goal = study.baseline.metrics[f"validation_{metric}"]
    found = as_good(study, goal)
    size = study.baseline.costs["size_bytes"]
    if found is None:
        first = f"No point of the front reaches the seed net's {goal:.4f} on validation data."
    else:
        share = found.costs["size_bytes"] / size
        first = (
            f"As good as the seed net on validation data ({goal:.4f}): trial {found.number} with "
            f"{found.costs['size_bytes']:,.0f} bytes, {share:.1%} of the seed net's; test "
            f"{found.metrics[f'test_{metric}']:.4f} against "
            f"{study.baseline.metrics[f'test_{metric}']:.4f}."
        )
    header = ("at most the bytes of", "bytes", "it, validation / test", "front, validation / test")
    return f"{first}\n\n{_rows(header, _duels(study))}"


def _duels(study: StudyRecord) -> list[tuple[str, ...]]:
    metric = metric_of(study)

    def both(metrics: Mapping[str, float]) -> str:
        found = (metrics.get(f"{split}_{metric}", math.nan) for split in ("validation", "test"))
        return " / ".join(f"{value:.4f}" for value in found)

    rows = []
    for baseline in (b for b in study.baselines if b.values):
        size = baseline.costs["size_bytes"]
        rival = at_most(study, size)
        told = "nothing so small" if rival is None else f"{both(rival.metrics)} ({rival.number})"
        rows.append((baseline.name, f"{size:,.0f}", both(baseline.metrics), told))
    return rows


def _volumes(study: StudyRecord) -> str:
    metric = metric_of(study)
    orders = sorted({str(trial.params["order"]) for trial in front(study)})
    sets: dict[str, Sequence[Record]] = {"front": front(study)}
    # Each order by the points of the whole front that are its own: only those saw test data.
    sets |= {
        f"`{order}` of it": [t for t in front(study) if t.params["order"] == order]
        for order in orders
    }
    families = sorted({b.family for b in study.baselines if b.values})
    sets |= {f: [b for b in study.baselines if b.family == f and b.values] for f in families}
    rows = [(name, f"{volume(at_test(found, metric)):.3f}") for name, found in sets.items()]
    alone = [
        f"{order} {hypervolume(only(study, order)) or 0:.3f}"
        for order in sorted({str(t.params["order"]) for t in study.trials if t.values})
    ]
    return (
        f"{_rows(('points', 'of the fixed axes, at test values'), rows)}\n\n"
        f"Against the seed net, on validation data: front {hypervolume(study) or 0:.3f}; trials of "
        f"one order alone: {', '.join(alone)}."
    )


def _spent(study: StudyRecord) -> str:
    phases = phases_of(study)
    trained = sum(phase.trained_epochs for phase in phases)
    reused = sum(phase.epochs for phase in phases if phase.reused)
    seconds = sum(phase.seconds for phase in phases)
    costs = ", ".join(f"{name} {value:.2f}" for name, value in sorted(weights(phases).items()))
    ends = [t.end for t in study.trials if t.end is not None]
    begins = [phase.begin for phase in phases]
    wall = max(ends, default=0.0) - min(begins, default=0.0)
    return (
        f"{len(study.trials)} trials and {len(study.baselines) + 1} baselines, replicates not "
        f"counted: {trained} epochs trained, {reused} taken from the store, "
        f"{equivalents(phases):,.0f} epoch-equivalents; "
        f"{seconds:,.0f} seconds of workers in {wall:,.0f} seconds.\n\n"
        f"An epoch of each phase in epochs of the plain net, median: {costs}."
    )


def main() -> None:
    """Prints the page of a study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path, help="a study file")
    parser.add_argument("--command", help="that made it; plain `plinio-sweep run` when left out")
    given = parser.parse_args()
    command = given.command or f"plinio-sweep run {given.study} --workers 2"
    try:
        # A file that computes the name may have started others since, from another environment.
        name, settings = load_study(given.study).name, load_settings(given.study)
        print(page(read_study(given.study, settings, name), command, settings.devices), end="")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
