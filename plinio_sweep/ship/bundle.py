"""The folder that leaves the library: weights, ONNX, architecture and report, no pickles.

A bundle is written beside its final place, read back and compared with the net it came from, and
moved there only if it agrees: a folder of that name is always whole and checked.
"""

from __future__ import annotations

import copy
import errno
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from plinio_sweep.ship.onnx import export_onnx, run_onnx

WEIGHTS = "model.safetensors"
GRAPH = "model.onnx"
ARCHITECTURE = "architecture.json"
REPORT = "report.json"

WEIGHTS_TOLERANCE = 1e-6
"""Relative to the largest output: one program, one machine, so only rounding of the last bit."""
ONNX_TOLERANCE = 1e-4
"""Relative to the largest output: another program sums float32 in another order."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk, or a share of it, that is full."""


def write_bundle(
    directory: Path,
    net: nn.Module,
    example: tuple[Tensor, ...],
    architecture: Mapping[str, Any],
    report: Mapping[str, Any],
    *,
    rebuild: Callable[[Mapping[str, Any]], nn.Module],
    onnx: bool = True,
) -> Mapping[str, float]:
    """Writes a net as a folder that others can load, and proves that they can.

    Args:
        directory: Folder to create; may exist if it is empty.
        net: The exported net; left as it is. Its outputs may be nested.
        example: Inputs of `net`, each `(N, ...)`, on which the reloaded files are compared.
        architecture: JSON values from which `rebuild` makes the net.
        report: JSON values: costs and metrics. The file gains "checks", the value returned here.
        rebuild: Makes a net of the same structure, with any weights, out of `architecture`.
        onnx: Whether to write the ONNX file, which needs the extra.

    Returns:
        The largest absolute difference from the outputs of `net`, for "safetensors" and "onnx".

    Raises:
        ValueError: If `directory` is filled or closed, the disk full, or a file not like `net`.
    """
    directory = directory.absolute()
    with _writing(directory) as staging:
        expected = _outputs(net, example)
        (staging / WEIGHTS).write_bytes(safetensors.torch.save(_weights(net)))
        _write_json(staging / ARCHITECTURE, architecture)
        found = _outputs(_reload(staging, rebuild), example)
        checks = {"safetensors": _agreed(WEIGHTS, expected, found, WEIGHTS_TOLERANCE)}
        if onnx:
            export_onnx(net, example, staging / GRAPH)
            found = [torch.from_numpy(item) for item in run_onnx(staging / GRAPH, example)]
            checks["onnx"] = _agreed(GRAPH, expected, found, ONNX_TOLERANCE)
        _write_json(staging / REPORT, {**report, "checks": checks})
    return checks


@contextmanager
def _writing(directory: Path) -> Iterator[Path]:
    """A folder beside `directory` that takes its name at the end, or vanishes on any error."""
    staging = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ValueError(
                f"`directory` must be new or empty, but {str(directory)!r} is not; "
                "choose another folder."
            )
        staging.mkdir(parents=True)
    except OSError as error:
        raise _refusal(directory, error) from error
    try:
        yield staging
        if directory.exists():  # empty, as seen above; not every system renames onto a folder
            directory.rmdir()
        staging.rename(directory)
    except OSError as error:
        if error.errno not in FULL:  # of the net or of `rebuild`, so nothing about the folder
            raise
        raise _refusal(directory, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # gone already if all went well


def _refusal(directory: Path, error: OSError) -> ValueError:
    """What the system refused, as a sentence about the argument."""
    rule = "have room for the bundle" if error.errno in FULL else "lie in a folder you can write"
    return ValueError(
        f"`directory` must {rule}, but {str(directory)!r} failed with {error.strerror!r}; "
        "choose another folder."
    )


def _weights(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as separate contiguous tensors; shared ones are stored repeatedly."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in net.state_dict().items()
    }


def _reload(folder: Path, rebuild: Callable[[Mapping[str, Any]], nn.Module]) -> nn.Module:
    """The net as a stranger gets it: from the files alone."""
    net = rebuild(json.loads((folder / ARCHITECTURE).read_text(encoding="utf-8")))
    try:
        net.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except RuntimeError as error:  # names or shapes differ
        raise ValueError(
            f"the net that `rebuild` makes of `architecture` must take the weights in {WEIGHTS}, "
            f"but: {' '.join(str(error).split())}; make `architecture` describe `net` in full."
        ) from error
    return net


def _outputs(net: nn.Module, example: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs of a copy of `net` in eval mode on the CPU, flattened in their order."""
    frozen = copy.deepcopy(net).cpu().eval()
    with torch.no_grad():
        return list(_leaves(frozen(*(item.detach().cpu() for item in example))))


def _leaves(value: object) -> Iterator[Tensor]:
    """The tensors in nested sequences and mappings, depth first."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _leaves(item)


def _agreed(
    file: str, expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float
) -> float:
    """Largest absolute difference of two lists of outputs, refused where it is too large."""
    shapes = [[tuple(item.shape) for item in outputs] for outputs in (expected, found)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"outputs of {file} must have the shapes of the net's, {shapes[0]}, but they have "
            f"{shapes[1]}; the folder was not written."
        )
    largest = 0.0
    for before, after in zip(expected, found, strict=True):
        if not before.numel():
            continue
        scale = before.double().abs().max().item() or 1.0
        difference = (after.double() - before.double()).abs().max().item()
        if not difference <= tolerance * scale:  # so that NaN is refused as well
            raise ValueError(
                f"outputs of {file} must equal the net's within {tolerance:g} of their largest "
                f"value {scale:g}, but differ by {difference:g}; the folder was not written."
            )
        largest = max(largest, difference)
    return largest


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes `value` for people and programs to read."""
    path.write_text(json.dumps(dict(value), indent=2) + "\n", encoding="utf-8")
