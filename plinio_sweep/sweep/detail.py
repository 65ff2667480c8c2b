"""What each layer of a stored trial became, as plain data: readable without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FILES", "Detail", "LayerRecord", "detail_of", "parsed_detail"]

FILES = ("architecture.json", "report.json")  # of a stored trial, all that is read here


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """One layer of an exported net beside the same layer of the seed net."""

    name: str
    inputs: int  # live input channels
    outputs: int  # live output channels
    seed_inputs: int
    seed_outputs: int
    taps: int = 0  # live taps of a kernel whose taps are searched; else 0
    seed_taps: int = 0
    dilation: int = 1
    w_bits: Mapping[int, int] = field(default_factory=dict)  # outputs at each bit-width
    x_bits: int | None = None  # of its input; nothing where it is a float

    @property
    def mean_bits(self) -> float:
        """Bits of a weight on the mean over the outputs of the seed net; a float has 32.

        >>> layer = {"name": "a", "inputs": 1, "outputs": 4, "seed_inputs": 1, "seed_outputs": 8}
        >>> LayerRecord(**layer, w_bits={2: 2, 8: 2}).mean_bits, LayerRecord(**layer).mean_bits
        (2.5, 16.0)
        """
        widths = self.w_bits or {32: self.outputs}
        return sum(bits * count for bits, count in widths.items()) / max(self.seed_outputs, 1)


@dataclass(frozen=True, kw_only=True)
class Detail:
    """A stored trial, layer by layer."""

    layers: tuple[LayerRecord, ...]  # searched ones, in the order of the net
    costs: tuple[Mapping[str, Any], ...]  # every layer's own: {"name", "op", <cost>: …}
    units: Mapping[str, str]  # of every cost


def detail_of(folder: Path) -> Detail:
    """What `folder`, the artefact of a trial, holds of its layers.

    Raises:
        OSError: When a file is missing.
        ValueError: When a file is damaged.
    """
    return parsed_detail({name: (folder / name).read_bytes() for name in FILES}, str(folder))


def parsed_detail(files: Mapping[str, bytes], place: str) -> Detail:
    """The same of files that were read already.

    Args:
        files: Contents of `FILES`, by their names.
        place: Where they are from, for who has to mend them.

    Raises:
        ValueError: When a file is damaged.
    """
    try:
        layers = json.loads(files["architecture.json"])["layers"]
        report = json.loads(files["report.json"])
        return Detail(
            layers=tuple(_layer(name, known) for name, known in layers.items()),
            costs=tuple(report["layers"]),
            units=report["units"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"The files of a trial must be as they were written, but those in {place} are not: "
            f"{type(error).__name__} {error}; bring them back from a copy."
        ) from error


def _layer(name: str, known: Mapping[str, Any]) -> LayerRecord:
    return LayerRecord(
        name=name,
        inputs=known["in"],
        outputs=known["out"],
        seed_inputs=known["seed_in"],
        seed_outputs=known["seed_out"],
        taps=known.get("taps", 0),
        seed_taps=known.get("seed_taps", 0),
        dilation=known.get("dilation", 1),
        w_bits={int(bits): count for bits, count in known.get("w_bits", {}).items()},
        x_bits=known.get("x_bits"),
    )
