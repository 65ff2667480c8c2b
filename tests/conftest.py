"""One finished study for all tests that only look at it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.terminal import NAME, Done, run, write_study


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The study of bars with four trials, and what `run` said on the way there."""

    folder: Path
    first: Done  # 3 trials by two workers
    again: Done  # 3 trials once more
    more: Done  # 4 trials
    kept: tuple[dict[str, int], ...]  # artefacts and when each was made, after each of the three

    def copy(self, folder: Path) -> Path:
        """The study in a folder of its own, to be damaged."""
        return Path(shutil.copytree(self.folder, folder / "copy"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    write_study(folder)
    runs, kept = [], []
    for words in (["3", "--workers", "2"], ["3", "--workers", "2"], ["4"]):
        runs.append(run(folder, "run", NAME, "--trials", *words))
        artifacts = folder / ".plinio-sweep" / "artifacts"
        kept.append({path.name: path.stat().st_mtime_ns for path in artifacts.glob("[!.]*")})
    first, again, more = runs
    return Finished(folder=folder, first=first, again=again, more=more, kept=tuple(kept))
