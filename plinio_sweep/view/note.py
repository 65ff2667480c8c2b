"""A trial in Markdown, as the dashboard shows it beside its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plinio_sweep.view.report import attempts, cost_title, format_cost, format_metric, strengths

if TYPE_CHECKING:
    from plinio_sweep.sweep.result import TrialResult

Rows = Sequence[tuple[str, ...]]
Layers = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What is known of a trial beside its result.

    Args:
        number: Of the trial.
        losses: Attempts before it, and how each ended.
        run: Of MLflow: its identifier.
        run_link: Where that leads.
        files: Addresses by name.
    """

    number: int = 0
    losses: Mapping[int, str] = field(default_factory=dict)
    run: str = ""
    run_link: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


def note(params: Mapping[str, Any], result: TrialResult, beside: Beside | None = None) -> str:
    """A trial in Markdown: the order of its methods, what it came to, what was cut, and its layers.

    A table without rows is left out.

    Args:
        params: Of the trial.
        result: What it came to.
        beside: Attempts, run and files.
    """
    known = beside or Beside()
    layers: Layers = result.architecture.get("layers", {})
    stages = [(f"`{stage}`", f"{value:.3g}") for stage, value in strengths(params).items()]
    metrics = [(name.replace("_", " "), format_metric(v)) for name, v in result.metrics.items()]
    tables: tuple[tuple[tuple[str, ...], Rows], ...] = (
        (("method", "strength"), stages),
        (("metric", "value"), metrics),
        (("cost", "unit", "exported net", "as searched"), _cost_rows(result)),
        (("layer", "input channels", "output channels"), _layer_rows(layers)),
        (("kernel", "taps", "dilation"), _kernel_rows(layers)),
        (("rounded", "output channels", "input"), _bit_rows(layers)),
        _layer_costs(result),
    )
    written = [
        f"**order** `{params['order']}`" if "order" in params else "",
        f"**attempts** {attempts(known.number, known.losses)}" if known.losses else "",
        cut(layers),
        *(_table(header, rows) for header, rows in tables if rows),
        _links(known),
    ]
    return "\n\n".join(filter(None, written))


def cut(layers: Layers) -> str:
    """What was taken away, in one sentence; nothing where no layer was searched.

    >>> kept = {"in": 3, "out": 8, "seed_in": 3, "seed_out": 32}
    >>> cut({"stem": kept | {"w_bits": {"2": 4, "8": 4}}})
    '**cut** 8 of 32 output channels are left in 1 layer, at 5 bit on the mean of channels.'
    """
    if not layers:
        return ""
    left, whole = (sum(kept[key] for kept in layers.values()) for key in ("out", "seed_out"))
    parts = [
        f"{left} of {whole} output channels are left in {len(layers)} "
        f"layer{'' if len(layers) == 1 else 's'}"
    ]
    tapped = [kept for kept in layers.values() if "taps" in kept]
    if tapped:
        taps, seed = (sum(kept[key] for kept in tapped) for key in ("taps", "seed_taps"))
        parts.append(f"{taps} of {seed} kernel taps")
    bits: dict[int, int] = {}
    for kept in layers.values():
        for width, count in kept.get("w_bits", {}).items():
            bits[int(width)] = bits.get(int(width), 0) + count
    if sum(bits.values()):
        mean = sum(width * count for width, count in bits.items()) / sum(bits.values())
        parts.append(f"at {mean:.3g} bit on the mean of channels")
    untouched = [
        name
        for name, kept in layers.items()
        if kept["out"] == kept["seed_out"] and kept["in"] == kept["seed_in"] and len(layers) > 1
    ]
    if untouched:
        parts.append(f"whole: {', '.join(f'`{name}`' for name in untouched)}")
    return f"**cut** {', '.join(parts)}."


def _links(known: Beside) -> str:
    lines = []
    if known.run:
        lines.append(f"**MLflow** [run {known.run}]({known.run_link})")
    if known.files:
        lines.append(
            f"**files** {', '.join(f'[{name}]({url})' for name, url in known.files.items())}"
        )
    return "\n\n".join(lines)


def _table(header: tuple[str, ...], rows: Rows) -> str:
    rule = tuple("---" for _ in header)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _cost_rows(result: TrialResult) -> Rows:
    rows = []
    for name, cost in result.costs.items():
        unit = result.units.get(name, "")
        searched = format_cost(result.estimates[name], unit) if name in result.estimates else ""
        rows.append((cost_title(name, unit), unit, format_cost(cost, unit), searched))
    return rows


def _layer_costs(result: TrialResult) -> tuple[tuple[str, ...], Rows]:
    """Header and rows of what each layer costs by itself; of costs that layers have."""
    names = [name for name in result.costs if any(name in row for row in result.layers)]
    titles = [cost_title(name, result.units.get(name, "")) for name in names]
    units = [result.units.get(name, "") for name in names]
    heads = [t if u in ("", t) else f"{t} [{u}]" for t, u in zip(titles, units, strict=True)]
    rows = [
        (
            f"`{row['name']}`",
            str(row.get("op", "")),
            *(format_cost(float(row[name]), "") if name in row else "" for name in names),
        )
        for row in result.layers
    ]
    return ("costs by layer", "kind", *heads), rows if names else ()


def _layer_rows(layers: Layers) -> Rows:
    return [
        (f"`{name}`", f"{kept['in']} of {kept['seed_in']}", f"{kept['out']} of {kept['seed_out']}")
        for name, kept in layers.items()
    ]


def _kernel_rows(layers: Layers) -> Rows:
    return [
        (f"`{name}`", f"{kept['taps']} of {kept['seed_taps']}", str(kept["dilation"]))
        for name, kept in layers.items()
        if "taps" in kept
    ]


def _bit_rows(layers: Layers) -> Rows:
    return [
        (
            f"`{name}`",
            ", ".join(f"{count} at {bits} bit" for bits, count in kept["w_bits"].items()),
            "float" if kept["x_bits"] is None else f"{kept['x_bits']} bit",
        )
        for name, kept in layers.items()
        if "w_bits" in kept
    ]
