"""Who trains what, until when: one table in the study's database, for any number of machines.

A lease is a row: a key, its holder, a token that no other lease ever bears, and when it expires. A
thread of the holder puts that moment off again and again; a holder that died or is frozen no longer
does, and the next one who asks takes the row over with a token of its own. All moments are of the
database's clock, so machines need not agree on the time. The one who was overtaken finds its token
gone: at the next beat, and at the latest when it wants to write.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import sqlalchemy
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.connect import is_loss, patiently
from plinio_sweep.sweep.life import Life
from plinio_sweep.sweep.stage import LeaseLostError
from plinio_sweep.sweep.storage import exclusive, explained, open_engine

# [s] Twice the time that a busy database may take by default: no living holder is overtaken because
# its machine is under load.
TIME_TO_LIVE = 120.0
BEATS = 8  # tries to renew a lease in that time
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # [s] between two looks at a lease of somebody else

TABLE = sqlalchemy.Table(
    "plinio_sweep_leases",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("key", sqlalchemy.String(200), primary_key=True),
    sqlalchemy.Column("holder", sqlalchemy.String(200), nullable=False),
    sqlalchemy.Column("token", sqlalchemy.String(32), nullable=False),
    sqlalchemy.Column("expires", sqlalchemy.Double, nullable=False),  # [s] since 1970
)


class TableLease:
    """One row that is ours, kept by a thread until it is released."""

    def __init__(self, leases: TableLeases, key: str, token: str) -> None:
        self._leases, self._key, self._token = leases, key, token
        self._lost, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {key}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Asks nobody, so that it may be called at every step of a training.

        Raises:
            LeaseLostError: When the last beat found the lease gone.
        """
        if self._lost.is_set():
            raise LeaseLostError(
                f"A lease must last as long as the work under it, but {self._key!r} went to "
                f"another worker meanwhile; this one's work is dropped."
            )

    @contextmanager
    def sealed(self) -> Iterator[None]:
        """Holds the row itself for a moment: nobody can take it before this ends.

        Raises:
            LeaseLostError: When it is gone already.
        """
        stack = ExitStack()
        patiently(lambda: self._renew_in(stack), self._leases.patience)
        try:
            with stack:
                self.check()
                yield
        except SQLAlchemyError as error:
            # What was to be done is done, and a renewal that was not heard of changes nothing.
            if not is_loss(error):
                raise

    def _renew_in(self, stack: ExitStack) -> None:
        with ExitStack() as attempt:
            connection = attempt.enter_context(self._leases.engine.begin())
            if not self._renewed(connection):
                self._lost.set()
            stack.push(attempt.pop_all())

    def release(self) -> None:
        """Gives the row back, if it still is ours."""
        self._done.set()
        self._thread.join()
        # A database that is gone can't be told; the row expires by itself.
        with suppress(SQLAlchemyError), self._leases.engine.begin() as connection:
            connection.execute(TABLE.delete().where(*self._ours()))

    def _keep(self) -> None:
        while not self._done.wait(self._leases.time_to_live / BEATS):
            # What the database can't answer now it may answer at the next beat.
            with suppress(SQLAlchemyError), self._leases.engine.begin() as connection:
                if not self._renewed(connection):
                    self._lost.set()
                    return

    def _renewed(self, connection: sqlalchemy.Connection) -> bool:
        end = self._leases.now + self._leases.time_to_live
        done = connection.execute(TABLE.update().where(*self._ours()).values(expires=end))
        return done.rowcount == 1

    def _ours(self) -> tuple[sqlalchemy.ColumnElement[bool], ...]:
        return TABLE.c.key == self._key, TABLE.c.token == self._token


class TableLeases:
    """The leases of one database, as one worker sees them.

    Args:
        engine: Of the study's database, SQLite or PostgreSQL, with the table in it.
        holder: Name of the worker.
        gone: Whether the worker of some name is known to have died, as the system tells of its
            own machine: its leases need not expire first.
        time_to_live: After which silence a holder is taken for dead [s].
        patience: How long to wait for a server that was lost [s].
    """

    def __init__(
        self,
        engine: sqlalchemy.Engine,
        holder: str,
        *,
        gone: Callable[[str], bool] = lambda holder: False,
        time_to_live: float = TIME_TO_LIVE,
        patience: float = 0.0,
    ) -> None:
        self.engine, self.holder, self.time_to_live = engine, holder, time_to_live
        self.patience = patience
        self._gone = gone
        self.now: Any = _NOW[engine.dialect.name]

    @contextmanager
    def hold(self, key: str, wait: Callable[[], None]) -> Iterator[TableLease]:
        """Holds `key`; while another does, `wait` is called now and then and may raise."""
        pause = FIRST_PAUSE
        while (lease := self.take(key)) is None:
            wait()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        try:
            yield lease
        finally:
            lease.release()

    def take(self, key: str) -> TableLease | None:
        """The lease of `key`; nothing while somebody else holds it."""
        token = uuid.uuid4().hex
        ours = {"holder": self.holder, "token": token, "expires": self.now + self.time_to_live}
        insert = _INSERT[self.engine.dialect.name](TABLE).values(key=key, **ours)
        free = TABLE.c.expires < self.now
        taking = insert.on_conflict_do_update(index_elements=["key"], set_=ours, where=free)
        row = TABLE.select().where(TABLE.c.key == key)

        def attempt() -> Any:
            with self.engine.begin() as connection:
                connection.execute(taking)
                return connection.execute(row).one_or_none()

        # Once more with the same token: what was committed unheard is ours.
        found = patiently(attempt, self.patience)
        if found is not None and found.token == token:
            return TableLease(self, key, token)
        if found is not None and self._gone(found.holder):
            self._remove(TABLE.c.token == found.token)
        return None

    def remaining(self, key: str) -> float | None:
        """How long the lease of `key` lasts [s]: below 0 once expired, nothing without one."""
        left = sqlalchemy.select(TABLE.c.expires - self.now).where(TABLE.c.key == key)

        def ask() -> float | None:
            with self.engine.begin() as connection:
                return connection.execute(left).scalar_one_or_none()

        return patiently(ask, self.patience)

    def drop(self, key: str) -> None:
        """Ends the lease of `key`, whoever holds it."""
        self._remove(TABLE.c.key == key)

    def bury(self, holder: str) -> None:
        """Ends every lease of a worker that no longer works."""
        self._remove(TABLE.c.holder == holder)

    def sweep(self, over: Callable[[str], bool | None]) -> None:
        """Removes the leases that nobody will ask for.

        Args:
            over: Whether the work under a key is done, so that its lease goes whoever holds it;
                nothing where that is not known: such a lease goes when its holder does.
        """
        expired = (TABLE.c.expires < self.now).label("expired")
        rows = sqlalchemy.select(TABLE.c.key, TABLE.c.holder, TABLE.c.token, expired)

        def look() -> list[Any]:
            with self.engine.begin() as connection:
                return list(connection.execute(rows))

        useless = []
        for row in patiently(look, self.patience):
            done = over(row.key)
            if done or (done is None and (row.expired or self._gone(row.holder))):
                useless.append(row.token)
        if useless:
            self._remove(TABLE.c.token.in_(useless))

    def _remove(self, which: sqlalchemy.ColumnElement[bool]) -> None:
        def remove() -> None:
            with self.engine.begin() as connection:
                connection.execute(TABLE.delete().where(which))

        patiently(remove, self.patience)


def open_leases(
    settings: Settings, life: Life, *, time_to_live: float = TIME_TO_LIVE
) -> TableLeases:
    """The leases in the study's database, whose table is made where there is none.

    Args:
        settings: Of the study, which is open already.
        life: Of the worker that will hold them.
        time_to_live: After which silence a holder is taken for dead [s].

    Raises:
        StorageError: When the database can't be used.
    """
    engine = open_engine(settings)

    def create() -> None:
        with exclusive(settings):
            TABLE.create(engine, checkfirst=True)

    with explained(settings):
        patiently(create, settings.patience)
    return TableLeases(
        engine,
        life.name,
        gone=life.has_died,
        time_to_live=time_to_live,
        patience=settings.patience,
    )


_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
# [s] since 1970. Julian days begin 2440587.5 days earlier.
_NOW: dict[str, Any] = {
    "sqlite": sqlalchemy.literal_column("((julianday('now') - 2440587.5) * 86400.0)"),
    "postgresql": sqlalchemy.literal_column(
        "(extract(epoch from clock_timestamp())::double precision)"
    ),
}
