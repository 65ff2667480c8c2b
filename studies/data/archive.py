"""Data sets in `.npz` files: arrays `x_train`, `y_train`, `x_test`, `y_test`, and some more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from data.source import place
from data.split import Pair

Arrays = Mapping[str, Any]


def archive(name: str) -> Arrays | None:
    """The arrays of the file `name` in the data folder; nothing where there is none."""
    path = place(name)
    return None if path is None else np.load(path)


def pair(arrays: Arrays, part: str) -> Pair:
    """Inputs, in single precision, and class numbers of a part: "train"."""
    inputs = torch.from_numpy(arrays[f"x_{part}"].astype(np.float32))
    return inputs, torch.from_numpy(arrays[f"y_{part}"].astype(np.int64))


def texts(arrays: Arrays, name: str) -> list[str]:
    """The array `name` as texts."""
    return [str(value) for value in arrays[name]]
