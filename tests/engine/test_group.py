"""What engines have in common: who opens them, and what a worker on a cluster is told."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from plinio_sweep.commands.run import Order
from plinio_sweep.engine.group import ENGINES, Post, Request, open_engine
from plinio_sweep.settings import Settings
from plinio_sweep.sweep.result import StudyRecord
from tests.messages import is_sentence
from tests.terminal import invoke, write_study

STORAGE = "postgresql+psycopg://ada:s3cret@host/sweeps"


def posts(settings: Settings, workers: int) -> list[Post]:
    record = StudyRecord(
        name="bars", objectives=(), limits={}, units={}, target_trials=1, trials=()
    )
    request = Request(
        study=Path("bars.py"),
        settings=settings,
        workers=workers,
        arguments=("--trials", "1"),
        threads=None,
        heard=lambda worker, event: None,
        record=lambda: record,
    )
    return request.posts(2)


def test_workers_of_a_cluster_take_devices_in_turn(tmp_path: Path) -> None:
    found = posts(Settings(folder=tmp_path, device="cuda:0,cuda:1"), 3)
    assert [post.worker for post in found] == [0, 1, 2]
    assert [post.device for post in found] == ["cuda:0", "cuda:1", "cuda:0"]
    assert {post.threads for post in found} == {2}
    assert all(post.study.is_absolute() for post in found)


def test_what_a_cluster_is_told_holds_no_password(tmp_path: Path) -> None:
    (post,) = posts(Settings(folder=tmp_path, storage=STORAGE), 1)
    assert "ada:***@host" in post.place
    assert b"s3cret" not in pickle.dumps(post)


def test_a_worker_whose_settings_lead_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(tmp_path)
    (post,) = posts(Settings(folder=tmp_path, storage=STORAGE), 1)
    monkeypatch.delenv("PLINIO_SWEEP_STORAGE", raising=False)
    with pytest.raises(
        ValueError, match=r"find the study where `run` did.*ada:\*\*\*@host"
    ) as error:
        Post(**{**vars(post), "study": study}).open(lambda worker, event: None)
    assert is_sentence(error.value)


def test_an_engine_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`engine` must be among .* but got 'slrm'") as error:
        open_engine("slrm", Settings(folder=tmp_path))
    assert is_sentence(error.value)
    done = invoke("run", write_study(tmp_path), "--engine", "slrm")
    assert done.exit_code == 2
    assert all(f"'{name}'" in done.stderr for name in ENGINES)


def test_the_command_to_go_on_names_the_engine() -> None:
    assert Order(engine="slurm", workers=4).again() == " --workers 4 --engine slurm"
    assert Order().again() == ""
