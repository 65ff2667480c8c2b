from __future__ import annotations

import copy
import csv
import itertools
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from costs import CostModel, LayerSpec, lut, total
from costs.interpolate import on_grid
from tests.contract.cost_contract import LAYERS, CostContract

CONV = LayerSpec(name="c", op="conv", cin=8, cout=16, kernel=(3, 3), out=(6, 6), stride=(1, 1))
LINEAR = LayerSpec(name="fc", op="linear", cin=8, cout=16)


def plane(cin: float, cout: float, bits: float) -> float:
    """What the board of these tests takes: linear along each axis, so that lines hit it."""
    return 10 + 2 * cin * cout * bits / 8 + cin


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> CostModel:
    points = itertools.product((0, 8, 64), (0, 20, 64), (2, 4, 8))
    linear = [
        {"op": "linear", "cin": i, "cout": o, "w_bits": w, "value": plane(i, o, w)}
        for i, o, w in points
    ]
    path = write(tmp_path_factory.mktemp("board") / "board.csv", linear)
    return lut(path, unit="cycle")


class TestBoard(CostContract):
    layers = tuple(layer for layer in LAYERS if layer.op in ("linear", "affine", "other"))
    searched_kernels = False

    @pytest.fixture
    def model(self, board: CostModel) -> CostModel:
        return board

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        def read(layer: LayerSpec) -> float:
            counts = (layer.cin, layer.cout, layer.w_bits)
            return plane(*map(float, counts)) if layer.op == "linear" else 0

        return read


def test_rows_are_met_exactly_and_lines_lie_between_them(tmp_path: Path) -> None:
    rows = [{"op": "conv", "cin": cin, "value": value} for cin, value in ((4, 7), (8, 9), (16, 33))]
    model = lut(write(tmp_path / "chip.csv", rows), unit="cycle")
    assert [model(replace(CONV, cin=cin)) for cin in (4, 6, 8, 12, 16)] == [7, 8, 9, 21, 33]
    assert (model.name, model.unit) == ("chip", "cycle")


def test_rows_of_json_name_kernels_as_lists(tmp_path: Path) -> None:
    rows = [
        {"op": "conv", "kernel": [1, 1], "value": 1},
        {"op": "conv", "kernel": [3, 3], "depthwise": True, "value": 2},
        {"op": "conv", "kernel": "3x3", "value": 3},
    ]
    path = tmp_path / "chip.json"
    path.write_text(json.dumps(rows))
    model = lut(path, unit="cycle", name="my_chip")
    depthwise = replace(CONV, cin=16, groups=16, depthwise=True)
    assert [model(layer) for layer in (replace(CONV, kernel=(1, 1)), depthwise, CONV)] == [1, 2, 3]
    assert model.name == "my_chip"


def test_the_first_pattern_that_fits_counts_and_others_are_not_covered(tmp_path: Path) -> None:
    rows = [{"name": "stem*", "value": 5}, {"op": "linear", "value": 6}]
    model = lut(write(tmp_path / "chip.csv", rows), unit="cycle")
    assert model(replace(LINEAR, name="stem.fc")) == 5
    assert model(LINEAR) == 6
    assert not model.covers(CONV)
    assert model(CONV) == 0


def test_numbers_beyond_the_rows_are_refused_unless_told(board: CostModel, tmp_path: Path) -> None:
    wide = replace(LINEAR, name="head", cin=65, w_bits=8)
    with pytest.raises(ValueError, match=r"`cin` must lie within .*0 to 64.*65 in layer 'head'"):
        board(wide)
    rows = [{"cin": cin, "value": 3 * cin} for cin in (4, 8)]
    path = write(tmp_path / "chip.csv", rows)
    assert lut(path, unit="cycle", extrapolate=True)(replace(LINEAR, cin=100)) == 300
    with pytest.raises(ValueError, match="extrapolate=True"):
        lut(path, unit="cycle")(replace(LINEAR, cin=3))


def test_a_search_goes_on_with_the_last_slope_and_never_below_nothing(tmp_path: Path) -> None:
    rows = [{"cin": cin, "value": 10 * cin - 30} for cin in (4, 8)]
    model = lut(write(tmp_path / "chip.csv", rows), unit="cycle")
    cin = torch.tensor([1.0, 3.5, 10.0], requires_grad=True)
    value = torch.as_tensor(model(replace(LINEAR, cin=cin)))
    assert value.tolist() == pytest.approx([0, 5, 70])
    assert torch.autograd.grad(value.sum(), cin)[0].tolist() == pytest.approx([0, 10, 10])


def test_candidate_widths_of_a_search_are_looked_up_as_a_grid(board: CostModel) -> None:
    cin = torch.tensor(12.0, requires_grad=True)
    layer = replace(LINEAR, cin=cin, cout=32, w_bits=torch.tensor([[2.0, 4.0, 8.0]]))
    value = total(board, [(layer, torch.tensor([[0.5, 0.25, 0.25]]))])
    expected = [plane(12, 32, bits) for bits in (2, 4, 8)]
    assert value.item() == pytest.approx(0.5 * expected[0] + 0.25 * sum(expected[1:]))
    (slope,) = torch.autograd.grad(value, cin)
    assert slope.item() == pytest.approx(1 + 2 * 32 * (0.5 * 2 + 0.25 * 12) / 8)


def test_a_kernel_that_is_searched_for_is_not_looked_at(tmp_path: Path) -> None:
    model = lut(write(tmp_path / "chip.csv", [{"kernel": "3", "value": 1}]), unit="cycle")
    searched = replace(CONV, kernel=(torch.tensor(3.0),), out=(9,))
    assert not model.covers(searched)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"cin": 4, "valeu": 1}], "Columns must be among .* has 'valeu'"),
        ([{"cin": 4, "value": "fast"}], "`value` must be a number .* 'fast' in row 1"),
        ([{"cin": -4, "value": 1}], "`cin` must be a number that is not negative"),
        ([{"cin": 4, "value": 1}, {"cin": 4, "value": 2}], "one row a point.* has too many"),
        (
            [{"cin": 4, "cout": 4, "value": 1}, {"cin": 8, "cout": 8, "value": 2}],
            "must form a grid over .'cin', 'cout'.* has none at {'cin': 4.0, 'cout': 8.0}",
        ),
        ([{"cin": 4, "value": 1}, {"cout": 4, "value": 1}], "must form a grid"),
        ([], "must hold rows with names"),
    ],
)
def test_a_table_that_says_too_little_is_refused_in_a_sentence(
    tmp_path: Path, rows: list[Mapping[str, Any]], sentence: str
) -> None:
    path = tmp_path / "chip.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=sentence):
        lut(path, unit="cycle")


@pytest.mark.parametrize("name", ["nowhere.csv", "broken.json"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=f"must be a table in CSV or JSON, but .*{name} is not"):
        lut(tmp_path / name, unit="cycle")


def test_a_table_travels_without_its_file(board: CostModel) -> None:
    layer = replace(LINEAR, w_bits=8)
    for twin in (pickle.loads(pickle.dumps(board)), copy.deepcopy(board)):
        assert twin(layer) == board(layer) == pytest.approx(plane(8, 16, 8))


@settings(deadline=None)
@given(
    point=st.tuples(st.floats(-3, 12), st.floats(-3, 12), st.floats(-3, 12)),
    slopes=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2)),
)
def test_a_function_that_is_linear_along_each_axis_is_met_everywhere(
    point: tuple[float, float, float], slopes: tuple[float, float, float, float]
) -> None:
    knots = ((0.0, 1.0, 5.0), (2.0, 3.0), (0.0, 4.0, 6.0, 9.0))

    def function(x: float, y: float, z: float) -> float:
        return slopes[0] + slopes[1] * x + slopes[2] * y * z + slopes[3] * x * y * z

    values = tuple(function(*place) for place in itertools.product(*knots))
    at = [torch.tensor(value, dtype=torch.float64) for value in point]
    assert on_grid(knots, values, at).item() == pytest.approx(function(*point), abs=1e-9)
