"""MPS: bit-widths of weights and activations, channels pruned at 0 bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from costs import CostModel, bit_ops, macs, params, size_bits, total
from plinio_sweep.graph.quantized import Quantizer
from plinio_sweep.methods.mps import MPS, MPSSettings
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.methods.search import PARAMETER_GROUPS, ParameterGroup
from tests.contract.method_contract import (
    COSTS,
    EVERY_MODEL,
    LAYERS,
    PROMISED,
    MethodContract,
    assert_close,
    count_macs,
    count_params,
    outputs,
)
from tests.nets import NETS, Case, randomize


class OfBitWidths(MethodContract):
    """The contract for a method that rounds what the net computes."""

    draws = 1
    precision = torch.float64
    few = ("Residual",)
    models: ClassVar[dict[str, CostModel]] = {
        name: model
        for name, model in EVERY_MODEL.items()
        if name not in ("ne16_cycles", "diana_cycles")  # run activations of 8 bit only
    }
    # Rows about state and modes are alike for all nets: these will do.
    alike: ClassVar[tuple[str, ...]] = ("Residual",)
    differing: ClassVar[tuple[str, ...]] = (
        *PROMISED,
        "test_starts_as_the_seed",
        "test_every_model_counts_the_exported_net_as_the_search_did",
        "test_something_of_every_group_survives",
        "test_frozen_groups_stay_whole",
        "test_decisions_go_through_json_and_back",
    )

    @classmethod
    def cases_of(cls, row: str) -> tuple[Case, ...]:
        every = row in cls.differing
        return tuple(case for case in cls.cases if every or case.name in cls.alike)

    def test_starts_as_the_seed(self, settings: MPSSettings, case: Case) -> None:
        """With so many bits that rounding is small; the costs are those of all channels."""
        net = case.build()
        fine = self.open(replace(settings, w_bits=(10,), x_bits=(12,)), case, net)
        assert_close(outputs(fine, case.inputs()), outputs(net, case.inputs()), 5e-3)

    def test_costs_of_the_start_are_those_counted_from_outside(
        self, settings: MPSSettings, case: Case
    ) -> None:
        """With every channel alive; a soft cost of a whole number is whole up to rounding."""
        net = case.build()
        search = self.open(settings, case, net)
        if "channels" in search.decisions:
            with torch.no_grad():
                search.decisions["channels"].fill_(-1000.0)
        layers = [pair for pair in search.layers(search.theta()) if pair[0].op in LAYERS]
        found = search.get_cost("params").item(), total(macs, layers).item()
        # Counted on a search that keeps its norms in the table.
        plain = PITSettings().open(net, case.inputs(), COSTS)
        expected = count_params(net, plain), count_macs(net, case.inputs())
        assert found == pytest.approx(expected, rel=1e-6)


# Models of hardware that knows activations of 8 bit only.
OF_8_BIT = ("ne16_cycles", "diana_cycles")
OF_ANY_WIDTH = {name: EVERY_MODEL[name] for name in EVERY_MODEL if name not in OF_8_BIT}


class TestPerChannel(OfBitWidths):
    models = OF_ANY_WIDTH
    alike = ("Residual", "ConcatNorm", "SeveralInputs", "Words", "Tied")

    @pytest.fixture
    def settings(self) -> MPSSettings:
        return MPSSettings(w_bits=(0, 2, 4, 8), x_bits=(4, 8))


class TestQuantisationAwareTraining(OfBitWidths):
    cases = tuple(NETS[name] for name in ("Residual", "CalledTwice", "SeveralInputs", "Causal"))
    promised = ()
    few = ("Causal",)

    @pytest.fixture
    def settings(self) -> MPSSettings:
        return MPSSettings(w_bits=(8,), x_bits=(8,))

    @pytest.mark.parametrize("group", PARAMETER_GROUPS)
    def test_a_frozen_group_stays_while_the_other_learns(
        self, settings: MPSSettings, group: ParameterGroup
    ) -> None:
        """There are no decisions: only the net can learn."""
        case = NETS["Causal"]
        search = self.open(settings, case)
        search.freeze(group)
        trained = [name for name, p in search.named_parameters() if p.requires_grad]
        assert bool(trained) == (group == "nas")
        assert all(p.requires_grad for p in search.export().parameters())
        search.unfreeze(group)
        assert all(p.requires_grad for p in search.parameters())

    @pytest.mark.parametrize("group", PARAMETER_GROUPS)
    def test_what_the_user_froze_stays_frozen(
        self, settings: MPSSettings, group: ParameterGroup
    ) -> None:
        """Also the clips, which are the search's own."""
        case = NETS["Causal"]
        search = self.open(settings, case)
        search.log_clip.requires_grad_(False)
        search.freeze(group)
        search.unfreeze(group)
        assert [n for n, p in search.named_parameters() if not p.requires_grad] == ["log_clip"]
        left = {n for n, p in search.export().named_parameters() if not p.requires_grad}
        plans = [plan for plan in search.sites.quantizers if not plan.measured]
        assert left == {f"{plan.name}.log_clip" for plan in plans}


class TestPerLayer(OfBitWidths):
    cases = tuple(NETS[name] for name in ("Residual", "Tied", "NamedOutputs", "UNet", "Attention"))
    alike = ("Residual", "NamedOutputs")
    promised = ()
    telling = ("Residual", "NamedOutputs", "UNet")
    few = ("Tied",)

    @pytest.fixture
    def settings(self) -> MPSSettings:
        return MPSSettings(per="layer", ranges="learned", sampling="gumbel", quantize_outputs=True)


class TestHard(OfBitWidths):
    models = OF_ANY_WIDTH
    cases = tuple(NETS[name] for name in ("ConcatNorm", "Volumes"))
    promised = ()
    alike = few = telling = ("ConcatNorm",)

    @pytest.fixture
    def settings(self) -> MPSSettings:
        return MPSSettings(w_bits=(0, 4, 8), x_bits=(4, 8), hard=True)

    def test_the_slope_of_the_cost_is_its_finite_difference(
        self, settings: MPSSettings, case: Case
    ) -> None:
        """Straight through: the slope of the relaxed choice, at the costs of the hard one."""
        search = self.open(settings, case).double()
        self.draw_smooth(search)
        decisions = list(search.nas_parameters())
        found = torch.autograd.grad(search.get_cost("params"), decisions, materialize_grads=True)
        hard = {name: value.detach().requires_grad_() for name, value in search.theta().items()}
        choices = [hard["weights"], hard["live"]]
        slopes = torch.autograd.grad(total(params, search.layers(hard)), choices)
        search.hard = False
        relaxed = [search.theta()[name] for name in ("weights", "live")]
        expected = torch.autograd.grad(relaxed, decisions, slopes, materialize_grads=True)
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right)


# -- what the public library gets wrong ----------------------------------------------------------


class Pair(nn.Module):
    """Two convolutions and a classifier; what is rounded is known by hand."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.classifier = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.classifier(torch.relu(self.second(x)).mean((2, 3)))


def pair(cost: Any = size_bits, norm: bool = True, **given: Any) -> MPS:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Pair(norm)
        randomize(net)
        return MPS(net.eval(), cost, input_shape=(4, 5, 5), **given)


@torch.no_grad()
def choose(search: MPS, **layers: list[int]) -> None:
    """Gives the rows of layers their bit-widths, 0 among them; the others get the widest."""
    for layer in search.layout.rows.layers:
        start, rows = search.layout.rows.start[layer.name], layer.rows
        for row, bits in enumerate(layers.get(layer.name, [max(search.widths)] * rows)):
            decision = search.layout.decision[start + row]
            if "weights" in search.decisions:
                search.decisions["weights"][:, decision] = torch.tensor(
                    [5.0 * (width == bits) for width in search.widths]
                )
            label = int(search.layout.label[start + row])
            if label and search.prunes:
                search.decisions["channels"][label - 1] = 100.0 if bits == 0 else -100.0


def images(count: int = 4, **given: Any) -> Tensor:
    return torch.randn(count, 4, 5, 5, generator=torch.Generator().manual_seed(1), **given)


HALF = [0, 8, 0, 8, 0, 8, 0, 8]


def test_b5_pruned_channels_are_discounted_once() -> None:
    search = pair(w_bits=(0, 8))
    choose(search, first=HALF)
    weights, words = 4 * 36 + 6 * 4 + 18, 2 * (4 + 6 + 3)  # a bias and a scale an output
    assert search.get_cost(hard=True) == 8 * weights + 32 * words
    assert search.cost.item() == pytest.approx(8 * weights + 32 * words, rel=1e-6)


def test_b6_consumers_of_pruned_features_shrink_in_linear_chains() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
    search = MPS(net, size_bits, input_shape=(4,), w_bits=(0, 8))
    choose(search, **{"0": HALF})
    assert search.get_cost(hard=True) == 8 * (16 + 24) + 2 * 32 * (4 + 6)  # biases and scales


def test_b7_channels_of_alternate_widths_stay_in_their_order() -> None:
    search = pair(w_bits=(4, 8))
    choose(search, first=[4, 8] * 4)
    exported = search.export()
    assert exported.first.w_bits.tolist() == [4, 8] * 4
    inputs = (images(dtype=torch.float64),)
    expected = outputs(search.double(), inputs, theta=search.theta(hard=True))
    assert_close(outputs(exported.double(), inputs), expected)


def test_b8_depthwise_layers_have_widths_of_their_own_and_are_pruned_with_their_producer() -> None:
    case = NETS["depthwise_separable"]
    search = MPS(case.build(), size_bits, input_example=case.inputs(), w_bits=(0, 4, 8))
    choose(search, **{"0.0": [0, 4, 8, 8, 4, 0], "2.0": [0, 8, 4, 4, 8, 0]})
    exported = search.export()
    assert exported.get_submodule("0.0").w_bits.tolist() == [4, 8, 8, 4]
    assert exported.get_submodule("2.0").w_bits.tolist() == [8, 4, 4, 8]
    assert exported.get_submodule("2.0").groups == 4


def test_b9_a_channel_of_0_bit_is_cut_and_its_readers_shrink() -> None:
    search = pair(w_bits=(0, 8))
    choose(search, first=HALF)
    exported = search.export()
    assert exported.first.weight.shape == (4, 4, 3, 3)
    assert exported.second.weight.shape == (6, 4, 1, 1)
    assert MPS(exported, size_bits, input_shape=(4, 5, 5)).cost == search.get_cost(hard=True)


def test_b10_building_searches_again_and_again_changes_nothing() -> None:
    net = Pair().eval()
    randomize(net)
    before = net(images())
    first, *others = [MPS(net, input_shape=(4, 5, 5), w_bits=(8,)) for _ in range(3)]
    assert torch.equal(net(images()), before)
    assert all(torch.equal(first(images()), other(images())) for other in others)


def test_b11_an_export_can_be_changed_without_the_search() -> None:
    search = pair(x_bits=(8,))
    before, exported = search(images()), search.export()
    for module in exported.modules():
        if isinstance(module, Quantizer):
            module.bits, module.signed = (2,), False
    assert torch.equal(search(images()), before)


def test_b12_negative_values_pass_a_linear_bottleneck_and_a_sum() -> None:
    case = NETS["InvertedResidual"]
    net = case.build()
    search = MPS(net, input_example=case.inputs(8), w_bits=(8,), x_bits=(8,))
    seen: list[Tensor] = []
    for plan in search.sites.quantizers:
        if plan.nodes[0].startswith("project"):
            search.net.get_submodule(plan.name).register_forward_hook(
                lambda module, given, out: seen.append(out.detach())
            )
    expected = outputs(net, case.inputs(8))
    assert_close(outputs(search, case.inputs(8)), expected, 0.05)
    assert (seen[0] < 0).float().mean() > 0.2


def test_b13_inputs_keep_their_sign_and_their_range() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    x = 5 * torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    search = MPS(net, input_example=x)
    search.prepare([(x,)])
    assert search.signed.tolist() == [1.0]
    assert search.log_clip.exp().item() == pytest.approx(x.abs().max().item())
    quantizer = search.export().get_submodule(search.sites.quantizers[0].name)
    assert (quantizer(x) - x).abs().max() < 0.01 * x.abs().max()


def test_b15_a_low_temperature_closes_the_gap_to_the_export() -> None:
    search = pair(w_bits=(2, 4, 8), x_bits=(4, 8)).double()
    with torch.no_grad():
        for decision in search.nas_parameters():
            decision.uniform_(0, 1, generator=torch.Generator().manual_seed(0))
    inputs = (images(dtype=torch.float64),)
    expected = outputs(search.export(), inputs)
    gaps = []
    for temperature in (1.0, 0.05, 1e-7):
        search.temperature.fill_(temperature)
        (left,), (right,) = outputs(search, inputs), expected
        gaps.append((left - right).abs().max().item())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-6


def test_b16_no_weight_is_scaled_up_for_the_chance_of_being_pruned() -> None:
    search = pair(w_bits=(0, 8), x_bits=(8,))
    seed = pair(w_bits=(8,), x_bits=(8,))
    for name, parameter in seed.net.named_parameters():
        assert torch.equal(parameter, search.net.get_parameter(name))
    choose(search)
    assert_close(outputs(search.export(), (images(),)), outputs(seed, (images(),)))


def test_b17_fine_tuning_an_export_leaves_the_search_alone() -> None:
    search = pair()
    before, exported = search(images()), search.export().train()
    optimizer = torch.optim.SGD(exported.parameters(), lr=0.1)
    exported(images()).square().sum().backward()
    optimizer.step()
    assert torch.equal(search(images()), before)


@pytest.mark.parametrize("sampling", ["gumbel", "softmax"])
@pytest.mark.parametrize("hard", [True, False])
def test_b28_annealing_resets_no_other_setting(sampling: str, hard: bool) -> None:
    search = pair(sampling=sampling, hard=hard).train()
    search.temperature.fill_(0.5)
    search(images())
    assert bool(search.noise_weights.any()) == (sampling == "gumbel")
    decided = bool(((search.theta()["weights"] == 0) | (search.theta()["weights"] == 1)).all())
    assert decided == hard


def test_b29_biases_learn_as_fast_as_in_the_seed() -> None:
    rounded, seed = pair(w_bits=(8,), x_bits=(8,), norm=False), Pair(norm=False)
    seed.load_state_dict(rounded.net.state_dict(), strict=False)
    rounded.prepare([(2 * images(),)])  # so wide that nothing is clipped
    for net in (rounded, seed):
        net(images()).square().sum().backward()
    for name in ("first", "second", "classifier"):
        expected = seed.get_submodule(name).bias.grad
        found = rounded.net.get_submodule(name).bias.grad
        assert (found - expected).norm() < 0.1 * expected.norm()


def test_b30_the_cost_is_that_of_the_decisions_as_they_stand() -> None:
    search, other = pair(w_bits=(0, 4, 8)), pair(w_bits=(0, 4, 8))
    search.cost.backward()  # before any forward pass
    choose(search, first=HALF)
    other.load_state_dict(search.state_dict())
    assert other.cost == search.cost != pair(w_bits=(0, 4, 8)).cost


def test_b31_a_pruned_channel_is_felt_through_its_readers() -> None:
    search = pair(params, w_bits=(0, 8))
    theta = dict(search.theta(hard=True))
    theta["live"] = theta["live"].detach().requires_grad_()
    (slope,) = torch.autograd.grad(total(params, search.layers(theta)), [theta["live"]])
    # A channel of the first layer: its own 36 weights and its bias, and 6 weights that read it.
    assert slope[search.layout.label[0]].item() == pytest.approx(36 + 1 + 6)


def test_b32_clips_stay_positive_whatever_is_learned() -> None:
    search = pair(w_bits=(8,), x_bits=(4, 8)).train()
    optimizer = torch.optim.SGD([search.log_clip], lr=10.0)
    for _ in range(5):
        optimizer.zero_grad()
        search.log_clip.exp().sum().backward()
        optimizer.step()
    assert (search.log_clip.exp() > 0).all()
    assert torch.isfinite(search(images())).all()


@pytest.mark.parametrize("ranges", ["minmax", "learned"])
def test_b34_ranges_are_those_of_the_weights_before_any_forward_pass(ranges: str) -> None:
    search = pair(ranges=ranges, norm=False)
    span = search.net.second.weight.detach().flatten(1).abs().amax(1)
    start = search.layout.rows.start["second"]
    if ranges == "learned":
        torch.testing.assert_close(search.log_span.exp()[start : start + 6], span)
    rounded = search.overrides(search.theta(hard=True))["second.weight"].flatten(1).abs().amax(1)
    torch.testing.assert_close(rounded, span * 127 / 127.5)


def test_b43_layers_that_read_floats_cost_as_such() -> None:
    case = NETS["Words"]
    search = MPS(case.build(), bit_ops, input_example=case.inputs(), w_bits=(8,), x_bits=(8,))
    widths = {spec.name: spec.x_bits for spec, _ in search.layers(search.theta(hard=True))}
    assert all(torch.as_tensor(bits).min() > 0 for bits in widths.values())
    assert search.cost > 0


# -- what it does, and we do, too -----------------------------------------------------------------


def test_the_first_cost_is_that_of_softmax_weighted_widths() -> None:
    search = pair(w_bits=(2, 4, 8), per="layer", norm=False)
    mean = (torch.softmax(torch.tensor([0.25, 0.5, 1.0]), 0) * torch.tensor([2, 4, 8])).sum()
    assert mean.item() == pytest.approx(5.46966, rel=1e-5)
    words = 2 * (8 + 6 + 3)  # a bias and a scale an output
    expected = mean.item() * (288 + 48 + 18) + 32 * words
    assert search.cost.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_descent_on_the_cost_alone_ends_at_the_narrowest_and_leaves_weights_alone(per: str) -> None:
    search = pair(w_bits=(8, 4, 2), x_bits=(8, 4), per=per)
    before = {name: p.detach().clone() for name, p in search.named_net_parameters()}
    optimizer = torch.optim.Adam(search.parameters(), lr=0.1)
    costs = []
    for _ in range(30):
        optimizer.zero_grad()
        cost = search.cost
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs == sorted(costs, reverse=True)
    assert all(set(choice.w_bits) == {2} for choice in search.summary().values())
    assert all(torch.equal(p, before[name]) for name, p in search.named_net_parameters())


def test_joint_descent_prunes_all_but_one_channel_of_every_set() -> None:
    search = pair(w_bits=(0, 2, 8))
    optimizer = torch.optim.Adam(search.nas_parameters(), lr=0.2)
    for _ in range(80):
        optimizer.zero_grad()
        search.cost.backward()
        optimizer.step()
    outputs_left = {name: choice.outputs for name, choice in search.summary().items()}
    assert outputs_left == {"first": 1, "second": 1, "classifier": 3}


def test_outputs_of_the_net_are_never_pruned() -> None:
    search = pair(w_bits=(0, 8))
    choose(search, first=[0] * 8, second=[0] * 6, classifier=[8] * 3)
    summary = search.summary()
    assert [summary[name].outputs for name in ("first", "second", "classifier")] == [1, 1, 3]


def test_effective_outputs_do_not_depend_on_the_place_of_0_among_the_candidates() -> None:
    for w_bits in ((0, 2, 8), (2, 0, 8), (8, 2, 0)):
        search = pair(w_bits=w_bits)
        choose(search, first=[0, 2, 2, 8, 8, 2, 8, 8])
        assert search.summary()["first"].outputs == 7
        assert search.summary()["second"].inputs == 7
        assert search.summary()["first"].w_bits == {2: 3, 8: 4}


def test_a_rounded_net_learns_constant_labels() -> None:
    torch.manual_seed(0)
    search = pair(w_bits=(2, 4, 8), norm=False).train()
    optimizer = torch.optim.Adam(search.parameters(), lr=0.02)
    target = torch.full((4,), 2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(search(images()), target)
        (loss + 1e-5 * search.cost).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]
