"""The cost models that a command line names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costs import MODELS, CostModel, assume_bits
from plinio_sweep.plugin import resolve


def resolve_models(
    names: tuple[str, ...], own: Mapping[str, CostModel], bits: str | None
) -> dict[str, CostModel]:
    """Cost models by their names.

    Args:
        names: Known names, entry points, "module:name" or "file.py:name"; all of `own` if empty.
        own: Models of a study beside the built-in ones.
        bits: Bit-widths of the weights and activations of float layers, as "8,8".

    Raises:
        ValueError: For what is no cost model, two models of one name, or bits that are no numbers.
    """
    known = {**MODELS, **own}
    stated = None if bits is None else _bits(bits)
    found: dict[str, CostModel] = {}
    for reference in names or own:
        model = _model(reference, known)
        if model.name in found and found[model.name] is not model:
            raise ValueError(
                f"Cost models must differ in their names, but two are called {model.name!r}; "
                f"rename the function of one."
            )
        found[model.name] = model
    if stated is None:
        return found
    w, x = stated
    return {name: assume_bits(model, w=w, x=x) for name, model in found.items()}


def _model(reference: str, known: Mapping[str, CostModel]) -> CostModel:
    model: Any = resolve(reference, "plinio_sweep.costs", dict(known))
    if not isinstance(model, CostModel):
        raise ValueError(
            f"`{reference}` must be a cost model, but is {type(model).__name__}; put "
            f"@cost(unit=...) over its function."
        )
    return model


def _bits(text: str) -> tuple[float, float]:
    try:
        w, x = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"`--bits` must be two whole numbers with a comma, of weights and activations, but got "
            f"{text!r}; write for instance 8,8."
        ) from None
    return w, x
