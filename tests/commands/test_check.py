"""`plinio-sweep check`: a study is sound, or the sentence that says why it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.terminal import invoke, refusal, run, write_study


def test_check_prints_channels_costs_and_a_step(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    done = run(tmp_path, "check", study.name)
    assert done.returncode == 0, done.stderr
    assert "BarNet, 64 train, 32 validation, 32 test" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line]
    assert ["first", "6", "first", "second", "6", "masks"] in rows
    assert ["second", "6", "second", "classifier", "6", "masks"] in rows
    assert "frozen: network output" in done.stdout
    assert "seed size_bytes: 1,616" in done.stdout
    assert "seed macs: 13,620" in done.stdout
    assert "one step of pit: done" in done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_check_tries_every_order(tmp_path: Path) -> None:
    changes = {"space=Space(": 'space=Space(orders=("pit", "pit>pit"), '}
    done = invoke("check", write_study(tmp_path, changes))
    assert "one step of pit, pit>pit: done" in done.stdout


def test_check_tries_every_baseline(tmp_path: Path) -> None:
    beside = "from plinio_sweep import magnitude, uniform\n"
    changes = {
        "sweep = Sweep(": f"{beside}sweep = Sweep(\n    baselines=(*uniform(4), *magnitude(0.5)),"
    }
    done = invoke("check", write_study(tmp_path, changes))
    assert "one step of pit, w4a8, l1 50%: done" in done.stdout, done.stderr


def test_check_prints_where_activations_are_rounded_and_with_which_sign(tmp_path: Path) -> None:
    changes = {"space=Space(": 'space=Space(orders=("pit>mps", "mps"), '}
    printed = invoke("check", write_study(tmp_path, changes)).stdout
    rows = [line.split() for line in printed.splitlines()]
    assert rows.count(["quantiser", "of", "sign", "bit-width", "decided", "with"]) == 1
    assert ["x", "measured", "-"] in rows
    assert ["relu", "unsigned", "-"] in rows
    assert "one step of pit>mps, mps: done" in printed


def test_check_counts_by_a_cost_of_ones_own(tmp_path: Path) -> None:
    changes = {
        "from torch import Tensor, nn\n": "from torch import Tensor, nn\nfrom costs import cost\n",
        "sweep = Sweep(": (
            '@cost(unit="cycle")\ndef cycles(layer):\n    return 10 * layer.cout\n\n\n'
            "sweep = Sweep(\n    costs=(cycles,),"
        ),
    }
    assert "seed cycles: 140" in invoke("check", write_study(tmp_path, changes)).stdout


def test_a_net_that_cannot_be_traced_is_named_by_its_line(tmp_path: Path) -> None:
    line = "        x = F.relu(self.first_norm(self.first(x)))\n"
    changes = {line: f"{line}        if x.sum() > 0:\n            x = -x\n"}
    study = write_study(tmp_path, changes)
    number = study.read_text().splitlines().index("        if x.sum() > 0:") + 1
    text = refusal("check", study)
    assert f"bars.py:{number} (`if x.sum() > 0:`)" in text
    assert "torch.fx.wrap" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"torch.randn(count, 1, 6, 6": "torch.randn(count, 3, 6, 6"},
            ["(2, 3, 6, 6)", "expected input", "correct the net, the loss or the loader"],
            id="data of the wrong shape",
        ),
        pytest.param(
            {"(count) % 2": "(count) % 2.0"},
            ["must accept the data", "correct the net, the loss or the loader"],
            id="targets of the wrong type",
        ),
        pytest.param(
            {"    return Splits(train=images(64, 0)": "    return dict(train=images(64, 0)"},
            ["must return Splits", "got dict|returned dict"],
            id="data that is no splits",
        ),
        pytest.param(
            {"test=images(32, 2)": "test=images(0, 2)"},
            ["`test`", "two or more"],
            id="an empty split",
        ),
        pytest.param(
            {'    """Three splits': '    open("missing.npz")\n    """Three splits'},
            ["`data` must load", "missing.npz"],
            id="a data file that is missing",
        ),
        pytest.param(
            {"net=BarNet": "net=lambda: 7"},
            ["must return a torch module", "int"],
            id="a net that is none",
        ),
        pytest.param(
            {'{"accuracy": accuracy}': '{"accuracy": lambda outputs, target: {}["key"]}'},
            ["One step of order 'pit'", "KeyError", "the metrics"],
            id="a metric that raises",
        ),
        pytest.param(
            {"    trials=": '    pressure=lambda costs: costs["latency"],\n    trials='},
            ["One step of order 'pit'", "`name` must be among", "'latency'"],
            id="a pressure on an unknown cost",
        ),
    ],
)
def test_a_task_that_does_not_work_is_told_in_a_sentence(
    tmp_path: Path, changes: dict[str, str], words: list[str]
) -> None:
    text = refusal("check", write_study(tmp_path, changes))
    for word in words:
        assert any(choice in text for choice in word.split("|")), text


def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLINIO_SWEEP_DEVICE", "cuda:99")
    text = refusal("check", write_study(tmp_path))
    assert "'cuda:99'" in text
    assert '"cpu" always is' in text
