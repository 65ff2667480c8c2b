"""Which decision each row follows, and what that makes of rows that live and die together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plinio_sweep import MPS
from plinio_sweep.methods.layout import Layout


class Sum(nn.Module):
    """Two layers whose channels meet, and one that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
        self.reader = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(torch.relu(self.left(x) + self.right(x)))


def layout(**given: tuple[int, ...]) -> Layout:
    return MPS(Sum(), input_shape=(2, 5, 5), **given).layout


def rows_of(found: Layout, layer: str) -> slice:
    start = found.rows.start[layer]
    return slice(start, start + found.rows.sizes[[r.name for r in found.rows.layers].index(layer)])


def test_layers_that_meet_share_labels_and_no_decisions() -> None:
    found = layout(w_bits=(0, 2, 8))
    left, right = rows_of(found, "left"), rows_of(found, "right")
    assert found.label[left].tolist() == found.label[right].tolist()
    assert (found.label[left] > 0).all()
    assert found.num_decisions == 3 + 3 + 4
    assert found.label[rows_of(found, "reader")].tolist() == [0] * 4  # outputs of the net


def test_a_label_is_pruned_by_the_mean_of_its_rows_and_the_best_one_never() -> None:
    found = layout(w_bits=(0, 2, 8))
    score = torch.zeros(10)
    score[rows_of(found, "left")] = torch.tensor([1.0, 2.0, 3.0])
    score[rows_of(found, "right")] = torch.tensor([3.0, 0.0, 0.0])
    margin, fixed = found.margins(score, torch.tensor([5.0, 5.0, 5.0]))
    assert margin[found.label[rows_of(found, "left")]].tolist() == [-3.0, -4.0, -3.5]
    assert fixed.tolist() == [True, True, False, False]


def test_every_live_row_has_one_bit_width_in_all() -> None:
    found = layout(w_bits=(0, 2, 8))
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(2, found.num_decisions, generator=generator).softmax(0)
    live = torch.tensor([1.0, 1.0, 0.5, 0.0])
    wide = found.channels_at_widths(weights, live)
    assert {name: round(parts.sum().item(), 5) for name, parts in wide.items()} == {
        "left": 1.5,
        "right": 1.5,
        "reader": 4.0,
    }


def test_weights_that_read_a_pruned_channel_are_masked() -> None:
    found = layout(w_bits=(0, 2, 8))
    masks = found.masks(torch.tensor([1.0, 1.0, 0.5, 0.0]))
    index = next(i for i, m in enumerate(found.rows.matrices) if m[0].name == "reader")
    assert masks[index].tolist() == [[1.0] * 18 + [0.0] * 9] * 4
