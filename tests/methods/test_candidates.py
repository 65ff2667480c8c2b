"""What MPS may choose from, and what it refuses in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from plinio_sweep.graph.quantize import Learned, MinMax
from plinio_sweep.methods.candidates import ranges_called
from plinio_sweep.methods.mps import MPS, MPSSettings


@dataclass(frozen=True)
class RootMeanSquare:
    """Ranges of one's own: three times the root mean square of the weights that are there."""

    trained: ClassVar[bool] = False

    def span(self, rows: Tensor) -> Tensor:
        there = (rows != 0).sum(1).clamp(min=1)
        return 3 * (rows.detach().square().sum(1) / there).sqrt()


def test_ranges_go_by_name_or_by_reference() -> None:
    assert ranges_called("minmax") == MinMax()
    assert ranges_called("learned") == Learned()
    assert ranges_called(f"{Learned.__module__}:Learned") == Learned()


def test_ranges_of_ones_own_are_used_in_search_and_export() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    search = MPS(net, input_shape=(4,), w_bits=(2,), ranges=RootMeanSquare())
    rounded = search.overrides(search.theta(hard=True))["0.weight"]
    expected = RootMeanSquare().span(net[0].weight) * 2 / 3
    largest = rounded.abs().amax(1)
    torch.testing.assert_close(largest[largest > 0], expected[largest > 0])
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(search.export()(x), search(x))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"w_bits": (2, 2, 8)}, "`w_bits` must hold each", id="repeated weights"),
        pytest.param({"x_bits": (8, 8)}, "`x_bits` must hold each", id="repeated activations"),
        pytest.param({"w_bits": (0,)}, "one above 0 at least", id="only 0 bit"),
        pytest.param({"w_bits": ()}, "one above 0 at least", id="no weights"),
        pytest.param({"w_bits": (2, 17)}, "between 0 and 16", id="too many bits"),
        pytest.param({"x_bits": (1, 8)}, "between 2 and 16", id="activations of one bit"),
        pytest.param({"x_bits": (0, 8)}, "between 2 and 16", id="activations of no bit"),
        pytest.param({"w_bits": (2.5,)}, "`w_bits` must hold each", id="half a bit"),
        pytest.param({"per": "row"}, "`per` must be among", id="unknown granularity"),
        pytest.param({"per": "layer", "w_bits": (0, 8)}, "needs per='channel'", id="0 per layer"),
        pytest.param({"sampling": "argmax"}, "`sampling` must be among", id="unknown sampling"),
        pytest.param({"percentile": 0.0}, "`percentile` must be above 0", id="percentile of 0"),
        pytest.param({"ranges": "widest"}, "`ranges` must be among", id="unknown ranges"),
        pytest.param({"ranges": "torch:nothing"}, "`ranges` must be among", id="a wrong reference"),
    ],
)
@pytest.mark.parametrize("front", [MPSSettings, MPS])
def test_impossible_candidates_are_refused_in_one_sentence(
    front: Any, given: dict[str, Any], words: str
) -> None:
    arguments = (nn.Linear(4, 2),) if front is MPS else ()
    shape = {"input_shape": (4,)} if front is MPS else {}
    with pytest.raises(ValueError, match=words) as refusal:
        front(*arguments, **shape, **given)
    assert "\n" not in str(refusal.value)


def test_a_reference_to_what_finds_no_ranges_is_refused() -> None:
    with pytest.raises(TypeError, match="must name a record with `trained` and `span`"):
        ranges_called("math:pi")


def test_settings_come_back_from_json_as_they_were() -> None:
    assert MPSSettings(w_bits=[0, 4], x_bits=[8]) == MPSSettings(w_bits=(0, 4), x_bits=(8,))


def decided() -> tuple[MPS, dict[str, Any]]:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    search = MPS(net, input_shape=(4,), w_bits=(4, 8))
    return search, search.encode(search.theta(hard=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"weights": {"0": [8] * 7, "2": [8] * 2}}, "must fit the layers", id="rows"),
        pytest.param({"weights": {"0": [8] * 8}}, "must fit the layers", id="a missing layer"),
        pytest.param({"activations": {}}, "must fit the layers", id="a missing quantiser"),
        pytest.param(
            {"weights": {"0": [2] * 8, "2": [8] * 2}}, "Stored bit-widths must be", id="a width"
        ),
    ],
)
def test_decisions_of_another_net_or_setting_are_refused(
    change: dict[str, Any], words: str
) -> None:
    search, stored = decided()
    with pytest.raises(ValueError, match=words):
        search.decode(stored | change)
