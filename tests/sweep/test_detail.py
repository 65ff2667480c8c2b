from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.detail import LayerRecord, detail_of
from tests.messages import is_sentence
from tests.sweep.bench import make_worker


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(folder=tmp_path_factory.mktemp("stored"), tracking="none")
    worker = make_worker(settings, target=1)
    worker.work()
    folder = open_store(settings).find(worker.record().trials[0].artifact)
    assert folder is not None
    return folder


def test_a_trial_is_read_layer_by_layer(stored: Path) -> None:
    found = detail_of(stored)
    written: Any = json.loads((stored / "architecture.json").read_text())
    assert [layer.name for layer in found.layers] == list(written["layers"])
    for layer in found.layers:
        assert 0 < layer.outputs <= layer.seed_outputs and layer.w_bits == {}
        assert layer.mean_bits == 32 * layer.outputs / layer.seed_outputs
    report = json.loads((stored / "report.json").read_text())
    total = sum(row.get("params", 0) for row in found.costs)
    assert total == pytest.approx(report["costs"]["params"])
    assert found.units["size_bytes"] == "byte"


def test_widths_and_bits_of_a_layer() -> None:
    layer = LayerRecord(
        name="a",
        inputs=3,
        outputs=6,
        seed_inputs=3,
        seed_outputs=8,
        w_bits={2: 2, 8: 4},
        x_bits=8,
    )
    assert layer.mean_bits == (2 * 2 + 4 * 8) / 8


def test_details_are_read_without_torch(stored: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from plinio_sweep.sweep.detail import detail_of\n"
        "assert detail_of(Path(sys.argv[1])).layers\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(stored)], check=True, cwd=root)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"layers": {"a": {"in": 1}}}'])
def test_a_damaged_file_is_told(stored: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_bytes((stored / "report.json").read_bytes())
    (tmp_path / "architecture.json").write_text(text)
    with pytest.raises(ValueError, match="must be as they were written") as error:
        detail_of(tmp_path)
    assert is_sentence(error.value)
