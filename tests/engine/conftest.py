"""A database server, as for the tests of studies."""

from tests.sweep.conftest import _closed_connections, postgresql

__all__ = ["_closed_connections", "postgresql"]
