"""`plinio-sweep serve`: the dashboard as a process of its own."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import pytest

from tests.conftest import Finished
from tests.messages import is_sentence
from tests.terminal import NAME, Running, refusal, started

pytest.importorskip("optuna_dashboard")

TOKEN = "correct horse battery staple"


@pytest.fixture(scope="module")
def served(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = finished.copy(tmp_path_factory.mktemp("served"))
    with started(folder, "serve", NAME, "--port", "0") as running:
        assert running.process.stdout is not None
        line = running.process.stdout.readline()
        found = re.fullmatch(r"study bars: (http://(.+):\d+) \(Ctrl-C ends it\)\n", line)
        assert found is not None, line
        yield Served(running, found[1], found[2])


class Served:
    """A dashboard that answers."""

    def __init__(self, running: Running, url: str, host: str) -> None:
        self.running, self.url, self.host = running, url, host

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)


def test_it_listens_on_this_machine_alone(served: Served) -> None:
    assert served.host == "127.0.0.1"


def test_the_page_names_study_and_axes(served: Served) -> None:
    (summary,) = served.get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "bars"
    assert summary["directions"] == ["maximize", "minimize"]
    detail = served.get(f"/api/studies/{summary['study_id']}")
    assert detail["objective_names"] == ["accuracy", "size_bytes"]


def test_a_trial_has_its_note_and_its_files(served: Served) -> None:
    trials = served.get("/api/studies/1")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete"] * 4
    for trial in trials:
        assert "| method | strength |" in trial["note"]["body"]
        names = {file["filename"] for file in trial["artifacts"]}
        assert names == {"architecture.json", "report.json"}


def test_the_study_shows_the_front(served: Served) -> None:
    (figure,) = served.get("/api/studies/1")["plotly_graph_objects"]
    drawn = json.loads(figure["graph_object"])
    assert {"front", "seed (float)"} <= {trace.get("name") for trace in drawn["data"]}


def test_a_port_in_use_is_refused(finished: Finished) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = refusal("serve", finished.folder / NAME, "--port", port)
    assert f"port={port} is in use" in text
    assert "--port" in text


def test_a_host_that_is_not_ours_is_refused(finished: Finished) -> None:
    words = ("--port", 0, "--token", TOKEN)
    text = refusal("serve", finished.folder / NAME, "--host", "203.0.113.7", *words)
    assert "203.0.113.7" in text


def test_a_host_without_an_address_is_refused(finished: Finished) -> None:
    words = ("--port", 0, "--token", TOKEN)
    text = refusal("serve", finished.folder / NAME, "--host", "no such host", *words)
    assert "no such host" in text


@pytest.mark.parametrize("words", [(), ("--token", "short")])
def test_a_host_that_others_reach_needs_a_token(finished: Finished, words: tuple[str, ...]) -> None:
    text = refusal("serve", finished.folder / NAME, "--host", "0.0.0.0", *words)
    assert "token" in text
    assert is_sentence(text)


def test_with_a_token_nobody_comes_in_without(finished: Finished, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "guarded")
    words = ("serve", NAME, "--port", "0", "--host", "0.0.0.0")
    with started(folder, *words, PLINIO_SWEEP_TOKEN=TOKEN) as running:
        assert running.process.stdout is not None
        line = running.process.stdout.readline()
        found = re.search(r"http://0\.0\.0\.0:(\d+)/\?token=", line)
        assert found is not None, line
        url = f"http://127.0.0.1:{found[1]}"
        with pytest.raises(HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/api/studies", timeout=60)
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(f"{url}/dashboard?token={quote(TOKEN)}", timeout=60) as page:
            assert page.url == f"{url}/dashboard"
        with browser.open(f"{url}/api/studies", timeout=60) as answer:
            assert json.load(answer)["study_summaries"][0]["study_name"] == "bars"
        running.process.send_signal(signal.SIGINT)
        code, stdout, stderr = running.end()
    assert code == 0
    assert stderr.startswith("warning: whoever reaches this machine")
    assert TOKEN not in line + stdout + stderr


def test_serve_before_run_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("")
    assert "start it with plinio-sweep run" in refusal("serve", tmp_path / NAME)


def test_ctrl_c_ends_it(served: Served) -> None:
    served.running.process.send_signal(signal.SIGINT)
    code, _, stderr = served.running.end()
    assert (code, stderr) == (0, "")
