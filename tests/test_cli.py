"""The six verbs: what they are, what they load, and what `show` says."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from plinio_sweep.cli import main
from tests.conftest import Finished
from tests.terminal import NAME, Done, command, environment, invoke, run, write_study

# The command line is frozen: whoever adds to it changes this table, and says why.
VERBS = {
    "check": ["study"],
    # Many machines: each names the database, the artefacts, its devices, how its cores are shared.
    "run": [
        *("study", "--trials", "--workers", "--threads", "--device"),
        "--engine",  # many machines: who starts the workers on them
        *("--retries", "--storage", "--artifacts", "--accept-drift"),
    ],
    # Stores fill up; what is removed for good is listed first, and removed on a word of its own.
    # A front is what one seed found, on the data that chose it: other seeds and test data say more.
    "show": [
        *("study", "--limit", "--at-least", "--knee", "--diverse"),
        *("--json", "--plot"),
        "--report",  # what others are sent: all of a study in one file, without a server
        *("--model", "--bits"),
        *("--confirm", "--baseline", "--margin", "--test", "--workers"),
        *("--prune-cache", "--yes"),
        *("--storage", "--artifacts"),
    ],
    "export": [
        *("study", "trial", "directory", "--format", "--force"),
        *("--register", "--alias"),  # a folder, or the registry that a company ships from
        *("--storage", "--artifacts"),
    ],
    "cost": [
        *("net", "--model", "--bits", "--trial", "--input-shape", "--json", "--storage"),
        "--artifacts",
    ],
    # Curves of epochs are in MLflow: its page opens beside ours, on this machine alone.
    "serve": ["study", "--host", "--port", "--token", "--mlflow", "--mlflow-port", "--storage"],
}


def loaded(done: Done) -> set[str]:
    """Top-level modules that a process under `-X importtime` loaded."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_there_are_six_verbs_with_these_options() -> None:
    found = {
        name: [p.opts[0] for p in verb.params if "--help" not in p.opts]
        for name, verb in main.commands.items()
    }
    assert found == VERBS


def test_help_lists_the_verbs_in_the_order_of_their_use(tmp_path: Path) -> None:
    text = run(tmp_path, "--help").stdout
    listed = text.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line[2:3].strip()] == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_in_a_sentence(verb: str) -> None:
    command = main.commands[verb]
    assert isinstance(command, click.Command)
    assert command.help is not None
    assert command.help.endswith(".")


def test_help_loads_no_large_library(tmp_path: Path) -> None:
    done = run(tmp_path, "--help", options=("-X", "importtime"))
    assert "click" in loaded(done)
    assert loaded(done).isdisjoint({"torch", "optuna", "mlflow", "rich", "numpy"})


def test_show_loads_no_torch(finished: Finished) -> None:
    done = run(finished.folder, "show", NAME, options=("-X", "importtime"))
    assert "optuna" in loaded(done)
    assert loaded(done).isdisjoint({"torch", "mlflow", "matplotlib", "plotly"})


def test_show_needs_the_study_file_only_for_its_name(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path)
    (folder / NAME).write_text('Sweep(name="bars", net=1 / 0)\n', encoding="utf-8")
    assert "4 of 4 trials complete" in invoke("show", folder / NAME).stdout


def test_show_prints_the_seed_and_the_front(finished: Finished) -> None:
    done = run(finished.folder, "show", NAME)
    assert done.returncode == 0
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines()]
    numbers = [row[0] for row in rows if row and row[-2:-1] == ["pit"]]
    assert numbers == [str(point["trial"]) for point in as_json(finished)["front"]]
    assert any(row[:1] == ["seed"] and "1,616" in row for row in rows)
    assert "4 of 4 trials complete, 0 failed" in done.stdout


def as_json(finished: Finished) -> dict[str, Any]:
    done = invoke("show", finished.folder / NAME, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_show_json_has_the_documented_form(finished: Finished) -> None:
    found = as_json(finished)
    assert list(found) == [
        "study",
        "objectives",
        "trials",
        "baseline",
        "baselines",
        "front",
        "hypervolume",
        "tested",
        "confirmed",
    ]
    assert (found["tested"], found["confirmed"]) == (None, None)
    assert found["study"] == "bars"
    assert found["objectives"] == [
        {"name": "accuracy", "direction": "maximize", "unit": ""},
        {"name": "size_bytes", "direction": "minimize", "unit": "byte"},
    ]
    assert found["trials"] == {"complete": 4, "failed": 0, "pruned": 0, "running": 0, "total": 4}
    assert isinstance(found["hypervolume"], float)
    assert 0 < found["hypervolume"] < 1.2


def test_every_point_of_the_json_is_whole(finished: Finished) -> None:
    found = as_json(finished)
    assert len(found["front"]) >= 1
    for point in found["front"]:
        assert list(point) == ["trial", "values", "metrics", "costs", "params", "artifact"]
        assert isinstance(point["trial"], int)
        accuracy, size = point["values"]
        assert accuracy == point["metrics"]["validation_accuracy"]
        assert size == point["costs"]["size_bytes"]
        assert "test_accuracy" not in point["metrics"]  # nobody asked for it
        assert set(point["costs"]) >= {"params", "macs", "size_bits", "size_bytes"}
        assert all(math.isfinite(value) and value >= 0 for value in point["costs"].values())
        assert point["params"]["order"] == "pit"
        assert 0.1 <= point["params"]["pit.strength"] <= 30
        stored = finished.folder / ".plinio-sweep" / "artifacts" / point["artifact"]
        assert (stored / "model.safetensors").is_file()
    sizes = [point["values"][1] for point in found["front"]]
    assert sizes == sorted(sizes)


def test_the_baseline_of_the_json_is_the_seed_net(finished: Finished) -> None:
    seed = as_json(finished)["baseline"]
    assert list(seed) == ["values", "metrics", "costs", "artifact"]
    assert seed["values"] == [seed["metrics"]["validation_accuracy"], 1616.0]
    assert seed["costs"]["macs"] == 36 * (9 * 6 + 9 * 6 * 6) + 6 * 2
    assert list(seed["metrics"]) == ["validation_loss", "validation_accuracy"]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("front.png", (b"\x89PNG\r\n\x1a\n",)),
        ("front.svg", (b"<?xml",)),
        ("deep/front.html", (b"<html>", b"<!doctype html>")),
    ],
)
def test_show_draws_the_front(
    finished: Finished, tmp_path: Path, name: str, start: tuple[bytes, ...]
) -> None:
    done = invoke("show", finished.folder / NAME, "--plot", tmp_path / name)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith(f"front drawn in {tmp_path / name}\n")
    assert (tmp_path / name).read_bytes().startswith(start)


def test_show_ends_quietly_when_nobody_reads_on(finished: Finished, tmp_path: Path) -> None:
    with subprocess.Popen(
        command("show", NAME),
        cwd=finished.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_terminal_of_few_letters_gets_what_it_can_show(finished: Finished) -> None:
    # Too narrow for the table: words are cut with a sign that ASCII lacks.
    done = run(finished.folder, "show", NAME, PYTHONIOENCODING="ascii", COLUMNS="24")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout and "4 of 4 trials complete" in done.stdout
    chosen = {"PYTHONIOENCODING": "ascii:backslashreplace", "COLUMNS": "24"}
    assert "\\u2026" in run(finished.folder, "show", NAME, **chosen).stdout


def test_a_study_with_a_computed_name_is_found_by_its_file(
    finished: Finished, tmp_path: Path
) -> None:
    folder = finished.copy(tmp_path)
    study = write_study(folder, {'name="bars"': 'name="ba" + "rs"'})
    assert "4 of 4 trials complete" in invoke("show", study).stdout
