"""Results behind a URL: on a server of objects, and in the files of a driver with real folders."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.store.items import superfluous
from plinio_sweep.store.link import Link
from plinio_sweep.store.opening import open_store
from plinio_sweep.store.remote import RemoteStore
from plinio_sweep.sweep.failure import StoreError
from plinio_sweep.train.checkpoints import Checkpoints
from tests.messages import is_sentence
from tests.s3 import Server
from tests.store.test_artifacts import fill_with, turn
from tests.sweep.bench import make_worker
from tests.sweep.test_connect import Proxy, away


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        server: Server = request.getfixturevalue("s3")
        return server.bucket()
    (tmp_path / "server").mkdir()
    return f"file://{tmp_path / 'server'}"


class Machines:
    """Machines that share a URL and nothing else."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.said: list[str] = []

    def __call__(self, name: str, *, reads: bool = False) -> RemoteStore:
        link = Link(self.url, patience=0.0)
        return RemoteStore(link, self.folder / name, warn=None if reads else self.said.append)


@pytest.fixture
def machines(url: str, tmp_path: Path) -> Machines:
    return Machines(url, tmp_path)


def names(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return sorted(name.removeprefix(root).lstrip("/") for name in files.find(root))


def spoil(url: str, part: str) -> None:
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    (name,) = [name for name in files.find(root) if part in name]
    data = files.cat_file(name)
    files.pipe_file(name, bytes([data[0] ^ 1]) + data[1:])


def test_what_one_machine_writes_another_finds(machines: Machines) -> None:
    first, second = machines("a"), machines("b")
    assert second.find("key") is None
    there = first.write("key", lambda draft: nested(draft))
    here = second.find("key")
    assert here is not None and here != there
    assert (here / "deep" / "file").read_bytes() == b"\x00\xff"
    assert (here / "empty").read_bytes() == b""
    assert machines("b").find("key") == here
    assert machines.said == []


def test_some_files_are_read_without_the_others(machines: Machines) -> None:
    first, second = machines("a"), machines("b", reads=True)
    assert second.read("key", ["first"]) is None
    first.write("key", fill_with("a"))
    assert second.read("key", ["first"]) == {"first": b"a"}
    assert not (machines.folder / "b" / "key").exists()  # nothing was fetched to stay
    assert first.read("key", ["second"]) == {"second": b"a"}  # its own copy
    spoil(machines.url, "/first")
    with pytest.raises(ValueError, match="its first is not") as error:
        second.read("key", ["first"])
    assert is_sentence(error.value)


def nested(draft: Path) -> None:
    (draft / "deep").mkdir()
    (draft / "deep" / "file").write_bytes(b"\x00\xff")
    (draft / "empty").touch()


def test_a_key_is_not_there_before_its_last_file(machines: Machines) -> None:
    second = machines("b")

    @contextmanager
    def sealed() -> Iterator[None]:
        assert any(name.startswith("files/key/") for name in names(machines.url))
        assert second.find("key") is None
        yield

    machines("a").write("key", fill_with("a"), sealed)
    assert second.find("key") is not None


def test_who_lost_the_right_to_write_leaves_nothing_to_find(machines: Machines) -> None:
    @contextmanager
    def lost() -> Iterator[None]:
        raise KeyError("somebody else's")
        yield

    with pytest.raises(KeyError):
        machines("a").write("key", fill_with("a"), lost)
    assert machines("a").find("key") is None
    assert machines("b").find("key") is None


def test_all_machines_use_what_the_first_writer_wrote(machines: Machines) -> None:
    def overtaken(draft: Path) -> None:
        machines("a").write("key", fill_with("first"))
        fill_with("second")(draft)

    folder = machines("b").write("key", overtaken)
    assert (folder / "first").read_text() == "first"


def test_a_damaged_file_is_told_put_aside_and_made_anew(machines: Machines) -> None:
    machines("a").write("key", fill_with("text"))
    spoil(machines.url, "/first")
    with pytest.raises(ValueError, match="must be as it was written, but has other") as error:
        machines("c", reads=True).find("key")
    assert is_sentence(error.value)
    second = machines("b")
    assert second.find("key") is None
    (sentence,) = machines.said
    assert "has other contents in files/key/" in sentence and is_sentence(sentence)
    second.write("key", fill_with("text"))
    found = machines("c", reads=True).find("key")
    assert found is not None and (found / "first").read_text() == "text"


def test_a_damaged_copy_is_fetched_again(machines: Machines) -> None:
    folder = machines("a").write("key", fill_with("text"))
    turn(folder / "first")
    found = machines("a", reads=True).find("key")
    assert found == folder
    assert (folder / "first").read_text() == "text"


def test_what_is_only_on_this_machine_is_taken_there(machines: Machines) -> None:
    FolderStore(machines.folder / "a").write("key", fill_with("text"))
    assert machines("b").find("key") is None
    assert machines("a").find("key") == machines.folder / "a" / "key"
    assert machines("b").find("key") == machines.folder / "b" / "key"


# -- checkpoints ----------------------------------------------------------------------------------


def kept(store: RemoteStore, said: list[str]) -> Checkpoints:
    return Checkpoints(
        store.unfinished("key"), key="key", warn=said.append, mirror=store.mirror("key")
    )


def resumed(store: RemoteStore, said: list[str]) -> Any:
    found: list[Any] = []
    return found[0] if kept(store, said).resume(found.append) else None


def test_a_training_goes_on_where_another_machine_was(machines: Machines) -> None:
    said: list[str] = []
    first, second = kept(machines("a"), said), machines("b")
    assert resumed(second, said) is None
    for position in ((0, 3), (1, 0), (1, 2)):
        first.write(position, {"at": list(position)})
    assert [name.rpartition("/")[2] for name in names(machines.url)] == [
        "00000001-0000000000.checkpoint",
        "00000001-0000000002.checkpoint",
    ]
    assert resumed(second, said) == {"at": [1, 2]}
    # Who was left behind writes an old one: nothing is taken from who is further.
    kept(second, said).write((2, 0), {"at": [2, 0]})
    first.write((1, 3), {"at": [1, 3]})
    assert resumed(machines("c"), said) == {"at": [2, 0]}
    kept(second, said).clear()
    assert [name for name in names(machines.url) if name.startswith("unfinished/")] == []
    assert said == []


def test_a_checkpoint_that_was_torn_on_its_way_is_left_out(machines: Machines) -> None:
    said: list[str] = []
    first = kept(machines("a"), said)
    first.write((1, 0), {"at": 1})
    first.write((2, 0), {"at": 2})
    spoil(machines.url, "/00000002-")
    assert resumed(machines("b"), said) == {"at": 1}
    assert len(said) == 1 and "must be whole" in said[0]


# -- what nobody needs ----------------------------------------------------------------------------


NEEDED, OLD, CUT = ("0f" * 32, "1f" * 32, "2f" * 32)


def test_what_nobody_needs_is_removed_there_and_here(machines: Machines) -> None:
    store = machines("a")
    for key in (NEEDED, OLD):
        store.write(key, fill_with(key))
    for key in (OLD, CUT):
        folder = store.unfinished(key)
        Checkpoints(folder, key=key, mirror=store.mirror(key)).write((1, 0), {})
    files, root = fsspec.core.url_to_fs(machines.url)
    for name in ("photos", "files"):
        files.makedirs(f"{root}/{name}", exist_ok=True)
        files.pipe_file(f"{root}/{name}/somebody-else", b"of a bucket that is shared")
    spare = superfluous(store.items(), frozenset({NEEDED}))
    assert sorted((item.kind, item.key) for item in spare) == [
        *((2 * [("checkpoint", OLD)]) + 2 * [("checkpoint", CUT)]),  # there and here
        ("copy", OLD),
        ("result", OLD),
    ]
    assert all(item.size_bytes > 0 for item in spare)
    for item in spare:
        item.remove()
        item.remove()  # by two at once: no error
    assert [name for name in names(machines.url) if OLD in name or CUT in name] == []
    assert sum("somebody-else" in name for name in names(machines.url)) == 2
    assert machines("b").find(OLD) is None
    assert store.find(OLD) is None
    assert store.find(NEEDED) is not None
    assert superfluous(store.items(), frozenset({NEEDED})) == []


# -- servers that are away, or refuse --------------------------------------------------------------


@pytest.fixture
def proxy(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Proxy, str]]:
    """What stands between us and the server, and the URL of an empty bucket behind it."""
    url, proxy = s3.bucket(), Proxy(s3.port)
    drivers = fsspec.get_filesystem_class("s3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    drivers.clear_instance_cache()  # it knows the server itself
    yield proxy, url
    drivers.clear_instance_cache()
    proxy.shut()


def test_a_server_that_is_away_for_a_moment_is_waited_for(
    proxy: tuple[Proxy, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, url = proxy
    store = RemoteStore(Link(url, patience=60.0), tmp_path)
    store.ready()
    # Longer than the driver itself is patient.
    away(server, 4.0)
    folder = store.write("key", fill_with("text"))
    assert "is away, attempt 1" in caplog.text
    assert store.find("key") == folder


def test_what_a_lost_server_did_not_get_it_gets_later(
    proxy: tuple[Proxy, str], tmp_path: Path
) -> None:
    server, url = proxy
    store = RemoteStore(Link(url, patience=0.0), tmp_path / "a")
    store.ready()
    server.shut()
    with pytest.raises(StoreError, match=r"must answer, but s3://.* is away: ") as error:
        store.write("key", fill_with("text"))
    assert is_sentence(error.value)
    said: list[str] = []
    kept(store, said).write((1, 0), {"at": 1})
    kept(store, said).clear()
    assert len(said) == 1 and "only this machine can take it up" in said[0]
    assert is_sentence(said[0])
    server.reopen()
    assert store.find("key") == tmp_path / "a" / "key"
    assert RemoteStore(Link(url, patience=0.0), tmp_path / "b").find("key") is not None


def test_a_server_that_nobody_has_met_yet_is_not_waited_for(
    proxy: tuple[Proxy, str], tmp_path: Path
) -> None:
    server, url = proxy
    server.shut()
    begin = time.monotonic()
    with pytest.raises(StoreError, match="is away"):
        open_store(Settings(folder=tmp_path, artifacts=url, patience=600.0)).ready()
    assert time.monotonic() - begin < 60


def test_keys_that_are_refused_end_a_study_and_lose_nothing(s3: Server, tmp_path: Path) -> None:
    settings = Settings(folder=tmp_path, artifacts=s3.bucket(), tracking="none", patience=600.0)
    said: list[str] = []

    def refuse(event: Any) -> None:
        if event["event"] == "warning":
            said.append(event["text"])
        if event.get("phase") == "pit.search":
            s3.check_keys(True)

    try:
        with pytest.raises(StoreError, match=r"must let this program .* says .*check") as error:
            make_worker(settings, target=1, say=refuse).work()
    finally:
        s3.check_keys(False)
    assert is_sentence(error.value)
    assert len(said) == 1 and "only this machine can take it up" in said[0]
    again: list[Any] = []
    worker = make_worker(settings, target=1, say=again.append)
    worker.work()
    (trial,) = worker.record().trials
    assert trial.state == "complete"
    assert [event["phase"] for event in again if event["event"] == "epoch"] == ["pit.finetune"]
    assert [e["reason"] for e in again if e["event"] == "lost"] == ["its worker could not go on"]


def test_a_bucket_that_is_not_there_is_refused_at_once(s3: Server, tmp_path: Path) -> None:
    settings = Settings(folder=tmp_path, artifacts="s3://no-such-bucket/x", patience=600.0)
    with pytest.raises(StoreError, match="bucket does not exist; check that it exists") as error:
        open_store(settings, known=True).ready()
    assert is_sentence(error.value)


@pytest.mark.parametrize(
    ("place", "match"),
    [
        (
            "s3://me:secret@bucket/x",
            "must be in the environment .*, but s3://me:\\*\\*\\*@bucket/x",
        ),
        ("memory://x", "must be shared by processes, but memory://x is the memory of one"),
        ("nosuch://x", "must be a folder or a URL that fsspec knows, but got nosuch://x"),
        ("sftp://me:secret@host/x", "must be installed, but sftp://me:\\*\\*\\*@host/x finds none"),
    ],
)
def test_a_url_that_is_no_use_is_refused(place: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=match) as error:
        open_store(Settings(folder=tmp_path, artifacts=place))
    assert is_sentence(error.value)
    assert "secret" not in str(error.value)


def test_without_a_driver_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(StoreError, match=r"pip install 'plinio-sweep\[s3\]' brings") as error:
        open_store(Settings(folder=tmp_path, artifacts="s3://bucket/x"))
    assert is_sentence(error.value)


def test_a_store_of_another_form_is_refused(machines: Machines) -> None:
    files, root = fsspec.core.url_to_fs(machines.url)
    files.pipe_file(f"{root}/plinio-sweep.json", b'{"version": 2}')
    with pytest.raises(StoreError, match=r"must have the form 1, but .* name another") as error:
        machines("a").find("key")
    assert is_sentence(error.value)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_folder_is_used_as_it_is(form: str, tmp_path: Path) -> None:
    place = tmp_path / "with a space"
    store = open_store(Settings(folder=tmp_path, artifacts=form.format(place)))
    assert isinstance(store, FolderStore)
    assert store.root == place
