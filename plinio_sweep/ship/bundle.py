"""The folder that leaves the library: weights, integers, ONNX, C, architecture and report.

A bundle is written beside its final place, read back and compared with the net it came from, and
moved there only if it agrees: a folder of that name is always whole and checked. Nothing in it is a
pickle, and nothing that is read from it is run.

    architecture.json   what the net is: decisions, its graph, and the program of the integers
    model.safetensors   the weights of the net that was trained
    model.onnx          that net, in floats
    model.bin           the integers of a quantised net, packed: as many bytes as it costs
    integers.onnx       the integers in the form of quantise and dequantise
    model.c, model.h    the integers for a C99 compiler
    report.json         costs, metrics and what the comparisons found
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, fx, nn

from plinio_sweep.ship.c99 import object_sizes, write_c
from plinio_sweep.ship.compiled import find_compiler, run_c
from plinio_sweep.ship.folder import writing
from plinio_sweep.ship.onnx import export_onnx, run_onnx
from plinio_sweep.ship.packed import describe_packed, pack_program, packed_bytes, unpack_program
from plinio_sweep.ship.quantized_onnx import export_qdq
from plinio_sweep.ship.reference import Codes, IntegerNet
from plinio_sweep.ship.serial import describe_net, read_net

Format = Literal["torch", "onnx", "c"]
FORMATS: tuple[Format, ...] = ("torch", "onnx", "c")

WEIGHTS = "model.safetensors"
GRAPH = "model.onnx"
INTEGERS = "model.bin"
INTEGER_GRAPH = "integers.onnx"
ARCHITECTURE = "architecture.json"
REPORT = "report.json"

WEIGHTS_TOLERANCE = 1e-6
"""Relative to the largest output: one program, one machine, so only rounding of the last bit."""
ONNX_TOLERANCE = 1e-4
"""Relative to the largest output: another program sums float32 in another order."""


def write_bundle(
    directory: Path,
    net: nn.Module,
    example: tuple[Tensor, ...],
    architecture: Mapping[str, Any],
    report: Mapping[str, Any],
    *,
    rebuild: Callable[[Mapping[str, Any]], nn.Module],
    integers: IntegerNet | None = None,
    formats: Collection[Format] = ("torch", "onnx"),
    force: bool = False,
) -> Mapping[str, float]:
    """Writes a net as a folder that others can load, and proves that they can.

    Args:
        directory: Folder to create; may exist if it is empty.
        net: The exported net; left as it is. Its outputs may be nested.
        example: Inputs of `net`, each `(N, ...)`, on which the reloaded files are compared.
        architecture: JSON values from which `rebuild` makes the net.
        report: JSON values: costs and metrics. The file gains "checks", the value returned here,
            and for integers "bytes" by layer and "c", what the code takes.
        rebuild: Makes a net of the same structure, with any weights, out of `architecture`; for
            nets with layers of the user's own, which the folder alone can't make again.
        integers: The integer net, of a net that was quantised.
        formats: What is written: "torch" always is, "onnx" needs the extra, "c" the integers.
        force: Whether a bundle that is there already is replaced.

    Returns:
        The largest difference of what was read back: in values for "safetensors" and "onnx", in
        codes for "integers", "integers_onnx" and "c", which last needs a compiler.

    Raises:
        ValueError: If `directory` is filled or closed, the disk full, or a file not like `net`.
    """
    directory = directory.absolute()
    if "c" in formats and integers is None:
        raise ValueError(
            "C code must be of an integer net, but this net was not quantised or has operations "
            "without an integer form; leave out that format, or end the order with mps."
        )
    with writing(directory, replaces=_is_bundle if force else None) as staging:
        described = dict(architecture) | _graph_of(net)
        report = dict(report)
        if integers is not None:
            data = pack_program(integers.program)
            (staging / INTEGERS).write_bytes(data)
            described["integers"] = describe_packed(integers.program, data)
            report["bytes"] = packed_bytes(integers.program)
        _write_json(staging / ARCHITECTURE, described)
        checks = _write_net(staging, net, example, rebuild, "onnx" in formats)
        if integers is not None:
            checks |= _check_integers(staging, integers, example, "onnx" in formats)
            if "c" in formats:
                report["c"], difference = _write_code(staging, integers, example)
                checks |= difference
        _write_json(staging / REPORT, {**report, "checks": checks})
    return checks


def load(directory: str | Path) -> nn.Module:
    """The trained net of a bundle, in eval mode: floats, or fake-quantised.

    Args:
        directory: As `write_bundle` or `plinio-sweep export` left it, from anyone: nothing in it is
            run.

    Raises:
        ValueError: When a file is missing, damaged or altered, or the net has layers of the user's
            own.
    """
    folder = Path(directory)
    architecture = _read_json(folder / ARCHITECTURE)
    graph = architecture.get("graph") if isinstance(architecture, dict) else None
    if graph is None:
        raise ValueError(
            f"A bundle must describe the graph of its net to be loaded alone, but {folder} does "
            f"not: the net has layers that are not of torch; load it with its study."
        )
    return read_net(json.dumps(graph).encode(), _read(folder / WEIGHTS))


def load_integers(directory: str | Path) -> IntegerNet:
    """The integer net of a bundle.

    Raises:
        ValueError: When a file is missing, damaged or altered, or the net was not quantised.
    """
    folder = Path(directory)
    architecture = _read_json(folder / ARCHITECTURE)
    packed = architecture.get("integers") if isinstance(architecture, dict) else None
    if packed is None:
        raise ValueError(
            f"A bundle must be of a quantised net to hold integers, but {folder} is not; export a "
            f"trial whose order ends with mps."
        )
    return IntegerNet(unpack_program(packed, _read(folder / INTEGERS))).eval()


# -- writing --------------------------------------------------------------------------------------


def _graph_of(net: nn.Module) -> dict[str, Any]:
    """The graph of `net` as JSON, where all of it is of torch or ours."""
    if not isinstance(net, fx.GraphModule):
        return {}
    try:
        return {"graph": describe_net(net)}
    except ValueError:
        return {}  # a layer of the user's own: `rebuild` knows it


def _write_net(
    staging: Path,
    net: nn.Module,
    example: tuple[Tensor, ...],
    rebuild: Callable[[Mapping[str, Any]], nn.Module],
    onnx: bool,
) -> dict[str, float]:
    expected = _outputs(net, example)
    (staging / WEIGHTS).write_bytes(safetensors.torch.save(_weights(net)))
    found = _outputs(_reload(staging, rebuild), example)
    checks = {"safetensors": _agreed(WEIGHTS, expected, found, WEIGHTS_TOLERANCE)}
    if onnx:
        export_onnx(net, example, staging / GRAPH)
        found = [torch.from_numpy(item) for item in run_onnx(staging / GRAPH, example)]
        checks["onnx"] = _agreed(GRAPH, expected, found, ONNX_TOLERANCE)
    return checks


def _check_integers(
    staging: Path, integers: IntegerNet, example: tuple[Tensor, ...], onnx: bool
) -> dict[str, float]:
    codes = integers.quantize(*example)
    expected = integers.run(codes)
    again = load_integers(staging)
    checks = {"integers": _same(INTEGERS, expected, again.run(codes), 0)}
    if onnx:
        export_qdq(integers.program, staging / INTEGER_GRAPH)
        values = [torch.from_numpy(item) for item in run_onnx(staging / INTEGER_GRAPH, example)]
        scales = [integers.program.values[name].grid for name in integers.program.outputs]
        # An output that is not rounded has no code: a part in 255 of its range is one.
        steps = [
            grid.scale if grid.bits < 32 else max(grid.scale, float(v.abs().max()) / 255)
            for grid, v in zip(scales, values, strict=True)
        ]
        pairs = zip(integers.dequantize(expected), values, steps, strict=True)
        far = max(float((a - b).abs().max()) / step for a, b, step in pairs)
        if not far <= 1.001:
            raise ValueError(
                f"outputs of {INTEGER_GRAPH} must be within one code of the integers', but differ "
                f"by {far:.3g}; the folder was not written."
            )
        checks["integers_onnx"] = far
    return checks


def _write_code(
    staging: Path, integers: IntegerNet, example: tuple[Tensor, ...]
) -> tuple[dict[str, Any], dict[str, float]]:
    code = write_c(integers.program, staging)
    report: dict[str, Any] = {
        "arena_bytes": code.arena_bytes,
        "activation_bytes": code.activation_bytes,
        "constant_bytes": code.constant_bytes,
    }
    compiler = find_compiler()
    if compiler is None:
        return report | {"compiler": "none was found, so the code was not run"}, {}
    codes = integers.quantize(*example)
    found = run_c(staging, integers.program, codes, compiler)
    report |= {"compiler": compiler, "object": dict(object_sizes(staging, compiler=compiler))}
    return report, {"c": _same("model.c", integers.run(codes), found, 0)}


def _same(file: str, expected: Codes, found: Codes, most: int) -> float:
    """Largest difference of codes, refused where it is larger than `most`."""
    far = max(int((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    if far > most:
        raise ValueError(
            f"codes of {file} must equal those of the integer net, but differ by {far}; the folder "
            f"was not written."
        )
    return float(far)


def _is_bundle(directory: Path) -> bool:
    """Whether `directory` holds what this file writes, and may be replaced."""
    known = {WEIGHTS, GRAPH, INTEGERS, INTEGER_GRAPH, ARCHITECTURE, REPORT, "model.c", "model.h"}
    names = {path.name for path in directory.iterdir()}
    return {WEIGHTS, ARCHITECTURE} <= names <= known


# -- reading and comparing ------------------------------------------------------------------------


def _weights(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as separate contiguous tensors; shared ones are stored repeatedly."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in net.state_dict().items()
    }


def _reload(folder: Path, rebuild: Callable[[Mapping[str, Any]], nn.Module]) -> nn.Module:
    """The net as a stranger gets it: from the files alone, where they hold all of it."""
    architecture = _read_json(folder / ARCHITECTURE)
    if "graph" in architecture:
        return load(folder)
    net = rebuild(architecture)
    try:
        net.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except RuntimeError as error:  # names or shapes differ
        raise ValueError(
            f"the net that `rebuild` makes of `architecture` must take the weights in {WEIGHTS}, "
            f"but: {' '.join(str(error).split())}; make `architecture` describe `net` in full."
        ) from error
    return net


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"A bundle must be whole, but {path} says {error.strerror!r}; export the trial again."
        ) from error


def _read_json(path: Path) -> Any:
    content = _read(path)
    try:
        return json.loads(content)
    except (RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"A bundle must hold its architecture as JSON, but {path} does not: {reason}; export "
            f"the trial again."
        ) from error


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
