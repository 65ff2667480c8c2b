"""What trained things look like as files: safetensors and JSON, data without code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

WEIGHTS = "model.safetensors"


def save_weights(net: nn.Module, folder: Path) -> None:
    """Writes the state of `net` as safetensors."""
    save_tensors(net.state_dict(), folder / WEIGHTS)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes `tensors` by name."""
    # Copies: tied weights are one memory, which this format refuses.
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    # Through bytes: a full disk is then an OSError like any other.
    path.write_bytes(safetensors.torch.save(state))


def load_weights(net: nn.Module, folder: Path) -> None:
    """Reads the state of `net` back.

    Raises:
        ValueError: When the file is damaged or belongs to another net.
    """
    path = folder / WEIGHTS
    try:
        net.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:
        raise ValueError(damaged(path, error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what `save_tensors` wrote.

    Raises:
        ValueError: When the file is damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:
        raise ValueError(damaged(path, error)) from error


def save_json(value: Any, path: Path) -> None:
    """Writes a JSON value."""
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def load_json(path: Path) -> Any:
    """Reads a JSON value.

    Raises:
        ValueError: When the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(damaged(path, error)) from error


def damaged(path: Path, error: Exception) -> str:
    """Says that the stored file at `path` can't be used, and what to do."""
    reason = " ".join(str(error).split())[:200]
    return (
        f"The stored file {path} must be whole and fit the net, but can't be used: {reason}; "
        f"remove its folder to have it trained again."
    )
