"""Leases: held by one, given back, left by the dead, and lost by those who slept."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from plinio_sweep.settings import Settings
from plinio_sweep.store.leases import TABLE, TableLeases, open_leases
from plinio_sweep.sweep.life import Life
from plinio_sweep.sweep.opening import open_study
from plinio_sweep.sweep.stage import LeaseLostError
from tests.messages import is_sentence
from tests.studies.tiny import sweep
from tests.sweep.bench import CONTEXT, finish, start

pytestmark = pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)

SHORT = 1.5  # [s]


@pytest.fixture(autouse=True)
def _study(settings: Settings) -> None:
    open_study(sweep, settings)


def leases(settings: Settings, time_to_live: float = 60.0) -> TableLeases:
    return open_leases(settings, Life(settings.folder), time_to_live=time_to_live)


def rows(found: TableLeases) -> list[Any]:
    with found.engine.connect() as connection:
        return list(connection.execute(TABLE.select()))


def patiently() -> None:
    """Waits, as a worker does that nobody asks to stop."""


class EnoughError(Exception):
    pass


def not_long() -> None:
    raise EnoughError


# -- one after another ----------------------------------------------------------------------------


def test_a_lease_is_held_by_one_and_given_back(settings: Settings) -> None:
    ours, theirs = leases(settings), leases(settings)
    with ours.hold("a", patiently) as lease:
        lease.check()
        assert theirs.take("a") is None
        with pytest.raises(EnoughError), theirs.hold("a", not_long):
            raise AssertionError("it was held twice")
        with theirs.hold("b", not_long):
            assert {row.key: row.holder for row in rows(ours)} == {
                "a": ours.holder,
                "b": theirs.holder,
            }
    assert rows(ours) == []
    with theirs.hold("a", not_long):
        pass


def test_a_lease_is_given_back_when_the_work_fails(settings: Settings) -> None:
    ours = leases(settings)
    with pytest.raises(EnoughError), ours.hold("a", patiently):
        raise EnoughError
    assert rows(ours) == []


def test_a_lease_lasts_longer_than_its_time_while_its_holder_lives(settings: Settings) -> None:
    ours, theirs = leases(settings, SHORT), leases(settings)
    with ours.hold("a", patiently) as lease:
        end = time.monotonic() + 2 * SHORT
        while time.monotonic() < end:
            assert theirs.take("a") is None
            time.sleep(0.1)
        lease.check()
        with lease.sealed():
            pass


def test_all_moments_are_those_of_the_database(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = leases(settings, 60.0), leases(settings, 60.0)
    with ours.hold("a", patiently):
        truth = time.time()
        monkeypatch.setattr(time, "time", lambda: truth + 3600)  # a machine an hour ahead
        assert theirs.take("a") is None
        left = theirs.remaining("a")
        assert left is not None and 55 < left <= 60
    assert theirs.remaining("a") is None


def test_who_is_overtaken_finds_out_before_it_writes(settings: Settings) -> None:
    ours, theirs = leases(settings, 60.0), leases(settings)
    with ours.hold("a", patiently) as lease:
        expire(ours, "a")
        with theirs.hold("a", not_long) as taken:
            with (
                pytest.raises(LeaseLostError, match="'a' went to another") as error,
                lease.sealed(),
            ):
                raise AssertionError("it was about to write")
            assert is_sentence(error.value)
            with pytest.raises(LeaseLostError):
                lease.check()
            lease.release()  # what is not ours any more stays
            taken.check()
            assert [row.holder for row in rows(theirs)] == [theirs.holder]


def test_a_beat_tells_a_holder_that_it_was_overtaken(settings: Settings) -> None:
    ours, theirs = leases(settings, SHORT), leases(settings)
    with ours.hold("a", patiently) as lease:
        ours.drop("a")
        with theirs.hold("a", not_long):
            end = time.monotonic() + 30
            with pytest.raises(LeaseLostError):
                while time.monotonic() < end:
                    lease.check()
                    time.sleep(0.05)


def test_what_nobody_will_ask_for_is_swept_away(settings: Settings) -> None:
    ours = leases(settings)
    held = {key: ours.take(key) for key in ("done", "kept", "expired", "held")}
    for key in ("done", "kept", "expired"):
        expire(ours, key)
    ours.sweep({"done": True, "kept": False}.get)
    assert {row.key for row in rows(ours)} == {"kept", "held"}
    ours.sweep({"held": True}.get)  # its work is done, whoever still bears its name
    ours.sweep({"kept": True}.get)
    assert rows(ours) == []
    for lease in held.values():
        assert lease is not None
        lease.release()


def test_with_a_worker_go_its_leases(settings: Settings) -> None:
    ours, theirs = leases(settings), leases(settings)
    with ours.hold("a", patiently), ours.hold("b", patiently), theirs.hold("c", patiently):
        theirs.bury(ours.holder)
        assert [row.key for row in rows(theirs)] == ["c"]


def expire(found: TableLeases, key: str) -> None:
    """As if its holder had been silent for long."""
    with found.engine.begin() as connection:
        old = TABLE.update().where(TABLE.c.key == key).values(expires=found.now - 1)
        connection.execute(old)


def test_nobody_takes_a_lease_while_its_holder_writes(settings: Settings) -> None:
    ours, theirs = leases(settings, 60.0), leases(settings)
    order: list[str] = []

    def take() -> None:
        expire(theirs, "a")  # waits: the row is locked
        with theirs.hold("a", patiently):
            order.append("taken")

    with ours.hold("a", patiently) as lease:
        thread = threading.Thread(target=take)
        with lease.sealed():
            thread.start()
            time.sleep(0.5)
            order.append("written")
        thread.join(30)
    assert order == ["written", "taken"]


# -- processes ------------------------------------------------------------------------------------


def count_up(settings: Settings, file: Path, gate: Any) -> None:
    """Reads, waits, and writes one more: wrong as soon as two do so at once."""
    found = leases(settings)
    gate.wait(60)
    for _ in range(5):
        with found.hold("a", patiently):
            value = int(file.read_text())
            time.sleep(0.01)
            file.write_text(str(value + 1))


def test_of_four_processes_one_at_a_time_holds_a_lease(settings: Settings, tmp_path: Path) -> None:
    file, gate = tmp_path / "count", CONTEXT.Barrier(4)
    file.write_text("0")
    assert finish(*(start(count_up, settings, file, gate) for _ in range(4))) == [0] * 4
    assert file.read_text() == "20"
    assert rows(leases(settings)) == []


def hold_on(settings: Settings, time_to_live: float, told: Any) -> None:
    """Holds a lease until it is lost, and then tells so; lives as a worker does."""
    life = Life(settings.folder)
    found = open_leases(settings, life, time_to_live=time_to_live)
    with life.lived(), found.hold("a", patiently) as lease:
        told.put("held")
        try:
            while True:
                time.sleep(0.05)
                lease.check()
        except LeaseLostError:
            told.put("lost")


def test_the_lease_of_a_killed_process_of_this_machine_is_free_at_once(settings: Settings) -> None:
    told = CONTEXT.Manager().Queue()
    holder = start(hold_on, settings, 3600.0, told)
    assert told.get(timeout=60) == "held"
    ours = leases(settings)
    assert ours.take("a") is None
    os.kill(holder.pid or 0, signal.SIGKILL)
    assert finish(holder) == [-signal.SIGKILL]
    begin = time.monotonic()
    with ours.hold("a", patiently):
        assert time.monotonic() - begin < 60


def test_the_lease_of_a_killed_process_elsewhere_expires(settings: Settings) -> None:
    told = CONTEXT.Manager().Queue()
    holder = start(hold_on, settings, SHORT, told)
    assert told.get(timeout=60) == "held"
    os.kill(holder.pid or 0, signal.SIGKILL)
    assert finish(holder) == [-signal.SIGKILL]
    elsewhere = TableLeases(leases(settings).engine, "elsewhere/1:2")  # sees no lock files of ours
    with elsewhere.hold("a", patiently) as lease:
        lease.check()


def test_the_leases_of_a_killed_process_of_this_machine_are_swept_away(settings: Settings) -> None:
    told = CONTEXT.Manager().Queue()
    holder = start(hold_on, settings, 3600.0, told)
    assert told.get(timeout=60) == "held"
    ours = leases(settings)
    ours.sweep(lambda key: None)
    assert [row.key for row in rows(ours)] == ["a"]
    os.kill(holder.pid or 0, signal.SIGKILL)
    assert finish(holder) == [-signal.SIGKILL]
    ours.sweep(lambda key: None)
    assert rows(ours) == []


def test_a_process_that_wakes_up_finds_its_lease_taken(settings: Settings) -> None:
    told = CONTEXT.Manager().Queue()
    holder = start(hold_on, settings, SHORT, told)
    assert told.get(timeout=60) == "held"
    os.kill(holder.pid or 0, signal.SIGSTOP)
    ours = leases(settings, 60.0)
    with ours.hold("a", patiently) as lease:  # though the sleeper still has its lock file
        os.kill(holder.pid or 0, signal.SIGCONT)
        assert told.get(timeout=60) == "lost"
        assert finish(holder) == [0]
        lease.check()
        with lease.sealed():
            pass
        assert [row.holder for row in rows(ours)] == [ours.holder]


def test_the_table_is_made_once_by_whoever_comes_first(settings: Settings) -> None:
    engine = leases(settings).engine
    with engine.begin() as connection:
        TABLE.drop(connection)
    assert finish(*(start(leases, settings) for _ in range(3))) == [0] * 3
    assert sqlalchemy.inspect(engine).has_table(TABLE.name)
