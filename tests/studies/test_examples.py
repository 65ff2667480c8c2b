"""The examples in the docstrings of what studies are made of hold."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[2] / "studies"
MODULES = sorted(
    ".".join(path.relative_to(STUDIES).with_suffix("").parts)
    for path in STUDIES.glob("*/*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_examples_are_found() -> None:
    assert {"data.sound", "data.split"} <= set(MODULES)
