"""A study whose artefacts are on a server, as its user meets it on two machines."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from plinio_sweep.plugin import load_study
from plinio_sweep.settings import Settings
from tests.messages import is_sentence
from tests.s3 import Server
from tests.sweep.bench import make_worker
from tests.sweep.conftest import _closed_connections
from tests.terminal import NAME, invoke, refusal, run, write_study

__all__ = ["_closed_connections"]

pytestmark = pytest.mark.slow


def test_what_one_machine_trained_another_exports_unless_it_is_damaged(
    s3: Server, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    study, url = write_study(first), s3.bucket()
    places = ["--storage", f"sqlite:///{tmp_path / 'study.db'}", "--artifacts", url]
    settings = Settings(
        folder=tmp_path / "third", storage=places[1], artifacts=url, tracking="none"
    )
    worker = make_worker(settings, load_study(write_study(second)), target=1)
    worker.work()
    (trial,) = worker.record().trials
    clean = invoke("show", study, "--prune-cache", *places)
    assert f"needs: 0 items, 0 bytes in {url}" in clean.stdout, clean.output

    spoil(url, trial.artifact)
    refused = refusal("export", study, 0, tmp_path / "model", *places)
    assert "plinio-sweep run makes what is on the front anew" in refused and is_sentence(refused)
    done = run(second, "run", NAME, "--trials", "1", *places)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("must be as it was written, but has other contents") == 1
    assert "epochs:" not in done.stdout  # all that leads to the result is still there
    assert f"artefacts in {url}" in done.stdout
    assert f"export {NAME} 0 model {' '.join(places)}" in done.stdout
    assert f"serve {NAME} {' '.join(places[:2])}\n" in done.stdout
    assert not (second / ".plinio-sweep" / "artifacts").exists()

    pruned = invoke("show", study, "--prune-cache", "--yes", *places)
    assert "damaged" in pruned.stdout and "removed: " in pruned.stdout, pruned.output
    exported = invoke("export", study, 0, tmp_path / "model", "--format", "torch", *places)
    assert exported.exit_code == 0, exported.output
    assert (tmp_path / "model" / "model.safetensors").is_file()
    gone = refusal("export", study, 0, tmp_path / "b", *places[:2])
    assert "must be in" in gone and "name the store that holds it in `artifacts`" in gone


def spoil(url: str, key: str) -> None:
    """Changes the last sign of a stored result."""
    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    (name,) = [path for path in files.find(f"{root}/files/{key}") if path.endswith("/result.json")]
    files.pipe_file(name, files.cat_file(name)[:-1] + b" ")


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
