"""How long the dashboard of a large study takes to answer, and how large its answers are."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages._rdb import models

from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.storage import open_storage
from tests.browser import wait_until
from tests.commands.test_serve_page import DRAWN
from tests.terminal import WITH_DASHBOARD, started
from tests.view.panels import made

pytest.importorskip("optuna_dashboard")
pytestmark = pytest.mark.benchmark

TRIALS = 5000
NOTE = "| layer | input channels | output channels |\n" * 60  # as long as that of ten layers


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    (folder / "large.py").write_text('Sweep(name="made up")\n', encoding="utf-8")
    record = made.study(TRIALS, states=False)
    storage: Any = open_storage(load_settings(folder / "large.py", {}), create=True)
    study = optuna.create_study(
        study_name=record.name, storage=storage, directions=["maximize", "minimize"]
    )
    study.set_user_attr("objectives", [asdict(axis) for axis in record.objectives])
    study.set_user_attr("target", TRIALS)
    assert record.baseline is not None
    for baseline in (record.baseline, *record.baselines):
        kept = {name: getattr(baseline, name) for name in ("metrics", "costs", "artifact")}
        kept["phases"] = [asdict(phase) for phase in baseline.phases]
        study.set_user_attr(f"baseline:{baseline.name}", kept)
    study.set_user_attr("baselines", [(b.name, b.family) for b in record.baselines])
    space: dict[str, Any] = {"order": CategoricalDistribution(["pit", "mps", "pit>mps"])}
    space |= {f"{s}.strength": FloatDistribution(0.1, 30.0, log=True) for s in ("pit", "mps")}
    rows: dict[Any, list[dict[str, Any]]] = {kind.__table__: [] for kind in KINDS}
    trials, values, params, attrs, beside = rows.values()
    # Row by row, for Optuna takes a transaction of 14 ms for each trial.
    for trial in record.trials:
        number = trial.number + 1
        assert trial.begin is not None and trial.end is not None
        trials.append(
            {
                "trial_id": number,
                "number": trial.number,
                "study_id": 1,
                "state": optuna.trial.TrialState.COMPLETE,
                "datetime_start": _moment(trial.begin),
                "datetime_complete": _moment(trial.end),
            }
        )
        for objective, value in enumerate(trial.values):
            kind = models.TrialValueModel.TrialValueType.FINITE
            values.append(
                {"trial_id": number, "objective": objective, "value": value, "value_type": kind}
            )
        for name, value in trial.params.items():
            params.append(
                {
                    "trial_id": number,
                    "param_name": name,
                    "param_value": space[name].to_internal_repr(value),
                    "distribution_json": optuna.distributions.distribution_to_json(space[name]),
                }
            )
        names = ("metrics", "costs", "estimates", "artifact", "seconds", "reused_epochs")
        result = {name: getattr(trial, name) for name in names}
        result["phases"] = [asdict(phase) for phase in trial.phases]
        known = {"result": result, "nodes": trial.nodes, "worker": trial.worker, "uid": number}
        for key, item in known.items():
            attrs.append({"trial_id": number, "key": key, "value_json": json.dumps(item)})
        notes = {"note_ver": 1, "note_str:0": NOTE[:2045], "note_str:1": NOTE[2045:]}
        for key, item in notes.items():
            place = f"dashboard:{number}:{key}"
            beside.append({"study_id": 1, "key": place, "value_json": json.dumps(item)})
    with storage.engine.begin() as connection:
        for table, found in rows.items():
            connection.execute(table.insert(), found)
    storage.remove_session()
    storage.engine.dispose()
    return folder


KINDS = (
    models.TrialModel,
    models.TrialValueModel,
    models.TrialParamModel,
    models.TrialUserAttributeModel,
    models.StudySystemAttributeModel,
)


def _moment(seconds: float) -> Any:
    from datetime import datetime

    return datetime.fromtimestamp(seconds)


@pytest.fixture(scope="module")
def address(large: Path) -> Iterator[str]:
    with started(large, "serve", "large.py", "--port", "0", **WITH_DASHBOARD) as running:
        assert running.process.stdout is not None
        found = re.search(r"http://\S+", running.process.stdout.readline())
        assert found is not None, running.end()
        yield found[0]


def test_answers(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["/api/studies", *["/api/studies/1"] * 3, f"/api/studies/1?after={TRIALS}"]
    lines = []
    for path in asked:
        begin = time.perf_counter()
        with urllib.request.urlopen(address + path, timeout=600) as answer:
            content = answer.read()
        seconds = time.perf_counter() - begin
        lines.append(f"{path:28s} {seconds:6.2f} s {len(content) / 1e6:6.2f} MB")
    figures = json.loads(content)["plotly_graph_objects"]
    sizes = {figure["id"]: len(figure["graph_object"]) // 1000 for figure in figures}
    with capsys.disabled():
        print("", *lines, f"panels [kB]: {sizes}", sep="\n")
    assert sum(sizes.values()) < 500


def test_page(browser: Any, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with urllib.request.urlopen(f"{address}/api/studies/1", timeout=600) as answer:
        answer.read()  # the panels of the first look are drawn
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        browser.get(f"{address}/dashboard/studies/1")
        wait_until(browser, DRAWN, ["front", "strengths", "progress", "workers"])
        drawn = time.perf_counter() - begin
        begin = time.perf_counter()
        browser.execute_script("window.scrollTo(0, 1200)")
        browser.execute_async_script("requestAnimationFrame(() => arguments[0]())")
        times.append((drawn, time.perf_counter() - begin))
    with capsys.disabled():
        for drawn, scrolled in times:
            print(f"\nin a browser: panels drawn after {drawn:.1f} s, scrolled in {scrolled:.2f} s")
