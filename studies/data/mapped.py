"""Tensors in a file that is mapped into memory: all workers of a machine share its pages.

One line with a checksum of all that follows, one line of JSON, and the bytes of each tensor, which
begin at multiples of 64:

    plinio-sweep tensors 1 <sha256 in hexadecimal>
    {"key": "…", "tensors": {"train.y": ["int64", [3], 0]}}

Who writes into such a tensor writes into a copy of that page which is its own, never into the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plinio_sweep.train.checkpoints import written_whole

Keep = Callable[[Tensor], Tensor]  # some items as they were decoded -> as they are kept

_FIRST = b"plinio-sweep tensors 1 "
_LINE = len(_FIRST) + 2 * hashlib.sha256().digest_size + 1
_ALIGNED = 64  # [byte], as safetensors and numpy do: wider than any number
_AT_ONCE = 2**26  # bytes of a tensor that are in memory twice


def as_decoded(items: Tensor) -> Tensor:
    """The same tensor."""
    return items


def write_mapped(
    path: Path, key: str, tensors: Mapping[str, Tensor], keep: Keep = as_decoded
) -> None:
    """Puts `tensors` at `path`, all of them or nothing; who has the old file mapped keeps it.

    Args:
        path: Of the file.
        key: Without which they are not read.
        tensors: By name, each of one dimension or more.
        keep: Makes of some items of a tensor what is kept of them.
    """
    placed: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        none = keep(tensor[:0])
        shape = [len(tensor), *none.shape[1:]]
        placed[name] = [str(none.dtype).removeprefix("torch."), shape, end]
        end = _up(end + len(tensor) * none.element_size() * none.shape[1:].numel())
    about = json.dumps({"key": key, "tensors": placed}).encode() + b"\n"
    with written_whole(path) as file:
        file.seek(_LINE)
        total = hashlib.sha256()
        for piece in chain([_filled(about, _LINE)], _pieces(tensors, keep)):
            file.write(piece)
            total.update(piece)
        file.seek(0)
        file.write(_first(total))


def read_mapped(path: Path, key: str) -> dict[str, Tensor] | None:
    """What was written to `path` with `key`; nothing where it is not there, or damaged."""
    try:
        with path.open("rb") as file:
            first, about = file.readline(_LINE), file.readline()
            size = os.fstat(file.fileno()).st_size
            if len(first) < _LINE:
                return None
            # Not `shared`: a page that somebody writes into becomes its own.
            data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except OSError:
        return None
    if first != _first(hashlib.sha256(data[_LINE:].numpy())):
        return None
    known = json.loads(about)
    if known["key"] != key:
        return None
    base = _up(_LINE + len(about))
    return {name: _tensor(data[base:], *place) for name, place in known["tensors"].items()}


def _tensor(data: Tensor, kind: str, shape: list[int], start: int) -> Tensor:
    dtype: torch.dtype = getattr(torch, kind)
    size = torch.Size(shape).numel() * dtype.itemsize
    return data[start : start + size].view(dtype).view(shape)


def _pieces(tensors: Mapping[str, Tensor], keep: Keep) -> Iterator[Any]:
    """What is written, piece by piece, so that no tensor is in memory twice as a whole."""
    for tensor in tensors.values():
        count = 0
        each = max(1, _AT_ONCE // max(1, tensor[:1].nbytes))
        for items in tensor.split(each):
            own = keep(items).clone(memory_format=torch.contiguous_format)
            piece = own.flatten().view(torch.uint8).numpy()
            count += len(piece)
            yield piece
        yield bytes(_up(count) - count)


def _filled(text: bytes, before: int) -> bytes:
    """`text` with zeros behind it up to where a tensor may begin, `before` it that many bytes."""
    return text.ljust(_up(before + len(text)) - before, b"\0")


def _up(size: int) -> int:
    """The next multiple at which a tensor may begin."""
    return -(-size // _ALIGNED) * _ALIGNED


def _first(total: Any) -> bytes:
    return _FIRST + total.hexdigest().encode() + b"\n"
