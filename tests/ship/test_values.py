"""What JSON lacks: values of a graph go through it and come back as they were."""

from __future__ import annotations

import json
from collections import namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from plinio_sweep.graph.quantize import Learned, MinMax
from plinio_sweep.ship.values import decode, encode

SINGLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from(
        [
            *(..., slice(None), slice(1, None, 2), torch.float16, torch.device("cuda", 1)),
            *(torch.channels_last, torch.strided, MinMax(), Learned(), torch.relu),
        ]
    ),
)
VALUES = st.recursive(
    SINGLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(deadline=None, derandomize=True, database=None)
@given(value=VALUES)
def test_values_come_back(value: Any) -> None:
    stored = json.dumps(encode(value, "here"), allow_nan=False)
    again = decode(json.loads(stored), {})
    assert again == value
    assert repr(again) == repr(value)  # which tells 1 from True and 1.0


def test_nodes_come_back_by_name() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert decode(encode([slice(x, None), {"a": (x,)}], "here"), {"x": x}) == [
        slice(x, None),
        {"a": (x,)},
    ]


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize("value", [Pair(1, 2), {1}, b"bytes", torch.ones(2), print, object])
def test_what_has_no_form_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(ValueError, match="at 'here'; rebuild it with its study") as info:
        encode(value, "here")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "stored",
    [
        {"dtype": "load"},
        {"layout": "float32"},
        {"function": "os.system"},
        {"code": "1"},
        {"tuple": [], "dict": []},
        {},
        {"node": "x"},
        {"dict": [[[], 1]]},
    ],
)
def test_what_no_net_wrote_is_an_error(stored: Any) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        decode(stored, {})
