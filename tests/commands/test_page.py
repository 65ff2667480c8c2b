"""`plinio-sweep show --report` of a real study, opened in a browser without a network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from plinio_sweep.settings import load_settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.detail import detail_of
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.result import SEED, BaselineRecord, StudyRecord, replicate_name
from plinio_sweep.view.confirm import stored
from plinio_sweep.view.front import front
from plinio_sweep.view.page import page
from plinio_sweep.view.page_data import About, Hardware, page_data
from tests.browser import said, wait_until
from tests.terminal import NAME, invoke, refusal, run, write_study

pytestmark = pytest.mark.slow

CHOICES = 'orders=("pit>mps",), choices={"mps.w_bits": ((2, 8), (0, 2, 8))}, '
CHANGES = {
    "Space, Splits": "Space, uniform, Splits",
    "space=Space(": f"space=Space({CHOICES}",
    "trials=4,": "trials=6, baselines=uniform(8),",
}
TRIALS = 6
WIDE, PHONE = 1280, 360
MINUS = "\N{MINUS SIGN}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study, its database, and its page `report.html`."""
    folder = tmp_path_factory.mktemp("report")
    write_study(folder, CHANGES)
    done = run(folder, "run", NAME)
    assert done.returncode == 0, done.stderr
    shown = run(folder, "show", NAME, "--report", "report.html")
    assert shown.returncode == 0, shown.stderr
    assert "report written to report.html" in shown.stdout
    return folder


@pytest.fixture(scope="module")
def record(made: Path) -> StudyRecord:
    return read_study(made / NAME, load_settings(made / NAME, {}))


@pytest.fixture(scope="module")
def data(made: Path) -> dict[str, Any]:
    text = (made / "report.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    parsed: dict[str, Any] = json.loads(found)
    return parsed


def opened(browser: Any, path: Path, width: int = WIDE, **more: Any) -> Any:
    """The browser with the page at `path`, drawn, with its network off."""
    browser.execute_cdp_cmd("Network.enable", {})
    off = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", off)
    size = {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < WIDE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    # A page that scrolls smoothly is still on its way when a click comes.
    calm = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", calm)
    browser.get(path.as_uri())
    wait_until(browser, "return document.documentElement.dataset.drawn")
    assert said(browser) == []
    return browser


@pytest.fixture
def report(browser: Any, made: Path) -> Iterator[Any]:
    said(browser)  # what others left
    yield opened(browser, made / "report.html")
    assert said(browser) == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    # The same browser is for other pages, too.
    on = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", on)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def texts(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
    found: list[str] = browser.execute_script(script, selector)
    return found


def count(browser: Any, selector: str) -> int:
    return len(texts(browser, selector))


def rows(browser: Any) -> list[int]:
    return [int(text) for text in texts(browser, "#points-body tbody th")]


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    actions = ActionChains(browser)
    for key in keys:
        actions.send_keys(key)
    actions.perform()


def column(record: StudyRecord, key: str) -> dict[int, float]:
    return {t.number: {**t.metrics, **t.costs}[key] for t in record.trials if t.state == "complete"}


# -- what is there --------------------------------------------------------------------------------


def test_every_part_is_drawn_with_its_data(report: Any, record: StudyRecord) -> None:
    best = front(record)
    assert count(report, "#front-plot [data-point]") == len(best) + 2  # and seed net, w8a8
    (kept,) = report.execute_script(
        "return [...document.querySelectorAll('.trial.kept')].map((e) => +e.dataset.count)"
    )
    assert kept == TRIALS - len(best)
    assert sorted(rows(report)) == list(range(TRIALS))
    assert texts(report, "#baselines-body tbody th") == ["seed net (float)", "w8a8"]
    assert count(report, "#hardware-body tbody tr") == len(best) + 1
    assert count(report, "#time-body svg") >= 3
    phases = {phase.name for trial in record.trials for phase in trial.phases}
    assert phases <= set(texts(report, "#time-body tbody th"))
    assert texts(report, "#origin dt")[:3] == ["packages", "machines", "workers"]
    assert any(f"{NAME} --trials {TRIALS}" in text for text in texts(report, "pre"))
    assert all(text.strip() for text in texts(report, "main section"))


def test_layers_of_any_point_are_those_of_its_files(
    report: Any, record: StudyRecord, made: Path
) -> None:
    store = open_store(load_settings(made / NAME, {}))
    for trial in record.trials:
        report.find_element(
            "css selector", f"[data-row] [data-choose='{trial.number + 2}']"
        ).click()
        folder = store.find(trial.artifact)
        assert folder is not None
        layers = detail_of(folder).layers
        assert texts(report, "#layers-body tbody th") == [layer.name for layer in layers]
        labels = report.execute_script(
            "return [...document.querySelectorAll('#layers-body .bar-box')].map((e) => e.title)"
        )
        for label, layer in zip(labels, layers, strict=True):
            bits = ", ".join(f"{n} at {b} bit" for b, n in sorted(layer.w_bits.items()) if b and n)
            assert label == f"{layer.outputs} of {layer.seed_outputs} channels: {bits}"


def test_other_costs_agree_with_show_model(report: Any, record: StudyRecord, made: Path) -> None:
    heads = texts(report, "#hardware-body thead th")
    place = next(i for i, head in enumerate(heads) if head.startswith("gap8"))
    cells = report.execute_script(
        "return [...document.querySelectorAll('#hardware-body tbody tr')]"
        ".map((r) => [...r.cells].map((c) => c.textContent))"
    )
    told = json.loads(invoke("show", made / NAME, "--json", "--model", "gap8_cycles").stdout)
    expected = {f"trial {p['trial']}": p["costs"]["gap8_cycles"] for p in told["front"]}
    shown = {row[0]: float(row[place].replace(",", "")) for row in cells}
    for name in shown.keys() & expected.keys():
        assert shown[name] == pytest.approx(expected[name], rel=1e-3)
    (seed,) = (row for row in cells if row[0] == "seed net (float)")
    # Nothing counts a float net in cycles of MPIC; the cell says so, and why is below.
    mpic = next(i for i, head in enumerate(heads) if head.startswith("mpic cycles"))
    assert seed[mpic].startswith("can't be counted")
    assert any("--bits 8,8" in text for text in texts(report, "#hardware-body li"))


# -- what it does ---------------------------------------------------------------------------------


def test_a_point_says_what_it_is_under_the_pointer(report: Any, record: StudyRecord) -> None:
    from selenium.webdriver import ActionChains

    point = report.find_element("css selector", "#front-plot [data-point='2'], [data-point]")
    ActionChains(report).move_to_element(point).perform()
    tip = report.find_element("id", "tip")
    assert tip.is_displayed()
    assert "accuracy (validation)" in tip.text and "size" in tip.text
    ActionChains(report).move_to_element(report.find_element("tag name", "h1")).perform()
    assert not tip.is_displayed()


def test_a_click_chooses_a_point(report: Any, record: StudyRecord) -> None:
    from selenium.webdriver import ActionChains

    number = front(record)[0].number
    point = report.find_element("css selector", f"[data-point='{number + 2}']")
    ActionChains(report).move_to_element(point).click().perform()
    assert texts(report, "#card h3") == [f"trial {number}"]
    assert texts(report, "#layers-body h3")[0].startswith(f"trial {number},")
    assert texts(report, "#points-body tr.chosen th") == [str(number)]


@pytest.mark.parametrize("key", ["validation_accuracy", "size_bytes"])
def test_the_table_sorts_both_ways(report: Any, record: StudyRecord, key: str) -> None:
    known = column(record, key)
    head = f"[data-sort='{key}']"
    report.find_element("css selector", "[data-sort='trial']").click()
    assert rows(report) == sorted(known)
    for sense, sign in (("ascending", 1), ("descending", -1)):
        report.find_element("css selector", head).click()
        expected = sorted(known, key=lambda number: (sign * known[number], number))
        assert rows(report) == expected
        sorts = [s for s in attributes(report, "#points-body thead th", "aria-sort") if s != "none"]
        assert sorts == [sense]


def attributes(browser: Any, selector: str, name: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])]"
    script += ".map((e) => e.getAttribute(arguments[1]))"
    found: list[str] = browser.execute_script(script, selector, name)
    return found


def test_a_budget_leaves_rows_out_and_dims_points(report: Any, record: StudyRecord) -> None:
    sizes = column(record, "size_bytes")
    bound = sorted(sizes.values())[TRIALS // 2]
    kept = {number for number, size in sizes.items() if size <= bound}
    box = report.find_element("css selector", "#filters [data-measure='size_bytes']")
    box.send_keys(f"{bound / 1000}kB")
    assert set(rows(report)) == kept
    assert texts(report, "#points-count")[0] == f"{len(kept)} of {TRIALS} trials"
    dim = {int(i) for i in attributes(report, "#front-plot .dim", "data-point")}
    best = {trial.number for trial in front(record)}
    assert {i - 2 for i in dim if i >= 2} == best - kept
    assert 0 in dim  # the seed net is larger than that
    faint = report.execute_script("return +document.querySelector('.trial.faint').dataset.count")
    assert faint == TRIALS - len(best) - len(kept - best)
    report.find_element("css selector", "#filters [type=reset]").click()
    assert len(rows(report)) == TRIALS and count(report, "#front-plot .dim") == 0


def test_a_bound_that_is_none_is_marked(report: Any) -> None:
    box = report.find_element("css selector", "#filters [data-measure='size_bytes']")
    box.send_keys("much")
    assert box.get_attribute("aria-invalid") == "true"
    assert len(rows(report)) == TRIALS


def test_only_the_front_is_shown_on_request(report: Any, record: StudyRecord) -> None:
    report.find_element("css selector", "#filters [type=checkbox]").click()
    assert set(rows(report)) == {trial.number for trial in front(record)}


def test_two_points_side_by_side(report: Any, record: StudyRecord) -> None:
    from selenium.webdriver.support.ui import Select

    first, second = front(record)[0], front(record)[-1]
    for which, trial in (("first", first), ("second", second)):
        select = report.find_element("css selector", f"[data-which={which}]")
        Select(select).select_by_value(str(trial.number + 2))
    cells = report.execute_script(
        "return [...document.querySelectorAll('#compare-body tbody tr')]"
        ".map((r) => [...r.cells].map((c) => c.textContent))"
    )
    found = {row[0]: row[1:] for row in cells}
    size = found["size [byte]"]
    values = [trial.costs["size_bytes"] for trial in (first, second)]
    assert [float(text.replace(",", "")) for text in size[:2]] == values
    assert size[2].startswith(MINUS if values[0] < values[1] else "+")
    assert found["mps.w_bits"][0] == str(first.params["mps.w_bits"])
    assert {"first", "second", "classifier"} <= set(found)


def test_the_keyboard_reaches_everything(report: Any, record: StudyRecord) -> None:
    from selenium.webdriver import ActionChains, Keys

    reached = set()
    for _ in range(160):
        press(report, Keys.TAB)
        reached.add(
            report.execute_script(
                "const e = document.activeElement;"
                "return e.dataset.point !== undefined ? `point ${e.dataset.point}` : "
                "e.dataset.sort ? `sort ${e.dataset.sort}` : "
                "e.dataset.choose ? `row ${e.dataset.choose}` : "
                "e.dataset.measure ? `bound ${e.dataset.measure}` : "
                "e.dataset.which ? `compare ${e.dataset.which}` : e.tagName"
            )
        )
    assert {f"point {trial.number + 2}" for trial in front(record)} | {"point 0"} <= reached
    assert {f"row {number + 2}" for number in range(TRIALS)} <= reached
    assert {"sort trial", "sort size_bytes", "bound size_bytes", "compare second"} <= reached
    number = front(record)[-1].number
    focus = "document.querySelector(arguments[0]).focus()"
    report.execute_script(focus, f"[data-point='{number + 2}']")
    assert report.find_element("id", "tip").is_displayed()
    press(report, Keys.ENTER)
    assert texts(report, "#card h3") == [f"trial {number}"]
    report.execute_script(focus, "[data-choose='2']")
    press(report, Keys.ENTER)
    assert texts(report, "#card h3") == ["trial 0"]
    report.execute_script(focus, f"[data-point='{number + 2}']")
    ActionChains(report).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    assert texts(report, "#compare-body thead th")[1:3] == ["trial 0", f"trial {number}"]
    report.execute_script(focus, "[data-sort='macs']")
    press(report, Keys.ENTER)
    assert report.execute_script("return document.activeElement.dataset.sort") == "macs"


# -- for everyone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_nothing_is_in_the_way_of_anyone(report: Any, made: Path, width: int) -> None:
    pytest.importorskip("axe_core_python")
    opened(report, made / "report.html", width)
    assert report.execute_script("return document.documentElement.scrollWidth") <= width
    report.execute_script(resources.files("axe_core_python").joinpath("axe.min.js").read_text())
    found = report.execute_async_script("axe.run(document, {}).then(arguments[0])")
    told = [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found["violations"]]
    assert told == []
    passed = {rule["id"] for rule in found["passes"]}
    rules = {"color-contrast", "label", "button-name", "aria-allowed-attr"}
    if width == PHONE:  # where tables are wider than the screen
        rules.add("scrollable-region-focusable")
    assert rules <= passed


def test_paper_shows_all_parts_and_no_controls(report: Any) -> None:
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        hidden = "return getComputedStyle(document.querySelector(arguments[0])).display"
        for selector in ("nav", "#filters", "#compare-controls"):
            assert report.execute_script(hidden, selector) == "none"
        for part in report.find_elements("css selector", "main section"):
            assert part.is_displayed() and part.size["height"] > 30
    finally:
        report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_strange_words_are_shown_as_they_are(
    browser: Any, record: StudyRecord, made: Path, tmp_path: Path
) -> None:
    strange = "</script><img src=x onerror=window.broken=1>"
    failed = replace(record.trials[0], state="failed", reason=strange, values=())
    study = replace(record, name=strange, trials=(failed, *record.trials[1:]))
    about = About(commands=(("run", strange),))
    store = open_store(load_settings(made / NAME, {}))
    details: dict[str, Any] = {}
    for trial in record.trials:
        folder = store.find(trial.artifact)
        assert folder is not None
        own = detail_of(folder)
        layers = tuple(replace(layer, name=f"{layer.name} {strange}") for layer in own.layers)
        details[trial.artifact] = replace(own, layers=layers)
    path = tmp_path / "strange.html"
    path.write_text(page(page_data(study, details, Hardware(remark=strange), about)), "utf-8")
    opened(browser, path)
    assert texts(browser, "h1") == [strange]
    assert strange in texts(browser, "#layers-body tbody th")[0]
    assert strange in texts(browser, "#hardware-body p")
    assert any(strange in text for text in texts(browser, "#origin li"))
    assert browser.execute_script("return window.broken") is None
    assert count(browser, "img") == 0


def test_losses_of_other_seeds_are_drawn_beside_the_margin(
    browser: Any, record: StudyRecord, tmp_path: Path
) -> None:
    assert record.baseline is not None
    best = front(record)[0]
    origins = ((SEED, record.baseline, (0.0, 0.02, 0.01)), (str(best.number), best, (0.03, 0.05)))
    again = [
        BaselineRecord(
            name=replicate_name(key, k),
            values=of.values,
            metrics={
                "validation_accuracy": 0.9 - worse,
                "test_accuracy": 0.85 - worse,
            },
            costs={**of.costs, "size_bytes": of.costs["size_bytes"] + k},
        )
        for key, of, losses in origins
        for k, worse in enumerate(losses, start=1)
    ]
    again.append(BaselineRecord(name=replicate_name(str(best.number), 3), reason="it diverged"))
    study = replace(record, replicates=tuple(again))
    path = tmp_path / "again.html"
    data = page_data(study, {}, Hardware(), About(), stored(study, margin=0.02))
    path.write_text(page(data), "utf-8")
    opened(browser, path)
    captions = texts(browser, "#seeds-body caption")
    assert captions == [f"accuracy ({s}), 3 other seeds each" for s in ("validation", "test")]
    seed, trial = (
        texts(browser, f"#seeds-body div:first-child [data-seeds='{i}'] :is(td, th)")
        for i in (0, best.number + 2)
    )
    assert seed[:4] == ["seed net (float)", "3/3", "0.8900 ±0.025", ""]
    assert trial[:4] == [f"trial {best.number}", "2/3", "0.8600 ±0.13", "0.03000 ±0.060"]
    assert trial[5] == "undecided"
    size = best.costs["size_bytes"]
    assert trial[6] == f"{size + 1.5:,.10g} ({size + 1:,.0f} to {size + 2:,.0f})"
    (label,) = attributes(browser, "#seeds-body div:first-child .whisker", "aria-label")
    assert label == "loss 0.03000 ±0.060, undecided"
    ends, mean, margin = browser.execute_script(
        "const e = (s) => document.querySelector(`.whisker ${s}`).getBoundingClientRect();"
        "const i = e('.interval'), m = e('.mean');"
        "return [[i.left, i.right], (m.left + m.right) / 2, e('.margin').left]"
    )
    assert ends[0] < margin < mean < ends[1]
    assert any("3 failed: it diverged" in text for text in texts(browser, "#seeds-body li"))
    path.write_text(page(page_data(study, {}, Hardware(), About(), stored(study))), "utf-8")
    opened(browser, path)
    assert not any("within" in text for text in texts(browser, "#seeds-body *"))
    assert count(browser, "#seeds-body .whisker .interval") == 2


def test_a_study_that_has_just_begun_has_a_page(
    browser: Any, record: StudyRecord, tmp_path: Path
) -> None:
    path = tmp_path / "new.html"
    for study in (
        replace(record, trials=(), baseline=None, baselines=()),
        replace(record, trials=(), baselines=()),
        replace(record, objectives=record.objectives[:1], trials=()),
    ):
        path.write_text(page(page_data(study, {}, Hardware(), About())), "utf-8")
        opened(browser, path)
        assert count(browser, "main section") == 9


# -- without a browser ----------------------------------------------------------------------------


def test_the_page_names_nothing_outside_itself(made: Path) -> None:
    text = (made / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) == {"http://www.w3.org/2000/svg"}
    assert len(text) < 120_000


def test_a_study_file_that_is_gone_wrong_takes_only_other_costs_away(
    made: Path, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_text('raise RuntimeError("no GPU")\nSweep(name="bars")\n')
    file = tmp_path / "report.html"
    storage = f"sqlite:///{made / '.plinio-sweep' / 'study.db'}"
    places = ("--storage", storage, "--artifacts", str(made / ".plinio-sweep" / "artifacts"))
    done = invoke("show", tmp_path / NAME, "--report", file, *places)
    assert done.exit_code == 0, done.stderr
    text = file.read_text(encoding="utf-8")
    assert "Nothing could be counted" in text and "no GPU" in text
    assert f"--storage {storage}" in text


def test_a_damaged_artefact_takes_only_its_layers_away(
    made: Path, record: StudyRecord, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "copy"))
    behind = next(t for t in record.trials if t not in front(record))
    place = folder / ".plinio-sweep" / "artifacts" / behind.artifact
    (place / "report.json").write_text("{}")
    assert invoke("show", folder / NAME, "--report", folder / "r.html").exit_code == 0
    text = (folder / "r.html").read_text(encoding="utf-8")
    assert "its report.json is not" in text


def test_another_ending_is_refused(made: Path) -> None:
    assert "must end in .html" in refusal("show", made / NAME, "--report", made / "report.pdf")
