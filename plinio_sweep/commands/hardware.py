"""Stored nets under every cost model that there is: what they would cost on other hardware."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from costs import MODELS, CostModel
from plinio_sweep.commands.models import resolve_models
from plinio_sweep.commands.stored import folder_of
from plinio_sweep.graph.count import cost_of
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.sweep.trial import load_structure
from plinio_sweep.view.page_data import Cell, Hardware


def counted(path: Path, artifacts: Mapping[str, str], bits: str | None) -> Hardware:
    """The nets of `artifacts` under all cost models, the study's own among them.

    Nothing is trained, and no data is loaded. A model that can't count a net says why in its cell.

    Args:
        path: Of the study file.
        artifacts: What is counted, each with a name for messages.
        bits: Bit-widths of float layers, as "8,8"; nothing to have them as they are.

    Raises:
        ValueError: When the study file or a stored net can't be used.
    """
    sweep, settings = load_study(path), load_settings(path)
    store = open_store(settings)
    models = resolve_models(tuple({**MODELS, **sweep.models}), sweep.models, bits)
    cells = {
        artifact: _cells(sweep, folder_of(artifact, name, settings, store), models)
        for artifact, name in artifacts.items()
    }
    return Hardware(units={name: model.unit for name, model in models.items()}, cells=cells)


def _cells(sweep: Sweep, folder: Path, models: Mapping[str, CostModel]) -> dict[str, Cell]:
    net, example = load_structure(sweep.nets, folder)
    found: dict[str, Cell] = {}
    for name, model in models.items():
        try:
            report = cost_of(net, example, {name: model})
        except (ValueError, ArithmeticError) as error:
            found[name] = Cell(remark=" ".join(str(error).split()))
            continue
        free = report.uncovered.get(name, ())
        remark = f"free there: {', '.join(free)}" if free else ""
        found[name] = Cell(value=report.totals[name], remark=remark)
    return found
