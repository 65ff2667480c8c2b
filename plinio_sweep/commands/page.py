"""`plinio-sweep show --report`: the study as one page."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from plinio_sweep.settings import Settings, load_settings, redacted
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.detail import FILES, Detail, parsed_detail
from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.train.checkpoints import write_whole
from plinio_sweep.view import choose
from plinio_sweep.view.confirm import Confirmation
from plinio_sweep.view.front import front
from plinio_sweep.view.page import page
from plinio_sweep.view.page_data import About, Hardware, names_of, page_data

COUNTED = 24  # points of a front that are counted anew, a fraction of a second each
CONFIRMED = 5  # replicates to begin with
PLACES = ("storage", "artifacts")


def save_page(
    path: Path,
    record: StudyRecord,
    file: Path,
    bits: str | None = None,
    confirmed: Confirmation | None = None,
) -> None:
    """Writes the page of the study at `path` to `file`, whole or not at all.

    Args:
        path: The study file.
        record: The study, as it was read.
        file: Where to.
        bits: Of float layers, where cost models need them.
        confirmed: What its replicates say, if it has any.

    Raises:
        ValueError: When `file` is no page.
        OSError: When it can't be written.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"`--report` must end in .html, but got {file.name!r}; write for instance report.html."
        )
    settings = load_settings(path)
    data = page_data(
        record,
        _details(record, settings),
        _hardware(path, record, bits),
        About(commands=_commands(path, record, file), places=_places(settings)),
        confirmed,
    )
    write_whole(file, page(data).encode())


def _details(record: StudyRecord, settings: Settings) -> dict[str, Detail | str]:
    """The layers of every point, or why they are not to be had."""
    store = open_store(settings)
    found: dict[str, Detail | str] = {}
    for artifact, name in names_of(record).items():
        try:
            files = store.read(artifact, FILES)
            gone = f"The artefact of {name} is gone from {redacted(settings.artifacts_url)}."
            found[artifact] = gone if files is None else parsed_detail(files, artifact)
        except ValueError as error:
            found[artifact] = redacted(str(error))
    return found


def _hardware(path: Path, record: StudyRecord, bits: str | None) -> Hardware:
    points, remark = front(record), ""
    if len(points) > COUNTED:
        remark = f"Of {len(points)} points of the front these are {COUNTED} that differ most."
        points = choose.diverse(record, COUNTED)
    seed = () if record.baseline is None else (record.baseline,)
    names = names_of(record)
    wanted = {own.artifact: names[own.artifact] for own in (*seed, *points) if own.artifact}
    if not wanted:
        return Hardware()
    from plinio_sweep.commands.hardware import counted

    try:
        found = counted(path, wanted, bits)
    except (ValueError, OSError) as error:
        # The rest of the page needs no study file.
        return Hardware(remark=f"Nothing could be counted: {redacted(str(error))}")
    return Hardware(units=found.units, cells=found.cells, remark=remark)


def _commands(path: Path, record: StudyRecord, file: Path) -> tuple[tuple[str, str], ...]:
    context = click.get_current_context(silent=True)
    given = {} if context is None else context.meta.get("plinio_sweep.given", {})

    def words(verb: str, *own: str, places: tuple[str, ...] = PLACES) -> str:
        urls = [
            word
            for name in places
            if name in given
            for word in (f"--{name}", redacted(given[name]))
        ]
        set_ = [
            f"{name}={shlex.quote(redacted(value))}"
            for name, value in sorted(os.environ.items())
            if name in _VARIABLES and name.removeprefix("PLINIO_SWEEP_").lower() not in given
        ]
        line = ["plinio-sweep", verb, str(path), *own, *urls]
        return " ".join([*set_, *map(shlex.quote, line)])

    trials = max(record.target_trials, record.count("complete"))
    chosen = choose.knee(record) or front(record)
    commands = [
        ("It was made, and goes on where it was stopped, by", ("run", "--trials", str(trials))),
        ("The front as a table", ("show",)),
        ("This page", ("show", "--report", str(file))),
    ]
    if chosen:
        again = ("show", "--confirm", str(CONFIRMED), "--report", str(file))
        commands.append(("Its front trained again from other seeds, and this page", again))
        number = str(chosen[0].number)
        commands.append(("The knee as files for a device", ("export", number, "model")))
    found = [(what, words(verb, *own)) for what, (verb, *own) in commands]
    return (*found, ("The dashboard", words("serve", places=PLACES[:1])))


# What says where a study is; the rest is not ours to tell.
_VARIABLES = frozenset(f"PLINIO_SWEEP_{name}" for name in ("STORAGE", "ARTIFACTS", "FOLDER"))


def _places(settings: Settings) -> tuple[tuple[str, str], ...]:
    return (
        ("database", redacted(settings.storage_url)),
        ("artefacts", redacted(settings.artifacts_url)),
        ("written by", f"plinio-sweep {_version()}"),
    )


def _version() -> str:
    from importlib import metadata

    return metadata.version("plinio-sweep")
