"""The dashboard as people see it: in a browser, every panel with its data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from math import log2
from pathlib import Path
from typing import Any

import pytest

from plinio_sweep.settings import load_settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.sweep.detail import Detail, detail_of
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.view.front import front, is_comparable
from plinio_sweep.view.lineage import growths
from plinio_sweep.view.panels.every import PANELS
from plinio_sweep.view.panels.heatmap import heatmap_trials
from plinio_sweep.view.panels.timeline import timeline_bars
from plinio_sweep.view.report import compared, strengths
from tests.browser import said, wait_until
from tests.conftest import Finished
from tests.terminal import NAME, WITH_DASHBOARD, started

pytest.importorskip("optuna_dashboard")

DRAWN = """
const drawn = name => {
    const panel = document.getElementById('user-defined-plot:' + name);
    return panel && panel.querySelector('.cartesianlayer .mlayer > *');
};
return arguments[0].every(drawn);
"""
# Of each trace by name: how many points are drawn. A bar or a point that is not seen has no path.
POINTS = """
const panel = document.getElementById('user-defined-plot:' + arguments[0]);
return panel._fullData.filter(trace => trace.type == 'scatter').map(trace => [
    trace.name || '', panel.querySelectorAll('.trace' + trace.uid + ' path.point').length,
    panel.querySelectorAll('.trace' + trace.uid + ' path.js-line').length]);
"""
BARS = """
const panel = document.getElementById('user-defined-plot:workers');
return [...panel.querySelectorAll('.barlayer .point > path')].filter(
    bar => bar.getAttribute('d') && bar.getAttribute('d') != 'M0,0Z').length;
"""
# The colour in the middle of each cell of the picture that is shown: rows from above.
CELLS = """
const [place, done] = arguments;
const panel = document.getElementById('user-defined-plot:layers');
const shown = panel.querySelectorAll('.heatmaplayer image')[place];
const {z} = panel._fullData[place];
const picture = new Image();
picture.onload = () => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const ink = canvas.getContext('2d');
    ink.drawImage(picture, 0, 0);
    const middle = (i, count, size) => Math.floor((i + 0.5) / count * size);
    done(z.map((row, y) => row.map((_, x) => [...ink.getImageData(
        middle(x, row.length, picture.width), middle(y, z.length, picture.height), 1, 1).data])));
};
picture.src = shown.getAttribute('href') || shown.getAttribute('xlink:href');
"""

# Every text of the panels that is to be read, with its colour.
INKS = """
return [...document.querySelectorAll('[id^="user-defined-plot:"]')].flatMap(panel =>
    [...panel.querySelectorAll('text')].filter(text => text.textContent.trim()
        && !text.closest('.modebar') && text.getBoundingClientRect().width > 0)
    .map(text => [panel.id.split(':')[1], text.textContent, getComputedStyle(text).fill]));
"""
# The parts of a trial's note; the button behind them is the dashboard's own.
NOTE = """[...document.querySelectorAll('table')].flatMap(
    table => [...table.parentElement.children].filter(part => part.tagName != 'BUTTON'))"""
# How many rules hold, and what doesn't; plotly's menu above each figure is not ours.
JUDGED = """
axe.run({include: [...INCLUDED]}, {elementRef: true}).then(found => arguments[0]([
    found.passes.length,
    found.violations.flatMap(rule => rule.nodes
        .filter(node => !node.element.closest('.modebar')).map(node => [rule.id, node.html])),
]));
"""


class Page:
    """The dashboard in a browser, and the study that it shows."""

    def __init__(self, browser: Any, url: str, folder: Path) -> None:
        self.browser, self.url = browser, url
        settings = load_settings(folder / NAME, {})
        self.record: StudyRecord = read_study(folder / NAME, settings)
        self._store = FolderStore(Path(settings.artifacts_url))

    def open(self, path: str = "") -> None:
        self.browser.get(f"{self.url}/dashboard/studies/1{path}")

    def detail(self, artifact: str) -> Detail:
        folder = self._store.find(artifact)
        assert folder is not None
        return detail_of(folder)

    def points(self, panel: str) -> dict[str, int]:
        """How many points of each trace are drawn."""
        found: dict[str, int] = {}
        for name, count, _ in self.browser.execute_script(POINTS, panel):
            found[name] = found.get(name, 0) + count
        return found


@pytest.fixture(scope="module")
def page(
    browser: Any, finished: Finished, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    folder = finished.copy(tmp_path_factory.mktemp("seen"))
    with started(folder, "serve", NAME, "--port", "0", **WITH_DASHBOARD) as running:
        assert running.process.stdout is not None
        found = re.search(r"http://\S+", running.process.stdout.readline())
        assert found is not None
        page = Page(browser, found[0], folder)
        page.open()
        wait_until(browser, DRAWN, list(PANELS))
        yield page


def test_every_point_of_the_front_is_drawn(page: Page) -> None:
    drawn, record = page.points("front"), page.record
    complete = [trial for trial in record.trials if is_comparable(trial, 2)]
    assert drawn["front"] == len(front(record))
    assert drawn.get("trial", 0) == len(complete) - len(front(record))
    assert drawn["seed (float)"] == 1
    lines = [growth for growth in growths(record) if growth.beyond_warmup]
    assert drawn.get("lineage", 0) == 2 * len(lines)


def test_every_cell_of_the_layers_has_its_colour(page: Page) -> None:
    trials = heatmap_trials(page.record)
    for place, (color, share) in enumerate([((0, 114, 178), True), ((213, 94, 0), False)]):
        cells = page.browser.execute_async_script(CELLS, place)
        assert [len(row) for row in cells] == [len(trials)] * len(cells)
        for column, trial in enumerate(trials):
            layers = page.detail(trial.artifact).layers
            assert len(layers) == len(cells)
            for row, layer in enumerate(layers):
                value = layer.outputs / layer.seed_outputs
                if not share:
                    value = (log2(max(layer.mean_bits, 0.5)) + 1) / 6
                expected = [255 + (end - 255) * value for end in color]
                assert cells[row][column][:3] == pytest.approx(expected, abs=4), layer.name


def test_every_strength_is_drawn(page: Page) -> None:
    done = [trial for trial in page.record.trials if is_comparable(trial, 2)]
    expected = sum(len(strengths(trial.params)) for trial in done)
    assert sum(page.points("strengths").values()) == expected


def test_every_step_of_the_hypervolume_is_drawn_twice(page: Page) -> None:
    done = [trial for trial in page.record.trials if is_comparable(trial, 2)]
    assert sum(page.points("progress").values()) == 2 * len(done)


def test_every_phase_of_the_workers_is_drawn(page: Page) -> None:
    bars = timeline_bars(page.record)
    assert len(bars) > len(compared(page.record)) + len(page.record.trials)
    assert page.browser.execute_script(BARS) == sum(not bar.reused for bar in bars)
    assert page.points("workers").get("from the store", 0) == sum(bar.reused for bar in bars)


def judged(browser: Any, script: str) -> list[list[str]]:
    """What axe-core finds at the elements that `script` gives, or in them: rule and element."""
    axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")
    browser.execute_script(axe)
    rules, found = browser.execute_async_script(JUDGED.replace("INCLUDED", script))
    assert rules > 0
    return found


def test_panels_are_in_the_way_of_nobody(page: Page) -> None:
    pytest.importorskip("axe_core_python")
    assert judged(page.browser, "document.querySelectorAll('[id^=\"user-defined-plot:\"]')") == []
    # axe-core does not judge what is drawn.
    inks = page.browser.execute_script(INKS)
    assert {panel for panel, _, _ in inks} == set(PANELS)
    faint = [(panel, text) for panel, text, ink in inks if contrast(ink) < 4.5]
    assert faint == []


def contrast(ink: str) -> float:
    """Of an "rgb(r, g, b)" on white, as WCAG 2 has it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", ink)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)


def test_a_trial_has_its_note_and_its_files_on_its_page(page: Page) -> None:
    best = front(page.record)[0].number
    page.open(f"/trials?numbers={best}")
    text = "return document.body.innerText"
    wait_until(page.browser, f"{text}.includes('output channels are left')")
    shown = page.browser.execute_script(text)
    for word in ("costs by layer", "architecture.json", "report.json", "classifier"):
        assert word in shown
    pytest.importorskip("axe_core_python")
    assert judged(page.browser, NOTE) == []
    assert page.browser.execute_script(f"return {NOTE}.length") > 3
    links = page.browser.execute_script(
        "return [...document.querySelectorAll('a')].filter(a => a.innerText == 'report.json')"
        ".map(a => a.href)"
    )
    assert links
    page.browser.get(links[0])
    wait_until(page.browser, f"{text}.includes('size_bytes')")


def test_nothing_went_wrong_in_the_page(page: Page) -> None:
    assert said(page.browser) == []
