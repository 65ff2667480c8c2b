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

import pytest

from tests.conftest import Finished
from tests.terminal import NAME, Running, refusal, started

pytest.importorskip("optuna_dashboard")


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
    text = refusal("serve", finished.folder / NAME, "--host", "203.0.113.7", "--port", 0)
    assert "203.0.113.7" in text


def test_a_host_without_an_address_is_refused(finished: Finished) -> None:
    text = refusal("serve", finished.folder / NAME, "--host", "no such host", "--port", 0)
    assert "no such host" in text


def test_serve_before_run_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("")
    assert "start it with plinio-sweep run" in refusal("serve", tmp_path / NAME)


def test_ctrl_c_ends_it(served: Served) -> None:
    served.running.process.send_signal(signal.SIGINT)
    code, _, stderr = served.running.end()
    assert (code, stderr) == (0, "")
