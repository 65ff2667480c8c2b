from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from costs import macs, params, peak_activation_bytes, size_bits
from plinio_sweep.graph.nodes import tensors
from plinio_sweep.methods.mps import MPSSettings
from plinio_sweep.methods.pit import GATES, PIT, Gate, PITSettings
from plinio_sweep.methods.search import Search
from tests.contract.method_contract import MethodContract, Opened, assert_close, outputs
from tests.graph.expected import FOLDED, KERNELS
from tests.nets import CASES, NETS, Case, rows
from tests.zoo.images import Head

IMAGE = (3, 8, 8)


class PITContract(MethodContract):
    """The suite, with taps where their cost is smooth: sums of their decisions below one."""

    @torch.no_grad()
    def draw_smooth(self, search: Search) -> None:
        super().draw_smooth(search)
        for name in {"field", "dilation"} & set(search.decisions):
            search.decisions[name].mul_(0.1)


class TestNormGate(PITContract):
    @pytest.fixture
    def settings(self) -> PITSettings:
        return PITSettings(gate="norm")


class TestConsumerGate(PITContract):
    promised = ()
    cases = tuple(
        NETS[name]
        for name in (
            *("chain", "Residual", "depthwise_separable", "InvertedResidual", "Concat", "Dense"),
            *("SqueezeExcite", "PreActivation", "ConcatNorm", "CalledTwice", "TwoResolutions"),
            *("Slices", "Shuffle", "FlattenTwo", "ZeroPadShortcut", "channel_prelu", "grouped"),
            *("instance_norm", "Tied", "SeveralOutputs", "UNet", "Volumes", "Attention"),
        )
    )
    draws = 2

    @pytest.fixture
    def settings(self) -> PITSettings:
        return PITSettings(gate="consumer")


class TestKernelsAlone(PITContract):
    cases = tuple(NETS[name] for name in (*KERNELS, "Residual"))
    promised = ()
    telling = ("Paddings", "PaddedBefore", "Temporal", "Residual")
    few = ("Causal", "PaddedBefore")  # with something to decide

    @pytest.fixture
    def settings(self) -> PITSettings:
        return PITSettings(channels=False)


class TestChannelsAlone(PITContract):
    cases = tuple(NETS[name] for name in ("chain", "PaddedBefore", "Temporal"))
    promised = ()
    telling = ("Temporal",)
    draws = 2

    @pytest.fixture
    def settings(self) -> PITSettings:
        return PITSettings(kernel=False)


class TestFolded(PITContract):
    cases = tuple(
        NETS[name]
        for name in (
            *("chain", "Residual", "depthwise_separable", "InvertedResidual", "SqueezeExcite"),
            *("TwoResolutions", "Unused", "Causal", "Temporal", "Volumes"),
        )
    )
    promised = ()
    draws = 2

    @pytest.fixture
    def settings(self) -> PITSettings:
        return PITSettings(fold=True)

    def test_loads_a_checkpoint_of_the_seed(self, opened: Opened, case: Case) -> None:
        state = case.build(seed=7).state_dict()
        found = copy.deepcopy(opened.search).net.load_state_dict(state, strict=False)
        assert {key.rsplit(".", 1)[1] for key in found.missing_keys} <= {"bias"}
        unread = {key.rsplit(".", 1)[0] for key in found.unexpected_keys}
        assert unread == FOLDED[case.name] | set(case.unused)


class TestUnfolded(TestFolded):
    cases = tuple(NETS[name] for name in ("chain", "Residual", "TwoResolutions", "Temporal"))

    @pytest.fixture
    def settings(self) -> PITSettings:
        return PITSettings(fold=True, unfold=True)


def searched(name: str, cost: Any = params, **given: Any) -> PIT:
    case = NETS[name]
    return PIT(case.build(), cost, input_example=case.inputs(), **given)


@torch.no_grad()
def decide(search: PIT, **channels: list[float]) -> None:
    """Sets the masks of groups by name."""
    for group in search.table.groups:
        if group.name in channels:
            place = slice(group.labels.start - 1, group.labels.stop - 1)
            search.decisions["channels"][place] = torch.tensor(channels[group.name])


def task_gradient(search: PIT, case: Case) -> Tensor:
    search.zero_grad()
    found = tensors(search(*case.inputs(4)))
    torch.stack([out.square().sum() for out in found]).sum().backward()
    gradient = search.decisions["channels"].grad
    assert gradient is not None
    return gradient


# -- gates ------------------------------------------------------------------------------------


def test_a_removed_channel_gets_no_task_gradient_with_the_norm_gate() -> None:
    search = searched("chain", gate="norm")
    decide(search, **{"0": [1, 1, 0.2, 1, 0.2, 1]})
    gradient = task_gradient(search, NETS["chain"])
    assert (gradient[[2, 4]] == 0).all()
    assert (gradient[[0, 1, 3, 5]] != 0).sum() >= 3  # one of them is kept in any case


def test_a_removed_channel_gets_task_gradient_with_the_consumer_gate() -> None:
    search = searched("chain", gate="consumer")
    decide(search, **{"0": [1, 1, 0.2, 1, 0.2, 1]})
    assert (task_gradient(search, NETS["chain"])[[2, 4]] != 0).all()


def test_a_removed_channel_returns_with_the_consumer_gate_only() -> None:
    returned = {}
    for gate in GATES:
        search = searched("chain", gate=gate)
        teacher = NETS["chain"].build()
        decide(search, **{"0": [1, 1, 0.45, 1, 0.45, 1]})
        optimizer = torch.optim.Adam(search.nas_parameters(), lr=0.02)
        for step in range(30):
            inputs = NETS["chain"].inputs(8, seed=step)
            optimizer.zero_grad()
            (search(*inputs) - teacher(*inputs).detach()).square().mean().backward()
            optimizer.step()
        returned[gate] = int((search.decisions["channels"][[2, 4]] > 0.5).sum())
    assert returned["norm"] == 0
    assert returned["consumer"] > 0


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("case", rows(CASES))
def test_open_masks_change_no_bit_and_have_finite_gradients(case: Case, gate: Gate) -> None:
    search = PIT(case.build(), params, input_example=case.inputs(), gate=gate)
    overrides = search.overrides(search.theta())
    assert all(torch.equal(value, search.net.get_parameter(n)) for n, value in overrides.items())
    free = any(kernel.frozen is None for kernel in search.table.kernels)
    assert bool(overrides) == (search.table.size > 1 or free)
    if search.table.size > 1:
        assert bool(torch.isfinite(task_gradient(search, case)).all())


def test_a_mask_is_counted_once_between_a_layer_and_its_reader() -> None:
    gradients = []
    for gate in GATES:
        net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2))
        torch.manual_seed(0)
        for layer in (net[0], net[1]):
            layer.reset_parameters()
        search = PIT(net, params, input_shape=(3,), gate=gate)
        decide(search, **{"0": [0.9, 0.8, 0.7, 0.95]})
        search(torch.ones(1, 3)).sum().backward()
        gradients.append(search.decisions["channels"].grad)
    # The net is linear, so masking either end is the same function of the mask.
    assert_close([gradients[0]], [gradients[1]])
    assert (gradients[0] != 0).sum() == 3


# -- costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("name", ["chain", "Residual", "Shuffle", "Concat", "UNet"])
def test_descent_on_the_cost_alone_leaves_one_channel_of_every_group(name: str, gate: Gate) -> None:
    search = searched(name, gate=gate)
    before = {n: p.clone() for n, p in search.named_net_parameters()}
    optimizer = torch.optim.Adam(search.parameters(), lr=0.05)
    start = search.get_cost().item()
    for _ in range(60):
        optimizer.zero_grad()
        (search.get_cost() / start).backward()
        optimizer.step()
    live = search.theta(hard=True)["channels"].bool()
    assert all(int(live[labels].sum()) == 1 for labels in search.table.keep)
    assert int(live[1:].sum()) == len(search.table.keep)
    assert search.get_cost(hard=True) < start / 3
    for n, p in search.named_net_parameters():
        assert torch.equal(p, before[n])


def test_masks_above_one_cost_no_more_than_the_seed_and_still_feel_the_cost() -> None:
    search = searched("chain")
    seed = search.get_cost().item()
    with torch.no_grad():
        search.decisions["channels"].fill_(-2.0)
    cost = search.get_cost()
    assert cost.item() == seed
    cost.backward()
    slope = search.decisions["channels"].grad
    assert slope is not None
    assert int((slope != 0).sum()) == search.table.size - 1 - len(search.table.keep)
    assert (slope <= 0).all()  # a negative mask grows toward zero


def test_the_best_channel_of_every_set_survives() -> None:
    search = searched("Chunk")
    decide(search, **{"stem.0": [0.1, 0.3, 0.2, 0.1, 0.0, -0.4, 0.3, 0.1], "left": [0, 0, 0.1, 0]})
    live = search.encode(search.theta(hard=True))["channels"]
    assert live == {"stem.0": [1, 5], "left": [2]}  # of each half, its best


def test_the_cost_follows_the_decisions_without_a_forward_pass() -> None:
    search = searched("chain")
    before = search.get_cost().item()
    decide(search, **{"3": [0.0] * 8})
    after = search.get_cost()
    assert after.item() < before
    after.backward()
    state = searched("chain").state_dict()
    search.load_state_dict(state)
    assert search.get_cost().item() == before


def test_a_combined_loss_with_enough_strength_prunes() -> None:
    costs = {}
    for strength in (0.0, 3.0):
        search, teacher = searched("chain"), NETS["chain"].build()
        optimizer = torch.optim.Adam(search.nas_parameters(), lr=0.05)
        weights = torch.optim.Adam(search.net_parameters(), lr=1e-3)
        seed = search.get_cost().item()
        for step in range(25):
            optimizer.zero_grad()
            weights.zero_grad()
            inputs = NETS["chain"].inputs(8, seed=step)
            loss = (search(*inputs) - teacher(*inputs).detach()).square().mean()
            (loss + strength * search.get_cost() / seed).backward()
            optimizer.step()
            weights.step()
        costs[strength] = search.get_cost(hard=True).item() / seed
    assert costs[0.0] == 1.0
    assert costs[3.0] < 0.6


def test_costs_go_by_name() -> None:
    search = searched("chain", {"size": size_bits, "work": macs})
    assert search.get_cost("size").item() != search.get_cost("work").item()
    single = searched("chain", macs)
    assert single.cost.item() == single.get_cost("macs").item() == search.get_cost("work").item()


def test_all_costs_at_once_are_those_asked_one_by_one() -> None:
    search = searched("Residual", {"size": size_bits, "peak": peak_activation_bytes, "work": macs})
    for hard in (False, True):
        found = search.get_costs(hard=hard)
        alone = {name: search.get_cost(name, hard=hard).item() for name in search.models}
        assert {name: cost.item() for name, cost in found.items()} == alone
    assert all(cost.requires_grad for cost in search.get_costs().values())


@pytest.mark.parametrize(
    ("cost", "name", "known"),
    [
        ({"size": size_bits, "work": macs}, None, "['size', 'work']"),
        ({"size": size_bits, "work": macs}, "energy", "['size', 'work']"),
        (macs, "size", "['macs']"),
    ],
)
def test_an_unknown_cost_is_refused_in_one_sentence(cost: Any, name: str, known: str) -> None:
    search = searched("chain", cost)
    with pytest.raises(ValueError, match="choose one of them") as caught:
        search.get_cost(name)
    assert str(caught.value) == (
        f"`name` must be among {known}, but got {name=}; choose one of them."
    )


# -- groups -----------------------------------------------------------------------------------


def test_groups_of_a_convolution_keep_the_same_of_their_channels() -> None:
    search = searched("grouped")
    decide(search, **{"0": [1, 0, 1], "1": [0, 1, 0]})
    exported = search.export()
    before: Any = exported.get_submodule("0")
    grouped: Any = exported.get_submodule("1")
    after: Any = exported.get_submodule("2")
    assert (before.out_channels, grouped.in_channels, grouped.groups) == (4, 4, 2)
    assert (grouped.out_channels, after.in_channels) == (2, 2)
    seed = searched("grouped").net.get_parameter("1.weight")
    assert torch.equal(grouped.weight, seed[[1, 4]][:, [0, 2]])


def test_a_depth_multiplier_loses_an_input_with_all_that_is_made_of_it() -> None:
    search = searched("multiplier")
    decide(search, **{"0": [1, 0, 0, 1, 1, 0]})
    exported = search.export()
    layer: Any = exported.get_submodule("1")
    assert (layer.in_channels, layer.groups, layer.out_channels) == (3, 3, 6)
    seed = searched("multiplier").net.get_parameter("1.weight")
    assert torch.equal(layer.weight, seed[[0, 1, 6, 7, 8, 9]])


def test_groups_of_one_output_each_keep_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 3, groups=2), nn.Conv2d(2, 4, 1))
    search = PIT(net, params, input_shape=IMAGE)
    frozen = {group.name: group.frozen for group in search.table.groups}
    assert frozen == {"0": None, "1": "2 groups in 1", "2": "network output"}


class ShuffledGroups(nn.Module):
    """Two grouped convolutions with their channels shuffled in between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.shuffle = nn.Conv2d(3, 8, 3), nn.ChannelShuffle(2)
        self.two, self.three = nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 3, groups=2)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(torch.relu(self.two(self.one(x))))
        return self.head(torch.relu(self.three(x)))


def test_shuffled_groups_are_cut_alike() -> None:
    net = ShuffledGroups().eval()
    search = PIT(net, params, input_shape=IMAGE)
    assert {g.name for g in search.table.groups if not g.frozen} == {"one", "two", "three"}
    with torch.no_grad():
        search.decisions["channels"][::2] = 0.0
    x = (torch.randn(2, *IMAGE),)
    exported = search.export()
    assert_close(outputs(search, x), outputs(exported, x))
    three: Any = exported.get_submodule("three")
    assert three.in_channels < 8
    assert PIT(exported, params, input_shape=IMAGE).get_cost() == search.get_cost(hard=True)


# -- taps -------------------------------------------------------------------------------------


def signal(kernel: int, **given: Any) -> PIT:
    """Two convolutions over time, of which the first is searched."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 4, kernel, **given), nn.ReLU(), nn.Conv1d(4, 2, 1)).eval()
    return PIT(net, macs, input_shape=(3, 24))


@torch.no_grad()
def decide_taps(search: PIT, field: list[float], dilation: list[float]) -> None:
    search.decisions["field"].copy_(torch.tensor(field))
    search.decisions["dilation"].copy_(torch.tensor(dilation))


@pytest.mark.parametrize(
    ("field", "dilation", "live"),
    [
        ([1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ([1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1, 1]),
        ([1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1], [1, 0, 1, 0, 1, 0, 1, 0, 1]),
        ([1, 1, 1, 1, 1, 1, 1, 1], [0.2, 0.2, 0.2], [1, 0, 0, 0, 1, 0, 0, 0, 1]),
        ([1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 1], [0, 0, 0, 0, 1, 0, 0, 0, 1]),
        ([0.2, 0.2, 0.2, 0.2, 0, 0, 0, 0], [1, 1, 1], [0, 0, 0, 0, 0, 0, 1, 1, 1]),
        ([0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_masks_of_taps_are_those_of_the_paper(
    field: list[float], dilation: list[float], live: list[int]
) -> None:
    search = signal(9)
    decide_taps(search, field, dilation)
    weight, masked = search.net.get_parameter("0.weight"), search.overrides(search.theta())
    expected = weight * torch.tensor(live, dtype=torch.float32)
    assert torch.equal(masked["0.weight"], expected)


def test_the_gradient_of_the_cost_is_the_published_one_at_the_start() -> None:
    search = signal(5)
    search.get_cost().backward()
    per_tap = search.get_cost().item() / (5 + 8 / 12)  # 12 weights a tap, 8 of the other layer
    field, dilation = search.decisions["field"].grad, search.decisions["dilation"].grad
    assert field is not None
    assert dilation is not None
    # Tap d counts the mean of beta_d to beta_4, and of the gammas whose step divides d.
    means = [sum(1 / (5 - e) for e in range(1, d + 1)) for d in range(1, 5)]
    assert_close([field / per_tap], [torch.tensor(means)])
    assert_close([dilation / per_tap], [torch.tensor([1 + 1 + 1 / 2, 1 / 2])])


def test_a_removed_tap_may_return_with_either_gate() -> None:
    for gate in GATES:
        search = searched("Causal", gate=gate)
        decide_taps(search, [0.4, 0.0, 0.4, 0.0], [1.0, 1.0])
        search(*NETS["Causal"].inputs(4)).square().sum().backward()
        gradient = search.decisions["field"].grad
        assert gradient is not None
        assert (gradient[[0, 2]] != 0).all()


def test_a_layer_called_twice_has_one_kernel() -> None:
    search = searched("Temporal", channels=False)
    twice = next(kernel for kernel in search.table.kernels if kernel.name == "twice")
    decided = {k.name: [k.taps, 1] for k in search.table.kernels if k.frozen is None}
    decisions = search.encode(search.theta(hard=True))
    assert decisions["kernels"] == decided
    decisions["kernels"]["twice"] = [3, 2]
    exported = search.export(search.decode(decisions))
    layer: Any = exported.get_submodule("twice")
    assert (twice.taps, layer.kernel_size, layer.dilation) == (5, (2,), (2,))
    assert sum(node.target == "twice" for node in exported.graph.nodes) == 2


def test_a_search_goes_on_from_a_dilated_export() -> None:
    first = signal(9, dilation=2)
    decide_taps(first, [1] * 8, [0, 1, 1])
    second = PIT(first.export(), macs, input_shape=(3, 24))
    (kernel,) = [k for k in second.table.kernels if k.frozen is None]
    assert (kernel.taps, kernel.dilation, kernel.steps) == (5, 4, (1, 2, 4))
    decide_taps(second, [1] * 4, [0, 1])
    layer: Any = second.export().get_submodule("0")
    assert (layer.kernel_size, layer.dilation) == ((3,), (8,))
    summary = second.summary()["0"]
    assert (summary.taps, summary.dilation, summary.seed_taps, summary.seed_dilation) == (
        3,
        8,
        5,
        4,
    )


def test_kernels_and_channels_are_one_setting_each() -> None:
    names = {True: {"channels", "field", "dilation"}, False: {"channels"}}
    for kernel, expected in names.items():
        assert set(searched("Causal", kernel=kernel).decisions) == expected
    assert set(searched("Causal", channels=False).decisions) == {"field", "dilation"}


# -- norms ------------------------------------------------------------------------------------


def test_a_folded_search_has_no_norm_and_its_masks_act_on_the_bias() -> None:
    search = searched("chain", fold=True)
    assert {"0.bias", "3.bias"} <= set(dict(search.named_net_parameters()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in search.modules())
    decide(search, **{"0": [1, 0, 1, 0, 1, 0]})
    bias = search.overrides(search.theta())["0.bias"]
    assert (bias[1::2] == 0).all()
    assert (bias[::2] != 0).all()


def test_an_unfolded_export_has_the_names_and_kinds_of_the_seed() -> None:
    net, case = warm("Residual")
    search = PIT(net, params, input_example=case.inputs(), fold=True, unfold=True)
    decide(search, **{"stem.0": [1, 0, 1, 1, 0, 0]})
    exported = search.export()
    assert exported.state_dict().keys() == net.state_dict().keys()
    norm: Any = exported.get_submodule("stem.1")
    assert type(norm) is nn.BatchNorm2d
    assert (norm.num_features, norm.weight.requires_grad) == (3, True)
    search.decisions["channels"].data.fill_(1.0)
    whole = search.export()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(whole.state_dict()[name], value, rtol=1e-4, atol=1e-5)


# -- after quantisation -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grouped", "multiplier", "Temporal", "Tied", "Shuffle"])
def test_rounded_layers_lose_channels_and_count_at_their_bit_widths(name: str) -> None:
    case = NETS[name]
    costs = {"params": params, "size": size_bits}
    first = MPSSettings(w_bits=(2, 8)).open(case.build(), case.inputs(), costs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for decision in first.nas_parameters():
            decision.copy_(torch.rand(decision.shape, generator=generator))
    rounded = first.export()
    search = PIT(rounded, costs, input_example=case.inputs())
    assert search.get_cost("size").item() == first.get_cost("size", hard=True).item()
    assert search.get_cost("size").item() < 32 * search.get_cost("params").item() / 2
    assert not any(kernel.frozen is None for kernel in search.table.kernels)
    with torch.no_grad():
        search.decisions["channels"][::2] = 0.0
    again = PIT(search.export(), costs, input_example=case.inputs())
    for cost in costs:
        assert again.get_cost(cost).item() == search.get_cost(cost, hard=True).item()


# -- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({}, ValueError, "but got none; give for instance"),
        ({"input_shape": IMAGE, "input_example": torch.zeros(1)}, ValueError, "but got both"),
        ({"input_shape": (3, 8.5, 8)}, TypeError, "tuple of sizes without the batch"),
        ({"input_example": [1, 2]}, TypeError, "tensor or a tuple of tensors, but got list"),
        ({"input_shape": IMAGE, "gate": "both"}, ValueError, "but got gate='both'; choose one"),
        (
            {"input_shape": IMAGE, "exclude_names": ["stem.3"]},
            ValueError,
            "'stem.3' is none of them; near it: ['3'",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(
    given: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind) as caught:
        PIT(NETS["chain"].build(), params, **given)
    message = str(caught.value)
    assert words in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("stored", [{}, {"0": [0, 1]}, {"0": [6, 1]}, {"0": [3, 3]}])
def test_taps_of_another_net_are_refused(stored: dict[str, Any]) -> None:
    search = signal(5)
    channels = search.encode(search.theta(hard=True))["channels"]
    with pytest.raises(ValueError, match="use the net that they were made for") as caught:
        search.decode({"channels": channels, "kernels": stored})
    assert "\n" not in str(caught.value)


def test_settings_refuse_to_unfold_what_is_not_folded() -> None:
    with pytest.raises(ValueError, match="`unfold` must come with `fold`"):
        PITSettings(unfold=True)


def test_settings_refuse_to_search_nothing() -> None:
    with pytest.raises(ValueError, match="One of `channels` and `kernel` must be true"):
        PITSettings(channels=False, kernel=False)


def test_settings_refuse_an_unknown_gate() -> None:
    with pytest.raises(ValueError, match="`gate` must be among"):
        PITSettings(gate="both")  # type: ignore[arg-type]


def test_an_example_and_its_shape_open_the_same_search() -> None:
    by_shape = PIT(NETS["chain"].build(), params, input_shape=IMAGE)
    assert str(by_shape.table) == str(searched("chain").table)
    shapes = PIT(NETS["SeveralInputs"].build(), params, input_shape=(IMAGE, (4,)))
    assert str(shapes.table) == str(searched("SeveralInputs").table)


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ({"0": [0], "3": [0]}, "must fit the groups and kernels of the net, ['0', '3', '7'] and"),
        ({"0": [6], "3": [0], "7": [0]}, "Stored channels of '0' must be below 6, but are [6]"),
    ],
)
def test_decisions_of_another_net_are_refused(channels: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        searched("chain").decode({"channels": channels})
    assert words in str(caught.value)


# -- what PLiNIO got wrong, by the number in the audit ------------------------------------------


def warm(name: str) -> tuple[nn.Module, Case]:
    """A net whose running statistics come from data."""
    case, net = NETS[name], NETS[name].build()
    net.train()
    with torch.no_grad():
        for seed in range(5):
            net(*case.inputs(8, seed=seed))
    return net.eval(), case


@pytest.mark.parametrize("name", ["chain", "FlattenModule", "instance_norm", "Causal"])
def test_b1_norms_keep_their_statistics_and_their_affine_parameters(name: str) -> None:
    net, case = warm(name)
    exported = PIT(net, params, input_example=case.inputs()).export()
    assert_close(outputs(net, case.inputs(5)), outputs(exported, case.inputs(5)), 0.0)
    after = exported.state_dict()
    assert all(torch.equal(value, after[n]) for n, value in net.state_dict().items())


def test_b2_export_adds_no_norm() -> None:
    exported = searched("Residual").export()
    kinds = [type(m) for m in exported.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(kinds) == sum(
        isinstance(m, nn.BatchNorm2d) for m in NETS["Residual"].build().modules()
    )


@pytest.mark.parametrize("name", ["chain", "depthwise_separable", "ConcatNorm"])
@pytest.mark.parametrize("fold", [False, True])
def test_b3_the_shift_of_a_removed_channel_is_removed(name: str, fold: bool) -> None:
    net, case = warm(name)
    for gate in GATES:
        search = PIT(net, params, input_example=case.inputs(), gate=gate, fold=fold)
        with torch.no_grad():
            search.decisions["channels"][::2] = 0.1
        expected = outputs(search, case.inputs(5))
        assert_close(expected, outputs(search.export(), case.inputs(5)))


def test_b4_a_symmetric_pad_stays_symmetric() -> None:
    net = nn.Sequential(nn.ConstantPad1d((2, 2), 0.0), nn.Conv1d(3, 4, 5), nn.Conv1d(4, 2, 1))
    exported = PIT(net, params, input_shape=(3, 16)).export()
    x = torch.randn(2, 3, 16)
    assert torch.equal(net(x), exported(x))


def test_b10_building_many_searches_changes_nothing_in_the_seed() -> None:
    net, case = warm("chain")
    expected = outputs(net, case.inputs())
    for _ in range(3):
        search = PIT(net, params, input_example=case.inputs())
        assert_close(expected, outputs(search, case.inputs()), 0.0)
        assert_close(expected, outputs(net, case.inputs()), 0.0)


def test_b17_fine_tuning_an_export_leaves_the_search_alone() -> None:
    search, case = searched("Shuffle"), NETS["Shuffle"]
    before = copy.deepcopy(search.state_dict())
    exported = search.export().train()
    optimizer = torch.optim.SGD(exported.parameters(), lr=0.1)
    exported(*case.inputs()).square().sum().backward()
    optimizer.step()
    after = search.state_dict()
    assert all(torch.equal(value, after[n]) for n, value in before.items())


@pytest.mark.parametrize(
    ("name", "excluded", "frozen"),
    [
        ("chain", "3", {"0", "3"}),  # a reader of channels, and what it reads
        ("Residual", "two.0", {"stem.0", "one.0"}),  # one side of an addition
        ("depthwise_separable", "2.0", {"0.0"}),  # a depthwise layer
        ("TwoResolutions", "block", {"stem.0"}),  # a whole block
    ],
)
@pytest.mark.parametrize("again", [False, True], ids=["seed", "graph"])
def test_b18_what_is_excluded_is_frozen_with_its_neighbours(
    name: str, excluded: str, frozen: set[str], again: bool
) -> None:
    case = NETS[name]
    net = case.build()
    if again:
        net = PIT(net, params, input_example=case.inputs()).export()
    search = PIT(net, params, input_example=case.inputs(), exclude_names=(excluded,))
    assert {g.name for g in search.table.groups if g.frozen} >= frozen
    with torch.no_grad():
        search.decisions["channels"].zero_()
    exported = search.export()
    before, after = net.get_submodule(excluded), exported.get_submodule(excluded)
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


def test_an_excluded_layer_may_return_anything() -> None:
    class Pair(nn.Conv2d):
        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            return y, y.mean()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.pair = nn.Conv2d(3, 6, 3), Pair(6, 5, 1)
            self.two, self.head = nn.Conv2d(5, 4, 1), Head(4)

        def forward(self, x: Tensor) -> Tensor:
            y, level = self.pair(self.one(x))
            return self.head(self.two(y) * level)

    search = PIT(Net(), params, input_shape=IMAGE, exclude_types=(Pair,))
    assert {g.name for g in search.table.groups if not g.frozen} == {"two"}
    with torch.no_grad():
        search.decisions["channels"].zero_()
    assert search.export().get_submodule("two").out_channels == 1


def test_b19_a_layer_called_twice_has_one_mask_for_both_calls() -> None:
    search = searched("CalledTwice")
    decide(search, left=[0, 1, 0, 0, 0], shared=[0, 0, 1, 0, 1, 0])
    exported = search.export()
    shared: Any = exported.get_submodule("shared")
    assert (shared.in_channels, shared.out_channels) == (1, 2)


@pytest.mark.parametrize("padding", [0, 2, "same"])
def test_b20_length_and_alignment_stay_when_taps_go(padding: Any) -> None:
    search = signal(5, padding=padding)
    decide_taps(search, [1, 1, 0, 0], [1, 1])
    x = torch.randn(2, 3, 24)
    exported = search.export()
    assert cast(Any, exported.get_submodule("0")).kernel_size == (3,)
    assert_close(outputs(search, (x,)), outputs(exported, (x,)))


@pytest.mark.parametrize("kernel", range(2, 18))
def test_b23_one_tap_survives_whatever_the_kernel(kernel: int) -> None:
    search = signal(kernel)
    with torch.no_grad():
        for name in ("field", "dilation"):
            search.decisions[name].zero_()
    weight = search.overrides(search.theta())["0.weight"]
    assert weight.count_nonzero(2).eq(1).all()
    assert cast(Any, search.export().get_submodule("0")).kernel_size == (1,)


@pytest.mark.parametrize("kernel", range(2, 18))
def test_b24_the_relaxed_cost_of_taps_is_true_wherever_decisions_are_hard(kernel: int) -> None:
    search = signal(kernel)
    assert search.get_cost().item() == search.get_cost(hard=True).item()
    generator = torch.Generator().manual_seed(kernel)
    for _ in range(10):
        with torch.no_grad():
            for name in ("field", "dilation"):
                decision = search.decisions[name]
                decision.copy_(torch.randint(0, 2, decision.shape, generator=generator))
        assert search.get_cost().item() == search.get_cost(hard=True).item()


def test_b21_every_slice_keeps_a_channel() -> None:
    search = searched("Slices")
    decide(search, **{"stem.0": [0, 0, 0, 0, 0, 0, 0, 0.4], "left": [0, 0, 0, 0.1]})
    exported = search.export()
    left: Any = exported.get_submodule("left")
    right: Any = exported.get_submodule("right")
    assert min(left.in_channels, right.in_channels) == 1


def test_b25_no_mask_counts_more_than_one_channel() -> None:
    search = searched("chain")
    with torch.no_grad():
        search.decisions["channels"].fill_(-2.0)
    assert float(search.theta()["channels"].detach().max()) == 1.0


def test_b26_removed_channels_may_return_by_a_setting() -> None:
    gradients = {}
    for gate in GATES:
        search = searched("Residual", gate=gate)
        decide(search, **{"one.0": [1, 0.2, 1, 0.2, 1]})
        labels = next(g.labels for g in search.table.groups if g.name == "one.0")
        gradients[gate] = task_gradient(search, NETS["Residual"])[[labels[1] - 1, labels[3] - 1]]
    assert (gradients["norm"] == 0).all()
    assert (gradients["consumer"] != 0).any()


def test_b35_frozen_decisions_stay_frozen() -> None:
    search = searched("chain")
    for decision in search.nas_parameters():
        decision.requires_grad_(False)
    search.train()
    search.eval()
    search.export()
    assert not any(decision.requires_grad for decision in search.nas_parameters())
    assert not search.get_cost().requires_grad


def test_b36_decisions_and_weights_are_two_disjoint_groups_of_parameters() -> None:
    search = searched("Residual")
    decisions = {id(p) for p in search.nas_parameters()}
    weights = {id(p) for p in search.net_parameters()}
    assert decisions.isdisjoint(weights)
    assert decisions | weights == {id(p) for p in search.parameters()}
    assert [name for name, _ in search.named_nas_parameters()] == ["decisions.channels"]
    assert (
        dict(search.named_net_parameters()).keys()
        == dict(NETS["Residual"].build().named_parameters()).keys()
    )


def test_b38_flattened_branches_of_different_sizes_count_each_its_own() -> None:
    search = searched("FlattenTwo")
    assert search.summary()["fc"].inputs == 4 * 4 + 5 * 4
    decide(search, left=[1, 0, 0, 0], right=[1, 1, 0, 0, 0])
    assert search.summary()["fc"].inputs == 1 * 4 + 2 * 4
    assert search.export().get_submodule("fc").in_features == 12


def test_b39_joined_layers_that_are_excluded_count_all_their_channels() -> None:
    net = NETS["Concat"].build()
    search = PIT(net, params, input_shape=IMAGE, exclude_names=("left.0", "left.1", "right"))
    assert search.summary()["join.0"].inputs == 4 + 5
    assert searched("ConcatInput").summary()["two"].inputs == 3 + 5


@pytest.mark.parametrize("name", ["chain", "Residual", "depthwise_separable"])
def test_b48_layers_that_are_excluded_still_cost(name: str) -> None:
    case = NETS[name]
    kinds = (nn.Conv2d, nn.Linear)
    names = [path for path, module in case.build().named_modules() if isinstance(module, kinds)]
    whole = PIT(case.build(), macs, input_example=case.inputs()).cost.item()
    parts = PIT(case.build(), macs, input_example=case.inputs(), exclude_names=names[:2])
    # A norm behind an excluded layer folds no more, and works on its own.
    own = sum(row.spec.op == "affine" for row in parts.table.rows)
    assert parts.cost.item() >= whole
    assert (parts.cost.item() > whole) == (own > 0)


def test_frozen_weights_stay_frozen_in_the_search_and_the_export() -> None:
    net = NETS["chain"].build()
    net.get_parameter("0.weight").requires_grad_(False)
    search = PIT(net, params, input_shape=IMAGE)
    decide(search, **{"0": [1, 0, 1, 0, 1, 0]})
    assert not search.net.get_parameter("0.weight").requires_grad
    exported = search.export()
    assert not exported.get_parameter("0.weight").requires_grad
    assert exported.get_parameter("3.weight").requires_grad


def test_shared_parameters_stay_shared_in_the_export() -> None:
    exported = searched("Tied").export()
    left, right = exported.get_submodule("left"), exported.get_submodule("right")
    assert left.weight is right.weight
    assert left.bias is not right.bias


def test_many_channels_are_counted_exactly_in_half_precision() -> None:
    net = nn.Sequential(nn.Linear(3, 1001), nn.Linear(1001, 2)).to(torch.bfloat16)
    search = PIT(net, params, input_shape=(3,))
    assert search.get_cost().item() == 4 * 1001 + 1002 * 2


def test_functional_dropout_follows_the_mode_and_never_the_export() -> None:
    search, case = searched("FunctionalDropout"), NETS["FunctionalDropout"]
    still, again = outputs(search, case.inputs()), outputs(search, case.inputs())
    assert_close(still, again, 0.0)
    search.train()
    torch.manual_seed(0)
    moving, other = search(*case.inputs()), search(*case.inputs())
    assert not torch.equal(moving, other)
    assert search.export().training


def test_the_differences_from_plinio_are_written_down_and_tested() -> None:
    path = Path(__file__).parents[1] / "parity" / "differences_pit.toml"
    entries = tomllib.loads(path.read_text())["difference"]
    assert len({entry["id"] for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.keys() == {"id", "peer", "ours", "decision", "test"}
        assert entry["decision"] in ("right", "convention", "setting")
        file, _, test = entry["test"].partition("::")
        source = (path.parents[2] / file).read_text()
        assert f"def {test.rsplit('::', 1)[-1].partition('[')[0]}(" in source, entry["id"]
