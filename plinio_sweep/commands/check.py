"""`plinio-sweep check`: is this study sound? In seconds, without training."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from plinio_sweep.graph.count import cost_of
from plinio_sweep.methods import METHODS
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.node import seed_net
from plinio_sweep.sweep.stage import Ground, Plan, Stage
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.train.loop import fit
from plinio_sweep.train.pressure import Pressure
from plinio_sweep.train.recipe import Phase, Split, Splits
from plinio_sweep.view.report import format_cost, uncovered_lines


def check_study(path: Path) -> None:
    """Prints table of channels and seed costs, and takes one step of every order.

    Raises:
        ValueError: When something is wrong, before hours of training say so.
    """
    sweep = load_study(path)
    settings = load_settings(path)
    ground = ground_of(sweep, settings, open_store(settings))
    net, example = seed_net(ground), ground.data.example()
    report = cost_of(seed_net(ground.on(sweep.reference)), example, sweep.models)
    details: dict[str, str] = {}
    for what, plan in _tries(sweep).items():
        try:
            # A baseline may have settings of its own, of which the tables below show nothing.
            details = _try(sweep, ground.on(plan.net), plan.stages) | details
        except Exception as error:
            raise ValueError(
                f"One step of {what} must run, but raised {type(error).__name__}: "
                f"{' '.join(str(error).split())}; correct the net, the loss, the metrics or the "
                f"augmentation."
            ) from error
    search = METHODS[sweep.space.orders[0].split(">")[0]]().open(net, example)
    click.echo(f"study {sweep.name}: {type(net).__name__}, {_sizes(ground.data)}\n")
    for text in (str(search.table), *filter(None, details.values())):
        click.echo(f"{text}\n")
    for name, value in report.totals.items():
        click.echo(f"seed {name}: {format_cost(value, report.units[name])}")
    for line in uncovered_lines(report.uncovered):
        click.echo(line)
    names = (*sweep.space.orders, *(baseline.name for baseline in sweep.baselines))
    click.echo(f"one step of {', '.join(names)}: done")
    sys.stdout.flush()


def _sizes(data: Splits) -> str:
    return ", ".join(f"{len(data.part(n))} {n}" for n in ("train", "validation", "test"))


def _tries(sweep: Sweep) -> dict[str, Plan]:
    """A plan of each order at default settings, then that of each baseline."""
    orders = {
        f"order {order!r}": tuple(
            Stage(method=METHODS[name](), strength=1.0) for name in order.split(">")
        )
        for order in sweep.space.orders
    }
    plans = {what: Plan(stages=stages, seed=sweep.seed) for what, stages in orders.items()}
    return plans | {
        f"baseline {b.name!r}": Plan(stages=b.stages, seed=sweep.seed, net=b.net)
        for b in sweep.baselines
    }


def _try(sweep: Sweep, ground: Ground, stages: tuple[Stage, ...]) -> dict[str, str]:
    """One step of each of `stages`, and its export, on a handful of items.

    Returns:
        What each method has to tell beside the table of channels.
    """
    few = {
        name: _first(ground.data.part(name), sweep.recipe.batch_size)
        for name in ("train", "validation", "test")
    }
    net = seed_net(ground)
    details: dict[str, str] = {}
    for stage in stages:
        method = stage.method.name
        search = stage.method.open(net, ground.data.example(), sweep.models)
        search.prepare([few["train"].inputs])
        details.setdefault(method, search.details)
        loss = 1.0 if stage.relative else None
        pressure = Pressure.on(search, sweep.pressure, strength=stage.strength, loss=loss)
        fit(
            search,
            Splits(**few),
            sweep.task,
            Phase(epochs=1, lr=sweep.recipe.search.lr),
            name=f"{method}.search",
            batch_size=sweep.recipe.batch_size,
            seed=sweep.seed,
            pressure=pressure,
        )
        net = search.export()
    return details


def _first(split: Split, count: int) -> Split:
    return Split(tuple(value[:count] for value in split.inputs), split.target[:count])
