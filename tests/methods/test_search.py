"""What holds for the front doors of all methods, beside the contract of what they open."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from costs import macs
from plinio_sweep import (
    MPS,
    PIT,
    MPSSettings,
    PITSettings,
    SuperNet,
    SuperNetSettings,
    analyze,
    cost_of,
)
from plinio_sweep.methods.search import Search


def defaults(function: Any) -> dict[str, Any]:
    return {name: taken.default for name, taken in signature(function).parameters.items()}


@pytest.mark.parametrize(
    ("search", "settings"),
    [(PIT, PITSettings), (MPS, MPSSettings), (SuperNet, SuperNetSettings)],
    ids=["pit", "mps", "supernet"],
)
def test_a_method_takes_what_all_take_and_its_settings(
    search: type[Search], settings: type[Any]
) -> None:
    own = {field.name: field.default for field in fields(settings)}
    assert defaults(search) == defaults(Search) | own


def test_the_example_of_a_search_follows_its_net_and_is_not_stored() -> None:
    search = PIT(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), input_shape=(4,))
    assert not [name for name in search.state_dict() if "input" in name]
    search.double().export()  # compares both nets on the example
    floats = [value for value in search.buffers() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float64}


def halved(model: nn.Module) -> nn.Module:
    """A search with every other channel of its first group off."""
    with torch.no_grad():
        model.get_parameter("decisions.channels")[::2] = 0
    return model


@pytest.mark.parametrize("fold", [False, True], ids=["", "fold"])
def test_an_export_is_compared_with_all_digits(fold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that multiply with fewer, for some numbers of channels alone, change nothing."""
    exact = F.conv2d

    def fast(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        if x.dtype == torch.float32 and x.shape[1] % 4 == 0:
            x = (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)
        return exact(x, weight, *rest)

    monkeypatch.setattr(F, "conv2d", fast)
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 2, 3)]
    layers = [convolutions[0], nn.BatchNorm2d(8), nn.ReLU(), *convolutions[1:]]
    search = PIT(nn.Sequential(*layers), input_shape=(3, 9, 9), fold=fold, unfold=fold)
    exported = halved(search.eval()).export()
    x = torch.randn(2, 3, 9, 9)
    assert (search(x) - exported(x)).abs().max() > 3e-5
    assert exported.get_submodule("4").in_channels < 8


class Single(nn.Module):
    """Goes on in single precision whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.relu(self.two(torch.relu(self.one(x)).float())))


def test_a_net_that_can_not_run_in_double_is_compared_in_its_own_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = halved(PIT(Single(), input_shape=(4,)))
    assert search.export().get_submodule("three").in_features < 6
    plain = PIT._cut

    def wrong(self: PIT, *arguments: Any) -> Any:
        net = plain(self, *arguments)
        net.get_parameter("two.weight").mul_(1.01)
        return net

    monkeypatch.setattr(PIT, "_cut", wrong)
    with pytest.raises(ValueError, match="The exported net must equal the search net"):
        search.export()


def run_on_its_example(net: nn.Module, x: Tensor) -> None:
    search = PIT(net, input_example=x)
    search(*search._example)


@pytest.mark.parametrize(
    "use",
    [
        run_on_its_example,
        lambda net, x: cost_of(net, x, {"macs": macs}),
        analyze,
    ],
    ids=["search", "cost_of", "analyze"],
)
def test_an_example_is_taken_to_where_the_net_is(use: Any) -> None:
    """The device without numbers stands for any but the CPU."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).to("meta")
    x = torch.zeros(2, 4)
    use(net, x)
    assert x.device.type == "cpu"
