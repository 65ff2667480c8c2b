"""What the documents say is run: their Python blocks, and the examples of the docstrings."""

from __future__ import annotations

import doctest
import importlib
import re
from dataclasses import fields
from pathlib import Path

import pytest

from plinio_sweep.cli import main
from plinio_sweep.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
BLOCKS = [
    pytest.param(block, id=f"{name} {number}")
    for name, text in DOCUMENTS.items()
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("costs", "plinio_sweep")
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "document"})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_points_to_is_there(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", DOCUMENTS[name]):
        assert "://" in target or (ROOT / name).parent.joinpath(target).exists(), target


def test_the_readme_is_short_and_shows_the_three_lines_of_the_paper() -> None:
    text = DOCUMENTS["README.md"]
    assert text.count("\n") <= 100
    for line in ('PIT(net, {"size": size_bits}', 'model.get_cost("size")', "model.export()"):
        assert line in text


def test_every_setting_and_every_command_is_described() -> None:
    for setting in fields(Settings):
        assert f"`{setting.name}`" in DOCUMENTS["docs/studies.md"]
    for verb in main.commands:
        assert f"| `{verb} " in DOCUMENTS["docs/commands.md"]


def test_examples_are_found_in_both_packages() -> None:
    assert {name.partition(".")[0] for name in MODULES} == {"costs", "plinio_sweep"}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
