"""What `MPS` may choose from: bit-widths, granularity, and how ranges of weights are found."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from plinio_sweep.graph.quantize import MAX_BITS, Learned, MinMax, WeightRanges
from plinio_sweep.methods.relax import SAMPLINGS

Per = Literal["layer", "channel"]
PER: tuple[Per, ...] = ("layer", "channel")
RANGES: Mapping[str, WeightRanges] = {"minmax": MinMax(), "learned": Learned()}


def ranges_called(name: str) -> WeightRanges:
    """The record called `name`, or the one at `module:name`.

    Raises:
        ValueError: When there is none.
        TypeError: When it can't find ranges.
    """
    if name in RANGES:
        return RANGES[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`ranges` must be among {list(RANGES)} or 'module:name' of a record, but got "
            f"{name!r}; {error}."
        ) from error
    record = found() if isinstance(found, type) else found
    if not isinstance(record, WeightRanges):
        raise TypeError(
            f"`ranges` must name a record with `trained` and `span`, but {name!r} is a "
            f"{type(record).__name__}; see `WeightRanges`."
        )
    return record


def check_candidates(
    w_bits: tuple[int, ...], x_bits: tuple[int, ...], per: Per, sampling: str, percentile: float
) -> None:
    """Refuses what no search can choose from.

    Raises:
        ValueError: For bit-widths that repeat or do not exist, or an unknown word.
    """
    for name, widths, least in (("w_bits", w_bits, 0), ("x_bits", x_bits, 2)):
        whole = all(isinstance(b, int) and least <= b <= MAX_BITS for b in widths)
        if not whole or not any(widths) or len(set(widths)) != len(widths):
            raise ValueError(
                f"`{name}` must hold each bit-width between {least} and {MAX_BITS} once, one above "
                f"0 at least, but got {widths}; (2, 4, 8) is a start."
            )
    if per not in PER:
        raise ValueError(f"`per` must be among {PER}, but got {per=}; choose one of them.")
    if per == "layer" and 0 in w_bits:
        raise ValueError(
            f"0 bit prunes channels, so it needs per='channel', but got {per=} and {w_bits=}; "
            f"leave 0 out, or decide per channel."
        )
    if sampling not in SAMPLINGS:
        raise ValueError(
            f"`sampling` must be among {SAMPLINGS}, but got {sampling=}; choose one of them."
        )
    if not 0 < percentile <= 100:
        raise ValueError(
            f"`percentile` must be above 0 and at most 100, but got {percentile=}; 99.9 leaves out "
            f"rare extremes."
        )


def check_stored(
    decisions: Mapping[str, Any],
    sizes: Mapping[str, int],
    quantizers: set[str],
    w_bits: tuple[int, ...],
    x_bits: tuple[int, ...],
) -> None:
    """Refuses stored decisions that were made for another net, or from other candidates.

    Args:
        decisions: As `MPS.encode` wrote them.
        sizes: Rows of each layer.
        quantizers: Names of those of activations.
        w_bits: Bit-widths that a row may have.
        x_bits: Bit-widths that an activation may have.

    Raises:
        ValueError: When they do not fit.
    """
    stored = {name: len(rows) for name, rows in decisions["weights"].items()}
    if stored != sizes or set(decisions["activations"]) != quantizers:
        raise ValueError(
            f"Stored decisions must fit the layers and quantisers of the net, {dict(sizes)} and "
            f"{sorted(quantizers)}, but hold {stored} and {sorted(decisions['activations'])}; use "
            f"the net that they were made for."
        )
    rows = {bits for rows in decisions["weights"].values() for bits in rows}
    activations = set(decisions["activations"].values())
    if not rows <= set(w_bits) or not activations <= set(x_bits):
        raise ValueError(
            f"Stored bit-widths must be among {w_bits} and {x_bits}, but are {sorted(rows)} and "
            f"{sorted(activations)}; use the settings that they were made with."
        )
