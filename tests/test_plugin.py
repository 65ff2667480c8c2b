from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from costs import MODELS, macs
from plinio_sweep.plugin import load_file, load_study, resolve
from tests.messages import is_sentence
from tests.studies import tiny

GROUP = "plinio_sweep.costs"
STUDY = Path(tiny.__file__)


@pytest.fixture(autouse=True)
def _clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test loads is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with entry points."""
    info = tmp_path / "chips-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chips\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nmy_chip = chips:cycles\nold_chip = chips:gone\nlost_chip = no_such_chips:a\n"
    )
    (tmp_path / "chips.py").write_text("cycles = 'the cycles'\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def written(folder: Path, text: str, name: str = "study.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# -- references -----------------------------------------------------------------------------------


def test_an_object_stands_for_itself() -> None:
    assert resolve(macs, GROUP) is macs


def test_a_known_name_needs_no_module() -> None:
    assert resolve("macs", GROUP, dict(MODELS)) is macs


def test_a_name_in_a_module_is_found() -> None:
    assert resolve("costs:macs", GROUP) is macs
    assert resolve("costs.counts:macs", GROUP) is macs


def test_a_name_that_a_package_resolves_lazily_is_found() -> None:
    from plinio_sweep.sweep.study import Sweep

    assert resolve("plinio_sweep:Sweep", GROUP) is Sweep


def test_a_name_in_a_file_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, "def cycles(layer):\n    return 7\n", "my_chip.py")
    assert resolve(f"{path}:cycles", GROUP)(None) == 7


def test_an_entry_point_is_found(entry_points: Path) -> None:
    assert resolve("my_chip", GROUP) == "the cycles"


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("maks", "did you mean macs"),
        ("costs:mac", "did you mean macs"),
        ("xyzzy", "write module:name or file.py:name"),
    ],
)
def test_an_unknown_name_is_refused_with_what_is_near(reference: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"`{reference}` must be a known name.*{hint}") as error:
        resolve(reference, GROUP, dict(MODELS))
    assert is_sentence(error.value)


def test_an_entry_point_is_near_too(entry_points: Path) -> None:
    with pytest.raises(ValueError, match="did you mean my_chip"):
        resolve("my_chp", GROUP)


@pytest.mark.parametrize("name", ["old_chip", "lost_chip"])
def test_an_entry_point_that_cannot_be_loaded_is_named(entry_points: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = .*chips.* raised .*Error") as error:
        resolve(name, GROUP)
    assert is_sentence(error.value)


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"but no_such_module raised ModuleNotFoundError") as error:
        resolve("no_such_module:macs", GROUP)
    assert is_sentence(error.value)


def test_a_module_that_fails_is_named(entry_points: Path) -> None:
    written(entry_points, "first = 1\nsecond = 1 / 0\n", "broken_chips.py")
    with pytest.raises(ValueError, match="broken_chips raised ZeroDivisionError") as error:
        resolve("broken_chips:macs", GROUP)
    assert is_sentence(error.value)


# -- files ----------------------------------------------------------------------------------------


def test_a_file_is_run_once_and_its_siblings_can_be_imported(tmp_path: Path) -> None:
    written(tmp_path, "WIDTH = 12\n", "sibling_of_the_study.py")
    path = written(tmp_path, "from sibling_of_the_study import WIDTH\nfresh = object()\n")
    module = load_file(path)
    assert module.WIDTH == 12
    assert load_file(path).fresh is module.fresh


def test_files_of_one_name_are_different_modules(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = load_file(written(tmp_path / "a", "value = 1\n"))
    second = load_file(written(tmp_path / "b", "value = 2\n"))
    assert (first.value, second.value) == (1, 2)


@pytest.mark.parametrize("load", [load_file, load_study])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, load: object) -> None:
    path = tmp_path / "none.py"
    with pytest.raises(ValueError, match=r"must be a Python file at .*none\.py") as error:
        load(path)  # type: ignore[operator]
    assert is_sentence(error.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must name a Python file, but got .*study.txt") as error:
        load_file(written(tmp_path, "value = 1\n", "study.txt"))
    assert is_sentence(error.value)


BROKEN = {
    "syntax": ("x = 1\ny = (\n", "study.py must run without errors, but line 2 raised SyntaxError"),
    "exception": (
        "x = 1\n\nx / 0\n",
        "study.py must run without errors, but line 3 raised ZeroDiv",
    ),
    "deep": ("def f():\n    1 / 0\n\nf()\n", "but line 2 raised ZeroDivisionError"),
    "no message": ("raise RuntimeError\n", "line 1 raised RuntimeError: no message"),
    "our own": (
        "from plinio_sweep import Phase\nPhase(epochs=1)\nPhase(epochs=-1)\n",
        "study.py:3: `epochs` must be at least 0, but got -1",
    ),
    "json": ("import json\n\njson.loads('{')\n", "study.py:3: Expecting property name"),
    "sibling": (
        "\nimport broken_sibling\n",
        "line 2 raised SyntaxError.*broken_sibling.py, line 4",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_study_that_fails_is_refused_with_file_and_line(tmp_path: Path, case: str) -> None:
    text, message = BROKEN[case]
    written(tmp_path, "\n\n\n)\n", "broken_sibling.py")
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        load_study(path)
    assert "\n" not in str(error.value)
    assert not [n for n, m in sys.modules.items() if getattr(m, "__file__", "") == str(path)]


# -- studies --------------------------------------------------------------------------------------


def test_the_one_sweep_of_a_study_is_found() -> None:
    assert load_study(STUDY).name == "tiny"


def test_a_sweep_under_two_names_is_one(tmp_path: Path) -> None:
    text = "from tests.studies.tiny import sweep\nother = sweep\n"
    assert load_study(written(tmp_path, text)).name == "tiny"


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("from tests.studies.tiny import sweep, tiny\nother = tiny(name='b')\n", 2)],
)
def test_a_study_holds_exactly_one_sweep(tmp_path: Path, text: str, count: int) -> None:
    with pytest.raises(ValueError, match=rf"exactly one `Sweep`.*holds {count}; write") as error:
        load_study(written(tmp_path, text))
    assert is_sentence(error.value)
