"""Checkpoints of one run: two are kept, and only whole ones are used."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plinio_sweep.train.checkpoints import Checkpoints
from tests.messages import is_sentence


class Keeper:
    """Checkpoints in a folder, and what they said."""

    def __init__(self, folder: Path, key: str = "mine", seconds: float | None = None) -> None:
        self.said: list[str] = []
        self.own = Checkpoints(folder, key=key, seconds=seconds, warn=self.said.append)

    def write(self, *epochs: int) -> None:
        for epoch in epochs:
            self.own.write((epoch, 0), {"epoch": epoch, "weight": torch.full((50,), 1.0 * epoch)})

    def found(self) -> int | None:
        states: list[Mapping[str, Any]] = []
        assert self.own.resume(states.append) is bool(states)
        return states[0]["epoch"] if states else None


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: for who writes, a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_furthest_of_two_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there yet"
    assert Keeper(folder).found() is None
    keeper = Keeper(folder)
    keeper.write(1, 2, 3, 10)
    assert len(files(folder)) == 2
    later = Keeper(folder)
    assert later.found() == 10
    later.write(11)
    assert len(files(folder)) == 2
    assert Keeper(folder).found() == 11
    assert keeper.said == later.said == []


def test_the_same_place_again_leaves_the_one_before(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.write(1, 2, 2)
    assert len(files(tmp_path)) == 2
    later = Keeper(tmp_path)
    assert later.found() == 2
    later.write(2)
    assert len(files(tmp_path)) == 2
    files(tmp_path)[-1].unlink()
    later.write(2)
    assert Keeper(tmp_path).found() == 2


def test_steps_inside_of_an_epoch_lie_between_epochs(tmp_path: Path) -> None:
    keeper = Checkpoints(tmp_path, key="a")
    positions = [(9, 0), (9, 2), (9, 11), (9, 100_000), (10, 0), (10, 1)]
    for position in positions:
        keeper.write(position, {"at": position})
        found: list[Any] = []
        Checkpoints(tmp_path, key="a").resume(found.append)
        assert found == [{"at": position}]


def test_who_writes_an_old_state_takes_nothing_from_who_is_further(tmp_path: Path) -> None:
    asleep, awake = Keeper(tmp_path), Keeper(tmp_path)
    asleep.write(1, 2)
    assert awake.found() == 2
    awake.write(3, 4, 5)
    asleep.write(3)
    assert Keeper(tmp_path).found() == 5


@pytest.mark.parametrize("damage", ["truncated", "emptied", "altered", "replaced"])
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, damage: str
) -> None:
    Keeper(tmp_path).write(1, 2)
    last = files(tmp_path)[-1]
    data = last.read_bytes()
    changed = {
        "truncated": data[:-40],
        "emptied": b"",
        "altered": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "replaced": b"something else",
    }
    last.write_bytes(changed[damage])
    keeper = Keeper(tmp_path)
    assert keeper.found() == 1
    (text,) = keeper.said
    assert is_sentence(text)
    assert str(last) in text
    assert "the one before" in text
    # What is good stays until there are two again, and what is not goes.
    keeper.write(2)
    assert Keeper(tmp_path).found() == 2
    keeper.write(3)
    assert len(files(tmp_path)) == 2


def test_with_all_of_them_damaged_training_starts_anew(tmp_path: Path) -> None:
    Keeper(tmp_path).write(1, 2)
    for path in files(tmp_path):
        path.write_bytes(path.read_bytes()[:100])
    keeper = Keeper(tmp_path)
    assert keeper.found() is None
    assert len(keeper.said) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_damage_does_more_than_fall_back(tmp_path: Path, data: st.DataObject) -> None:
    writer = Keeper(tmp_path)
    writer.own.clear()
    writer.write(1, 2)
    whole = set()
    for epoch, path in zip((1, 2), files(tmp_path), strict=True):
        before = path.read_bytes()
        start = data.draw(st.integers(0, len(before)))
        stop = data.draw(st.integers(start, len(before)))
        after = before[:start] + data.draw(st.binary(max_size=20)) + before[stop:]
        path.write_bytes(after)
        whole |= {epoch} if after == before else set()
    keeper = Keeper(tmp_path)
    assert keeper.found() == max(whole, default=None)
    assert all(is_sentence(text) for text in keeper.said)


def test_one_of_another_run_is_not_used(tmp_path: Path) -> None:
    Keeper(tmp_path, "other").write(4, 5)
    keeper = Keeper(tmp_path)
    assert keeper.found() is None
    assert all("'other'" in text and is_sentence(text) for text in keeper.said)
    keeper.write(1, 2, 3)
    assert Keeper(tmp_path).found() == 3


def test_one_that_does_not_fit_is_not_used(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.write(1, 2)
    taken: list[int] = []

    def restore(state: Mapping[str, Any]) -> None:
        if state["epoch"] == 2:
            raise ValueError("A net must be as wide as its state, but is not; train it anew.")
        taken.append(state["epoch"])

    assert keeper.own.resume(restore)
    assert taken == [1]
    assert "as wide as" in keeper.said[0]
    assert is_sentence(keeper.said[0])


def test_a_full_disk_is_said_once_and_loses_nothing(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.write(1, 2)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    with full_disk(200):
        keeper.write(3, 4)
    assert {path: path.read_bytes() for path in files(tmp_path)} == before
    (text,) = keeper.said
    assert is_sentence(text)
    assert "File too large" in text
    assert "free space" in text
    assert Keeper(tmp_path).found() == 2
    keeper.write(5)
    assert Keeper(tmp_path).found() == 5
    with full_disk(200):
        keeper.write(6)
    assert len(keeper.said) == 2  # it had gone well between


def test_a_folder_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    keeper = Keeper(tmp_path / "file" / "folder")
    assert keeper.found() is None
    keeper.write(1)
    assert is_sentence(keeper.said[0])
    keeper.own.clear()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_state_that_is_no_data_is_said(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.own.write((1, 0), {"net": object()})
    assert "holds object" in keeper.said[0]
    assert is_sentence(keeper.said[0])
    assert files(tmp_path) == []


def test_what_a_killed_process_left_goes_away(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.write(1)
    (tmp_path / "x.draft").write_bytes(b"half")
    assert Keeper(tmp_path).found() == 1
    keeper.write(2)
    assert len(files(tmp_path)) == 2
    (tmp_path / "y.draft").write_bytes(b"half")
    keeper.own.clear()
    assert not tmp_path.exists()


def test_clearing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.write(1, 2)
    (tmp_path / "notes.txt").write_text("mine")
    keeper.own.clear()
    assert [path.name for path in files(tmp_path)] == ["notes.txt"]
    assert keeper.found() is None
    keeper.own.clear()


@pytest.mark.skipif(os.name != "posix", reason="rights of files are those of POSIX")
def test_others_may_read_it_as_they_may_its_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Keeper(tmp_path).write(1)
    (path,) = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_every_epoch_is_due_unless_there_is_a_time(tmp_path: Path) -> None:
    def due(seconds: float | None) -> list[bool]:
        keeper = Checkpoints(tmp_path, key="a", seconds=seconds)
        return [keeper.due(epoch=False), keeper.due(epoch=True)]

    assert due(None) == [False, True]
    assert due(0.0) == [True, True]
    assert due(1e6) == [False, False]


def test_a_time_starts_again_with_every_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    keeper = Keeper(tmp_path, seconds=10.0)
    now[0] = 10.0
    assert keeper.own.due(epoch=False)
    keeper.write(1)
    now[0] = 19.0
    assert not keeper.own.due(epoch=True)
    now[0] = 20.0
    assert keeper.own.due(epoch=False)
    with full_disk(100):
        keeper.write(2)
    assert not keeper.own.due(epoch=False)  # a full disk is not tried at every step


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_time_below_zero_is_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="`seconds` must be at least 0") as error:
        Checkpoints(tmp_path, key="a", seconds=seconds)
    assert is_sentence(error.value)
