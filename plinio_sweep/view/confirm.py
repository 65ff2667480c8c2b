"""What replicates say of a net: means with their intervals, and the loss against the seed net.

Only replicates count, not the trial that they repeat. That one is on the front because its value on
validation data came out well, partly by the luck of its seed, so a mean with it in would be too
good; replicates were chosen by nobody. The seed net is treated alike, to have as many values. What
replicates can't take away is that the plan itself was chosen by the same validation data: for that
there is the test split.

Legend: `n` values, `m` their mean, `v` their variance with the divisor `n - 1`.

References:
    Student, "The probable error of a mean", Biometrika 6, 1908: `m +- t(n - 1) sqrt(v / n)`.
    Welch, "The generalization of 'Student's' problem when several different population variances
    are involved", Biometrika 34, 1947: the difference of two means. It takes them as independent.
    Replicates of two nets that share a warm-up are, if anything, alike; the interval is then wider
    than need be.
    Piaggio et al., "Reporting of noninferiority and equivalence randomized trials", JAMA 308, 2012:
    a loss is within a margin when its whole two-sided interval is, a one-sided test at 2.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING, Any, Literal

from plinio_sweep.sweep.result import SEED, BaselineRecord, StudyRecord, replicate_name
from plinio_sweep.view.report import cost_columns, cost_heading, format_cost, format_metric

if TYPE_CHECKING:
    from rich.table import Table

LEVEL = 0.95  # of every interval
MARGIN = 0.01  # that a loss may have, in the metric's own unit, unless told otherwise

Verdict = Literal["within", "not within", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean, and the interval of `LEVEL` about it; endless where there is but one value.

    Args:
        mean: Of the values.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """What the replicates of one net came to.

    Args:
        name: A trial's number, or a baseline's name, "seed" for one.
        seeds: How many replicates have a result.
        metrics: Means by metric with its split: "validation_accuracy".
        losses: Against the seed net, by the same names; positive is worse. Of the seed net none.
        verdicts: Whether the losses are within the margin.
        costs: Mean, least and largest value by cost: other seeds may decide otherwise.
        failures: Why there is no result, by the replicate's name.
    """

    name: str
    seeds: int
    metrics: Mapping[str, Estimate]
    losses: Mapping[str, Estimate]
    verdicts: Mapping[str, Verdict]
    costs: Mapping[str, Estimate]
    failures: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What the replicates of several nets came to.

    Args:
        count: Replicates that each was to have.
        margin: That a loss may have; nothing where nobody is to judge.
        nets: The seed net, then other baselines and trials.
    """

    count: int
    margin: float | None
    nets: tuple[Confirmed, ...]


def quantile(freedom: float) -> float:
    """What Student's t stays between, up and down, with the probability `LEVEL`.

    >>> round(quantile(4), 3)
    2.776
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of `values`, one or more, and its interval.

    >>> estimate([0.5]).high
    inf
    """
    mean = fmean(values)
    half = math.inf
    if len(values) > 1:
        half = quantile(len(values) - 1) * math.sqrt(variance(values) / len(values))
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The mean of `first` less that of `second`, one value or more of each, and its interval.

    >>> difference([3.0, 3.0], [1.0, 1.0])
    Estimate(mean=2.0, low=2.0, high=2.0)
    """
    mean, half = fmean(first) - fmean(second), math.inf
    if min(len(first), len(second)) > 1:
        a, b = (variance(values) / len(values) for values in (first, second))
        # Shares of the variance, as its square may be too small for a float.
        share = a / (a + b) if a + b else 0.5
        freedom = 1 / (share**2 / (len(first) - 1) + (1 - share) ** 2 / (len(second) - 1))
        half = quantile(freedom) * math.sqrt(a + b)
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def verdict(loss: Estimate, margin: float) -> Verdict:
    """Whether `loss` is at most `margin`, as far as its interval says.

    >>> verdict(Estimate(mean=0.0, low=-0.01, high=0.02), 0.01)
    'undecided'
    """
    if loss.high <= margin:
        return "within"
    return "not within" if loss.low > margin else "undecided"


def confirmation(
    study: StudyRecord, keys: Iterable[str], count: int, margin: float | None = MARGIN
) -> Confirmation:
    """What replicates say of `keys` and of the seed net.

    Args:
        study: With its replicates.
        keys: Names of baselines, and numbers of trials.
        count: Of each the first so many, whatever more there are: who adds some until the verdict
            is welcome has none.
        margin: That a loss may have; without it there are no verdicts.
    """
    replicates = {record.name: record for record in study.replicates}
    found = {
        key: [
            replicates[name]
            for number in range(1, count + 1)
            if (name := replicate_name(key, number)) in replicates
        ]
        for key in (SEED, *keys)
    }
    nets = tuple(_confirmed(study, key, found[key], found[SEED], margin) for key in found)
    return Confirmation(count=count, margin=margin, nets=nets)


def stored(
    study: StudyRecord, count: int | None = None, margin: float | None = None
) -> Confirmation | None:
    """What the replicates that `study` has say, whatever they repeat; nothing where it has none.

    Args:
        study: With its replicates.
        count: Of each net, as in `confirmation`; the highest number that any net came to.
        margin: As there. Nobody is to judge by replicates that were counted afterwards.
    """
    found = [record.name.rpartition("#") for record in study.replicates]
    if not found:
        return None
    again = {key for key, _, _ in found}
    points = map(str, sorted(int(key) for key in again if key.isdigit()))
    keys = [*(b.name for b in study.baselines if b.name in again), *points]
    most = max(int(number) for _, _, number in found) if count is None else count
    return confirmation(study, keys, most, margin)


def _confirmed(
    study: StudyRecord,
    key: str,
    records: list[BaselineRecord],
    seeds: list[BaselineRecord],
    margin: float | None,
) -> Confirmed:
    done = [record for record in records if record.values]
    signs = {
        f"{split}_{axis.name}": 1 if axis.maximize else -1
        for axis in study.objectives
        if axis.kind == "metric"
        for split in ("validation", "test")
    }
    ours = {name: values for name in signs if (values := _values(done, name))}
    theirs = {name: _values(seeds, name) for name in ours} if key != SEED else {}
    losses = {
        name: difference(
            [signs[name] * value for value in values],
            [signs[name] * value for value in ours[name]],
        )
        for name, values in theirs.items()
        if values
    }
    return Confirmed(
        name=key,
        seeds=len(done),
        metrics={name: estimate(values) for name, values in ours.items()},
        losses=losses,
        verdicts={}
        if margin is None
        else {name: verdict(loss, margin) for name, loss in losses.items()},
        costs={name: _range(done, name) for name in cost_columns(study) if done},
        failures={record.name: record.reason for record in records if record.reason},
    )


def _values(records: list[BaselineRecord], name: str) -> list[float]:
    return [record.metrics[name] for record in records if name in record.metrics]


def _range(records: list[BaselineRecord], name: str) -> Estimate:
    costs = [record.costs[name] for record in records]
    mean = fmean(costs)
    # Nobody reads halves of a byte; of what is small, they count.
    return Estimate(
        mean=float(round(mean)) if mean >= 1000 else mean, low=min(costs), high=max(costs)
    )


# -- for people and machines ----------------------------------------------------------------------


def confirmation_tables(study: StudyRecord, found: Confirmation) -> list[Table]:
    """`found` as a table for each split that was measured, one net a row."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    tables = []
    for split in ("validation", "test"):
        columns = _columns(study, found, split)
        if columns is None:
            continue
        title = Text(f"{study.name}: {found.count} other seeds each, {split} data")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for heading, cells in columns:
            words = [word for text in (heading, *cells) for word in text.split()]
            lines = Text(heading.replace(" ", "\n"))
            width = max(map(len, words))
            table.add_column(lines, justify="right", overflow="fold", min_width=width)
        for index in range(len(found.nets)):
            row = [Text(cells[index]) for _, cells in columns]
            table.add_row(*row, end_section=index == 0)
        tables.append(table)
    return tables


def _columns(
    study: StudyRecord, found: Confirmation, split: str
) -> list[tuple[str, list[str]]] | None:
    """Headings with the cells below; nothing where no net was measured on `split`."""
    nets = found.nets
    columns = [
        ("net", [net.name for net in nets]),
        ("seeds", [f"{net.seeds}/{found.count}" for net in nets]),
    ]
    measured = split == "validation"
    for axis in study.objectives:
        name = f"{split}_{axis.name}"
        if axis.kind == "metric" and any(name in net.metrics for net in nets):
            measured = True
            columns += [
                (axis.name.replace("_", " "), [_cell(net.metrics, name) for net in nets]),
                ("loss", [_cell(net.losses, name) for net in nets]),
                (f"margin {found.margin or 0:g}", [net.verdicts.get(name, "") for net in nets]),
            ]
    if split == "validation":
        for name, unit in cost_columns(study).items():
            cells = [_cost_cell(net.costs, name) for net in nets]
            columns.append((cost_heading(name, unit), cells))
    return columns if measured else None


def _cell(estimates: Mapping[str, Estimate], name: str) -> str:
    if name not in estimates:
        return ""
    found = estimates[name]
    half = found.high - found.mean
    return f"{format_metric(found.mean)} ±{f'{half:.2g}' if math.isfinite(half) else '?'}"


def _cost_cell(costs: Mapping[str, Estimate], name: str) -> str:
    if name not in costs:
        return ""
    found = costs[name]
    mean, low, high = (format_cost(value, "") for value in (found.mean, found.low, found.high))
    return mean if low == high else f"{mean} ({low} to {high})"


def confirmation_lines(found: Confirmation) -> list[str]:
    """What the tables do not say of themselves, and which replicates failed."""
    failures = {name: reason for net in found.nets for name, reason in net.failures.items()}
    return [
        f"mean of the other seeds alone, ± up to the ends of its interval of {LEVEL:.0%} (Student "
        f"t); costs: mean, least to most",
        f"loss: against the seed net, its interval by Welch; within: up to its upper end it is at "
        f"most {found.margin or 0:g}",
        *(f"replicate {name} failed: {' '.join(why.split())}" for name, why in failures.items()),
    ]


def confirmation_json(found: Confirmation) -> dict[str, Any]:
    """`found` as strict JSON values; an end of an interval that is not known is null."""
    return {
        "replicates": found.count,
        "level": LEVEL,
        "margin": found.margin,
        "nets": {net.name: _net(net) for net in found.nets},
    }


def _net(net: Confirmed) -> dict[str, Any]:
    losses = {
        name: {**_ends(loss), "verdict": net.verdicts.get(name)}
        for name, loss in net.losses.items()
    }
    return {
        "seeds": net.seeds,
        "metrics": {name: _ends(found) for name, found in net.metrics.items()},
        "losses": losses,
        "costs": {name: _ends(found) for name, found in net.costs.items()},
        "failures": dict(net.failures),
    }


def _ends(found: Estimate) -> dict[str, float | None]:
    values = {"mean": found.mean, "low": found.low, "high": found.high}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
