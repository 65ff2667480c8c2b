"""Connections to a database server, which may be away for a while and come back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import optuna
import sqlalchemy
import tenacity

from plinio_sweep.settings import redacted

# What is raised where the database can't be reached or written.
DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
# What a server says that ends or starts; nothing when the client found the connection broken.
_LOSSES = (None, "57P01", "57P02", "57P03")
LONGEST_PAUSE = 5.0  # [s] between two attempts
# Workers that lost one server must not all come back at once.
_WAIT = tenacity.wait_exponential_jitter(multiplier=0.1, max=LONGEST_PAUSE)
_log = logging.getLogger(__name__)

Result = TypeVar("Result")


def is_loss(error: BaseException | None) -> bool:
    """Whether a connection broke in the middle of something, which may be done or not."""
    if not isinstance(error, DATABASE_ERRORS):
        return False
    while error is not None:
        if isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated:
            return True
        if isinstance(error, sqlalchemy.exc.PendingRollbackError):
            return True  # said to whoever goes on where the connection broke
        if getattr(error, "sqlstate", "") in _LOSSES and hasattr(error, "diag"):
            return True  # of psycopg, on a connection that SQLAlchemy had not opened to its end
        error = error.__cause__ or error.__context__
    return False


def patiently(action: Callable[[], Result], patience: float) -> Result:
    """Does `action`, and does it again from its start when a connection broke in the middle.

    Args:
        action: Comes to the same however often it is begun.
        patience: For how long [s].
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_loss),
        stop=tenacity.stop_after_delay(patience),
        wait=_WAIT,
        reraise=True,
    )
    return attempts(action)


@dataclass(eq=False, kw_only=True)
class Connector:
    """Connects, and waits for a server that was there before.

    Args:
        url: Of the database.
        patience: How long to wait for a server that is lost [s].
        known: Whether the server is known to exist: the first connection then waits, too.
    """

    url: sqlalchemy.URL
    patience: float
    known: bool = False

    def __call__(self) -> Any:
        """A new connection of the driver.

        Raises:
            Exception: What the driver raises, at the end of the patience.
        """
        dialect = self.url.get_dialect()()
        driver = dialect.import_dbapi()
        arguments, options = dialect.create_connect_args(self.url)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(driver.OperationalError),
            stop=tenacity.stop_after_delay(self.patience if self.known else 0.0),
            wait=_WAIT,
            before_sleep=self._tell,
            reraise=True,
        )
        connection = attempts(driver.connect, *arguments, **options)
        self.known = True
        return connection

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = redacted(" ".join(str(error).split()))
        url = redacted(self.url.render_as_string(hide_password=True))
        _log.warning("the database %s is away, attempt %d: %s", url, state.attempt_number, reason)

    @property
    def options(self) -> Mapping[str, Any]:
        """How an engine is told to use this connector."""
        # A connection that was lost is seen before it is used, and made anew. One is kept open: a
        # server has a hundred by default, for all workers.
        return {"creator": self, "pool_pre_ping": True, "pool_size": 1, "max_overflow": 9}
