"""The databases of the studies' tests, for the table that lives in them."""

from tests.sweep.conftest import _closed_connections, postgresql, settings

__all__ = ["_closed_connections", "postgresql", "settings"]
