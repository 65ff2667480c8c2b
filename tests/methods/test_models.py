"""Every cost model in every method, and how fast the costs of a whole search are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from costs import (
    MODELS,
    assume_bits,
    mpic_cycles,
    peak_activation_bytes,
)
from plinio_sweep.graph.count import cost_of
from plinio_sweep.methods.mps import MPS
from plinio_sweep.methods.pit import PIT
from plinio_sweep.methods.search import Search
from plinio_sweep.methods.supernet import SuperNet, SuperNetModule

EVERY = {name: assume_bits(model, w=8, x=8) for name, model in MODELS.items()}


class Blocks(nn.Module):
    """Layers of every kind that hardware knows, a choice around some, one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = SuperNetModule(
            [
                nn.Conv2d(8, 8, 3, padding=1),
                nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)),
                nn.Identity(),
            ]
        )
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.block(x)
        return self.classifier(self.block(F.max_pool2d(x, 2)).mean((2, 3)))


def plain() -> nn.Module:
    """The same kinds of layers without a choice."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def open_pit() -> Search:
    return PIT(plain(), EVERY, input_shape=(3, 8, 8))


def open_supernet() -> Search:
    return SuperNet(Blocks(), EVERY, input_shape=(3, 8, 8), sampling="softmax")


def open_mps() -> Search:
    return MPS(plain(), EVERY, input_shape=(3, 8, 8), w_bits=(0, 2, 8))


def open_mps_per_layer() -> Search:
    return MPS(plain(), EVERY, input_shape=(3, 8, 8), w_bits=(2, 8), x_bits=(8, 4), per="layer")


METHODS = {"pit": open_pit, "supernet": open_supernet, "mps": open_mps}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_works_in_every_method(method: str, name: str) -> None:
    search = METHODS[method]()
    value = search.get_cost(name)
    assert value.shape == () and value.item() > 0
    slopes = torch.autograd.grad(value, list(search.nas_parameters()), materialize_grads=True)
    assert all(slope.isfinite().all() for slope in slopes)
    assert any(slope.abs().sum() > 0 for slope in slopes)
    exported = cost_of(search.export(), search._example, {name: EVERY[name]}).totals[name]
    assert search.get_cost(name, hard=True).item() == pytest.approx(exported, rel=1e-6)


@pytest.mark.parametrize("open_", [open_pit, open_supernet])
def test_bits_that_nobody_stated_are_asked_for_in_a_sentence(open_: type) -> None:
    search = open_()
    search.costs = mpic_cycles
    with pytest.raises(ValueError, match=r"got w_bits=32 in layer .*assume_bits\(mpic_cycles, "):
        search.get_cost()


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_a_branch_that_is_not_taken_is_not_in_memory(choice: int) -> None:
    search = SuperNet(Blocks(), peak_activation_bytes, input_shape=(3, 8, 8))
    with torch.no_grad():
        for logits in search.nas_parameters():
            logits[choice] = 1
    # At the addition: the input of the block, its output (the same for the identity), the sum.
    alive = 16 if choice == 2 else 24
    assert search.get_cost(hard=True).item() == 4 * alive * 64


def test_the_peak_in_between_is_no_less_than_that_of_the_smallest_branch() -> None:
    search = SuperNet(Blocks(), peak_activation_bytes, input_shape=(3, 8, 8), sampling="softmax")
    mixed = search.get_cost()
    assert 4 * 16 * 64 <= mixed.item() <= 4 * 24 * 64
    (slope,) = torch.autograd.grad(mixed, list(search.nas_parameters()))
    assert slope[2] < 0 < min(slope[0], slope[1])


def test_a_search_that_prunes_needs_less_memory() -> None:
    search = PIT(plain(), peak_activation_bytes, input_shape=(3, 8, 8))
    before = search.cost.item()
    (slope,) = torch.autograd.grad(search.cost, list(search.nas_parameters()))
    assert (slope >= 0).all() and slope.any()
    with torch.no_grad():
        for decision in search.nas_parameters():
            decision[: len(decision) // 2] = 0
    exported = cost_of(search.export(), search._example, {"peak": peak_activation_bytes})
    assert search.get_cost(hard=True).item() == exported.totals["peak"] < before


def test_a_quantised_activation_is_in_memory_at_its_width() -> None:
    search = open_mps_per_layer()
    # A pair of bit-widths for each activation: all at 8, and all at 4.
    both = [8 * 8 + 8 * 8, 8 * 4 + 8 * 4]
    for candidate, bits in enumerate(both):
        with torch.no_grad():
            search.decisions["activations"].zero_()[candidate] = 10
        peak = search.get_cost("peak_activation_bytes", hard=True).item()
        assert peak == bits * 64 / 8
        totals = cost_of(search.export(), search._example, {"p": peak_activation_bytes}).totals
        assert totals["p"] == peak
    mixed = search.get_cost("peak_activation_bytes")
    (slope,) = torch.autograd.grad(mixed, search.decisions["activations"])
    assert (slope[0] >= 0).all() and slope[0].any() and (slope[1] <= 0).all()


def test_a_pool_before_the_quantiser_leaves_the_width_to_the_layer_before() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1)
    )
    search = MPS(net, peak_activation_bytes, input_shape=(3, 8, 8), w_bits=(8,), x_bits=(8,))
    assert search.cost.item() == (3 + 8) * 64  # nothing is written in float before the pool
    totals = cost_of(search.export(), search._example, {"p": peak_activation_bytes}).totals
    assert totals["p"] == (3 + 8) * 64


def test_memory_follows_the_search_between_copies() -> None:
    search = PIT(plain().double(), peak_activation_bytes, input_shape=(3, 8, 8))
    assert "memory" not in " ".join(search.state_dict())
    half = PIT(plain().bfloat16(), peak_activation_bytes, input_shape=(3, 8, 8))
    assert half.cost.item() == search.cost.item()
