"""The database: made once, shared, and refused in one sentence."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import filelock
import optuna
import pytest
import sqlalchemy

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.drift import identity
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.storage import (
    StorageError,
    exclusive,
    explained,
    open_storage,
    sqlite_path,
)
from tests.messages import is_sentence
from tests.studies.tiny import sweep


@contextmanager
def refused(pattern: str) -> Iterator[None]:
    with pytest.raises(StorageError, match=pattern) as error:
        yield
    assert is_sentence(error.value)


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    return replace(settings, lock_timeout=0.5)


# -- opening --------------------------------------------------------------------------------------


def test_a_new_database_is_made_with_its_folder(settings: Settings) -> None:
    deep = replace(settings, folder=settings.folder / "a" / "b")
    open_storage(deep, create=True)
    assert (deep.folder / "study.db").is_file()


def test_a_write_ahead_log_lets_readers_go_on(settings: Settings) -> None:
    open_study(sweep, settings)
    with closing(sqlite3.connect(settings.folder / "study.db")) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_every_transaction_takes_the_write_lock_at_once(settings: Settings) -> None:
    storage = open_storage(settings, create=True)
    with (
        storage.engine.begin(),
        closing(sqlite3.connect(settings.folder / "study.db", timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("BEGIN IMMEDIATE")


def test_a_database_that_is_not_there_is_not_made_by_a_reader(settings: Settings) -> None:
    nowhere = replace(settings, folder=settings.folder / "none")
    with refused(r"must have been started, but there is no database .*study\.db; start it"):
        open_storage(nowhere, create=False)
    assert not nowhere.folder.exists()


def test_the_database_of_others_is_refused_and_left_alone(settings: Settings) -> None:
    path = settings.folder / "study.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table customers (name text)")
        connection.execute("create table studies (title text)")
    before = path.read_bytes()
    with refused(r"must be empty or its own, but .* holds the tables \['customers', 'studies'\]"):
        open_storage(settings, create=True)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(settings: Settings) -> None:
    path = settings.folder / "study.db"
    path.write_bytes(b"not a database at all, but text" * 99)
    before = path.read_bytes()
    with refused("says 'file is not a database'; move that file away or name another"):
        open_storage(settings, create=True)
    assert path.read_bytes() == before


def test_a_locked_database_is_told_after_the_time_out(hasty: Settings) -> None:
    open_study(sweep, hasty)
    with (
        closing(sqlite3.connect(hasty.folder / "study.db", isolation_level=None)) as other,
        refused("says 'database is locked'; stop the program that holds it"),
    ):
        other.execute("BEGIN EXCLUSIVE")
        open_study(sweep, hasty)
    open_study(sweep, hasty)


def test_a_held_lock_is_told_after_the_time_out(hasty: Settings) -> None:
    with (
        filelock.FileLock(hasty.folder / "study.db.lock"),
        refused(r"lock must come free within 0.5 s, but another process holds .*\.lock; wait"),
    ):
        open_storage(hasty, create=True)


def test_a_file_where_the_folder_should_be_is_told(settings: Settings) -> None:
    path = settings.folder / "file"
    path.write_text("here first")
    with refused("folder must be writable, but .*file.* says .*; free space, change its rights"):
        open_storage(replace(settings, folder=path / "results"), create=True)


def test_studies_in_two_folders_may_share_a_database(settings: Settings) -> None:
    storage = f"sqlite:///{settings.folder / 'shared.db'}"
    one = Settings(folder=settings.folder / "one", storage=storage, lock_timeout=0.1)
    other = Settings(folder=settings.folder / "other", storage=storage, lock_timeout=0.1)
    open_study(sweep, one)
    assert open_study(sweep, other).user_attrs["definition"] == identity(sweep)
    with exclusive(one), refused(r"another process holds .*shared\.db\.lock"):
        open_study(sweep, other)  # one lock a database, not one a folder


# -- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///study.db", Path("study.db")),
        ("sqlite:////tmp/study.db", Path("/tmp/study.db")),
        ("sqlite+pysqlite:////tmp/study.db?timeout=3", Path("/tmp/study.db")),
        ("postgresql+psycopg://host/db", None),
    ],
)
def test_the_file_of_an_address_is_found(url: str, path: Path | None) -> None:
    assert sqlite_path(url) == path


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str, settings: Settings) -> None:
    with refused("must be shared by processes, but .* is the memory of one; name a file"):
        open_storage(replace(settings, storage=url), create=True)


def test_what_is_no_address_is_refused(settings: Settings) -> None:
    with refused("says '?Could not parse SQLAlchemy URL"):
        open_storage(replace(settings, storage="study.db"), create=True)


def test_a_driver_that_is_not_installed_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with refused("driver of the study's database must be installed, but .*pip install"):
        open_storage(
            replace(settings, storage="postgresql+psycopg://me:secret@host/db"), create=True
        )


def test_a_password_is_in_no_error(settings: Settings) -> None:
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://me:se/cr@et@localhost:1/db?connect_timeout=1"
    with pytest.raises(StorageError) as error:
        open_storage(replace(settings, storage=url), create=True)
    assert is_sentence(error.value)
    assert "me:***@localhost" in str(error.value)
    assert "cr@" not in str(error.value)


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_server_that_is_locked_is_told_after_the_time_out(settings: Settings) -> None:
    open_study(sweep, settings)
    with exclusive(settings), refused("lock timeout.*wait for the other process"):
        open_study(sweep, replace(settings, lock_timeout=0.3))


# -- errors of the database -----------------------------------------------------------------------


def test_errors_of_others_pass_through(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), explained(settings):
        raise ZeroDivisionError
    with pytest.raises(optuna.exceptions.DuplicatedStudyError), explained(settings):
        raise optuna.exceptions.DuplicatedStudyError


# -- schemas --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("revision", "way"),
    [("v2.6.0.a", "run `optuna storage upgrade --storage sqlite:"), ("v99", "pip install -U opt")],
)
def test_a_schema_of_another_version_is_refused_with_the_way_out(
    settings: Settings, revision: str, way: str
) -> None:
    engine = open_storage(settings, create=True).engine
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"update alembic_version set version_num='{revision}'"))
    engine.dispose()
    with pytest.raises(StorageError, match=f"must have the schema of Optuna.*{way}") as error:
        open_storage(settings, create=True)
    assert is_sentence(error.value)
