"""A study whose artefacts are on a server, as its user meets it on two machines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import pytest

from tests.messages import is_sentence
from tests.s3 import Server
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
    write_study(first)
    study, url = write_study(second), s3.bucket()
    places = ["--storage", f"sqlite:///{first / 'study.db'}", "--artifacts", url]

    done = run(first, "run", NAME, "--trials", "1", *places)
    assert done.returncode == 0, done.stderr
    assert f"artefacts in {url}" in done.stdout
    assert f"export {NAME} 0 model {' '.join(places)}" in done.stdout
    assert f"serve {NAME} {' '.join(places[:2])}\n" in done.stdout
    assert not (first / ".plinio-sweep" / "artifacts").exists()
    clean = invoke("show", study, "--prune-cache", *places)
    assert f"needs: 0 items, 0 bytes in {url}" in clean.stdout, clean.output

    spoil(url, json.loads(invoke("show", study, "--json", *places).stdout)["front"][0]["artifact"])
    shutil.rmtree(first / ".plinio-sweep" / "copies")
    refused = refusal("export", study, 0, second / "model", *places)
    assert "plinio-sweep run makes what is on the front anew" in refused and is_sentence(refused)
    again = run(first, "run", NAME, "--trials", "1", *places)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("must be as it was written, but has other contents") == 1
    assert "epochs:" not in again.stdout  # all that leads to the result is still there

    pruned = invoke("show", study, "--prune-cache", "--yes", *places)
    assert "damaged" in pruned.stdout and "removed: " in pruned.stdout, pruned.output
    exported = invoke("export", study, 0, second / "model", "--format", "torch", *places)
    assert exported.exit_code == 0, exported.output
    assert (second / "model" / "model.safetensors").is_file()
    gone = refusal("export", study, 0, second / "b", *places[:2])
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
