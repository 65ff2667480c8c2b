"""Notes outlive whoever wrote them, whole and in their order."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from unittest import mock

import pytest

from plinio_sweep.store.outbox import Outbox
from tests.sweep.bench import finish, start


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


def test_notes_come_in_the_order_in_which_they_were_written(outbox: Outbox) -> None:
    for number in range(50):
        outbox.put({"number": number})
    assert [outbox.read(path)["number"] for path in outbox.waiting()] == list(range(50))


def test_a_note_that_was_spoilt_is_seen(outbox: Outbox) -> None:
    path = outbox.put({"do": "fail", "reason": "größer"})
    assert outbox.read(path) == {"do": "fail", "reason": "größer"}
    path.write_bytes(path.read_bytes().replace(b"fail", b"fall"))
    with pytest.raises(ValueError, match="as it was written"):
        outbox.read(path)


def test_what_is_refused_waits_no_more_but_is_kept(outbox: Outbox) -> None:
    aside = outbox.refuse(outbox.put({"do": "fail"}))
    assert not outbox.waiting()
    assert outbox.read(aside) == {"do": "fail"}


def test_what_comes_while_notes_are_handed_on_is_handed_on_too(outbox: Outbox) -> None:
    told: list[int] = []

    def hand_on(path: Path) -> bool:
        told.append(number := outbox.read(path)["number"])
        if number < 3:
            outbox.put({"number": number + 1})
        outbox.done(path)
        return True

    outbox.put({"number": 0})
    outbox.drain(hand_on)
    assert told == [0, 1, 2, 3]
    assert not outbox.waiting()


def test_one_process_at_a_time_hands_on(outbox: Outbox) -> None:
    with outbox.held(0.0) as first, Outbox(outbox.folder).held(0.0) as second:
        assert first
        assert not second
    with Outbox(outbox.folder).held(0.0) as third:
        assert third


def write(folder: Path, worker: int, cut: bool) -> None:
    """Writes twenty notes; is killed in the middle of one, if told."""
    outbox = Outbox(folder)
    for number in range(20):
        if cut and number == 10:
            # Where the note has its bytes and not yet its name; nothing comes after it.
            with mock.patch("os.fsync", lambda file: os.kill(os.getpid(), signal.SIGKILL)):
                outbox.put({"worker": worker, "number": number})
        outbox.put({"worker": worker, "number": number})


def test_notes_of_many_processes_are_whole_and_one_that_was_cut_is_none(outbox: Outbox) -> None:
    workers = [start(write, outbox.folder, worker, worker == 3) for worker in range(4)]
    assert finish(*workers) == [0, 0, 0, -signal.SIGKILL]
    found = [outbox.read(path) for path in outbox.waiting()]
    for worker in range(4):
        numbers = [note["number"] for note in found if note["worker"] == worker]
        assert numbers == list(range(10 if worker == 3 else 20))
