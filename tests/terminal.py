"""The command line as a user meets it: real processes, in a folder of their own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from plinio_sweep.cli import main
from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.reading import read_study

ROOT = Path(__file__).parent.parent
NAME = "bars.py"
WITH_DASHBOARD = {"TESTS_WITH_DASHBOARD": "1"}  # for an environment, where it is of matter
BARS = (ROOT / "tests" / "studies" / "tiny_cli.py").read_text(encoding="utf-8")

Done = subprocess.CompletedProcess[str]


def write_study(folder: Path, changes: Mapping[str, str] | None = None, name: str = NAME) -> Path:
    """Puts the study of bars into `folder`, with parts of its text replaced."""
    text = BARS
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def environment(**extra: str) -> dict[str, str]:
    """That of the tests, without settings of ours from outside, tracking and the dashboard."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PLINIO_SWEEP_")}
    lean = str(ROOT / "tests" / "lean")
    first = [extra.pop("PYTHONPATH", ""), lean, str(ROOT), kept.get("PYTHONPATH", "")]
    places = [place for place in first if place]
    own = {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return {**kept, **own, "PLINIO_SWEEP_TRACKING": "none", **extra}


def without(folder: Path, *modules: str) -> dict[str, Any]:
    """An environment in which `modules` are not installed; `folder` is made for it."""
    folder.mkdir()
    text = f"import sys\n\nsys.modules.update(dict.fromkeys({modules}))\n"
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


def command(*words: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command line of `plinio-sweep`, with options of the interpreter."""
    return [sys.executable, *options, "-m", "plinio_sweep.cli", *words]


def run(folder: Path, *words: str, options: tuple[str, ...] = (), **extra: str) -> Done:
    """Runs `plinio-sweep` in `folder` to its end."""
    return subprocess.run(
        command(*words, options=options),
        cwd=folder,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=300,
    )


def invoke(*words: object) -> Result:
    """The same in this process, for what needs no process of its own: torch is loaded here."""
    return CliRunner().invoke(main, [str(word) for word in words])


def refusal(*words: object) -> str:
    """The one sentence that `invoke` ends with."""
    done = invoke(*words)
    assert isinstance(done.exception, SystemExit), done.exception
    return sentence_of(done.exit_code, done.stdout, done.stderr)


def sentence(done: Done) -> str:
    """The one sentence that a wrong use ends with."""
    return sentence_of(done.returncode, done.stdout, done.stderr)


def sentence_of(code: int, stdout: str, stderr: str) -> str:
    """The same of a process that was not waited for by `run`."""
    assert code == 2, (code, stdout, stderr)
    assert "Traceback" not in stdout + stderr
    assert stderr.startswith("plinio-sweep: ")
    assert stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    assert "should not happen" not in stderr
    return stderr.removeprefix("plinio-sweep: ").strip()


def states(folder: Path) -> Counter[str]:
    """How many trials of the study in `folder` are in each state."""
    return Counter(_trials(folder).values())


def values_of(folder: Path) -> dict[float, tuple[float, ...]]:
    """What each complete trial of the study in `folder` came to, by its strength."""
    record = read_study(folder / NAME, load_settings(folder / NAME, {}))
    done = [trial for trial in record.trials if trial.state == "complete"]
    return {float(trial.params["pit.strength"]): trial.values for trial in done}


_STATES = """
    select number, case when state = 'RUNNING' and worker.trial_id is null
        then 'CLAIMED' else state end
    from trials left join trial_user_attributes as worker
    on worker.trial_id = trials.trial_id and worker.key = 'worker'
"""


def _trials(folder: Path) -> dict[int, str]:
    """State of every trial; there is none before there is a database.

    A trial that runs and bears no worker's name yet is "CLAIMED": its worker is not at work.
    """
    database = folder / ".plinio-sweep" / "study.db"
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return dict(connection.execute(_STATES))
    except sqlite3.OperationalError:
        return {}


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    """Waits until `condition` holds; fails when it does not come to hold."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.05)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A `plinio-sweep` that is still at work."""

    process: subprocess.Popen[str]
    folder: Path
    before: dict[int, str]  # trials, and their states

    def workers(self) -> list[int]:
        """Process numbers of its workers."""
        return children([self.process.pid])

    def wait_until_busy(self, workers: int, complete: int = 0) -> list[int]:
        """Waits until all workers train and some trials are complete; the workers."""

        def busy() -> bool:
            assert self.process.poll() is None, self.end()
            found = _trials(self.folder)
            # A trial may look busy whose worker is long dead.
            new = [s for n, s in found.items() if s != self.before.get(n)]
            return new.count("RUNNING") == workers and new.count("COMPLETE") >= complete

        wait_for(busy)
        return self.workers()

    def end(self, seconds: float = 120.0) -> tuple[int, str, str]:
        """Exit code and output, once it has ended by itself."""
        stdout, stderr = self.process.communicate(timeout=seconds)
        return self.process.returncode, stdout, stderr


@contextmanager
def started(folder: Path, *words: str, **extra: str) -> Iterator[Running]:
    """A `plinio-sweep` in `folder`, of which nothing outlives the block."""
    before = _trials(folder)
    process = subprocess.Popen(
        command(*words),
        cwd=folder,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Running(process=process, folder=folder, before=before)
    try:
        yield running
    finally:
        family = [*running.workers(), process.pid]
        if process.poll() is None:
            kill(family)
        process.communicate()


def kill(pids: list[int]) -> None:
    """Ends processes at once, without a chance to tidy up."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def alive(pids: list[int]) -> list[int]:
    """Those of `pids` that still run."""
    known = [pid for pid, _ in _processes()]
    return [pid for pid in pids if pid in known]


def children(pids: list[int]) -> list[int]:
    """The processes that those of `pids` started and that still run."""
    return [pid for pid, parent in _processes() if parent in pids]


def arguments() -> list[str]:
    """The command lines of all processes, as any user of this machine sees them."""
    table = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True)
    return table.stdout.splitlines()


def _processes() -> list[tuple[int, int]]:
    """Every live process and its parent."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in table.stdout.splitlines()]
    return [(int(pid), int(parent)) for pid, parent, state in rows if not state.startswith("Z")]
