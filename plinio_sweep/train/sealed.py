"""Values and tensors as bytes that tell whether they are whole: data, no code.

One line with a checksum of all that follows, one line of JSON, and the tensors as safetensors:

    plinio-sweep state 1 <sha256 in hexadecimal>
    {"map": [["weight", {"tensor": 0}], ["betas", {"tuple": [0.9, 0.999]}]]}
    <safetensors>

What JSON has no word for is an object with one: a tensor or a numpy array by its number among the
tensors, a tuple, a mapping by its pairs. Numbers come back with all their bits, and a tensor with
its strides, since these can decide how a layer computes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

_FIRST = b"plinio-sweep state 1 "
_PLAIN = (type(None), bool, int, float, str)


def seal(value: Any) -> bytes:
    """`value` as bytes.

    Args:
        value: Numbers, texts, tensors and arrays, in lists, tuples and mappings.

    Raises:
        TypeError: For anything else.

    Example:
        >>> unseal(seal({"betas": (0.9, 0.999), 3: torch.ones(2)}))
        {'betas': (0.9, 0.999), 3: tensor([1., 1.])}
    """
    tensors: list[Tensor] = []
    text = json.dumps(_encoded(value, tensors))
    named = {str(index): tensor for index, tensor in enumerate(tensors)}
    try:
        blob = safetensors.torch.save(named)
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise TypeError(_unheld(tensors)) from error
    body = text.encode() + b"\n" + blob
    return _FIRST + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unseal(data: bytes) -> Any:
    """The value that `seal` made `data` of, with all tensors on the CPU.

    Raises:
        ValueError: When a bit of `data` is not as it was.
    """
    line, _, body = data.partition(b"\n")
    if line != _FIRST + hashlib.sha256(body).hexdigest().encode():
        kind = "other contents than its checksum" if line.startswith(_FIRST) else "another form"
        raise ValueError(f"A sealed state must be as it was written, but has {kind}; leave it out.")
    text, _, blob = body.partition(b"\n")
    tensors = safetensors.torch.load(blob)
    return _decoded(json.loads(text), [tensors[str(index)] for index in range(len(tensors))])


def _encoded(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {"array": _added(torch.from_numpy(value.copy()), tensors)["tensor"]}
    if isinstance(value, Tensor):
        return _added(value, tensors)
    if isinstance(value, Mapping):
        pairs = value.items()
        return {"map": [[_encoded(k, tensors), _encoded(v, tensors)] for k, v in pairs]}
    if isinstance(value, list | tuple):
        items = [_encoded(item, tensors) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    raise TypeError(
        f"A state must be numbers, texts and tensors in lists, tuples and mappings, but holds "
        f"{type(value).__name__}; keep such a value out of nets and optimisers."
    )


def _added(tensor: Tensor, tensors: list[Tensor]) -> dict[str, Any]:
    if tensor.layout is not torch.strided:
        raise TypeError(_unheld([tensor]))
    # A copy even on the CPU: tensors that share memory can't be written.
    own = tensor.detach().cpu().clone(memory_format=torch.preserve_format)
    tensors.append(own.contiguous())
    found: dict[str, Any] = {"tensor": len(tensors) - 1}
    return found if own.is_contiguous() else found | {"stride": list(own.stride())}


def _unheld(tensors: list[Tensor]) -> str:
    kinds = sorted({f"{tensor.layout} {tensor.dtype}".replace("torch.", "") for tensor in tensors})
    return (
        f"Tensors of a state must be of kinds that safetensors can hold, but are {kinds}; keep "
        f"others out of nets and optimisers."
    )


def _decoded(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor = tensors[value["tensor"]]
        if "stride" not in value:
            return tensor
        strided = torch.empty_strided(tensor.shape, value["stride"], dtype=tensor.dtype)
        return strided.copy_(tensor)
    if "array" in value:
        return tensors[value["array"]].numpy()
    if "tuple" in value:
        return tuple(_decoded(item, tensors) for item in value["tuple"])
    return {_decoded(k, tensors): _decoded(v, tensors) for k, v in value["map"]}
