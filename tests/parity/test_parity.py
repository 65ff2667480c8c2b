"""What is written about the public library names tests that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "tests" / "parity" / "README.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+(?:::\w+)+)`", TABLE)))
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and "behaviour" not in line]
DIFFERENCES = [
    entry
    for path in sorted((ROOT / "tests" / "parity").glob("differences*.toml"))
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["difference"]
]


def assert_exists(test: str) -> None:
    file, *names = test.split("::")
    source = (ROOT / file).read_text(encoding="utf-8")
    for name in names:
        assert re.search(rf"^ *(def|class) {name}\b", source, flags=re.MULTILINE), test


@pytest.mark.parametrize("test", NAMED)
def test_every_test_named_in_the_table_exists(test: str) -> None:
    assert_exists(test)


def test_every_behaviour_has_a_test_or_a_reason() -> None:
    assert len(ROWS) > 40
    for row in ROWS:
        _, behaviour, ours, _ = row.split("|")
        assert behaviour.strip()
        assert "`tests/" in ours or ours.strip().startswith("not: "), row


def test_every_difference_is_decided_and_tested() -> None:
    assert len({entry["id"] for entry in DIFFERENCES}) == len(DIFFERENCES)
    for entry in DIFFERENCES:
        assert entry.keys() == {"id", "peer", "ours", "decision", "test"}
        assert entry["decision"] in ("right", "convention", "setting")
        # Rows of a contract are inherited: the class stands in the file, the row in its base.
        file, *names = entry["test"].partition("[")[0].split("::")
        assert_exists("::".join([file, names[0]]))
