"""What the documents say is run: README's Python blocks, and the examples of the docstrings."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("costs", "plinio_sweep")
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_readme_block_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {"__name__": "readme"})


def test_the_readme_shows_the_three_lines_of_the_paper() -> None:
    joined = "\n".join(BLOCKS)
    for line in ('PIT(net, {"size": size_bits}', 'model.get_cost("size")', "model.export()"):
        assert line in joined


def test_examples_are_found_in_both_packages() -> None:
    assert {name.partition(".")[0] for name in MODULES} == {"costs", "plinio_sweep"}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
