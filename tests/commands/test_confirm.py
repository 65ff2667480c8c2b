"""`plinio-sweep show --confirm` and `--test`: other seeds and test data, on a word of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished
from tests.messages import is_sentence
from tests.terminal import NAME, invoke, kill, refusal, run, started, wait_for, write_study

KNEE = ("show", NAME, "--knee", "--confirm", "2", "--json")
EPOCHS = re.compile(r"epochs: (\d+) trained, \d+ taken from the store")
# Of one seed: the warm-up, which seed net and trial share, and four epochs of each.
EACH = 1 + 4 + 4


def artifacts(folder: Path) -> dict[str, int]:
    """Stored results, and when each was made."""
    places = (folder / ".plinio-sweep" / "artifacts").glob("[!.]*")
    return {place.name: place.stat().st_mtime_ns for place in places}


def trained(stderr: str) -> int:
    found = EPOCHS.search(stderr)
    return int(found[1]) if found else 0


@pytest.mark.long
def test_replicates_that_were_killed_go_on_and_come_to_the_same(
    finished: Finished, tmp_path: Path
) -> None:
    for name in ("calm", "harmed"):
        (tmp_path / name).mkdir()
    calm, harmed = finished.copy(tmp_path / "calm"), finished.copy(tmp_path / "harmed")
    straight = run(calm, *KNEE)
    assert straight.returncode == 0, straight.stderr
    assert trained(straight.stderr) == 2 * EACH

    before = artifacts(harmed)
    with started(harmed, *KNEE, "--workers", "2", BARS_PAUSE="0.2") as running:
        wait_for(lambda: len(artifacts(harmed)) > len(before) + 1)
        kill([running.process.pid, *running.workers()])
    between = artifacts(harmed)
    again = run(harmed, *KNEE, "--workers", "2")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(straight.stdout)
    after = artifacts(harmed)
    assert {name: after[name] for name in between} == between
    assert after.keys() == artifacts(calm).keys()
    assert trained(again.stderr) < 2 * EACH

    third = run(harmed, *KNEE)
    assert (third.stdout, third.stderr) == (again.stdout, "")
    assert artifacts(harmed) == after


def test_people_see_means_and_verdicts(finished: Finished, tmp_path: Path) -> None:
    study = finished.copy(tmp_path) / NAME
    report = tmp_path / "report.html"
    words = ("--knee", "--confirm", 2, "--margin", 2, "--test", "--report", report)
    done = invoke("show", study, *words)
    assert done.exit_code == 0, done.stderr
    assert re.search(
        r'"confirmed":{"replicates":2,"level":0.95,"margin":2,"metrics":\[\[', report.read_text()
    )
    assert "bars: 2 other seeds each, validation data" in done.stdout
    assert "bars: 2 other seeds each, test data" in done.stdout
    assert "its interval of 95% (Student t)" in done.stdout
    assert "and for 6 nets by now" in done.stdout  # seed net and knee, and two replicates of each
    found = shown(study, "--knee", "--confirm", 2, "--model", "mpic_cycles", "--bits", "8,8")
    assert list(found["confirmed"]["nets"]["seed"]["costs"]) == [
        "mpic_cycles",
        "size_bytes",
        "macs",
    ]
    assert shown(study)["confirmed"] is None


def shown(study: Path, *words: object) -> dict[str, Any]:
    done = invoke("show", study, "--json", *words)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_test_data_are_touched_once_and_only_when_asked_for(
    finished: Finished, tmp_path: Path
) -> None:
    study = finished.copy(tmp_path) / NAME
    log = study.parent / ".plinio-sweep" / "logs" / "worker-0.log"
    before = shown(study)
    assert before["tested"] is None
    first = shown(study, "--test")
    points = [first["baseline"], *first["front"]]
    assert all("test_accuracy" in point["metrics"] for point in points)
    assert first["tested"]["nets"] == len(points)
    log.unlink()
    assert shown(study, "--test") == first
    assert not log.exists()  # no worker was started
    table = invoke("show", study)
    assert "accuracy" in table.stdout and "(test)" in table.stdout
    date = first["tested"]["first"][:10]
    told = f"test data were looked at: first on {date} at "
    assert told in table.stdout and f"for {len(points)} nets by now" in table.stdout


def test_a_changed_study_is_not_trained_again(finished: Finished, tmp_path: Path) -> None:
    study = write_study(finished.copy(tmp_path), {"epochs=3, lr=1e-2": "epochs=4, lr=1e-2"})
    for word in (["--confirm", 2], ["--test"]):
        said = refusal("show", study, *word)
        assert "recipe.search.epochs: 3 -> 4" in said and is_sentence(said)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--confirm", "1"], "one replicate has no spread, but got 1"),
        (["--confirm", "-3"], "2 or more"),
        (["--margin", "0.1"], "go with `--confirm`"),
        (["--confirm", "2", "--margin", "-1"], "`--margin` must be 0 or more"),
        (["--confirm", "2", "--margin", "nan"], "`--margin` must be 0 or more"),
        (["--baseline", "w8a8"], "`--baseline` must go with `--confirm`, but got w8a8 alone"),
        (["--confirm", "2", "--baseline", "w8a8"], "with a result, [], but got 'w8a8'"),
        (["--workers", "2"], "must go with `--confirm` or `--test`"),
        (["--prune-cache", "--test"], "must stand alone"),
    ],
)
def test_wrong_options_are_refused(finished: Finished, words: list[str], message: str) -> None:
    said = refusal("show", finished.folder / NAME, *words)
    assert message in said and is_sentence(said)


def test_nothing_is_done_where_nothing_fits(finished: Finished) -> None:
    study = finished.folder / NAME
    found = shown(study, "--limit", "size_bytes=1B", "--confirm", 2, "--test")
    assert (found["front"], found["tested"], found["confirmed"]) == ([], None, None)
