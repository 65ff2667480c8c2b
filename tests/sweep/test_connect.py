"""A database server that goes away and comes back: behind a proxy that can be shut."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.connect import Connector
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.storage import StorageError, exclusive, explained, open_storage
from tests.studies.tiny import sweep
from tests.sweep.bench import make_worker, outcome


class Proxy:
    """Hands connections on to a server, on a Unix socket or a port, until it is shut."""

    def __init__(self, target: str | int) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def shut(self) -> None:
        """Ends all connections and takes no new ones."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for end in self.open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.open.clear()

    def reopen(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if isinstance(self.target, int):
                server = socket.create_connection(("127.0.0.1", self.target))
            else:
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.target)
            self.open += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(postgresql: Callable[[], str], tmp_path: Path) -> Iterator[tuple[Proxy, Settings]]:
    url = sqlalchemy.make_url(postgresql())
    folder = str(url.query["host"])
    (place,) = Path(folder).glob(".s.PGSQL.*[0-9]")
    proxy = Proxy(str(place))
    own = url.set(host="127.0.0.1", port=proxy.port, query={})
    storage = own.render_as_string(hide_password=False)
    yield proxy, Settings(folder=tmp_path, storage=storage, tracking="none", patience=60.0)
    proxy.shut()


def away(proxy: Proxy, seconds: float) -> None:
    """Shuts the proxy now, and opens it again after a while."""
    proxy.shut()
    threading.Timer(seconds, proxy.reopen).start()


def test_a_study_rides_out_a_server_that_is_away(
    proxy: tuple[Proxy, Settings], caplog: pytest.LogCaptureFixture
) -> None:
    server, settings = proxy
    study = open_study(sweep, settings)
    study.enqueue_trial({})
    caplog.set_level(logging.WARNING)
    away(server, 1.5)
    start = time.monotonic()
    with explained(settings), exclusive(settings):
        trial = study.ask()
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert time.monotonic() - start > 1.0
    assert [t.state.name for t in study.get_trials()] == ["FAIL"]
    assert "is away, attempt 1" in caplog.text
    assert "***" in caplog.text or ":@" not in caplog.text


def test_a_connection_that_was_lost_unseen_is_made_anew(proxy: tuple[Proxy, Settings]) -> None:
    server, settings = proxy
    study = open_study(sweep, settings)
    server.shut()
    server.reopen()
    assert study.get_trials() == []


def test_the_first_connection_to_a_server_is_not_waited_for(
    proxy: tuple[Proxy, Settings],
) -> None:
    server, settings = proxy
    server.shut()
    start = time.monotonic()
    with pytest.raises(StorageError, match="must be usable"):
        open_storage(settings, create=True)
    assert time.monotonic() - start < settings.patience / 2


def test_a_worker_waits_for_the_server_that_its_run_has_met(
    proxy: tuple[Proxy, Settings],
) -> None:
    server, settings = proxy
    open_study(sweep, settings)
    away(server, 1.0)
    assert open_study(sweep, settings, known=True).get_trials() == []


def test_patience_has_an_end(proxy: tuple[Proxy, Settings]) -> None:
    server, settings = proxy
    short = replace(settings, patience=0.5)
    study = open_study(sweep, short)
    server.shut()
    with pytest.raises(StorageError, match="nothing that was stored is lost"), explained(short):
        study.get_trials()


def test_a_worker_loses_nothing_to_a_server_that_comes_and_goes(
    proxy: tuple[Proxy, Settings], tmp_path: Path
) -> None:
    server, settings = proxy
    worker = make_worker(settings, target=2)
    done = threading.Event()

    def flicker() -> None:
        for _ in range(8):
            done.wait(0.4)
            server.shut()
            done.wait(0.1)
            server.reopen()

    flickering = threading.Thread(target=flicker)
    flickering.start()
    try:
        worker.work()
    finally:
        done.set()
        flickering.join()
    straight = make_worker(Settings(folder=tmp_path / "straight", tracking="none"), target=2)
    straight.work()
    found, expected = worker.record(), straight.record()
    assert [outcome(t) for t in found.trials if t.state != "waiting"] == [
        outcome(t) for t in expected.trials
    ]


def test_other_databases_are_refused(tmp_path: Path) -> None:
    settings = Settings(folder=tmp_path, storage="mysql://me:secret@host/db")
    with pytest.raises(StorageError, match=r"SQLite .* or PostgreSQL .*'mysql'") as error:
        open_storage(settings, create=True)
    assert "secret" not in str(error.value)


def test_a_connector_that_never_met_its_server_tries_once() -> None:
    pytest.importorskip("psycopg")
    url = sqlalchemy.make_url("postgresql+psycopg://me@127.0.0.1:1/db?connect_timeout=1")
    connector = Connector(url=url, patience=60.0)
    start = time.monotonic()
    with pytest.raises(Exception, match="refused"):
        connector()
    assert time.monotonic() - start < 30
    assert not connector.known
