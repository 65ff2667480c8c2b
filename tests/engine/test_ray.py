"""Workers as actors, on a Ray of this machine."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from plinio_sweep.engine.ray import LOCAL, check_reach
from plinio_sweep.settings import Settings, load_settings
from plinio_sweep.sweep.reading import read_study
from tests.conftest import Finished
from tests.engine import interrupted
from tests.engine.interrupted import Interrupted
from tests.messages import is_sentence
from tests.terminal import (
    NAME,
    children,
    environment,
    kill,
    refusal,
    run,
    sentence,
    started,
    values_of,
    write_study,
)

# In a process of its own: Ray warns of itself, and leaves much behind in the one that loads it.
HEAD = """
import sys
from pathlib import Path
from plinio_sweep.engine.ray import open_ray
from plinio_sweep.settings import Settings, load_settings
from plinio_sweep.sweep.reading import read_study
table = {"address": "local", "num_cpus": 2, "include_dashboard": False}
open_ray(Settings(folder=Path("."), ray=table))
import ray
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray that commands connect to."""

    address: str
    token: dict[str, str]  # variables, with those that find the loopback
    process: int

    def actors(self) -> list[int]:
        """Those that have a worker; what Ray starts are children of its node, that is our child."""
        return [pid for pid in children(children([self.process])) if children([pid])]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    # A token of our own, so that none is written to the home of whoever tests.
    token = {**LOCAL, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    folder = tmp_path_factory.mktemp("head")
    with subprocess.Popen(
        [sys.executable, "-c", HEAD],
        cwd=folder,
        env=environment(**token),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as head:
        assert head.stdout is not None
        yield Cluster(address=head.stdout.readline().strip(), token=token, process=head.pid)
        head.communicate()  # with nothing: it reads on, and ends


def _losses(folder: Path) -> list[str]:
    """Why trials of the study in `folder` were lost."""
    record = read_study(folder / NAME, load_settings(folder / NAME, {}))
    return [reason for trial in record.trials for reason in trial.losses.values()]


def write_slow_study(folder: Path, cluster: Cluster) -> None:
    # Ray's machines have no environment of `run` but its settings, so the file must say the rest.
    write_study(folder, {'"BARS_PAUSE", "0"': '"BARS_PAUSE", "0.04"'})
    interrupted.write_table(folder, "ray", f'address = "{cluster.address}"')


@pytest.fixture(scope="module")
def disturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder = tmp_path_factory.mktemp("disturbed")
    write_slow_study(folder, cluster)
    return interrupted.interrupt(
        folder,
        "ray",
        stop=signal.SIGINT,
        disturb=lambda workers: kill(cluster.actors()[:1]),
        variables=cluster.token,
    )


@pytest.mark.slow
def test_a_ray_that_is_started_here_is_open_to_this_machine_only(cluster: Cluster) -> None:
    assert cluster.address.startswith("127.0.0.1:")


@pytest.mark.slow
def test_an_actor_that_is_killed_is_started_again_and_no_trial_is_lost(
    tmp_path: Path, cluster: Cluster, finished: Finished
) -> None:
    write_slow_study(tmp_path, cluster)
    # One is enough: of two, the first may have done all of it before the second has come.
    alone = interrupted.command("ray", workers=1)
    with started(tmp_path, *alone, **cluster.token) as running:
        running.wait_until_busy(1)
        kill(cluster.actors())
        code, said, errors = running.end()
    assert code == 0, errors
    assert "4 of 4 trials complete, 0 failed" in said and "epochs: " in said
    assert len(_losses(tmp_path)) >= 1
    assert values_of(tmp_path) == values_of(finished.folder)


@pytest.mark.long
def test_ctrl_c_has_actors_put_their_trials_back(disturbed: Interrupted) -> None:
    interrupted.check_stopped(disturbed, "ray")


@pytest.mark.long
def test_an_actor_that_is_lost_comes_back_and_no_trial_is(disturbed: Interrupted) -> None:
    interrupted.check_ended(disturbed)
    assert "(it was interrupted)" in disturbed.said_in_the_end
    logs = disturbed.folder / ".plinio-sweep" / "logs"
    assert {path.name for path in logs.iterdir()} == {"worker-0.log", "worker-1.log"}


@pytest.mark.long
def test_actors_come_to_what_undisturbed_workers_come_to(
    disturbed: Interrupted, finished: Finished
) -> None:
    interrupted.check_values(disturbed, finished)


# -- what is refused -----------------------------------------------------------------------------


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    text = refusal("run", write_study(tmp_path), "--engine", "ray")
    assert "pip install 'plinio-sweep[ray]'" in text
    assert is_sentence(text)
    assert not (tmp_path / ".plinio-sweep").exists()


@pytest.mark.slow
def test_a_table_that_ray_does_not_take(tmp_path: Path, cluster: Cluster) -> None:
    write_study(tmp_path)
    interrupted.write_table(tmp_path, "ray", f'address = "{cluster.address}"', 'adress = "local"')
    text = sentence(run(tmp_path, "run", NAME, "--engine", "ray", **cluster.token))
    assert text.startswith("`[ray]` must hold what ray.init takes here, but with ")
    assert "adress" in text
    assert is_sentence(text)


def test_a_database_in_a_file_is_for_one_machine(tmp_path: Path) -> None:
    settings = Settings(folder=tmp_path)
    check_reach(settings, 1)
    with pytest.raises(ValueError, match="must have a database that all 2 machines reach") as error:
        check_reach(settings, 2)
    assert is_sentence(error.value)
    check_reach(Settings(folder=tmp_path, storage="postgresql+psycopg://ada@host/sweeps"), 2)
