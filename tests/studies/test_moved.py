"""Augmentation of the studies: every item by itself, on values that were there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.augment import moved_images, moved_signals, shifted


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(axis=st.sampled_from([1, 2, 3]), most=st.integers(0, 9), seed=st.integers(0, 20))
def test_a_shift_moves_each_item_and_its_ends_go_on(axis: int, most: int, seed: int) -> None:
    x = torch.randn(5, 3, 4, 6, generator=drawn(1))
    found = shifted(x, axis, most, drawn(seed))
    length = x.shape[axis]
    for before, after in zip(x, found, strict=True):
        moves = []
        for by in range(-most, most + 1):
            places = [min(max(k + by, 0), length - 1) for k in range(length)]
            moves.append(before.index_select(axis - 1, torch.tensor(places)))
        assert any(torch.equal(after, move) for move in moves)


def test_all_shifts_come_up_and_differ_between_items() -> None:
    x = torch.arange(9.0).expand(400, 9)
    assert set(shifted(x, 1, 2, drawn())[:, 4].tolist()) == {2.0, 3.0, 4.0, 5.0, 6.0}


def test_half_of_the_images_are_turned() -> None:
    x = torch.arange(4.0).expand(400, 1, 4, 4)
    (found,) = moved_images((x,), drawn(), share=0.0)
    turned = (found[:, 0, 0, 0] == 3).float().mean()
    assert float(turned) == pytest.approx(0.5, abs=0.1)
    assert torch.equal(found.sort(-1).values, x)


def test_images_are_shifted_by_their_share_of_both_sides() -> None:
    rows = torch.arange(32.0)[:, None].expand(400, 1, 32, 32)
    (found,) = moved_images((rows,), drawn(), share=0.1)
    assert set(found[:, 0, 16, 16].tolist()) == {16.0 + by for by in range(-3, 4)}


def test_signals_have_noise_of_the_spread_that_was_asked_for() -> None:
    x = torch.zeros(50, 6, 128)
    (found,) = moved_signals((x,), drawn(), axis=2, most=4, noise=0.25)
    assert float(found.std()) == pytest.approx(0.25, rel=0.02)
    (again,) = moved_signals((x,), drawn(), axis=2, most=4, noise=0.25)
    assert torch.equal(found, again)
