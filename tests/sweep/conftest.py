"""Where the studies of the tests are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from plinio_sweep.settings import Settings
from tests.held import end_leases
from tests.postgres import started_server, url_of


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes empty databases on a server of our own; their URLs."""
    with started_server() as server, databases(server) as create:
        yield create


@contextmanager
def databases(server: Any) -> Iterator[Callable[[], str]]:
    """Makes empty databases on `server`; their URLs."""
    root = url_of(server)
    engine = sqlalchemy.create_engine(
        root, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
    )
    numbers = count()

    def create() -> str:
        name = f"test{next(numbers)}"
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"create database {name}"))
        return root.replace("/postgres?", f"/{name}?")

    yield create
    engine.dispose()


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A new folder and an empty database, of the kind that the test asks for."""
    kind = getattr(request, "param", "sqlite")
    storage = request.getfixturevalue("postgresql")() if kind == "postgresql" else ""
    return Settings(folder=tmp_path, storage=storage, lock_timeout=30.0, tracking="none")


@pytest.fixture(autouse=True)
def _closed_connections() -> Iterator[None]:
    """Closes what pools keep open for the life of a process."""
    opened: list[Any] = []

    def note(connection: Any, record: Any) -> None:
        opened.append(connection)

    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "connect", note)
    yield
    sqlalchemy.event.remove(sqlalchemy.pool.Pool, "connect", note)
    end_leases()  # their threads use these
    for connection in opened:
        connection.close()
