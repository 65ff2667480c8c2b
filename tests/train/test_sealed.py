"""States as bytes."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from plinio_sweep.train.sealed import seal, unseal
from tests.messages import is_sentence

TYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
KEYS = st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.none())
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(KEYS, st.floats(allow_nan=False)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in kind and in every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        alike = one.dtype == other.dtype and one.stride() == other.stride()
        return alike and one.shape == other.shape and torch.equal(bits(one), bits(other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def bits(tensor: Tensor) -> Tensor:
    flat = tensor.contiguous().reshape(-1)
    return flat if tensor.dtype == torch.bool else flat.view(torch.uint8)


@given(VALUES)
def test_values_come_back_as_they_were(value: Any) -> None:
    assert same(unseal(seal(value)), value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
def test_numbers_at_the_edges_come_back(value: float) -> None:
    found = unseal(seal({"loss": value}))["loss"]
    assert np.float64(found).tobytes() == np.float64(value).tobytes()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3, 4)], ids=str)
def test_tensors_come_back_bit_by_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randint(-100, 100, shape, generator=generator).to(dtype)
    assert same(unseal(seal([value])), [value])


def test_no_number_keeps_its_payload() -> None:
    value = torch.tensor([0x7FC00001, 0x7F800000], dtype=torch.int32).view(torch.float32)
    assert same(unseal(seal(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.arange(6.0).reshape(2, 3).T,
    ],
    ids=["channels last", "transposed"],
)
def test_a_tensor_lies_in_memory_as_it_did(value: Tensor) -> None:
    assert not value.is_contiguous()
    assert same(unseal(seal(value)), value)


def test_tensors_that_share_memory_come_back_apart() -> None:
    base = torch.arange(6.0)
    found = unseal(seal({"whole": base, "again": base, "part": base[1:4], "row": base[:1]}))
    assert [value.tolist() for value in found.values()] == [
        *(base.tolist(), base.tolist()),
        *([1.0, 2.0, 3.0], [0.0]),
    ]
    found["whole"].zero_()
    assert found["again"].tolist() == base.tolist()


def test_what_is_written_does_not_change_with_the_tensor_and_holds_no_gradient() -> None:
    value = torch.ones(3, requires_grad=True)
    data = seal(value)
    with torch.no_grad():
        value.zero_()
    found = unseal(data)
    assert found.tolist() == [1.0, 1.0, 1.0]
    assert not found.requires_grad


def test_random_states_of_numpy_and_python_come_back() -> None:
    state = np.random.RandomState(3).get_state(legacy=False)
    found = unseal(seal({"numpy": state, "python": random.Random(4).getstate()}))
    twin, other = np.random.RandomState(0), random.Random()
    twin.set_state(found["numpy"])
    other.setstate(found["python"])
    assert twin.randint(1 << 30) == np.random.RandomState(3).randint(1 << 30)
    assert other.random() == random.Random(4).random()
    assert unseal(seal([np.float32(0.5), np.int64(3)])) == [0.5, 3]


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, lambda: 0, torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.complex128)],
    ids=["object", "set", "function", "sparse", "complex128"],
)
def test_what_is_no_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="state must be") as error:
        seal({"net": [value]})
    assert is_sentence(error.value)


DATA = seal({"weight": torch.arange(20.0), "steps": (1, 2, 3)})


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_byte_that_changed_is_noticed(place: int, change: int) -> None:
    altered = bytearray(DATA)
    altered[place] ^= change
    with pytest.raises(ValueError, match="as it was written"):
        unseal(bytes(altered))


@given(st.integers(0, len(DATA) - 1), st.binary(max_size=9))
def test_a_part_is_noticed_and_so_is_what_is_added(length: int, more: bytes) -> None:
    for data in (DATA[:length], DATA[:length] + more, DATA + more, more):
        if data != DATA:
            with pytest.raises(ValueError, match="as it was written") as error:
                unseal(data)
            assert is_sentence(error.value)
