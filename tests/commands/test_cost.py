"""`plinio-sweep cost`: any net by any model, layer by layer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.terminal import invoke, refusal, run, write_study

CHIP = '''
from costs import cost
from torch import nn


@cost(unit="cycle")
def cycles(layer):
    """Two cycles an output channel."""
    return 2 * layer.cout


def plain(layer):
    return 1.0


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def wide(width):
    return nn.Linear(width, 2)


net = small()
seven = 7
'''


@pytest.fixture
def chip(tmp_path: Path) -> Path:
    path = tmp_path / "chip.py"
    path.write_text(CHIP)
    return path


def test_a_study_is_counted_layer_by_layer(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    done = run(tmp_path, "cost", study.name)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    assert ["first", "conv", "60", "1,944", "1,920", "240"] in rows
    assert ["classifier", "linear", "14", "12", "448", "56"] in rows
    assert ["total", "", "404", "13,620", "12,928", "1,616"] in rows
    for unit in ("[MAC]", "[bit]", "[byte]"):
        assert unit in done.stdout


@pytest.mark.parametrize("name", ["small", "net"])
def test_a_file_names_a_net_or_what_makes_one(chip: Path, name: str) -> None:
    done = invoke("cost", f"{chip}:{name}", "--input-shape", "3,8,8", "--json")
    assert json.loads(done.stdout)["totals"]["macs"] == 36 * 27 * 4 + 144 * 2


def test_a_module_in_the_folder_of_the_user_names_a_net_too(
    chip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip.rename(tmp_path / "chip_of_a_module.py")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    done = invoke("cost", "chip_of_a_module:small", "--input-shape", "3,8,8", "--json")
    assert json.loads(done.stdout)["totals"]["params"] == 4 * 27 + 4 + 144 * 2 + 2


def test_a_cost_model_of_ones_own_counts_beside_a_built_in_one(chip: Path) -> None:
    words = ["--model", "macs", "--model", f"{chip}:cycles", "--input-shape", "3,8,8", "--json"]
    found = json.loads(invoke("cost", f"{chip}:small", *words).stdout)
    assert found == {
        "totals": {"macs": 4176.0, "cycles": 12.0},
        "units": {"macs": "MAC", "cycles": "cycle"},
        "layers": [
            {"name": "0", "op": "conv", "macs": 3888.0, "cycles": 8.0},
            {"name": "3", "op": "linear", "macs": 288.0, "cycles": 4.0},
        ],
        "uncovered": {},
    }


def test_bits_of_a_float_net_are_stated_for_models_that_ask(chip: Path) -> None:
    words = ["--input-shape", "3,8,8", "--bits", "4,8", "--json"]
    models = [word for name in ("size_bits", "mpic_cycles") for word in ("--model", name)]
    found = json.loads(invoke("cost", f"{chip}:small", *models, *words).stdout)
    weights, outputs = 4 * 27 + 144 * 2, 4 + 2
    assert found["totals"]["size_bits"] == 4 * weights + 2 * 32 * outputs  # biases and scales
    # 2.3 multiplications a cycle at 8 bit by 4 bit, a bias counts as one.
    assert found["totals"]["mpic_cycles"] == pytest.approx((36 * (108 + 4) + 288 + 2) / 2.3)


def test_layers_that_a_model_does_not_know_are_named_once(chip: Path) -> None:
    chip.write_text(CHIP + "\n\ndef odd():\n    return nn.Sequential(nn.Conv2d(3, 4, 5))\n")
    words = ["--model", "ne16_cycles", "--input-shape", "3,8,8", "--bits", "8,8"]
    assert (
        "not covered by ne16_cycles, so free there: 0\n"
        in invoke("cost", f"{chip}:odd", *words).stdout
    )
    found = json.loads(invoke("cost", f"{chip}:odd", *words, "--json").stdout)
    assert found["uncovered"] == {"ne16_cycles": ["0"]}


def test_another_input_shape_of_a_study_changes_its_work_and_not_its_size(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    done = invoke("cost", study, "--input-shape", "1,12,12", "--json")
    assert json.loads(done.stdout)["totals"] == {
        "params": 404.0,
        "macs": 4 * 13_608 + 12.0,
        "size_bits": 12_928.0,
        "size_bytes": 1_616.0,
    }


@pytest.mark.parametrize(
    ("net", "words", "sentence"),
    [
        ("small", [], "--input-shape 3,32,32"),
        ("small", ["--input-shape", "3x8x8"], "whole numbers with commas, but got '3x8x8'"),
        ("small", ["--input-shape", "3,7,7"], "must accept inputs of shape 3,7,7"),
        ("small", ["--input-shape", "3,8,8", "--model", "mac"], "did you mean macs"),
        ("small", ["--input-shape", "3,8,8", "--model", "chip.py:plain"], "@cost(unit=...)"),
        ("small", ["--input-shape", "3,8,8", "--model", "ne16_cycles"], "or --bits 8,8"),
        ("small", ["--input-shape", "3,8,8", "--bits", "8;8"], "`--bits` must be two whole"),
        ("small", ["--input-shape", "3,8,8", "--trial", "1"], "`--trial` must go with a study"),
        ("smal", ["--input-shape", "3,8,8"], "did you mean small"),
        ("wide", ["--input-shape", "3"], "without arguments, but raised TypeError"),
        ("seven", ["--input-shape", "3"], "must be a net or make one"),
        ("plain", ["--input-shape", "3"], "must be a net or make one"),
        ("Path", ["--input-shape", "3"], "is not in"),
    ],
)
def test_what_cannot_be_counted_is_told_in_a_sentence(
    chip: Path, monkeypatch: pytest.MonkeyPatch, net: str, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(chip.parent)
    assert sentence in refusal("cost", f"{chip}:{net}", *words)


def test_a_module_that_is_not_there_is_named() -> None:
    assert "no_such_module" in refusal("cost", "no_such_module:net", "--input-shape", "3")
