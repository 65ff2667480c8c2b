"""Orders of elements as runs: back to the same order, and few of them where it is regular."""

from __future__ import annotations

from random import Random

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from plinio_sweep.ship.runs import compress, expand


@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.data())
def test_any_order_comes_back(sizes: list[int], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(-1, sum(sizes) - 1), max_size=20))

    runs = compress(index, sizes)

    assert expand(runs, sizes) == index
    assert all(run.count > 0 and run.repeat > 0 for run in runs)
    assert all(0 <= run.start < sizes[run.source] for run in runs if run.source >= 0)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_transposed_and_padded_tensors_come_back(shape: list[int], random: Random) -> None:
    index = torch.arange(torch.Size(shape).numel()).reshape(shape)
    axes = list(range(len(shape)))
    random.shuffle(axes)
    moved = F.pad(index.permute(axes), (1, 2), value=-1).flatten().tolist()

    assert expand(compress(moved, [index.numel()]), [index.numel()]) == moved


def test_regular_orders_take_few_runs() -> None:
    index = torch.arange(8 * 5 * 6).reshape(8, 5, 6)
    sizes = [index.numel()]

    def num_runs(moved: torch.Tensor) -> int:
        return len(compress(moved.flatten().tolist(), sizes))

    assert num_runs(index) == 1
    assert num_runs(index[2:7:2]) == 1
    assert num_runs(index[:, 1:4, 1:3]) <= 8
    assert num_runs(index.permute(1, 2, 0)) == 1  # channels last
    assert num_runs(index.permute(2, 0, 1).flip(0)) <= 6
    assert num_runs(index.reshape(2, 4, 5, 6).transpose(0, 1)) <= 8  # a shuffle of channels


def test_a_run_never_crosses_from_one_tensor_into_another() -> None:
    runs = compress(list(range(12)), [4, 0, 8])

    assert [(run.source, run.start, run.count) for run in runs] == [(0, 0, 4), (2, 0, 8)]
