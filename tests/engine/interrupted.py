"""Studies on engines of others: stopped once, disturbed once, and what must hold after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from tests.conftest import Finished
from tests.terminal import NAME, started, states, values_of, wait_for


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """A study that was stopped, and disturbed when it went on."""

    folder: Path
    code: int  # of the command that was stopped
    said: str
    left: Counter[str]  # states of the trials after it
    code_in_the_end: int
    said_in_the_end: str


def command(engine: str, workers: int = 2) -> tuple[str, ...]:
    """Some workers on `engine`."""
    return ("run", NAME, "--engine", engine, "--workers", str(workers))


def write_table(folder: Path, engine: str, *lines: str) -> None:
    """The settings of `engine` for a study in `folder`."""
    path = folder / "plinio-sweep.toml"
    path.write_text("\n".join([f"[{engine}]", *lines, ""]), encoding="utf-8")


def interrupt(
    folder: Path,
    engine: str,
    *,
    stop: Signals,
    disturb: Callable[[list[int]], None],
    variables: Mapping[str, str],
) -> Interrupted:
    """Runs the study in `folder` on two workers, until it is stopped, and again to its end.

    Args:
        folder: With the study and the settings of the engine.
        engine: Its name.
        stop: What the first command is sent.
        disturb: Does harm to the second one, whose two workers it is told of.
        variables: Of the environment of both.
    """
    with started(folder, *command(engine), **variables) as running:
        running.wait_until_busy(2)
        running.process.send_signal(stop)
        code, said, _ = running.end(seconds=40)
    # A cluster waits for jobs to end; what plays one here may have been quicker.
    wait_for(lambda: not states(folder)["RUNNING"])
    left = states(folder)
    with started(folder, *command(engine), **variables) as running:
        disturb(running.wait_until_busy(2))
        code_in_the_end, said_in_the_end, _ = running.end()
    return Interrupted(
        folder=folder,
        code=code,
        said=said,
        left=left,
        code_in_the_end=code_in_the_end,
        said_in_the_end=said_in_the_end,
    )


def check_stopped(found: Interrupted, engine: str) -> None:
    """The first command has put its trials back, and said how to go on."""
    assert found.code == 130
    assert "each worker puts its trial back" in found.said
    again = f"continue with: plinio-sweep run {NAME} --workers 2 --engine {engine}\n"
    assert found.said.endswith(again)
    assert found.left["WAITING"] >= 1
    assert found.left["RUNNING"] == 0


def check_ended(found: Interrupted) -> None:
    """The second one has lost nothing."""
    assert found.code_in_the_end == 0, found.said_in_the_end
    assert "4 of 4 trials complete, 0 failed" in found.said_in_the_end


def check_values(found: Interrupted, finished: Finished) -> None:
    """All came to what undisturbed workers come to."""
    values = values_of(found.folder)
    assert len(values) == 4
    assert values == values_of(finished.folder)
