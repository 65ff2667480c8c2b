"""A net as a model of MLflow: a graph without pickles for any batch size, to be read back.

The steps of `mlflow.pytorch.log_model` through a client: that function needs the global tracking
URI, and leaves a model marked FAILED behind when it fails.
"""

from __future__ import annotations

import copy
import inspect
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class UnwritableError(ValueError):
    """A net that can't be written as a graph; its text is the reason."""


@dataclass(frozen=True, kw_only=True)
class WrittenModel:
    """A model folder that is not in any store yet.

    Args:
        card: What is known of it.
        path: The folder.
        net: In it, on the CPU, in eval mode.
        inputs: Of `net`, two items or more each.
        run: That the model is of.
    """

    card: Any
    path: Path
    net: nn.Module
    inputs: tuple[Tensor, ...]
    run: str


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back what mlflow, alembic and torch.export say on their own account.

    They warn of deprecations inside themselves and log every migration, which no user of ours can
    act on. What goes wrong still raises.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # in here, for it warns; before the levels below, for it sets them

        loggers = [logging.getLogger(name) for name in (mlflow.__name__, "alembic", "torch")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def written(run: str, net: nn.Module, example: tuple[Tensor, ...]) -> Iterator[WrittenModel]:
    """Writes `net` as a model folder of `run`, which is there until this ends.

    Args:
        run: Identifier of the run.
        net: The exported net, on any device; left as it is.
        example: Inputs of `net`, batch first.

    Raises:
        UnwritableError: When `net` can't be written as a graph, or its output be signed.
    """
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as scratch:
        path, card = Path(scratch, "model"), Model(run_id=run)
        frozen, inputs = copy.deepcopy(net).cpu().eval(), _batched(example)
        try:
            _save(card, frozen, inputs, path)
        except Exception as error:  # any code of the net may run here, and fail in any way
            reason = str(error).strip().partition("\n")[0]
            raise UnwritableError(f"{type(error).__name__}: {reason}") from error
        yield WrittenModel(card=card, path=path, net=frozen, inputs=inputs, run=run)


def difference(model: WrittenModel) -> float:
    """The largest difference of a value that the folder gives, loaded as servers do, from the net.

    Relative to the largest output. A net of several inputs, which MLflow does not serve, is loaded
    as a module.
    """
    import mlflow.pyfunc
    import mlflow.pytorch
    import torch

    with torch.no_grad():
        expected = _tensors(model.net(*model.inputs))
    # What loads a graph warns of itself.
    with quiet(), torch.no_grad():
        if len(model.inputs) == len(expected) == 1:
            # A graph stays on the device that it was made on: MLflow takes a GPU by itself.
            served = mlflow.pyfunc.load_model(str(model.path), model_config={"device": "cpu"})
            given = served.predict(model.inputs[0].numpy())
            found: tuple[Tensor, ...] = (torch.from_numpy(given),)
        else:
            found = _tensors(mlflow.pytorch.load_model(str(model.path))(*model.inputs))
    scale = max(float(value.abs().max()) for value in expected) or 1.0
    return max(
        float((left - right).abs().max()) / scale
        for left, right in zip(expected, found, strict=True)
    )


def upload(
    client: Any,
    experiment: str,
    model: WrittenModel,
    bundle: Path | None = None,
    *,
    mark: str = "",
) -> str:
    """Puts a model folder into the store of `client`; its identifier.

    Args:
        client: Of MLflow.
        experiment: Identifier of the experiment.
        model: The folder, to which its identifier is added.
        bundle: A folder to go with it, as "bundle".
        mark: Content key of what it was made of, as the tag "artifact".
    """
    from mlflow.entities import LoggedModelOutput

    if bundle is not None:
        shutil.copytree(bundle, model.path / "bundle")
    params = client.get_run(model.run).data.params
    logged = client.create_logged_model(
        experiment,
        name="model",
        source_run_id=model.run,
        params=params,
        tags={"artifact": mark} if mark else None,
    )
    model.card.artifact_path = logged.artifact_location
    model.card.model_uuid = model.card.model_id = logged.model_id
    model.card.save(str(model.path / "MLmodel"))
    client.log_model_artifacts(logged.model_id, str(model.path))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(model.run, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def _signed(tensors: Sequence[Tensor], name: str) -> np.ndarray | dict[str, np.ndarray]:
    """One array, or several under numbered names: the two forms that a signature has."""
    arrays = [tensor.detach().cpu().numpy() for tensor in tensors]
    if len(arrays) == 1:
        return arrays[0]
    return {f"{name}_{index}": array for index, array in enumerate(arrays)}


def _tensors(output: object) -> tuple[Tensor, ...]:
    """The output of a net as a flat tuple of tensors."""
    from torch import Tensor

    outputs = tuple(output) if isinstance(output, tuple | list) else (output,)
    tensors = tuple(item for item in outputs if isinstance(item, Tensor))
    if len(tensors) != len(outputs):
        kinds = ", ".join(sorted({type(item).__name__ for item in outputs}))
        raise TypeError(
            "the output of a net must be a tensor or a flat sequence of tensors to be signed, "
            f"but got {kinds}; return tensors to have the model logged."
        )
    return tensors


def _batched(example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs on the CPU, of two items or more: torch.export takes a batch of one for fixed."""
    import torch

    found = [item.detach().cpu() for item in example]
    return tuple(
        torch.cat((item, item)) if item.ndim and len(item) == 1 else item for item in found
    )


def _save(card: Any, net: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    with torch.no_grad():
        outputs = _tensors(net(*inputs))
    arrays = [item.numpy() for item in inputs]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # a failed export prints graphs
        mlflow.pytorch.save_model(
            _named(net, inputs),
            path,
            mlflow_model=card,
            signature=infer_signature(_signed(inputs, "input"), _signed(outputs, "output")),
            input_example=arrays[0] if len(arrays) == 1 else tuple(arrays),
            # Given, because guessing them runs the net in a second process for several seconds.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            serialization_format="pt2",
        )


def _named(net: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """`net` as a graph where it takes `*inputs`, which MLflow gives no free batch size."""
    import torch

    kinds = [parameter.kind for parameter in inspect.signature(net.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return net
    batch = {0: torch.export.Dim.DYNAMIC}
    graph = torch.export.export(net, inputs, dynamic_shapes=(tuple(batch for _ in inputs),))
    return graph.module()
