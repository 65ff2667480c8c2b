"""Wrong use ends with exit code 2 and one sentence, and nothing that was stored is lost."""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.drift import identity
from plinio_sweep.sweep.opening import open_study
from tests.conftest import Finished
from tests.terminal import (
    NAME,
    command,
    environment,
    invoke,
    refusal,
    run,
    sentence,
    sentence_of,
    write_study,
)

IMPORTS = "from torch import Tensor, nn\n"
END = "    trials=4,\n)\n"


def digest(path: Path) -> str:
    # By another process: one that closes a file gives up its locks on it (POSIX), and without its
    # own lock SQLite, open in this one, would lose the log from which it reads.
    words = ["sha256sum", str(path)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


# -- the study file -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["check", "run", "show"])
def test_a_study_file_that_is_missing(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal(verb, "nothing.py")
    assert "nothing.py" in text
    assert "correct the path" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"sweep = Sweep(": "dict("}, ["exactly one `Sweep`", "holds 0"], id="none"),
        pytest.param(
            {END: f"{END}\nfrom dataclasses import replace\n\nsecond = replace(sweep, name='b')\n"},
            ["exactly one `Sweep`", "holds 2"],
            id="two",
        ),
        pytest.param(
            {"    trials=4": "    trails=4"},
            ["bars.py:", "`Sweep` takes the fields", "'trails'", "did you mean trials"],
            id="wrong field",
        ),
        pytest.param(
            {IMPORTS: f"{IMPORTS}raise RuntimeError('no data\\nhere')\n"},
            ["bars.py must run without errors, but line", "RuntimeError: no data here"],
            id="raises on import",
        ),
        pytest.param({"sweep = Sweep(": "sweep = = Sweep("}, ["SyntaxError"], id="no Python"),
        pytest.param(
            {IMPORTS: f"{IMPORTS}import no_such_library\n"}, ["no_such_library"], id="a library"
        ),
        pytest.param(
            {END: f"    objectives=('-acuracy', 'size_bytes'),\n{END}"},
            ["`objectives`", "'acuracy'", "size_bytes", "correct the name"],
            id="unknown objective",
        ),
        pytest.param(
            {END: f"    limits={{'cycles': 1e6}},\n{END}"},
            ["`limits`", "'cycles'", "correct the name"],
            id="unknown cost",
        ),
        pytest.param(
            {END: f"    limits={{'size_bytes': 100, '-size_bytes': -200}},\n{END}"},
            ["`limits` must leave something", "size_bytes <= 100", "size_bytes >= 200"],
            id="limits that exclude each other",
        ),
        pytest.param({'name="bars"': 'name="two words"'}, ["`name`", "'two words'"], id="name"),
        pytest.param(
            {"LogUniform(low=0.1, high=30.0)": "LogUniform(low=30.0, high=0.1)"},
            ["0 < low <= high"],
            id="range",
        ),
        pytest.param(
            {"Space(": "Space(orders=('pit>qat',), "}, ["`orders`", "'qat'"], id="unknown method"
        ),
        pytest.param({"epochs=3, lr=1e-2": "epochs=0, lr=1e-2"}, ["`search`"], id="no search"),
    ],
)
def test_a_study_that_is_wrong_starts_nothing(
    tmp_path: Path, changes: dict[str, str], words: list[str]
) -> None:
    text = refusal("run", write_study(tmp_path, changes))
    for word in words:
        assert word in text, text
    assert not (tmp_path / ".plinio-sweep").exists()


def test_a_net_that_cannot_be_traced_ends_a_run_and_may_then_be_corrected(tmp_path: Path) -> None:
    line = "        x = F.relu(self.first_norm(self.first(x)))\n"
    study = write_study(tmp_path, {line: f"{line}        x = x if x.sum() > 0 else -x\n"})
    number = study.read_text().splitlines().index("        x = x if x.sum() > 0 else -x") + 1
    text = sentence(run(tmp_path, "run", NAME))
    assert f"bars.py:{number}" in text
    assert "torch.fx.wrap" in text
    corrected = load_study(write_study(tmp_path))
    stored = open_study(corrected, load_settings(study), file=NAME)
    assert stored.user_attrs["definition"] == identity(corrected)


def test_a_changed_study_is_refused_with_its_fields(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path)
    database = folder / ".plinio-sweep" / "study.db"
    study = write_study(folder, {"epochs=3, lr=1e-2": "epochs=4, lr=2e-2"})
    before = digest(database)
    text = refusal("run", study)
    assert "recipe.search.epochs: 3 -> 4" in text
    assert "recipe.search.lr: 0.01 -> 0.02" in text
    assert "--accept-drift" in text
    assert digest(database) == before
    accepted = invoke("run", study, "--accept-drift")
    assert accepted.exit_code == 0, accepted.stderr
    assert "4 of 4 trials complete" in accepted.stdout
    more = invoke("run", study, "--trials", "5")
    assert more.exit_code == 0, more.stderr
    assert "since trial 4, as accepted: recipe.search.epochs: 3 -> 4" in more.stdout


@pytest.mark.parametrize(
    "words",
    [["run", NAME, "--trials", "0"], ["run", NAME, "--workers", "many"], ["serve"], ["train"]],
    ids=" ".join,
)
def test_words_that_the_command_line_does_not_know(tmp_path: Path, words: list[str]) -> None:
    done = invoke(*words)
    assert done.exit_code == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


# -- the database ---------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["show"], ["export", "0", "model"], ["serve"]])
def test_what_needs_a_study_says_how_to_start_it(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path)
    text = refusal(words[0], study, *words[1:])
    assert "must have been started" in text
    assert "start it with plinio-sweep run" in text
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_another_study_in_the_same_database_is_told_by_name(
    finished: Finished, tmp_path: Path
) -> None:
    folder = finished.copy(tmp_path)
    study = write_study(folder, {'name="bars"': 'name="stripes"'}, name="stripes.py")
    text = refusal("show", study)
    assert "['bars']" in text
    assert "'stripes'" in text


def damage(path: Path, how: str) -> None:
    """Makes of a database something that is none of ours."""
    content = path.read_bytes()
    path.unlink()
    if how == "foreign":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("create table people (name text)")
    else:
        path.write_bytes({"garbage": b"no database" * 500, "cut": content[:20_000]}[how])


@pytest.mark.parametrize("verb", ["run", "show"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("garbage", ["file is not a database", "name another in `storage`"]),
        ("cut", ["malformed", "restore it from a copy"]),
        ("foreign", ["['people']", "name another in `storage`"]),
    ],
)
def test_a_database_that_is_none_is_left_as_it_is(
    finished: Finished, tmp_path: Path, verb: str, how: str, words: list[str]
) -> None:
    folder = finished.copy(tmp_path)
    database = folder / ".plinio-sweep" / "study.db"
    damage(database, how)
    before = digest(database)
    text = refusal(verb, folder / NAME)
    for word in words:
        assert word in text, text
    assert digest(database) == before


@pytest.fixture
def locked(finished: Finished, tmp_path: Path) -> Iterator[Path]:
    """A study whose database another program holds."""
    folder = finished.copy(tmp_path)
    database = folder / ".plinio-sweep" / "study.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("begin exclusive")
        yield folder
        connection.execute("rollback")


@pytest.mark.parametrize("verb", ["run", "show"])
def test_a_database_that_stays_locked_is_waited_for_and_named(
    locked: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLINIO_SWEEP_LOCK_TIMEOUT", "0.5")
    text = refusal(verb, locked / NAME)
    assert "database is locked" in text
    assert "`lock_timeout`" in text


@pytest.mark.parametrize("verb", ["run", "show"])
@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
def test_a_server_that_is_not_there_is_named_without_its_password(
    tmp_path: Path, verb: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    url = f"{driver}://ada:s3cret@127.0.0.1:1/sweeps"
    monkeypatch.setenv("PLINIO_SWEEP_STORAGE", url)
    done = invoke(verb, write_study(tmp_path))
    text = sentence_of(done.exit_code, done.stdout, done.stderr)
    assert f"{driver}://ada:***@127.0.0.1:1/sweeps" in text
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"s3cret" in text for text in [*written, done.stdout.encode()])
    assert "s3cret" not in done.stderr


def test_a_database_of_another_kind_says_which_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLINIO_SWEEP_STORAGE", "oracle://ada:s3cret@host/x")
    text = refusal("run", write_study(tmp_path))
    assert "must be SQLite (one machine) or PostgreSQL (many), but got 'oracle'" in text
    assert "s3cret" not in text


# -- the folder and the disk ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "show"])
def test_a_folder_that_cannot_be_made(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(tmp_path)
    monkeypatch.setenv("PLINIO_SWEEP_FOLDER", str(study / "results"))
    text = refusal(verb, study)
    assert str(study / "results") in text


def test_a_picture_that_cannot_be_written(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    text = refusal("show", finished.folder / NAME, "--plot", tmp_path / "file" / "front.png")
    assert str(tmp_path / "file") in text
    assert "check its path" in text


def test_a_picture_of_an_unknown_kind(finished: Finished, tmp_path: Path) -> None:
    text = refusal("show", finished.folder / NAME, "--plot", tmp_path / "front.pdf")
    assert ".png, .svg, .html" in text
    assert list(tmp_path.iterdir()) == []


def run_in(kilobytes: int, folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """`run` where no file can grow beyond a size: for the program, a disk that is full."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, 1024 * kilobytes))

    return subprocess.run(
        command("run", NAME, "--trials", "1"),
        cwd=folder,
        env=environment(**extra),
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=300,
    )


@pytest.mark.slow
def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_space(tmp_path: Path) -> None:
    # Weights of 170 kB: more than the first limit lets through, while the database still fits.
    changes = {"Conv2d(6, 6, 3": "Conv2d(6, 700, 3", "Linear(6, 2)": "Linear(700, 2)"}
    norm = "self.second_norm = nn.BatchNorm2d({})"
    write_study(tmp_path, {**changes, norm.format(6): norm.format(700)})
    text = sentence(run_in(150, tmp_path))
    assert "File too large" in text
    assert "free space" in text
    text = sentence(run_in(4, tmp_path))
    assert "nothing that was stored is lost" in text
    done = run(tmp_path, "run", NAME, "--trials", "1")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 trials complete, 0 failed" in done.stdout
    with closing(sqlite3.connect(tmp_path / ".plinio-sweep" / "study.db")) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("LOCK_TIMEOUT", "soon", ["lock_timeout", "'soon'"]),
        ("STORAGE", "nonsense", ["nonsense", "`storage`"]),
        ("STORAGE", "sqlite://", ["shared by processes"]),
    ],
)
def test_a_setting_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(f"PLINIO_SWEEP_{name}", value)
    text = refusal("run", write_study(tmp_path))
    for word in words:
        assert word in text, text
