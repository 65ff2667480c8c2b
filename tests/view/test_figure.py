from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from plinio_sweep.sweep.result import BaselineRecord, Objective, StudyRecord
from plinio_sweep.view import figure
from plinio_sweep.view.figure import BLUE, FAMILIES, VERMILLION, front_figure, save_front
from plinio_sweep.view.scene import scene


def count_colour(pixels: np.ndarray, colour: str) -> int:
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.01).sum())


def test_png_shows_the_front_and_the_seed_net(tmp_path: Path, large_study: StudyRecord) -> None:
    save_front(large_study, tmp_path / "front.png")
    save_front(replace(large_study, baseline=None), tmp_path / "seedless.png")
    pixels = matplotlib.image.imread(tmp_path / "front.png")
    seedless = matplotlib.image.imread(tmp_path / "seedless.png")
    assert pixels.shape[:2] == (920, 1400)
    assert count_colour(pixels, BLUE) > 2000
    assert count_colour(pixels, VERMILLION) > 500
    assert count_colour(seedless, VERMILLION) == 0


@pytest.mark.parametrize("ending", [".svg", ".png", ".html"])
def test_the_same_study_gives_the_same_bytes(
    tmp_path: Path, paper_study: StudyRecord, ending: str
) -> None:
    paths = [tmp_path / f"{name}{ending}" for name in "ab"]
    for path in paths:
        save_front(paper_study, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_svg_is_well_formed(tmp_path: Path, paper_study: StudyRecord) -> None:
    save_front(paper_study, tmp_path / "front.svg")
    root = ElementTree.parse(tmp_path / "front.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_html_needs_no_network(tmp_path: Path, paper_study: StudyRecord) -> None:
    save_front(paper_study, tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text(encoding="utf-8")
    assert "digits-size" in page
    assert re.findall(r"<script[^>]*\ssrc=", page) == []
    assert re.findall(r"<link[^>]*\shref=", page) == []
    assert len(page) > 1_000_000  # plotly itself is inside


def test_endings_in_capitals_are_known(tmp_path: Path, paper_study: StudyRecord) -> None:
    save_front(paper_study, tmp_path / "FRONT.PNG")
    assert (tmp_path / "FRONT.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["front.pdf", "front"])
def test_another_ending_is_refused_and_names_the_known_ones(
    tmp_path: Path, paper_study: StudyRecord, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"\.png, \.svg, \.html, but got '{name}'"):
        save_front(paper_study, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_is_replaced_and_nothing_is_left_beside_it(
    tmp_path: Path, paper_study: StudyRecord
) -> None:
    path = tmp_path / "new folder" / "front.svg"
    save_front(paper_study, path)
    first = path.read_bytes()
    save_front(replace(paper_study, name="other"), path)
    assert path.read_bytes() != first
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(
    tmp_path: Path, paper_study: StudyRecord
) -> None:
    (tmp_path / "front.png").mkdir()
    with pytest.raises(OSError, match=r"front\.png"):
        save_front(paper_study, tmp_path / "front.png")
    assert [path.name for path in tmp_path.iterdir()] == ["front.png"]


def test_page_figure_has_a_trace_for_every_series(paper_study: StudyRecord) -> None:
    traces = {trace.name: trace for trace in front_figure(paper_study).data}
    assert list(traces) == [None, "trial", "infeasible", "front", "test", "seed (float)"]
    assert traces["front"].x == (12.5, 50.0, 72.5)
    assert traces["front"].text == ("1", "0", "3")
    assert traces["front"].customdata[0] == "trial 1<br>pit>mps<br>lambda 0.123, 2"
    assert traces[None].line.shape == "hv"


def test_page_figure_leaves_out_series_without_points(paper_study: StudyRecord) -> None:
    study = replace(paper_study, trials=paper_study.trials[:1], baseline=None)
    assert [trace.name for trace in front_figure(study).data] == [None, "front", "test"]


def test_steps_of_two_maximised_objectives_fall_to_the_right(paper_study: StudyRecord) -> None:
    objectives = tuple(
        Objective(name=name, maximize=True, kind="metric") for name in ("accuracy", "recall")
    )
    trials = tuple(
        replace(trial, values=values)
        for trial, values in zip(paper_study.trials, [(0.9, 0.2), (0.5, 0.7)], strict=False)
    )
    study = replace(paper_study, objectives=objectives, trials=trials, baseline=None)
    line, points, _ = front_figure(study).data
    assert line.line.shape == "vh"
    assert line.x == (0.2, 0.7)
    assert points.textposition == "top right"


def test_both_pictures_need_two_objectives(tmp_path: Path, paper_study: StudyRecord) -> None:
    single = replace(paper_study, objectives=paper_study.objectives[:1])
    for name in ("front.png", "front.html"):
        with pytest.raises(ValueError, match="two objectives or more"):
            save_front(single, tmp_path / name)


def test_baselines_are_drawn_in_print_and_on_pages(
    tmp_path: Path, large_study: StudyRecord
) -> None:
    beside = tuple(
        BaselineRecord(name=f"w{bits}a8", family="uniform", values=(0.5 + bits / 20, 4e3 * bits))
        for bits in (2, 4, 8)
    )
    study = replace(large_study, baselines=beside)
    save_front(study, tmp_path / "front.png")
    colour = FAMILIES[0][0]
    assert count_colour(matplotlib.image.imread(tmp_path / "front.png"), colour) > 100
    save_front(large_study, tmp_path / "without.png")
    assert count_colour(matplotlib.image.imread(tmp_path / "without.png"), colour) == 0
    drawn = {trace.name: trace for trace in front_figure(study).data}["uniform"]
    assert list(drawn.customdata) == ["w2a8", "w4a8", "w8a8"]
    assert list(drawn.y) == pytest.approx([0.6, 0.7, 0.9])


def test_a_legend_of_long_names_stays_within_the_picture(paper_study: StudyRecord) -> None:
    families = [f"supernet>pit>mps, fixed lambdas {number}" for number in range(5)]
    beside = tuple(
        BaselineRecord(name=name, family=name, values=(0.5, 50_000.0)) for name in families
    )
    drawn = figure._print_figure(scene(replace(paper_study, baselines=beside)))
    drawn.draw_without_rendering()
    (legend,) = drawn.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1
