"""MLflow's registry: versions of a name, each a checked model with its whole history as tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plinio_sweep.settings import Settings, redacted
from plinio_sweep.store.mlflow_model import UnwritableError, difference, quiet, upload, written
from plinio_sweep.store.tracking import MlflowTracker, available, open_tracker

if TYPE_CHECKING:
    from torch import Tensor, nn

_TAKEN = r"latest|v\d+"  # aliases that MLflow keeps for itself


@dataclass(frozen=True, kw_only=True, eq=False)
class Registration:
    """A net that is to be registered.

    Args:
        name: Of the registered model, made where there is none.
        alias: That is to mean the new version, and no other one any more; none when empty.
        trial: Number of the trial.
        params: Of the trial, for a run where it has none.
        net: As it was measured: of integers where the trial was quantised.
        example: Inputs of `net`, `(N, ...)` each.
        bundle: Folder that goes with it: the files of `plinio-sweep export`.
        tags: By which the version can be traced.
        tolerance: Largest difference of a reloaded output, relative to the largest one.
        run: Key of the trial's run, by which what still waits to be told of it finds it.
        study_run: Key of the study's run; its last one when empty.
    """

    name: str
    alias: str
    trial: int
    params: Mapping[str, str | float]
    net: nn.Module
    example: tuple[Tensor, ...]
    bundle: Path
    tags: Mapping[str, str]
    tolerance: float
    run: str = ""
    study_run: str = ""


def check_names(name: str, alias: str) -> None:
    """Makes sure that MLflow takes both, before anything is written.

    Raises:
        ValueError: When it does not.
    """
    if not name.strip() or set("/:") & set(name):
        raise ValueError(
            f"`--register` must be a name without slashes and colons, but got {name!r}; take for "
            f"instance that of the product."
        )
    if alias and (not re.fullmatch(r"[\w-]{1,255}", alias) or re.fullmatch(_TAKEN, alias.lower())):
        raise ValueError(
            f"`--alias` must be letters, digits, - and _, and neither 'latest' nor 'v' with a "
            f"number, but got {alias!r}; take for instance 'champion'."
        )


def register(settings: Settings, study: str, wanted: Registration) -> tuple[str, float]:
    """Registers one model; the new version, and by how much the reloaded outputs differ.

    Args:
        settings: Of the study.
        study: Its name.
        wanted: What is registered, and under which name.

    Raises:
        ValueError: When there is no tracking store, the net can't be written as a graph, or gives
            something else once it is loaded; nothing is registered then.
    """
    if not settings.tracking_uri or not available():
        raise ValueError(
            "A model must be registered in the tracking store of its study, but there is none "
            f"({'it is switched off' if available() else 'MLflow is not installed'}); name one in "
            "`tracking` and install 'plinio-sweep[mlflow]'."
        )
    from mlflow.exceptions import MlflowException

    try:
        return _register(open_tracker(settings, study, wanted.study_run), wanted)
    except MlflowException as error:
        raise ValueError(
            f"A model must be put into the registry at {redacted(settings.tracking_uri)}, which "
            f"failed with {' '.join(str(error).split())[:300]!r}; mend that and export it again."
        ) from error


def _register(tracker: MlflowTracker, wanted: Registration) -> tuple[str, float]:
    run = tracker.run_of(wanted.trial, wanted.run)
    if run is None:  # the tracking store was away, or there was none
        run = tracker.start(wanted.trial, wanted.params, wanted.run or None)
        tracker.client.set_terminated(run, status="FINISHED")
    with quiet():
        try:
            with written(run, wanted.net, wanted.example) as model:
                found = difference(model)
                if not found <= wanted.tolerance:
                    raise ValueError(
                        f"A registered model must give what trial {wanted.trial} gives, but its "
                        f"outputs differ by {found:.3g} of the largest once it is loaded; nothing "
                        f"was registered, so report the net."
                    )
                model_id = upload(tracker.client, tracker.experiment_id, model, wanted.bundle)
        except UnwritableError as error:
            raise ValueError(
                f"A registered model must be written as a graph of torch.export, but that of trial "
                f"{wanted.trial} can't be ({error}); ship the folder of plinio-sweep export."
            ) from error
        return _new_version(tracker, wanted, run, model_id), found


def _new_version(tracker: MlflowTracker, wanted: Registration, run: str, model_id: str) -> str:
    from mlflow.exceptions import MlflowException

    client = tracker.client
    try:  # rather than looking first: somebody else may create it in between
        client.create_registered_model(wanted.name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise
    version = client.create_model_version(
        wanted.name,
        # By its place: an identifier alone is looked up through the global tracking URI.
        source=client.get_logged_model(model_id).artifact_location,
        run_id=run,
        tags=dict(wanted.tags),
        model_id=model_id,
    )
    if wanted.alias:
        client.set_registered_model_alias(wanted.name, wanted.alias, version.version)
    return str(version.version)
