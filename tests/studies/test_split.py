"""Splits are rules: the same items for ever, the right share of each stratum, whole groups."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.archive import archive, texts
from data.source import place
from data.split import held_groups, held_out, in_parts, part_of, validated


def test_the_shares_of_the_published_rule_are_near_80_10_10() -> None:
    found = Counter(part_of(f"speaker {number}") for number in range(5000))
    assert found["validation"] == pytest.approx(500, abs=75)
    assert found["test"] == pytest.approx(500, abs=75)


def test_a_larger_share_keeps_who_was_held_out() -> None:
    names = [f"speaker {number}" for number in range(500)]
    small = {name for name in names if part_of(name, 10.0) == "validation"}
    assert small < {name for name in names if part_of(name, 20.0) == "validation"}


@given(
    strata=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 3),
)
def test_the_same_fraction_of_each_stratum_is_held_out(
    strata: list[int], fraction: float, seed: int
) -> None:
    mask = held_out(strata, fraction, seed)
    assert torch.equal(mask, held_out(strata, fraction, seed))
    for stratum, count in Counter(strata).items():
        held = int(mask[torch.tensor(strata) == stratum].sum())
        assert held == round(fraction * count)


@given(groups=st.lists(st.integers(0, 5), min_size=1, max_size=60), fraction=st.floats(0.05, 0.95))
def test_groups_are_held_out_whole(groups: list[int], fraction: float) -> None:
    mask = held_groups(groups, fraction).tolist()
    held = {group for group, out in zip(groups, mask, strict=True) if out}
    assert held.isdisjoint(group for group, out in zip(groups, mask, strict=True) if not out)
    assert len(held) == max(1, round(fraction * len(set(groups))))


def test_splits_of_other_seeds_differ() -> None:
    assert not torch.equal(held_out([0] * 40, 0.5, 0), held_out([0] * 40, 0.5, 1))
    assert not torch.equal(held_groups(range(40), 0.5, 0), held_groups(range(40), 0.5, 1))


def test_the_held_out_items_are_recorded_ones() -> None:
    # Of no meaning but this: a change would change the validation split of every study.
    assert held_out([0] * 12, 0.25).nonzero().flatten().tolist() == [4, 6, 10]


def test_speakers_are_in_the_parts_that_were_published() -> None:
    if place("kws3_mfcc.npz") is None:
        pytest.skip("needs kws3_mfcc.npz in the folder PLINIO_SWEEP_DATA")
    found = archive("kws3_mfcc.npz", "The spectra of three words")
    for part, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert {part_of(speaker) for speaker in texts(found, f"spk_{part}")} == {name}


def test_fewer_items_are_some_of_all_in_their_order() -> None:
    items = torch.arange(40.0)[:, None], torch.arange(40)
    out = held_out([0] * 40, 0.25)
    whole, some = validated(items, out, items, None), validated(items, out, items, 5)
    for name in ("train", "validation", "test"):
        all_items = whole.part(name).target.tolist()
        found = some.part(name)
        assert len(found) == 5
        assert found.target.tolist() == sorted(set(all_items) & set(found.target.tolist()))
        assert torch.equal(found.inputs[0][:, 0].long(), found.target)
    assert set(whole.part("train").target.tolist()).isdisjoint(
        whole.part("validation").target.tolist()
    )
    more = in_parts(items, items, items, 99)
    assert len(more.part("train")) == 40
