"""A study whose artefacts are on a server, as its user meets it on two machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.messages import is_sentence
from tests.s3 import Server
from tests.sweep.conftest import _closed_connections
from tests.terminal import NAME, invoke, refusal, run, write_study

__all__ = ["_closed_connections"]

pytestmark = pytest.mark.slow


def test_what_one_machine_trained_another_exports(s3: Server, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    write_study(first)
    study = write_study(second)
    places = ["--storage", f"sqlite:///{first / 'study.db'}", "--artifacts", s3.bucket()]
    done = run(first, "run", NAME, "--trials", "1", *places)
    assert done.returncode == 0, done.stderr
    assert f"artefacts in {places[-1]}" in done.stdout
    assert f"export {NAME} 0 model {' '.join(places)}" in done.stdout
    assert f"serve {NAME} {' '.join(places[:2])}\n" in done.stdout
    assert not (first / ".plinio-sweep" / "artifacts").exists()
    exported = invoke("export", study, 0, second / "model", "--format", "torch", *places)
    assert exported.exit_code == 0, exported.output
    assert (second / "model" / "model.safetensors").is_file()
    pruned = invoke("show", study, "--prune-cache", *places)
    assert pruned.exit_code == 0, pruned.output
    assert f"needs: 0 items, 0 bytes in {places[-1]}" in pruned.stdout
    gone = refusal("export", study, 0, second / "b", *places[:2])
    assert "must be in" in gone and "name the store that holds it in `artifacts`" in gone


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("s3://me:secret@bucket", "must be in the environment"),
        ("s3://no-such-bucket/a", "bucket does not exist"),
        ("nosuch://a", "must be a folder or a URL"),
    ],
)
def test_a_place_that_is_no_use_is_refused_before_anything_is_trained(
    s3: Server, tmp_path: Path, place: str, match: str
) -> None:
    said = refusal("run", write_study(tmp_path), "--artifacts", place)
    assert match in said and is_sentence(said) and "secret" not in said
    assert not (tmp_path / ".plinio-sweep" / "study.db").exists()


def test_a_file_in_the_way_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refusal("run", write_study(tmp_path), "--artifacts", tmp_path / "file")
    assert str(tmp_path / "file") in said and is_sentence(said)
