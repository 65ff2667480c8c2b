"""Where things run: storage, tracking, artefacts, device. What is searched is Python, this is TOML.

Read from `[tool.plinio-sweep]` of the nearest pyproject.toml, or from plinio-sweep.toml, above the
study; `PLINIO_SWEEP_STORAGE` and its like go first: options of the command line become those.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

FOLDER = ".plinio-sweep"
PREFIX = "PLINIO_SWEEP_"  # of the variables that stand for settings
SECONDS = ("checkpoint", "lock_timeout", "patience")
COUNTS = ("retries",)
SWITCHES = ("system_metrics",)
TABLES = ("slurm", "ray")  # of the engines: what is in them is theirs to judge
PLACES = ("folder", "artifacts")  # folders, relative to the file that names them


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the results of a study go and what computes them.

    Args:
        folder: Holds databases, artefacts and logs; `.plinio-sweep` beside the study by default.
        artifacts: Folder or fsspec URL of what is trained; in `folder` when empty.
        storage: URL of the study's database; SQLite in `folder` when empty.
        tracking: URI of MLflow; SQLite in `folder` when empty, "none" for no tracking.
        device: What torch calls it: "cpu", "cuda:0"; of several, as "cuda:0,cuda:1", each worker
            takes one in turn.
        lock_timeout: How long to wait for a busy database [s].
        checkpoint: Least time between two checkpoints of a training [s].
        patience: How long to wait for a server that was lost, of the database or the artefacts [s].
        retries: How often a trial is taken up again whose worker died of it.
        system_metrics: Whether CPU and memory of each worker are tracked beside its trials.
        slurm: Parameters of jobs, as submitit's `update_parameters` takes them; and `cluster`.
        ray: Arguments of `ray.init`; and `worker`, the options of each worker's actor.
    """

    folder: Path
    artifacts: str = ""
    storage: str = ""
    tracking: str = ""
    device: str = "cpu"
    lock_timeout: float = 60.0
    checkpoint: float = 10.0
    patience: float = 120.0
    retries: int = 2
    system_metrics: bool = False
    slurm: Mapping[str, Any] = field(default_factory=dict)
    ray: Mapping[str, Any] = field(default_factory=dict)

    @property
    def storage_url(self) -> str:
        """URL of the study's database."""
        return self.storage or f"sqlite:///{self.folder / 'study.db'}"

    @property
    def tracking_uri(self) -> str:
        """URI of MLflow; empty for no tracking."""
        if self.tracking == "none":
            return ""
        return self.tracking or f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def outbox(self) -> Path:
        """Where waits what MLflow could not be told."""
        return self.folder / "outbox"

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device by itself; the first is that of a command without workers."""
        return tuple(name.strip() for name in self.device.split(","))

    @property
    def artifacts_url(self) -> str:
        """Root of the content-addressed artefacts: a folder or a URL."""
        return self.artifacts or str(self.folder / "artifacts")

    @property
    def logs(self) -> Path:
        """Where workers write what they say."""
        return self.folder / "logs"


def load_settings(study: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings for the study in the file `study`.

    Raises:
        ValueError: For unknown names, values of a wrong kind or a file that is no TOML.
    """
    study = study.absolute()
    found: dict[str, Any] = {}
    for folder in study.parents:
        if (table := _table(folder)) is not None:
            found = dict(table)
            for name in PLACES:
                if isinstance(place := found.get(name), str) and place and not is_url(place):
                    found[name] = str(folder / place)
            break
    names = {f.name for f in fields(Settings)}
    for name in names:
        if value := environment.get(variable(name)):
            found[name] = value
    if unknown := sorted(found.keys() - names):
        raise ValueError(
            f"Settings must be among {sorted(names)}, but got {unknown}; correct the names in "
            f"[tool.plinio-sweep]."
        )
    settings = Settings(folder=study.parent / FOLDER)
    for name, value in found.items():
        settings = replace(settings, **{name: _convert(name, value)})
    return settings


def variable(name: str) -> str:
    """The environment variable that stands for the setting `name`."""
    return f"{PREFIX}{name.upper()}"


def is_url(place: str) -> bool:
    """Whether `place` is a URL, not a folder."""
    return "://" in place


def _table(folder: Path) -> Mapping[str, Any] | None:
    own, project = folder / "plinio-sweep.toml", folder / "pyproject.toml"
    try:
        if own.is_file():
            return tomllib.loads(own.read_text(encoding="utf-8"))
        if project.is_file():
            tools = tomllib.loads(project.read_text(encoding="utf-8")).get("tool", {})
            table = tools.get("plinio-sweep")
            return table if isinstance(table, dict) else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        file = own if own.is_file() else project
        raise ValueError(
            f"Settings must be TOML, but {file} is none: {error}; correct that place."
        ) from error
    return None


def _convert(name: str, value: Any) -> Any:
    if name in SECONDS or name in COUNTS:
        return _number(name, value)
    if name in SWITCHES:
        return _switch(name, value)
    if name in TABLES:
        if isinstance(value, dict):
            return value
        raise ValueError(
            f"Setting `{name}` must be a table of a file, but got {value!r}; write [{name}] into "
            f"plinio-sweep.toml."
        )
    if isinstance(value, str):
        if name == "artifacts" and value and not is_url(value):
            return str(Path(value).absolute())
        return Path(value).absolute() if name == "folder" else value
    raise ValueError(f"Setting `{name}` must be a string, but got {value!r}; correct it.")


def _number(name: str, value: Any) -> float | int:
    whole = name in COUNTS
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if 0 <= number < math.inf and not (whole and number % 1):
        return int(number) if whole else number
    kind = "a whole number" if whole else "a number of seconds"
    raise ValueError(f"Setting `{name}` must be {kind}, 0 or more, but got {value!r}; correct it.")


def _switch(name: str, value: Any) -> bool:
    words = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
    found = words.get(str(value).lower())
    if found is None:
        raise ValueError(f"Setting `{name}` must be true or false, but got {value!r}; correct it.")
    return found


def redacted(text: str) -> str:
    """`text` with the passwords of its URLs hidden: for everything printed or logged."""
    # To the last @ of the word: a password may hold any sign, and too much hidden does no harm.
    text = re.sub(r"(?<=://)([^:/@\s]*):\S*@", r"\1:***@", text)
    names = "password|secret|token|key|sig|signature"
    return re.sub(rf"([?&]([a-z_-]*[_-])?({names})=)[^&\s'\"]+", r"\1***", text, flags=re.I)
