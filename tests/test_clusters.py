"""What the document about clusters shows: our commands, settings that exist, a Job that is one."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from plinio_sweep.cli import main
from plinio_sweep.engine.local import GRACE
from plinio_sweep.engine.slurm import open_slurm
from plinio_sweep.engine.worker import DONE, STOPPED, WRONG_USE
from plinio_sweep.settings import Settings, is_url, load_settings, variable

TEXT = (Path(__file__).parent.parent / "docs" / "clusters.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def parsed(words: list[str]) -> dict[str, Any]:
    """The parameters that our command line reads in `words`; fails for what it does not know."""
    program, verb, *rest = words
    assert program == "plinio-sweep"
    with main.commands[verb].make_context(verb, rest) as context:
        return dict(context.params)


def test_every_command_is_accepted() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    ours = [parsed(shlex.split(line)) for line in lines if not line.startswith("pip install ")]
    assert [found["engine"] for found in ours] == ["local", "slurm", "ray"]
    assert all(found["trials"] == 200 for found in ours)


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_every_table_is_accepted(tmp_path: Path, engine: str) -> None:
    (table,) = [block for block in blocks("toml") if f"[{engine}]" in block]
    (tmp_path / "plinio-sweep.toml").write_text(table, encoding="utf-8")
    settings = load_settings(tmp_path / "study.py", {})
    assert getattr(settings, engine)


def test_submitit_takes_the_parameters_of_the_table(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    (block,) = [block for block in blocks("toml") if "[slurm]" in block]
    table = tomllib.loads(block)["slurm"]
    open_slurm(Settings(folder=tmp_path, slurm={**table, "cluster": "local"}))
    with pytest.raises(ValueError, match=r"\[slurm\]` must hold"):
        open_slurm(Settings(folder=tmp_path, slurm={**table, "cluster": "local", "x_y": 1}))


@pytest.fixture
def documents() -> list[Any]:
    (block,) = blocks("yaml")
    return list(yaml.safe_load_all(block))


def test_the_job_runs_as_many_pods_as_it_has_indices(documents: list[Any]) -> None:
    job = documents[1]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["parallelism"] == job["spec"]["completions"]
    # What Kubernetes asks for where there is a `podFailurePolicy` with `FailIndex`.
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert job["spec"]["backoffLimitPerIndex"] > 0


def test_a_pod_that_was_asked_to_go_is_no_failure(documents: list[Any]) -> None:
    ignore, fail = documents[1]["spec"]["podFailurePolicy"]["rules"]
    assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert fail["action"] == "FailIndex"
    assert WRONG_USE in fail["onExitCodes"]["values"]
    assert not {DONE, STOPPED, 130} & set(fail["onExitCodes"]["values"])


def test_a_pod_has_time_to_put_its_trial_back(documents: list[Any]) -> None:
    pod = documents[1]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > GRACE


def test_the_command_of_a_pod_is_accepted(documents: list[Any]) -> None:
    (container,) = documents[1]["spec"]["template"]["spec"]["containers"]
    found = parsed(container["command"])
    assert (found["engine"], found["workers"]) == ("local", 1)
    assert found["threads"] == int(container["resources"]["limits"]["cpu"])


def test_a_pod_gets_its_settings_and_the_password_from_the_secret(documents: list[Any]) -> None:
    secret, job = documents
    (container,) = job["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry for entry in container["env"]}
    assert set(variables) <= {variable(field.name) for field in fields(Settings)}
    source = variables[variable("storage")]["valueFrom"]["secretKeyRef"]
    assert source["name"] == secret["metadata"]["name"]
    assert secret["stringData"][source["key"]].startswith("postgresql+psycopg://")
    # Nothing of a pod is left when it goes, so what is trained goes elsewhere.
    assert is_url(variables[variable("artifacts")]["value"])
