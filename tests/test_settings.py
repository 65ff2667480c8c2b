from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.settings import FOLDER, Settings, load_settings, redacted
from tests.messages import is_sentence


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "studies"
    folder.mkdir(parents=True)
    return folder / "study.py"


def write(folder: Path, text: str, name: str = "plinio-sweep.toml") -> None:
    (folder / name).write_text(text, encoding="utf-8")


# -- where settings come from ---------------------------------------------------------------------


def test_without_settings_all_lies_beside_the_study(study: Path) -> None:
    settings = load_settings(study, {})
    assert settings == Settings(folder=study.parent / FOLDER)
    assert settings.storage_url == f"sqlite:///{study.parent / FOLDER / 'study.db'}"
    assert settings.tracking_uri == f"sqlite:///{study.parent / FOLDER / 'mlflow.db'}"
    assert settings.artifacts_url == str(study.parent / FOLDER / "artifacts")
    assert settings.logs == study.parent / FOLDER / "logs"


def test_a_relative_study_is_taken_from_the_working_folder(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.parent)
    assert load_settings(Path("study.py"), {}) == load_settings(study, {})


def test_the_own_file_is_read(study: Path) -> None:
    write(study.parent, 'device = "cuda:0"\nlock_timeout = 5\ntracking = "none"\n')
    settings = load_settings(study, {})
    assert (settings.device, settings.lock_timeout) == ("cuda:0", 5.0)
    assert settings.tracking_uri == ""


def test_the_table_of_a_project_is_read_from_above(study: Path) -> None:
    write(study.parents[1], '[tool.plinio-sweep]\nstorage = "sqlite:///a.db"\n', "pyproject.toml")
    assert load_settings(study, {}).storage_url == "sqlite:///a.db"


def test_the_nearest_file_counts_alone(study: Path) -> None:
    write(study.parents[1], 'device = "far"\nstorage = "far"\n')
    write(study.parent, 'device = "near"\n')
    settings = load_settings(study, {})
    assert (settings.device, settings.storage) == ("near", "")


def test_a_project_without_our_table_is_passed_over(study: Path) -> None:
    write(study.parents[1], 'device = "far"\n')
    write(study.parent, "[tool.other]\nname = 1\n", "pyproject.toml")
    assert load_settings(study, {}).device == "far"


def test_the_own_file_goes_before_the_project(study: Path) -> None:
    write(study.parent, '[tool.plinio-sweep]\ndevice = "project"\n', "pyproject.toml")
    write(study.parent, 'device = "own"\n')
    assert load_settings(study, {}).device == "own"


def test_a_folder_is_relative_to_the_file_that_names_it(study: Path) -> None:
    write(study.parents[1], 'folder = "results"\n')
    assert load_settings(study, {}).folder == study.parents[1] / "results"


def test_a_folder_of_artefacts_is_relative_to_the_file_that_names_it_and_a_url_is_not(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(study.parents[1], 'artifacts = "shared"\n')
    assert load_settings(study, {}).artifacts_url == str(study.parents[1] / "shared")
    write(study.parents[1], 'artifacts = "s3://bucket/a"\n')
    assert load_settings(study, {}).artifacts_url == "s3://bucket/a"
    write(study.parents[1], 'artifacts = ""\nfolder = "b"\n')
    found = load_settings(study, {})
    assert found.artifacts_url == str(found.folder / "artifacts")
    monkeypatch.chdir(study.parent)
    environment = {"PLINIO_SWEEP_ARTIFACTS": "here"}
    assert load_settings(study, environment).artifacts_url == str(study.parent / "here")


def test_system_metrics_are_switched_on_by_a_file_or_the_environment(study: Path) -> None:
    assert load_settings(study, {}).system_metrics is False
    write(study.parent, "system_metrics = true\n")
    assert load_settings(study, {}).system_metrics is True
    for word, expected in {"0": False, "off": False, "1": True, "True": True}.items():
        assert (
            load_settings(study, {"PLINIO_SWEEP_SYSTEM_METRICS": word}).system_metrics is expected
        )
    with pytest.raises(ValueError, match="`system_metrics` must be true or false, but got 'some'"):
        load_settings(study, {"PLINIO_SWEEP_SYSTEM_METRICS": "some"})


def test_the_environment_goes_first(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study.parent)
    write(study.parent, 'device = "file"\nstorage = "file"\nfolder = "file"\n')
    environment = {
        "PLINIO_SWEEP_DEVICE": "environment",
        "PLINIO_SWEEP_FOLDER": "elsewhere",
        "PLINIO_SWEEP_LOCK_TIMEOUT": "1.5",
        "PLINIO_SWEEP_TRACKING": "",
    }
    settings = load_settings(study, environment)
    assert settings.device == "environment"
    assert settings.storage == "file"
    assert settings.folder == study.parent / "elsewhere"
    assert settings.lock_timeout == 1.5
    assert settings.tracking == ""


def test_the_environment_of_the_process_is_the_default(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLINIO_SWEEP_DEVICE", "cuda:7")
    assert load_settings(study).device == "cuda:7"


def test_tables_of_engines_are_taken_as_they_are(study: Path) -> None:
    write(study.parent, '[slurm]\nslurm_partition = "gpu"\n[ray.worker]\nnum_gpus = 1\n')
    settings = load_settings(study, {})
    assert settings.slurm == {"slurm_partition": "gpu"}
    assert settings.ray == {"worker": {"num_gpus": 1}}


# -- errors ---------------------------------------------------------------------------------------


def test_unknown_names_are_refused(study: Path) -> None:
    write(study.parent, 'devise = "cpu"\n')
    with pytest.raises(ValueError, match=r"must be among \[.*'device'.*got \['devise'\]") as error:
        load_settings(study, {})
    assert is_sentence(error.value)


@pytest.mark.parametrize("name", ["plinio-sweep.toml", "pyproject.toml"])
@pytest.mark.parametrize("text", ["device = \n", b"device = '\xff'\n"])
def test_what_is_no_toml_is_refused_with_the_file(
    study: Path, name: str, text: str | bytes
) -> None:
    (study.parent / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"must be TOML, but .*{name} is none: .*correct") as error:
        load_settings(study, {})
    assert is_sentence(error.value)


@pytest.mark.parametrize("value", ["-1", '"soon"', "nan", "inf", "[]"])
def test_a_time_out_is_a_number_of_seconds(study: Path, value: str) -> None:
    write(study.parent, f"lock_timeout = {value}\n")
    with pytest.raises(ValueError, match="`lock_timeout` must be a number of seconds") as error:
        load_settings(study, {})
    assert is_sentence(error.value)


@pytest.mark.parametrize("name", ["artifacts", "device", "storage", "tracking", "folder"])
def test_the_other_settings_are_strings(study: Path, name: str) -> None:
    write(study.parent, f"{name} = 3\n")
    with pytest.raises(ValueError, match=f"`{name}` must be a string, but got 3") as error:
        load_settings(study, {})
    assert is_sentence(error.value)


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_an_engine_has_a_table(study: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a table of a file, but got") as error:
        load_settings(study, {f"PLINIO_SWEEP_{name.upper()}": "gpu"})
    assert is_sentence(error.value)


# -- passwords ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        (
            "postgresql+psycopg://me:se@cr/et:@host:5432/db",
            "postgresql+psycopg://me:***@host:5432/db",
        ),
        (
            "can't reach postgresql://:secret@host, sorry",
            "can't reach postgresql://:***@host, sorry",
        ),
        (
            "postgresql://host/db?user=me&password=secret&a=b",
            "postgresql://host/db?user=me&password=***&a=b",
        ),
        ("s3://key:secret@bucket/folder", "s3://key:***@bucket/folder"),
        ("abfs://box/a?sig=secret&Account_Key=secret", "abfs://box/a?sig=***&Account_Key=***"),
        ("https://host/a?aws_secret=secret&monkey=b", "https://host/a?aws_secret=***&monkey=b"),
        ("s3://bucket/key=a", "s3://bucket/key=a"),
        ("sqlite:////home/me/study.db", "sqlite:////home/me/study.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("no address: at all", "no address: at all"),
    ],
)
def test_passwords_are_hidden_and_the_rest_is_not(text: str, shown: str) -> None:
    assert redacted(text) == shown


@given(st.text(st.characters(codec="ascii", exclude_categories=("Z", "C")), min_size=3))
def test_no_password_gets_through(password: str) -> None:
    hidden = redacted(f"postgresql://me:<{password}>@host/db")
    assert hidden == "postgresql://me:***@host/db"
