"""The study's database: opened so that several processes can share it, errors in one sentence."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy

from plinio_sweep.settings import Settings, redacted
from plinio_sweep.sweep.connect import DATABASE_ERRORS, Connector, patiently


class StorageError(ValueError):
    """The database can't be used; nothing in it was changed."""


@contextmanager
def explained(settings: Settings) -> Iterator[None]:
    """Turns what a database raises into one sentence.

    Raises:
        StorageError: With the rule, the place and the way out.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # of our own output: `head` has seen enough
    except DATABASE_ERRORS as error:
        raise StorageError(_sentence(settings, error)) from error
    except filelock.Timeout as error:
        raise StorageError(
            f"The study's lock must come free within {settings.lock_timeout:g} s, but another "
            f"process holds {error.lock_file}; wait for it or raise `lock_timeout`."
        ) from error
    except OSError as error:
        raise StorageError(_os_sentence(settings.folder, error)) from error


def _sentence(settings: Settings, error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = " ".join(str(getattr(cause, "orig", None) or cause).split()).split("[SQL")[0].strip()
    url = redacted(settings.storage_url)
    ways = {
        "not a database": "move that file away or name another in `storage`",
        "malformed": "restore it from a copy or name another in `storage`",
        "locked": "stop the program that holds it or raise `lock_timeout`",
        "lock timeout": "wait for the other process or raise `lock_timeout`",
        "disk is full": "free some space and run the same command again",
        "disk I/O error": "check the disk's space and limits and run the same command again",
        "readonly": "make it writable or name another in `storage`",
        "unable to open": "make its folder writable or name another in `storage`",
        "version_info": "name an empty database in `storage`",
        "no such table": "name an empty database in `storage`",
        "already exists": "name an empty database in `storage`",
    }
    way = next((way for sign, way in ways.items() if sign in text), "check `storage`")
    return (
        f"The study's database must be usable, but {url} says {redacted(text)!r}; {way}: nothing "
        f"that was stored is lost."
    )


def _os_sentence(folder: Path, error: OSError) -> str:
    return (
        f"The study's folder must be writable, but {error.filename or folder} says "
        f"{error.strerror or error}; free space, change its rights or name another `folder`: "
        f"nothing that was stored is lost."
    )


def open_storage(
    settings: Settings, *, create: bool, known: bool = False
) -> optuna.storages.RDBStorage:
    """The database of `settings`, made under a lock when it is new.

    Args:
        settings: Where it is.
        create: Whether it is made when it is not there.
        known: Whether its server was there before, and is waited for if it is away.

    Raises:
        StorageError: When it can't be used, or is not there and not to be made.
    """
    with explained(settings):
        path = sqlite_path(settings.storage_url)
        _check_kind(settings.storage_url)
        if path is not None and not create and not path.is_file():
            raise StorageError(
                f"The study must have been started, but there is no database {path}; start it with "
                f"plinio-sweep run."
            )
        settings.folder.mkdir(parents=True, exist_ok=True)
        # What Optuna tells of its own is no news to our users.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        patience = settings.patience if known else 0.0
        return patiently(lambda: _connected(settings, path, known), patience)


def _connected(settings: Settings, path: Path | None, known: bool) -> optuna.storages.RDBStorage:
    # All under the lock: tables that another process is just making look like no tables of ours,
    # and the journal can't change its mode while somebody else writes.
    with exclusive(settings, known=known):
        return _opened(settings, path)


def _opened(settings: Settings, path: Path | None) -> optuna.storages.RDBStorage:
    url = settings.storage_url
    options: dict[str, Any] = {}
    if path is not None:
        options = {"connect_args": {"timeout": settings.lock_timeout}}
        _check_ours(path, options["connect_args"])
    else:
        # The lock that is held here has just been connected to the same server.
        options = dict(_connector(settings, known=True).options)
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
    except ImportError as error:
        raise StorageError(_driver_sentence(url, error)) from error
    except RuntimeError as error:
        raise StorageError(_schema_sentence(url, error)) from error
    if path is not None:
        _harden(storage.engine)
    return storage


def _connector(settings: Settings, *, known: bool) -> Connector:
    url = sqlalchemy.make_url(settings.storage_url)
    return Connector(url=url, patience=settings.patience, known=known)


def _check_kind(url: str) -> None:
    """Refuses databases in which several workers could not be kept apart."""
    backend = sqlalchemy.make_url(url).get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise StorageError(
            f"`storage` must be SQLite (one machine) or PostgreSQL (many), but got {backend!r} in "
            f"{redacted(url)}; name sqlite:///study.db or postgresql+psycopg://user@host/database."
        )


def open_engine(settings: Settings) -> sqlalchemy.Engine:
    """Connections to the study's database for tables of our own, as exact as those of Optuna.

    A connection that broke is noticed and replaced when it is next asked for.
    """
    if sqlite_path(settings.storage_url) is None:
        options = _connector(settings, known=True).options
        return sqlalchemy.create_engine(settings.storage_url, **options)
    engine = sqlalchemy.create_engine(
        settings.storage_url, connect_args={"timeout": settings.lock_timeout}
    )
    _harden(engine)
    return engine


def _schema_sentence(url: str, error: RuntimeError) -> str:
    # Optuna knows older schemas than its own, but none of a later Optuna.
    older = "storage upgrade" in str(error)
    way = f"optuna storage upgrade --storage {redacted(url)}" if older else "pip install -U optuna"
    return (
        f"The study's database must have the schema of Optuna {optuna.__version__}, but "
        f"{redacted(url)} has {'an earlier' if older else 'another'} one; run `{way}`: nothing was "
        f"changed."
    )


def _driver_sentence(url: str, error: ImportError) -> str:
    return (
        f"The driver of the study's database must be installed, but {redacted(url)} finds none: "
        f"{' '.join(str(error).split())}; pip install 'plinio-sweep[postgres]' brings that of "
        f"postgresql+psycopg://."
    )


def _check_ours(path: Path, options: Mapping[str, Any]) -> None:
    """Refuses a database of somebody else before Optuna adds its tables to it."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args=dict(options))
    try:
        tables = set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if tables and not tables >= {"studies", "trials"}:
        raise StorageError(
            f"The study's database must be empty or its own, but {path} holds the tables "
            f"{sorted(tables)[:4]}; name another in `storage`: nothing was changed."
        )


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite URL; nothing for another database.

    Raises:
        StorageError: When SQLite is to keep it in memory, where no worker could reach it.
    """
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:":
        raise StorageError(
            f"`storage` must be shared by processes, but {url} is the memory of one; name a file: "
            f"sqlite:///study.db."
        )
    return Path(parsed.database)


def _harden(engine: sqlalchemy.Engine) -> None:
    """Makes SQLite exact for several writers: every transaction takes the write lock at once.

    Without it two workers pop one queued trial (optuna/optuna#4002); a write-ahead log lets readers
    go on meanwhile.
    """

    @sqlalchemy.event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begun(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # the connection that was opened before the hooks
    engine.connect().close()


_threads = threading.RLock()
_POLL = 5e-3  # [s] between two looks at a lock file; a claim takes some 30 ms


@contextmanager
def exclusive(settings: Settings, *, known: bool = True) -> Iterator[None]:
    """One process at a time: around what reads the study and then changes it.

    A lock file beside an SQLite database; an advisory lock of the server for PostgreSQL, which
    reaches across machines.

    Args:
        settings: Where the database is.
        known: Whether its server was there before, and is waited for if it is away.
    """
    url = settings.storage_url
    if sqlalchemy.make_url(url).get_backend_name() == "postgresql":
        with _threads, _advisory_lock(settings, known):
            yield
        return
    path = sqlite_path(url) or settings.folder / "study.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=settings.lock_timeout)
    with _threads, lock.acquire(poll_interval=_POLL):
        yield


@functools.lru_cache(maxsize=16)
def _lock_engine(url: str, patience: float) -> tuple[sqlalchemy.Engine, Connector]:
    """Connections for the lock, each opened and closed with it; what they share is made once."""
    connector = Connector(url=sqlalchemy.make_url(url), patience=patience)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, creator=connector)
    return engine, connector


@contextmanager
def _advisory_lock(settings: Settings, known: bool) -> Iterator[None]:
    key = int.from_bytes(hashlib.sha256(b"plinio_sweep").digest()[:8], signed=True)
    url = settings.storage_url
    try:
        engine, connector = _lock_engine(url, settings.patience)
    except ImportError as error:
        raise StorageError(_driver_sentence(url, error)) from error
    connector.known |= known
    with engine.connect() as connection:
        connection.execute(
            sqlalchemy.text("select set_config('lock_timeout', :time, false)"),
            {"time": str(int(1000 * settings.lock_timeout))},
        )
        connection.execute(sqlalchemy.text("select pg_advisory_lock(:key)"), {"key": key})
        try:
            yield
        finally:
            connection.execute(sqlalchemy.text("select pg_advisory_unlock(:key)"), {"key": key})
