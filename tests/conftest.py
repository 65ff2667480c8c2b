"""One finished study for all tests that only look at it."""

from __future__ import annotations

import os

# Before torch is loaded, here and in every process that the tests start: several test processes
# with a thread a core each would get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# cuBLAS reads it once a process. Without it products of matrices have no fixed order on a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import atexit
import fcntl
import pickle
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import hypothesis
import pytest

from tests.browser import browser as browser
from tests.examples import WIDE
from tests.held import end_leases, note_leases
from tests.s3 import Server, serving
from tests.terminal import NAME, WITH_DASHBOARD, Done, run, write_study

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts in the background deaf to Ctrl-C, and so would be what we start:
    # tests that interrupt a command would wait for it without end.
    signal.signal(signal.SIGINT, signal.default_int_handler)


ROOM = 4e9  # [byte] of memory that all tests together may take for their files
MEMORY = Path("/dev/shm")


def _roomy(folder: Path) -> bool:
    """Whether there is room in `folder`, and programs may be run from it: some tests compile C."""
    if not folder.is_dir() or shutil.disk_usage(folder).free < ROOM:
        return False
    return not os.statvfs(folder).f_flag & os.ST_NOEXEC


if "TMPDIR" not in os.environ and _roomy(MEMORY):
    # Many small databases are made, written and removed: on a disk that takes a third of the time.
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

if sys.dont_write_bytecode:
    # No compiled files are wanted beside their sources, so they get a folder of their own for as
    # long as the tests run: without any, each of some hundred processes compiles all that it loads.
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="pycache-")
    atexit.register(shutil.rmtree, sys.pycache_prefix, ignore_errors=True)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False

note_leases()


@pytest.fixture(autouse=True)
def _no_lease_outlives_its_test() -> Iterator[None]:
    yield
    end_leases()


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The study of bars with four trials, and what `run` said on the way there."""

    folder: Path
    made: Path  # the folder that it was made in
    first: Done  # 3 trials by two workers
    again: Done  # 3 trials once more
    more: Done  # 4 trials
    kept: tuple[dict[str, int], ...]  # artefacts and when each was made, after each of them

    def copy(self, folder: Path) -> Path:
        """The study in a folder of its own, to be damaged."""
        return Path(shutil.copytree(self.folder, folder / "copy"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    # Each process of the tests has a folder in one of them all, where the first makes the study.
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    with (common / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = common / "finished.pickle"
        if not kept.exists():
            (common / "made").mkdir()
            kept.write_bytes(pickle.dumps(_finish(common / "made")))
        found: Finished = pickle.loads(kept.read_bytes())
        folder = found.copy(tmp_path_factory.mktemp("finished"))
    return replace(found, folder=folder)


def _finish(folder: Path) -> Finished:
    write_study(folder)

    def kept() -> dict[str, int]:
        artifacts = folder / ".plinio-sweep" / "artifacts"
        return {path.name: path.stat().st_mtime_ns for path in artifacts.glob("[!.]*")}

    first = run(folder, "run", NAME, "--trials", "3", "--workers", "2", **WITH_DASHBOARD)
    after_first = kept()
    again = run(folder, "run", NAME, "--trials", "3", "--workers", "2")
    after_again = kept()
    more = run(folder, "run", NAME, **WITH_DASHBOARD)
    return Finished(
        folder=folder,
        made=folder,
        first=first,
        again=again,
        more=more,
        kept=(after_first, after_again, kept()),
    )


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    """A server of objects of our own."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with serving() as server:
        yield server


def pytest_configure(config: pytest.Config) -> None:
    """With `-m long`, properties are tried on all their examples: before they are defined."""
    if "not long" not in config.option.markexpr:
        hypothesis.settings.register_profile(WIDE, hypothesis.settings.default)
        hypothesis.settings.load_profile(WIDE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files go first: at the end of a run nobody waits for the last of them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
