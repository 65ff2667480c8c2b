"""The page of a study as data and as text; how it looks is in tests/commands/test_page.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plinio_sweep.sweep.detail import Detail, LayerRecord
from plinio_sweep.sweep.result import BaselineRecord, StudyRecord
from plinio_sweep.view.front import front
from plinio_sweep.view.page import SCRIPTS, page
from plinio_sweep.view.page_data import About, Cell, Hardware, page_data, sentence

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><img src=x onerror=alert(1)>"


def layer(name: str, **changes: Any) -> LayerRecord:
    known = {"inputs": 3, "outputs": 6, "seed_inputs": 3, "seed_outputs": 8}
    return LayerRecord(name=name, **{**known, **changes})


def detail(*layers: LayerRecord) -> Detail:
    costs = tuple({"name": own.name, "op": "conv", "size_bytes": 4.0} for own in layers)
    return Detail(layers=layers, costs=costs, units={"size_bytes": "byte"})


def data_of(study: StudyRecord, **parts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"details": {}, "hardware": Hardware(), "about": About()}
    return page_data(study, **{**known, **parts})


def embedded(text: str) -> Any:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def test_every_trial_and_baseline_is_a_point(paper_study: StudyRecord) -> None:
    other = BaselineRecord(name="w8a8", family="uniform", values=(0.79, 25_000.0))
    wild = BaselineRecord(name="wild", family="wild", reason="it diverged")
    data = data_of(replace(paper_study, baselines=(other, wild)))
    points = data["points"]
    assert points["names"] == ["seed", "w8a8", *range(9)]
    assert [points["states"][k] for k in points["state"][2:]] == [
        t.state for t in paper_study.trials
    ]
    assert [points["names"][i] for i in data["front"]] == [t.number for t in front(paper_study)]
    assert points["feasible"].count(0) == 1
    assert data["untrained"] == [["wild", "wild", "it diverged"]]
    assert points["names"][data["knee"]] == 0
    assert all(len(column) == 11 for column in points["values"])


def test_measures_begin_with_the_objectives_and_their_test_splits(paper_study: StudyRecord) -> None:
    measures = data_of(paper_study)["measures"]
    keys = [measure["key"] for measure in measures]
    assert keys == ["validation_accuracy", "test_accuracy", "size_bytes", "macs"]
    assert [m["key"] for m in measures if m["objective"]] == ["validation_accuracy", "size_bytes"]
    assert all(measure["shown"] for measure in measures)


def test_axes_are_those_of_the_figure(paper_study: StudyRecord) -> None:
    axes = data_of(paper_study)["axes"]
    assert axes["x"]["title"] == "size [kB]" and axes["x"]["measure"] == 2
    assert axes["y"]["title"] == "accuracy (validation)" and axes["y"]["test"] == 1
    assert data_of(replace(paper_study, trials=()))["axes"] is None


def test_layers_are_told_once(paper_study: StudyRecord) -> None:
    whole = detail(layer("a"), layer("b", w_bits={2: 2, 8: 4}, x_bits=8))
    details = {t.artifact: whole for t in paper_study.trials if t.artifact}
    details["trial/1"] = detail(layer("a"), layer("b", outputs=1, w_bits={2: 1}, x_bits=4))
    nets = data_of(paper_study, details=details | {"trial/2": "It is gone."})["nets"]
    assert nets["shapes"] == [[["a", 3, 8, 0], ["b", 3, 8, 0]]]
    assert nets["states"] == [
        [3, 6, 0, 1, None],
        [3, 6, 0, 1, 8, 2, 2, 8, 4],
        [3, 1, 0, 1, 4, 2, 1],
    ]
    assert nets["shape"][:4] == [None, 0, 0, None]  # seed, trials 0 to 2
    assert nets["state"][1:3] == [[0, 1], [0, 2]]
    assert nets["missing"] == {3: "It is gone."}
    assert nets["costs"]["size_bytes"][1] == [4, 4]
    assert nets["ops"] == {"a": "conv", "b": "conv"}


def test_cells_of_models_share_their_remarks(paper_study: StudyRecord) -> None:
    hardware = Hardware(
        units={"macs": "MAC", "odd": "cycle"},
        cells={
            "baseline": {"macs": Cell(value=1e6), "odd": Cell(remark="needs bits")},
            "trial/0": {"macs": Cell(value=5e5), "odd": Cell(remark="needs bits")},
        },
        remark="Not all.",
    )
    found = data_of(paper_study, hardware=hardware)["hardware"]
    assert found["rows"] == [
        [0, [[1_000_000, None], [None, 0]]],
        [1, [[500_000, None], [None, 0]]],
    ]
    assert found["remarks"] == ["needs bits"]
    assert found["remark"] == "Not all."


def test_the_study_in_one_sentence(paper_study: StudyRecord) -> None:
    assert sentence(paper_study) == (
        "5 complete trials of digits-size found 3 nets that no other one beats: the best at 0.8800 "
        "accuracy and 72.5 kB (trial 3), the knee at 0.8000 accuracy and 50 kB (trial 0); the "
        "float seed net has 0.8000 accuracy and 100 kB."
    )
    assert sentence(replace(paper_study, trials=(), baseline=None)) == (
        "0 complete trials of digits-size found no net yet that keeps all limits."
    )


def test_strange_words_stay_words(paper_study: StudyRecord) -> None:
    failed = replace(paper_study.trials[4], reason=HOSTILE)
    study = replace(
        paper_study, name=HOSTILE, trials=(*paper_study.trials[:4], failed), limits={HOSTILE: 1.0}
    )
    details = {"trial/0": detail(layer(HOSTILE))}
    about = About(commands=(("run", HOSTILE),), places=(("database", HOSTILE),))
    text = page(data_of(study, details=details, about=about))
    assert "<img" not in text
    assert text.count("</script>") == 2
    assert embedded(text)["nets"]["shapes"][0][0][0] == HOSTILE


def test_a_page_names_nothing_outside_itself(paper_study: StudyRecord) -> None:
    text = page(data_of(paper_study))
    outside = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"']*", text))
    assert outside == {"http://www.w3.org/2000/svg"}  # a name, which nobody opens
    assert "default-src 'none'" in text and "eval(" not in text
    assert not re.search(r"<(?:link|script|img|iframe)[^>]*\b(?:src|href)=\"(?!data:)", text)


def test_the_same_study_gives_the_same_page(large_study: StudyRecord) -> None:
    assert page(data_of(large_study)) == page(data_of(large_study))


def test_numbers_are_short(large_study: StudyRecord) -> None:
    values = data_of(large_study)["points"]["values"]
    assert all(len(json.dumps(value)) <= 12 for column in values for value in column)


def test_scripts_are_programs(tmp_path: Path) -> None:
    folder = ROOT / "plinio_sweep" / "view" / "page"
    assert {path.name for path in folder.glob("*.js")} == set(SCRIPTS)
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    whole = tmp_path / "whole.js"
    whole.write_text("\n".join((folder / name).read_text() for name in SCRIPTS))
    subprocess.run([node, "--check", whole], check=True)


def test_an_installed_package_has_the_parts_of_the_page(tmp_path: Path) -> None:
    """As pip installs it: what a wheel holds, read where there is no source tree."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("costs", "plinio_sweep"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    program = (
        "import sys, setuptools.build_meta as backend\nprint(backend.build_wheel(sys.argv[1]))\n"
    )
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    read = (
        "from plinio_sweep.view import page\n"
        f"assert page.__file__.startswith({str(installed)!r}), page.__file__\n"
        "assert all(map(page._file, (*page.SCRIPTS, 'report.html', 'report.css')))\n"
    )
    environment = {"PYTHONPATH": str(installed)}
    subprocess.run([sys.executable, "-c", read], check=True, cwd=tmp_path, env=environment)
