"""SuperNet: sampling, expected costs, and exports under clean names."""

from __future__ import annotations

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from costs import macs, params, total
from plinio_sweep.methods.pit import PIT
from plinio_sweep.methods.relax import discrete
from plinio_sweep.methods.supernet import SuperNet, SuperNetModule, SuperNetSettings
from tests.contract.method_contract import (
    COSTS,
    MethodContract,
    assert_close,
    count_macs,
    count_params,
    outputs,
)
from tests.nets import CASES, CHOICES, FEW_CHOICES, Case

SETTINGS = [("gumbel", False), ("softmax", False), ("gumbel", True), ("softmax", True)]


class OnChoices(MethodContract):
    """The contract on nets that have something to choose."""

    cases = CHOICES
    telling = tuple(case.name for case in FEW_CHOICES)
    few = ("Nested", "ChoicesOfInputs")
    draws = 1

    def _layers(self, net: nn.Module) -> list[str]:
        return [name for name in super()._layers(net) if "branches" not in name]

    def test_costs_of_the_start_are_those_counted_from_outside(
        self, settings: SuperNetSettings, case: Case
    ) -> None:
        search = self.open(settings, case)
        decisions = [range(len(d)) for d in search.nas_parameters()]
        found = []
        for taken in product(*decisions):
            with torch.no_grad():
                for decision, index in zip(search.nas_parameters(), taken, strict=True):
                    decision.copy_(torch.arange(len(decision)) == index)
            exported = search.export()
            again = self.open(settings, case, exported)
            found.append((count_macs(exported, case.inputs()), count_params(exported, again)))
        start = self.open(settings, case)
        layers = [pair for pair in start.layers(start.theta()) if pair[0].op in ("conv", "linear")]
        macs_found, params_found = torch.tensor(found).double().mean(0).tolist()
        assert total(macs, layers).item() == pytest.approx(macs_found)
        assert start.get_cost("params").item() == pytest.approx(params_found)


class TestGumbel(OnChoices):
    draws = 3

    @pytest.fixture
    def settings(self) -> SuperNetSettings:
        return SuperNetSettings()


class TestSoftmax(OnChoices):
    cases = FEW_CHOICES
    promised = ()
    telling = ("Nested", "NormBehind")

    @pytest.fixture
    def settings(self) -> SuperNetSettings:
        return SuperNetSettings(sampling="softmax")


class TestHard(OnChoices):
    """One branch is taken from the start: the first of each, as long as all are alike."""

    cases = FEW_CHOICES
    promised = ()
    telling = ("Nested", "NormBehind")

    def test_starts_as_the_seed(self, settings: SuperNetSettings, case: Case) -> None:
        search = self.open(settings, case)
        assert_close(outputs(search, case.inputs()), outputs(search.export(), case.inputs()))

    def test_costs_of_the_start_are_those_counted_from_outside(
        self, settings: SuperNetSettings, case: Case
    ) -> None:
        search = self.open(settings, case)
        exported = search.export()
        again = self.open(settings, case, exported)
        assert search.get_cost("params").item() == count_params(exported, again)

    def test_the_slope_of_the_cost_is_its_finite_difference(
        self, settings: SuperNetSettings, case: Case
    ) -> None:
        """Straight through: a linear cost has the slope of the relaxed choice at its value."""
        search = self.open(settings, case).double()
        self.draw_smooth(search)
        theta = {name: discrete(w).requires_grad_() for name, w in search.theta(hard=True).items()}
        cost = total(params, search.layers(theta))
        slopes = torch.autograd.grad(cost, list(theta.values()), materialize_grads=True)
        relaxed = [torch.softmax(decision, 0) for decision in search.nas_parameters()]
        decisions = list(search.nas_parameters())
        expected = torch.autograd.grad(relaxed, decisions, slopes)
        found = torch.autograd.grad(search.get_cost("params"), decisions)
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right)

    @pytest.fixture
    def settings(self) -> SuperNetSettings:
        return SuperNetSettings(hard=True)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_net_without_choices_goes_through_as_it_is(case: Case) -> None:
    net = case.build()
    search = SuperNetSettings().open(net, case.inputs(), COSTS)
    assert not list(search.nas_parameters())
    expected = outputs(net, case.inputs(3))
    assert_close(outputs(search, case.inputs(3)), expected, 1e-6)
    exported = search.export()
    assert_close(outputs(exported, case.inputs(3)), expected, 1e-6)
    again = SuperNetSettings().open(exported, case.inputs(), COSTS)
    for name in COSTS:
        assert again.get_cost(name) == search.get_cost(name) == search.get_cost(name, hard=True)
    assert search.get_cost("params").item() == count_params(net, search)


class Nested(nn.Module):
    """A block of five branches, one of them a choice itself, called at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = SuperNetModule(
            [
                nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
                nn.Conv2d(8, 8, 5, padding=2),
                nn.Identity(),
                F.relu,
                SuperNetModule(
                    [
                        nn.Conv2d(8, 8, 1),
                        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)),
                    ]
                ),
            ]
        )
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.stem(x)))
        return self.classifier(self.block(F.max_pool2d(x, 2)).mean((2, 3)))


# Parameters and MACs of each branch of the outer block, the last one by its inner branch.
OUTSIDE_PARAMS, OUTSIDE_MACS = 8 * 28 + 36, 64 * 8 * 27 + 32
BRANCH_PARAMS = [8 * 73, 8 * 201, 0, 0, 8 * 9, 8 * 10 + 8 * 9]
BRANCH_MACS = [80 * 8 * 72, 80 * 8 * 200, 0, 0, 80 * 64, 80 * (8 * 9 + 64)]


def build(sampling: str = "gumbel", hard: bool = False) -> SuperNet:
    torch.manual_seed(0)
    costs = {"params": params, "macs": macs}
    return SuperNet(Nested(), costs, input_shape=(3, 8, 8), sampling=sampling, hard=hard)


def choose(model: SuperNet, outer: int, inner: int = 0) -> None:
    with torch.no_grad():
        model.decisions["block"].zero_()[outer] = 1
        model.decisions["block/branches/4"].zero_()[inner] = 1


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("outer", range(5))
@pytest.mark.parametrize("inner", range(2))
def test_export_computes_what_the_chosen_branches_compute(outer: int, inner: int) -> None:
    model = build().eval()
    choose(model, outer, inner)
    exported = model.export()
    expected = model(images(), theta=model.theta(hard=True))
    torch.testing.assert_close(exported(images()), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("outer", range(5))
@pytest.mark.parametrize("inner", range(2))
def test_cost_of_the_export_equals_the_discretised_cost_and_a_count_by_hand(
    outer: int, inner: int
) -> None:
    model = build()
    choose(model, outer, inner)
    branch = outer + inner if outer == 4 else outer
    assert model.get_cost("params", hard=True) == OUTSIDE_PARAMS + BRANCH_PARAMS[branch]
    assert model.get_cost("macs", hard=True) == OUTSIDE_MACS + BRANCH_MACS[branch]
    again = SuperNet(model.export(), {"params": params, "macs": macs}, input_shape=(3, 8, 8))
    for name in ("params", "macs"):
        assert again.get_cost(name) == model.get_cost(name, hard=True)


def test_cost_is_the_expectation_over_branches_at_every_resolution() -> None:
    model = build(sampling="softmax")
    inner = sum(BRANCH_MACS[4:]) / 2
    expected = OUTSIDE_MACS + (sum(BRANCH_MACS[:4]) + inner) / 5
    assert model.get_cost("macs").item() == pytest.approx(expected)


def test_export_has_stock_modules_under_clean_names() -> None:
    model = build()
    choose(model, 4, 1)
    exported = model.export()
    assert list(exported.state_dict()) == [
        *("stem.weight", "stem.bias", "block.0.weight", "block.0.bias"),
        *("block.1.weight", "block.1.bias", "classifier.weight", "classifier.bias"),
    ]
    assert all(type(m).__module__.startswith("torch.") for m in exported.children())


def test_a_choice_whose_result_is_unused_stays_as_other_unused_layers_do() -> None:
    class Aside(Nested):
        def forward(self, x: Tensor) -> Tensor:
            self.block(self.stem(x))
            return self.classifier(x.mean((2, 3)).repeat(1, 3)[:, :8])

    model = SuperNet(Aside(), params, input_shape=(3, 8, 8))
    choose(model, 1)
    assert model.get_cost(hard=True) == OUTSIDE_PARAMS + BRANCH_PARAMS[1]
    assert SuperNet(model.export(), params, input_shape=(3, 8, 8)).cost == model.get_cost(hard=True)


@pytest.mark.parametrize("taken", range(3))
def test_branches_may_share_a_layer(taken: int) -> None:
    layer = nn.Conv2d(3, 3, 1)
    branches = [nn.Sequential(layer, nn.ReLU()), nn.Sequential(layer, nn.Tanh()), layer]
    net = nn.Sequential(SuperNetModule(branches), nn.Conv2d(3, 2, 1))
    model = SuperNet(net, params, input_shape=(3, 4, 4)).eval()
    with torch.no_grad():
        model.decisions["0"][taken] = 1.0
    exported = model.export()  # compares outputs
    again = SuperNet(exported, params, input_shape=(3, 4, 4))
    assert again.cost == model.get_cost(hard=True) == 12 + 8


def test_an_input_that_no_kept_branch_reads_stays_an_argument() -> None:
    class Ignoring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = SuperNetModule([nn.Linear(4, 4), lambda x: torch.zeros(2, 4)])
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.fc(y + torch.ones(4) * self.block(x).sum())

    model = SuperNet(Ignoring(), params, input_shape=((4,), (4,)))
    with torch.no_grad():
        model.decisions["block"][1] = 1.0
    x, y = torch.ones(2, 4), torch.zeros(2, 4)
    exported = model.eval().export()
    torch.testing.assert_close(exported(x, y), model(x, y, theta=model.theta(hard=True)))


def test_export_shares_nothing_with_the_search() -> None:
    model = build()
    exported = model.export()
    own = {p.data_ptr() for p in model.parameters()}
    assert not [p for p in exported.parameters() if p.data_ptr() in own]


@pytest.mark.parametrize(("sampling", "hard"), SETTINGS)
def test_every_sampling_sends_gradients_to_the_decisions(sampling: str, hard: bool) -> None:
    model = build(sampling, hard).train()
    (model(images()).square().sum() + 1e-3 * model.get_cost("params")).backward()
    assert model.decisions["block"].grad.abs().sum() > 0


def test_hard_sampling_runs_backward_through_the_sampled_branch_only() -> None:
    model = build("softmax", hard=True).train()
    choose(model, 1)
    model(images()).square().sum().backward()
    touched = {n for n, p in model.named_net_parameters() if p.grad is not None}
    assert "block.branches.1.weight" in touched
    assert not [
        name for name in touched if name.startswith(("block.branches.0", "block.branches.4"))
    ]


@pytest.mark.parametrize("outer", [0, 1, 2])
def test_hard_gradients_equal_those_of_the_plain_formulation(outer: int) -> None:
    model = build("softmax", hard=True).double().train()
    choose(model, outer)
    plain = copy.deepcopy(model)
    for module in plain.net.modules():
        if "sampled" in vars(module):
            module.sampled = False
    for net in (model, plain):
        net(images().double()).square().sum().backward()
    torch.testing.assert_close(model.decisions["block"].grad, plain.decisions["block"].grad)
    ours = dict(model.named_net_parameters())
    for name, parameter in plain.named_net_parameters():
        found = ours[name].grad if ours[name].grad is not None else torch.zeros_like(parameter)
        expected = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(found, expected)


def test_cost_uses_the_noise_of_the_forward_pass_and_the_decisions_of_now() -> None:
    model = build().train()
    model(images())
    theta = model.theta()
    before = model.get_cost("params")
    torch.testing.assert_close(model.theta()["block"], theta["block"])
    with torch.no_grad():
        model.decisions["block"][1] += 5
    assert model.get_cost("params") > before


def test_eval_mode_has_no_noise() -> None:
    model = build().train()
    model(images())
    model.eval()
    torch.testing.assert_close(model(images()), model(images()), atol=0, rtol=0)
    torch.testing.assert_close(model.theta()["block"], torch.full((5,), 0.2))


def test_a_low_temperature_makes_the_mixture_discrete() -> None:
    model = build("softmax").eval()
    choose(model, 2)
    model.temperature.fill_(0.01)
    torch.testing.assert_close(model(images()), model.export()(images()), atol=1e-6, rtol=1e-5)


def test_the_temperature_is_part_of_the_state() -> None:
    model, other = build(), build()
    model.temperature.fill_(0.3)
    other.load_state_dict(model.state_dict())
    assert other.temperature == model.temperature


def test_the_seed_checkpoint_loads_whole() -> None:
    model = build()
    missing, unexpected = model.net.load_state_dict(Nested().state_dict())
    assert not missing
    assert not unexpected


@pytest.mark.parametrize(("sampling", "hard"), SETTINGS)
def test_a_search_is_copied_and_pickled_after_a_backward_pass(sampling: str, hard: bool) -> None:
    model = build(sampling, hard).train()
    model(images()).sum().backward()
    model.eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(images()), model(images()), atol=0, rtol=0)
        torch.testing.assert_close(twin.export()(images()), model.export()(images()))


@pytest.mark.parametrize(("sampling", "hard"), SETTINGS)
def test_a_search_compiles_without_a_break(sampling: str, hard: bool) -> None:
    model = build(sampling, hard).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), model(images()))


def test_decisions_go_through_json() -> None:
    model = build()
    choose(model, 4, 1)
    stored = model.encode(model.theta(hard=True))
    assert stored == {"branches": {"block": 4, "block.branches.4": 1}}
    other = build().eval()
    exported = other.export(other.decode(stored))
    torch.testing.assert_close(exported(images()), model.eval().export()(images()))


def test_foreign_decisions_are_refused() -> None:
    with pytest.raises(ValueError, match="must fit the choices of the net"):
        build().decode({"branches": {"block": 7, "block.branches.4": 1}})


def test_pit_opens_the_export() -> None:
    model = build()
    choose(model, 0)
    pruned = PIT(model.export(), params, input_shape=(3, 8, 8))
    # The block reads its own result: its channels are those of the stem.
    (group,) = [group for group in pruned.table.groups if group.labels]
    assert group.producers == ("stem", "block.0")


def test_building_leaves_seed_and_random_state_alone() -> None:
    net = Nested()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    SuperNetSettings(hard=True).open(net, ((3, 8, 8),))
    torch.testing.assert_close(net.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_branches_of_different_shapes_are_refused_with_their_shapes() -> None:
    block = SuperNetModule([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)])
    with pytest.raises(ValueError, match=r"must give one shape, but gave .*\(2, 4.*\(2, 5"):
        SuperNet(block, input_shape=(3, 8, 8))


def test_one_branch_is_no_choice() -> None:
    with pytest.raises(ValueError, match="two or more, but got 1"):
        SuperNetModule([nn.Identity()])


def test_what_cannot_be_called_is_no_branch() -> None:
    with pytest.raises(TypeError, match="branch 1 is int"):
        SuperNetModule([nn.Identity(), 3])


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="`sampling` must be among"):
        SuperNetSettings(sampling="argmax")


def test_cost_only_descent_ends_with_the_free_branch() -> None:
    model = build("softmax").train()
    optimizer = torch.optim.Adam(model.nas_parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (1e-2 * model.get_cost("params")).backward()
        optimizer.step()
    assert model.get_cost("params", hard=True) == OUTSIDE_PARAMS
