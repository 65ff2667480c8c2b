"""How long the report of 5,000 stored trials takes to be written, and to be opened.

Their layers are made up, twenty each; their nets are one real one, so that costs can be counted.

    pytest tests/benchmarks -m benchmark -k report -s
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.sweep.opening import open_study
from tests.benchmarks import test_throughput
from tests.browser import wait_until
from tests.sweep.bench import make_worker
from tests.terminal import ROOT, run

TRIALS, LAYERS, ROUNDS = 5_000, 20, 3
STUDY = ROOT / "tests" / "studies" / "tiny.py"
WEIGHTS = 20_000  # [byte] of each net


def key(number: int) -> str:
    return f"{number:064x}"


def made_up(number: int) -> dict[str, Any]:
    """Layers of a net with some channels and bits."""
    chance = random.Random(number)
    layers = {}
    for index in range(LAYERS):
        whole = 16 * (1 + index // 4)
        kept = chance.randint(whole // 4, whole)
        narrow = chance.randint(0, kept)
        bits = {str(b): n for b, n in ((2, narrow), (8, kept - narrow)) if n}
        widths = {"in": kept, "out": kept, "seed_in": whole, "seed_out": whole}
        layers[f"blocks.{index}.conv"] = {**widths, "w_bits": bits, "x_bits": 8}
    return layers


def row_of(row: dict[str, Any], number: int) -> dict[str, Any]:
    """A row of the first trial as that of another: artefact, values and costs are its own."""
    chance = random.Random(number)
    size = round(10 ** chance.uniform(3.0, 5.3))
    accuracy = round(0.97 - 0.5 * (size / 800) ** -0.6 - abs(chance.gauss(0, 0.03)), 4)
    if row.get("param_name") == "pit.strength":
        return {**row, "param_value": chance.uniform(0.1, 30.0)}
    if "objective" in row:
        return {**row, "value": (accuracy, float(size))[row["objective"]]}
    if row.get("key") != "result":
        return row
    phases = [
        {"name": name, "key": key(number), "begin": 1e9 + 9 * number + at, "seconds": 2.0}
        | {"epochs": 10, "reused": name == "warmup" and number > 0}
        for at, name in enumerate(("warmup", "pit.search", "pit.finetune", "evaluation"))
    ]
    result = json.loads(row["value_json"]) | {
        "artifact": key(number),
        "metrics": {"validation_accuracy": accuracy, "validation_loss": 1 - accuracy},
        "costs": {"params": size, "macs": 11.0 * size, "size_bytes": float(size)},
        "phases": phases,
    }
    return {**row, "value_json": json.dumps(result)}


def stored(settings: Settings) -> None:
    """A study with its seed net and one trial as they come, and then many."""
    worker = make_worker(settings, test_throughput.SWEEP, target=1)
    worker.work()
    store = FolderStore(Path(settings.artifacts_url))
    real = store.find(worker.record().trials[0].artifact)
    assert real is not None
    architecture = json.loads((real / "architecture.json").read_text())
    report = json.loads((real / "report.json").read_text())
    test_throughput.fill(open_study(test_throughput.SWEEP, settings), TRIALS, row_of)
    for number in range(TRIALS):
        layers = made_up(number)
        costs = [
            {"name": name, "op": "conv", "params": 9 * own["out"] * own["in"]}
            | {"macs": 64 * 9 * own["out"] * own["in"], "size_bytes": 5.5 * own["out"] * own["in"]}
            for name, own in layers.items()
        ]

        def files(
            draft: Path, layers: Any = layers, costs: Any = costs, number: int = number
        ) -> None:
            (draft / "architecture.json").write_text(json.dumps(architecture | {"layers": layers}))
            (draft / "report.json").write_text(json.dumps(report | {"layers": costs}))
            (draft / "model.safetensors").write_bytes(random.Random(number).randbytes(WEIGHTS))

        store.write(key(number), files)


def processor() -> float:
    """What processes that have ended took of it [s]: of a busy machine all there is to compare."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_report(tmp_path: Path, browser: Any) -> None:
    settings = Settings(folder=tmp_path / "study", tracking="none")
    stored(settings)
    page = tmp_path / "report.html"
    words = ("show", str(STUDY), "--report", str(page))
    plain: list[tuple[float, float]] = []
    told: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        for times, line in ((plain, words[:2]), (told, words)):
            begin, worked = time.perf_counter(), processor()
            done = run(tmp_path, *line, PLINIO_SWEEP_FOLDER=str(settings.folder))
            times.append((time.perf_counter() - begin, processor() - worked))
            assert done.returncode == 0, done.stderr
    opened = []
    for _ in range(ROUNDS):
        browser.get(page.as_uri())
        drawn = float(wait_until(browser, "return document.documentElement.dataset.drawn"))
        ready = browser.execute_script(
            "const { domContentLoadedEventEnd, navigationStart } = performance.timing;"
            "return domContentLoadedEventEnd - navigationStart"
        )
        painted = browser.execute_script(
            "const [first] = performance.getEntriesByName('first-contentful-paint');"
            "return first ? first.startTime : NaN"
        )
        opened.append((drawn, ready, painted))
    assert browser.execute_script("return COUNT") > TRIALS
    drawn, ready, painted = (statistics.median(column) for column in zip(*opened, strict=True))
    print(f"\n{TRIALS} trials of {LAYERS} layers: a page of {page.stat().st_size / 1e6:.1f} MB")
    for line, times in (("show", plain), ("show --report", told)):
        whole, own = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"  {line}: {whole:.1f} s, of which {own:.1f} s of a processor")
    print(f"  opened: drawn after {drawn:.0f} ms, ready {ready:.0f} ms, painted {painted:.0f} ms")
