"""`plinio-sweep export --register`: what is loaded from the registry is what was measured."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor

import plinio_sweep
from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.reading import read_study
from tests.messages import is_sentence
from tests.terminal import NAME, refusal, run, wait_for, write_study

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytest.importorskip("mlflow")
# What is read back is read with mlflow itself, outside our silence.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WORDS = ("--format", "torch", "--register", "bars")


def uri(folder: Path) -> str:
    return f"sqlite:///{folder / '.plinio-sweep' / 'mlflow.db'}"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose trial 1 is the champion; its files are in "model"."""
    folder = tmp_path_factory.mktemp("registered")
    write_study(folder, {"space=Space(": 'space=Space(orders=("mps",), ', "trials=4": "trials=2"})
    assert run(folder, "run", NAME).returncode == 0
    # The run of that trial is missing: the tracking store was away.
    words = ("export", NAME, "1", "model", *WORDS)
    done = run(folder, *words, PLINIO_SWEEP_TRACKING=uri(folder))
    assert done.returncode == 0, done.stderr
    assert "mlflow: reloaded, largest difference 0\n" in done.stdout
    assert "trial 1 is models:/bars/1, champion\n" in done.stdout
    return folder


@pytest.fixture
def client(registered: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(registered))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    return MlflowClient(tracking_uri=uri(registered))


def inputs(count: int) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_the_champion_computes_the_same_integers(registered: Path, client: MlflowClient) -> None:
    import mlflow.pyfunc

    assert int(client.get_model_version_by_alias("bars", "champion").version) == 1
    champion = mlflow.pyfunc.load_model("models:/bars@champion")
    integers = plinio_sweep.load_integers(registered / "model")
    for count in (1, 5):
        found = torch.from_numpy(champion.predict(inputs(count).numpy()))
        assert torch.equal(found, integers(inputs(count)))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the champion behind MLflow's own server."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["models", "serve", "-m", "models:/bars@champion", "--env-manager", "local"]
    # It starts uvicorn by its bare name, which a virtual environment has beside its Python.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words, "-h", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri(folder), "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(f"{address}/ping"):
                return True
        except URLError:
            return False

    try:
        wait_for(answers)
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


@torch.no_grad()
def test_a_server_of_mlflow_gives_the_same(registered: Path) -> None:
    body = json.dumps({"inputs": inputs(3).tolist()}).encode()
    with served(registered) as address:
        request = urllib.request.Request(
            f"{address}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            found: Any = json.load(answer)
    integers = plinio_sweep.load_integers(registered / "model")
    assert torch.equal(torch.tensor(found["predictions"]), integers(inputs(3)))


def test_a_version_can_be_traced_to_its_training(registered: Path, client: MlflowClient) -> None:
    path = registered / NAME
    trial = read_study(path, load_settings(path)).trials[1]
    found = client.get_model_version("bars", "1")
    assert found.tags["study"] == "bars"
    assert found.tags["trial"] == "1"
    assert found.tags["stages"].split() == list(trial.nodes)
    assert len(found.tags["data"]) == 64
    assert float(found.tags["cost.size_bytes"]) == trial.costs["size_bytes"]
    assert found.tags["version.torch"] == torch.__version__
    opened = client.get_run(found.run_id)
    assert (opened.data.tags["trial"], opened.info.status) == ("1", "FINISHED")


def test_the_files_of_export_go_with_it(registered: Path, client: MlflowClient) -> None:
    import mlflow.artifacts

    whole = Path(mlflow.artifacts.download_artifacts("models:/bars@champion"))
    for path in (registered / "model").iterdir():
        assert (whole / "bundle" / path.name).read_bytes() == path.read_bytes()
    suffixes = {path.suffix for path in whole.rglob("*")}
    assert ".pt2" in suffixes and not suffixes & {".pkl", ".pth", ".pickle"}


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param((), "must have a DIRECTORY to write, or a name to `--register`", id="none"),
        pytest.param(("model", "--alias", "a"), "`--alias` must go with `--register`", id="alias"),
        pytest.param(("--register", "a/b"), "must be a name without slashes", id="slash"),
        pytest.param(("--register", " "), "must be a name without slashes", id="no name"),
        pytest.param(("--register", "a", "--alias", "v2"), "neither 'latest' nor", id="version"),
        pytest.param(("--register", "a", "--alias", "a b"), "letters, digits", id="blank"),
    ],
)
def test_what_can_be_no_name_is_refused_before_anything_is_done(
    tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    text = refusal("export", write_study(tmp_path), 0, *words)
    assert expected in text
    assert is_sentence(text)


@pytest.mark.parametrize(
    ("tracking", "expected"),
    [
        pytest.param("none", "but there is none (it is switched off)", id="none"),
        pytest.param("http://127.0.0.1:9", "at http://127.0.0.1:9, which failed", id="away"),
    ],
)
def test_without_a_tracking_store_nothing_is_registered(
    registered: Path, tracking: str, expected: str
) -> None:
    extra = {"PLINIO_SWEEP_TRACKING": tracking, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = run(registered, "export", NAME, "0", *WORDS, **extra)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert expected in lines[0]
    assert is_sentence(lines[0])
