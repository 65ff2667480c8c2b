"""A net as one ONNX file for any batch size, and that file run on the CPU.

onnx, onnxscript and onnxruntime are an extra of the package and are imported inside functions.
"""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


def export_onnx(net: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Writes `net`, as it computes in eval mode, to the single file `path`.

    The first axis of every input is the batch and may have any size when the file is run. A copy
    on the CPU is exported, so `net` keeps its mode, its device and its values.

    Args:
        net: Any net that `torch.export` accepts.
        example: Inputs of `net`, all of one batch size `(N, ...)`.
        path: File to write; its folder exists.

    Raises:
        ValueError: If the extra is not installed, or if the net cannot be written as ONNX.
    """
    require_extra("onnx", "onnxscript")
    frozen = copy.deepcopy(net).cpu().eval()
    # An axis of size one would be taken for a constant, so the example must hold two.
    inputs = tuple(
        torch.cat((item, item)) if len(item) == 1 else item
        for item in (item.detach().cpu() for item in example)
    )
    batch = torch.export.Dim("batch")
    with _quiet():
        try:
            program = torch.onnx.export(
                frozen,
                inputs,
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            cause = str(error.__cause__ or error).strip().partition("\n")[0]
            raise ValueError(
                "`net` must be expressible in ONNX with a free batch axis, but the exporter "
                f"stopped at: {cause}; change that operation or export without ONNX."
            ) from error
        assert program is not None  # only the exporter that `dynamo=True` replaced returns none
        program.save(path, external_data=False)


def run_onnx(path: Path, inputs: Sequence[Tensor | Array]) -> list[Array]:
    """Runs an ONNX file on the CPU.

    Args:
        path: The file.
        inputs: In the order of the net's `forward`, each `(N, ...)`.

    Returns:
        All outputs in the order of the net's, each `(N, ...)`.

    Raises:
        ValueError: If the extra is not installed.
    """
    require_extra("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about graph optimisations
    # Integer kernels sum 8-bit products in 16 bits on some processors, which saturate; run as it is
    # written, in floats between roundings, a quantised file means the same everywhere.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    names = [item.name for item in session.get_inputs()]
    arrays = [item.detach().cpu().numpy() if isinstance(item, Tensor) else item for item in inputs]
    outputs: list[Array] = session.run(None, dict(zip(names, arrays, strict=True)))
    return outputs


def require_extra(*modules: str) -> None:
    """Imports the modules of the extra, or says how to install it."""
    for module in modules:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # imports of others, deprecated among themselves
                importlib.import_module(module)
        except ImportError as error:
            raise ValueError(
                f"ONNX needs an extra of this package, but {module!r} cannot be imported; "
                "install it with `pip install 'plinio-sweep[onnx]'`."
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back the exporter's deprecation warnings, log lines and printed graphs.

    They concern torch and onnxscript among themselves, and no user of ours can act on them; what
    goes wrong is raised besides.
    """
    logger = logging.getLogger("torch")
    level = logger.level
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
