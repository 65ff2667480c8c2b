from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import filelock
import pytest

from plinio_sweep.store.artifacts import DAMAGED, FolderStore
from plinio_sweep.store.manifest import NAME
from tests.messages import is_sentence
from tests.sweep.bench import CONTEXT


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "deep" / "artifacts")


def fill_with(text: str) -> Any:
    def fill(folder: Path) -> None:
        (folder / "first").write_text(text)
        (folder / "second").write_text(text)

    return fill


def test_what_was_not_written_is_not_found(store: FolderStore) -> None:
    assert store.find("key") is None
    assert not store.root.exists()


def test_what_was_written_is_found(store: FolderStore) -> None:
    folder = store.write("key", fill_with("a"))
    assert store.find("key") == folder == store.root / "key"
    assert (folder / "second").read_text() == "a"


def test_a_folder_appears_whole(store: FolderStore) -> None:
    def fill(folder: Path) -> None:
        (folder / "first").write_text("a")
        assert store.find("key") is None
        (folder / "second").write_text("a")

    written = {path.name for path in store.write("key", fill).iterdir()}
    assert written == {"first", "second", NAME}


def test_a_fill_that_fails_leaves_nothing(store: FolderStore) -> None:
    def fill(folder: Path) -> None:
        (folder / "first").write_text("a")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        store.write("key", fill)
    assert list(store.root.iterdir()) == []


def test_the_first_of_two_writers_stays(store: FolderStore) -> None:
    def overtaken(folder: Path) -> None:
        store.write("key", fill_with("first"))
        fill_with("second")(folder)

    folder = store.write("key", overtaken)
    assert (folder / "first").read_text() == "first"
    assert [path.name for path in store.root.iterdir()] == ["key"]


def test_writers_of_one_key_never_mix_or_fail(store: FolderStore) -> None:
    barrier, folders = Barrier(8), []

    def fill(folder: Path, text: str) -> None:
        fill_with(text)(folder)
        barrier.wait(30)

    def write(text: str) -> None:
        folders.append(store.write("key", lambda folder: fill(folder, text)))

    threads = [Thread(target=write, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 8
    assert len({(folders[0] / name).read_text() for name in ("first", "second")}) == 1
    assert [path.name for path in store.root.iterdir()] == ["key"]


def test_a_folder_that_cannot_be_renamed_is_an_error(store: FolderStore) -> None:
    store.root.mkdir(parents=True)
    (store.root / "key").write_text("a file in the way")
    with pytest.raises(OSError):
        store.write("key", fill_with("a"))
    assert [path.name for path in store.root.iterdir()] == ["key"]


def _try_lock(root: Path, key: str) -> None:
    path = root / ".locks" / f"{key}.lock"
    try:
        filelock.FileLock(path, timeout=0).acquire()
    except filelock.Timeout:
        os._exit(7)
    os._exit(0)


def test_a_lock_keeps_other_processes_out_of_its_key(store: FolderStore) -> None:
    def result(key: str) -> int | None:
        process = CONTEXT.Process(target=_try_lock, args=(store.root, key))
        process.start()
        process.join(60)
        return process.exitcode

    with store.lock("key"):
        assert result("key") == 7
        assert result("other") == 0
    assert result("key") == 0


def test_a_stored_folder_is_as_readable_as_its_root(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "artifacts")
    folder = store.write("key", lambda draft: (draft / "file").touch())
    assert folder.stat().st_mode == store.root.stat().st_mode


# -- damage ---------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def turn(path: Path) -> None:
    """Changes a bit, and neither the size nor the time."""
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "name", "fault"),
    [
        (cut, "first", "has other contents in first"),
        (turn, "second", "has other contents in second"),
        (Path.unlink, "second", "lacks second"),
        (cut, NAME, f"has no whole {NAME}"),
        (Path.unlink, NAME, f"has no whole {NAME}"),
    ],
)
def test_a_damaged_folder_is_told_put_aside_and_made_anew(
    store: FolderStore, damage: Callable[[Path], None], name: str, fault: str
) -> None:
    damage(store.write("key", fill_with("text")) / name)
    said: list[str] = []
    found = FolderStore(store.root, warn=said.append)
    assert found.find("key") is None
    (sentence,) = said
    assert fault in sentence and is_sentence(sentence)
    (aside,) = (store.root / DAMAGED).iterdir()
    assert str(aside) in sentence and (aside / "first").exists()
    found.write("key", fill_with("text"))
    assert FolderStore(store.root).find("key") == store.root / "key"
    assert len(said) == 1


def test_who_can_make_nothing_is_refused_a_damaged_folder(store: FolderStore) -> None:
    folder = store.write("key", fill_with("text"))
    cut(folder / "first")
    with pytest.raises(ValueError, match="must be as it was written, but has other") as error:
        FolderStore(store.root).find("key")
    assert is_sentence(error.value)
    assert folder.is_dir()


def test_a_folder_is_read_once_in_a_process(store: FolderStore) -> None:
    folder = store.write("key", fill_with("text"))
    looked = FolderStore(store.root)
    assert looked.find("key") == folder
    turn(folder / "first")
    assert looked.find("key") == folder


def test_some_files_are_read_alone(store: FolderStore) -> None:
    folder = store.write("key", fill_with("a"))
    (folder / "second").write_text("weights that nobody asks for")
    assert store.read("key", ["first"]) == {"first": b"a"}
    assert store.read("other", ["first"]) is None


@pytest.mark.parametrize("names", [["first", "second"], ["third"]])
def test_a_file_that_is_not_as_it_was_written_is_not_read(
    store: FolderStore, names: list[str]
) -> None:
    folder = store.write("key", fill_with("a"))
    (folder / "second").write_text("b")
    with pytest.raises(ValueError, match=f"its {names[-1]} is not") as error:
        store.read("key", names)
    assert is_sentence(error.value)


def test_a_folder_appears_only_under_its_seal(store: FolderStore) -> None:
    @contextmanager
    def gone() -> Iterator[None]:
        assert store.find("key") is None
        raise KeyError("lost")
        yield

    with pytest.raises(KeyError):
        store.write("key", fill_with("text"), gone)
    assert store.find("key") is None
    assert list(store.root.iterdir()) == []
