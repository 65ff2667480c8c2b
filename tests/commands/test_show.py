"""`plinio-sweep show --model`: stored trials under other costs, and their front."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished
from tests.terminal import NAME, invoke, refusal

CHIP = '''
from costs import cost


@cost(unit="channel", once=True)
def narrowness(layer):
    """The fewer the channels, the dearer."""
    return 1000 / layer.cout
'''


def shown(finished: Finished, *words: object) -> dict[str, Any]:
    done = invoke("show", finished.folder / NAME, "--json", *words)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_same_cost_counted_anew_gives_the_same_front(finished: Finished) -> None:
    before, after = shown(finished), shown(finished, "--model", "size_bytes")
    assert [point["trial"] for point in after["front"]] == [p["trial"] for p in before["front"]]
    for old, new in zip(before["front"], after["front"], strict=True):
        assert new["values"] == pytest.approx(old["values"])
    assert after["hypervolume"] == pytest.approx(before["hypervolume"])


def test_another_cost_takes_the_place_of_the_first_one(finished: Finished, tmp_path: Path) -> None:
    chip = tmp_path / "chip.py"
    chip.write_text(CHIP)
    found = shown(finished, "--model", f"{chip}:narrowness")
    assert [axis["name"] for axis in found["objectives"]] == ["accuracy", "narrowness"]
    assert found["objectives"][1]["unit"] == "channel"
    seed = found["baseline"]["values"][1]
    assert seed == pytest.approx(sum(1000 / width for width in (6, 6, 2)))
    for point in found["front"]:
        assert point["values"][1] == point["costs"]["narrowness"] >= seed
        assert "size_bytes" in point["costs"]


def test_hardware_scores_float_trials_at_stated_bits(finished: Finished) -> None:
    words = ("--model", "mpic_cycles", "--model", "peak_activation_bytes", "--bits", "8,8")
    found = shown(finished, *words)
    units = {axis["name"]: axis["unit"] for axis in found["objectives"]}
    assert units == {"accuracy": "", "mpic_cycles": "cycle", "peak_activation_bytes": "byte"}
    assert found["baseline"]["costs"]["peak_activation_bytes"] == (6 + 6) * 36
    assert all(len(point["values"]) == 3 for point in found["front"])


def test_people_get_a_table(finished: Finished) -> None:
    done = invoke("show", finished.folder / NAME, "--model", "gap8_cycles")
    assert done.exit_code == 0
    assert "[cycle]" in done.stdout


def test_nothing_is_trained_or_written(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path)

    def kept() -> dict[Path, int]:
        files = (folder / ".plinio-sweep" / "artifacts").rglob("*")
        return {path: path.stat().st_mtime_ns for path in files}

    before = kept()
    assert invoke("show", folder / NAME, "--model", "macs").exit_code == 0
    assert kept() == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "mpic_cycles"], "or --bits 8,8"),
        (["--model", "mpic_cycle"], "did you mean mpic_cycles"),
        (["--model", "macs", "--bits", "8"], "`--bits` must be two whole numbers"),
        (["--model", "macs", "--bits", "0,8"], "`w` must be above 0, but got w=0"),
        (["--bits", "8,8"], "`--bits` must go with `--model`"),
    ],
)
def test_what_cannot_be_scored_is_told_in_a_sentence(
    finished: Finished, words: list[str], sentence: str
) -> None:
    assert sentence in refusal("show", finished.folder / NAME, *words)


def test_an_artefact_that_is_gone_is_named(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path)
    shutil.rmtree(folder / ".plinio-sweep" / "artifacts")
    assert "must be in" in refusal("show", folder / NAME, "--model", "macs")


def test_the_net_of_a_trial_is_counted_layer_by_layer(finished: Finished) -> None:
    point = shown(finished)["front"][0]
    words = ("--trial", point["trial"], "--json")
    found = json.loads(invoke("cost", finished.folder / NAME, *words).stdout)
    assert found["totals"]["size_bytes"] == point["costs"]["size_bytes"]
    assert found["totals"]["macs"] == point["costs"]["macs"]
    assert sum(layer["macs"] for layer in found["layers"]) == point["costs"]["macs"]
    assert "among [" in refusal("cost", finished.folder / NAME, "--trial", 99)


def test_bounds_choose_what_fits(finished: Finished) -> None:
    whole = shown(finished)["front"]
    middle = sorted(point["values"][1] for point in whole)[len(whole) // 2]
    found = shown(finished, "--limit", f"size_bytes={middle}B", "--at-least", "accuracy=0.1")
    assert [p["trial"] for p in found["front"]] == [
        p["trial"] for p in whole if p["values"][1] <= middle
    ]
    table = invoke("show", finished.folder / NAME, "--limit", "size_bytes=1B")
    assert table.exit_code == 0
    assert "front of 0 points" in table.stdout
    assert "nothing fits" in table.stdout


def test_a_bound_may_be_on_a_cost_that_is_counted_now(finished: Finished) -> None:
    words = ("--model", "mpic_cycles", "--model", "size_bytes", "--bits", "8,8")
    whole = shown(finished, *words)["front"]
    least = min(point["costs"]["mpic_cycles"] for point in whole)
    found = shown(finished, *words, "--limit", f"mpic_cycles={least}")["front"]
    assert [point["costs"]["mpic_cycles"] for point in found] == [least]


def test_knee_and_diverse_show_a_part_of_the_front(finished: Finished) -> None:
    whole = [point["trial"] for point in shown(finished)["front"]]
    (knee,) = shown(finished, "--knee")["front"]
    some = [point["trial"] for point in shown(finished, "--diverse", 2)["front"]]
    assert knee["trial"] in some
    assert some == [number for number in whole if number in some]
    assert len(some) == min(2, len(whole))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "size_bytes"], "NAME=NUMBER"),
        (["--limit", "weight=3"], "metric or cost of the study"),
        (["--at-least", "test_accuracy=0.5"], "metric or cost of the study"),
        (["--knee", "--diverse", "2"], "leave one out"),
        (["--prune-cache", "--knee"], "must stand alone"),
    ],
)
def test_wrong_choices_are_refused(finished: Finished, words: list[str], message: str) -> None:
    assert message in refusal("show", finished.folder / NAME, *words)
