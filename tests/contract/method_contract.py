"""What every method must do. A plug-in proves itself by inheriting `MethodContract`.

Override the fixture `settings` with the record of the method. A method whose decisions are not
drawn from [0, 1] overrides `draw` and `draw_smooth` too, one that does not know some structure
narrows `cases`, one with bit-widths that some hardware lacks narrows `models`, one that rounds
values, so that a sum in another order changes more than its last bits, sets `precision`.

What is promised of every net is looked at in all `cases`, everything else in those that are
`telling`, and in the others with `-m long`.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from costs import MODELS, CostModel, LayerSpec, assume_bits, macs, params, size_bits, total
from plinio_sweep.graph.count import cost_of
from plinio_sweep.graph.nodes import tensors
from plinio_sweep.methods import METHODS
from plinio_sweep.methods.search import PARAMETER_GROUPS, Method, ParameterGroup, Search, Theta
from plinio_sweep.train.sealed import seal, unseal
from plinio_sweep.train.state import load_net_state, net_state
from tests.nets import CASES, NETS, TELLING, Case, rows

COSTS: dict[str, CostModel] = {"params": params, "macs": macs, "size": size_bits}
LAYERS = ("conv", "linear")
# What is promised of every method and every net.
PROMISED = (
    "test_an_exported_net_computes_what_the_search_computes",
    "test_an_exported_net_costs_what_the_search_promised",
)
Module = TypeVar("Module", bound=nn.Module)
# Every model there is, for nets that are left in float.
EVERY_MODEL: dict[str, CostModel] = {
    name: assume_bits(model, w=8, x=8) for name, model in MODELS.items()
}


def outputs(net: nn.Module, inputs: tuple[Tensor, ...], **given: Any) -> list[Tensor]:
    """The tensors that `net` returns, as a list."""
    return [value.detach() for value in tensors(net(*inputs, **given))]


def assert_close(left: list[Tensor], right: list[Tensor], limit: float = 1e-5) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape
        scale = max(1.0, float(a.abs().max()))
        assert float((a - b).abs().max()) <= limit * scale


def assert_same_bits(left: nn.Module, right: nn.Module) -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def prepared(net: Module, dtype: torch.dtype) -> Module:
    """`net` in eval mode and of type `dtype`: itself where it is so already, else a copy."""
    found = {v.dtype for v in (*net.parameters(), *net.buffers()) if v.is_floating_point()}
    if found <= {dtype} and not any(module.training for module in net.modules()):
        return net
    return copy.deepcopy(net).to(dtype).eval()


def train(search: Search, case: Case, steps: int = 3) -> None:
    """A few steps of the combined loss in training mode, from a fixed random state."""
    torch.manual_seed(0)
    search.train()
    optimizer = torch.optim.SGD(search.parameters(), lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        found = tensors(search(*case.inputs(4, seed=step)))
        loss = torch.stack([out.square().mean() for out in found]).sum()
        (loss + 1e-5 * search.get_cost("params")).backward()
        optimizer.step()


def is_ambiguous(spec: LayerSpec) -> bool:
    """Whether no hardware can tell what a layer was: one channel in each group is depthwise."""
    if spec.op != "conv":
        return False
    groups, cin = torch.as_tensor(spec.groups), torch.as_tensor(spec.cin)
    if spec.depthwise:
        return bool((cin == 1).any())
    return bool(((groups > 1) & (cin == groups)).any())


def count_macs(net: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiplications of the stock convolutions and linear layers of `net`, seen from outside."""
    found = 0

    def count(module: Any, _: Any, out: Tensor) -> None:
        nonlocal found
        channels_last = isinstance(module, nn.Linear)
        positions = out[0, ..., 0].numel() if channels_last else out[0, 0].numel()
        found += positions * module.weight.numel()

    for module in net.modules():
        for stock in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear):
            own = type(module).forward is not stock.forward
            if isinstance(module, stock) and not own and not parametrize.is_parametrized(module):
                module.register_forward_hook(count)
    net(*inputs)
    return found


def count_params(net: nn.Module, search: Search) -> int:
    """Parameters of `net` after the norms of the table are folded into the layers before them."""
    found = sum(p.numel() for p in search.net.parameters())
    for row in search.table.rows:
        if row.norm is not None and row.spec.repeat == 0:
            layer: Any = net.get_submodule(row.name)
            norm = net.get_submodule(row.norm)
            found -= sum(p.numel() for p in norm.parameters())
            found += len(row.cout) if layer.bias is None else 0
    return found


@dataclass(frozen=True)
class Decided:
    """One setting of the decisions and the net it came to."""

    theta: Theta
    exported: nn.Module
    costs: dict[str, float]  # hard, by the search


@dataclass(frozen=True)
class Opened:
    """A search that is not to be changed, with the exports of several decisions."""

    search: Search
    decided: tuple[Decided, ...]


class MethodContract:
    """The suite. Its name keeps it from being collected on its own."""

    cases: ClassVar[tuple[Case, ...]] = CASES
    draws: ClassVar[int] = 5  # random settings of the decisions, beside all-zero
    promised: ClassVar[tuple[str, ...]] = PROMISED  # rows that run on all nets every time
    telling: ClassVar[tuple[str, ...]] = tuple(TELLING)  # nets of the other rows
    few: ClassVar[tuple[str, ...]] = ("Residual", "Shuffle", "Attention", "SeveralInputs")
    models: ClassVar[dict[str, CostModel]] = EVERY_MODEL
    precision: ClassVar[torch.dtype] = torch.float32  # in which outputs are compared
    _opened: ClassVar[dict[tuple[Method, str], Opened]]
    _trained: ClassVar[dict[tuple[Method, str], Search]]

    def __init_subclass__(cls) -> None:
        cls._opened, cls._trained = {}, {}

    @pytest.fixture
    def settings(self) -> Method:
        """The settings of the method under test; its fields are arguments of its search."""
        raise NotImplementedError("override the fixture `settings` with the record of your method")

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            row = metafunc.function.__name__
            cases = cls.cases_of(row)
            always = [case.name for case in cases] if row in cls.promised else cls.telling
            metafunc.parametrize("case", rows(cases, always))

    @classmethod
    def cases_of(cls, row: str) -> tuple[Case, ...]:
        """The nets that a row of the suite takes."""
        return cls.cases

    @classmethod
    def some(cls) -> list[Case]:
        """The cases called `few`, for rows that are slow or alike for all nets."""
        return [case for case in cls.cases if case.name in cls.few]

    @torch.no_grad()
    def draw(self, search: Search, seed: int) -> None:
        """Sets the decisions of `search` at random."""
        generator = torch.Generator().manual_seed(seed)
        for decision in search.nas_parameters():
            decision.copy_(torch.rand(decision.shape, generator=generator))

    @torch.no_grad()
    def draw_smooth(self, search: Search) -> None:
        """Sets the decisions where costs are smooth: apart from each other and from any step."""
        generator = torch.Generator().manual_seed(0)
        for decision in search.nas_parameters():
            places = torch.randperm(decision.numel(), generator=generator) + 1
            decision.copy_((0.55 + 0.4 * places / len(places)).reshape(decision.shape))

    def open(self, settings: Method, case: Case, net: nn.Module | None = None) -> Search:
        """A search over a net of the zoo, of the test's own."""
        return settings.open(case.build() if net is None else net, case.inputs(), COSTS)

    @pytest.fixture
    def opened(self, settings: Method, case: Case) -> Opened:
        """A search of the zoo and its exports, made once and left alone."""
        if (settings, case.name) not in self._opened:
            search = self.open(settings, case)
            decided = tuple(self._decide(search, seed) for seed in range(self.draws + 1))
            self._opened[settings, case.name] = Opened(search, decided)
        return self._opened[settings, case.name]

    @pytest.fixture
    def trained(self, settings: Method, case: Case) -> Search:
        """A copy of a search that was trained for a few steps."""
        if (settings, case.name) not in self._trained:
            search = self.open(settings, case)
            train(search, case)
            self._trained[settings, case.name] = search
        return copy.deepcopy(self._trained[settings, case.name])

    def assert_alike(
        self,
        search: Search,
        theta: Theta,
        exported: nn.Module,
        *batches: tuple[Tensor, ...],
        precision: torch.dtype | None = None,
    ) -> None:
        """Asserts that a search at `theta` and an exported net compute the same."""
        dtype = precision or self.precision
        search, exported = prepared(search, dtype), prepared(exported, dtype)
        theta = {name: value.to(dtype) for name, value in theta.items()}
        for batch in batches:
            inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in batch)
            assert_close(outputs(search, inputs, theta=theta), outputs(exported, inputs))

    def _decide(self, search: Search, seed: int) -> Decided:
        self.draw(search, seed)
        if seed == self.draws:
            with torch.no_grad():
                for decision in search.nas_parameters():
                    decision.zero_()
        theta = {name: value.detach().clone() for name, value in search.theta(hard=True).items()}
        costs = {name: search.get_cost(name, hard=True).item() for name in COSTS}
        return Decided(theta, search.export(), costs)

    # -- the search and its seed ----------------------------------------------------------------

    def test_starts_as_the_seed(self, settings: Method, case: Case) -> None:
        net = case.build()
        search = self.open(settings, case, net)
        assert_close(outputs(search, case.inputs()), outputs(net, case.inputs()), 1e-6)

    def test_costs_of_the_start_are_those_counted_from_outside(
        self, settings: Method, case: Case
    ) -> None:
        net = case.build()
        search = self.open(settings, case, net)
        layers = [pair for pair in search.layers(search.theta()) if pair[0].op in LAYERS]
        assert search.get_cost("params").item() == count_params(net, search)
        assert total(macs, layers).item() == count_macs(net, case.inputs())

    def test_loads_a_checkpoint_of_the_seed(self, opened: Opened, case: Case) -> None:
        search = copy.deepcopy(opened.search)
        found = search.net.load_state_dict(case.build(seed=7).state_dict(), strict=False)
        assert found.missing_keys == []
        assert {key.rsplit(".", 1)[0] for key in found.unexpected_keys} == set(case.unused)

    def test_leaves_the_seed_and_the_global_random_state_alone(
        self, settings: Method, case: Case
    ) -> None:
        net = case.build().train()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        attributes = {name: set(vars(module)) for name, module in net.named_modules()}
        random = torch.random.get_rng_state()
        search = self.open(settings, case, net)
        exported = search.export()
        assert torch.equal(random, torch.random.get_rng_state())
        assert all(module.training for module in net.modules())
        assert all(module.training for module in (*search.modules(), *exported.modules()))
        assert attributes == {name: set(vars(module)) for name, module in net.named_modules()}
        after = net.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())

    # -- export ---------------------------------------------------------------------------------

    def test_an_exported_net_computes_what_the_search_computes(
        self, opened: Opened, case: Case
    ) -> None:
        assert not opened.search.training
        search = prepared(opened.search, self.precision)
        batches = [case.inputs(batch, seed=batch) for batch in (2, 3)]
        for decided in opened.decided:
            self.assert_alike(search, decided.theta, decided.exported, *batches)

    def test_an_exported_net_costs_what_the_search_promised(
        self, settings: Method, opened: Opened, case: Case
    ) -> None:
        for decided in opened.decided[-3:]:
            again = self.open(settings, case, decided.exported)
            for name, promised in decided.costs.items():
                assert again.get_cost(name).item() == promised
            self.assert_alike(again, again.theta(hard=True), decided.exported, case.inputs())

    def test_every_other_method_opens_an_exported_net(
        self, settings: Method, opened: Opened, case: Case
    ) -> None:
        first = opened.decided[0]
        # Methods without pressure decide by weights: nothing of them is to be drawn.
        others = [r() for r in METHODS.values() if r.pressed and r.name != settings.name]
        for other in others:
            search = other.open(first.exported, case.inputs(), COSTS)
            for name in ("params", "macs"):
                assert search.get_cost(name, hard=True).item() == first.costs[name]
            self.draw(search, 0)
            promised = search.get_cost("macs", hard=True).item()
            exported = search.export()
            theta, inputs = search.theta(hard=True), case.inputs(3, seed=3)
            self.assert_alike(search, theta, exported, inputs, precision=torch.float64)
            again = settings.open(exported, case.inputs(), COSTS)
            assert again.get_cost("macs").item() == promised

    def test_every_model_counts_the_exported_net_as_the_search_did(
        self, opened: Opened, case: Case
    ) -> None:
        search = opened.search
        for decided in opened.decided[-3:]:
            if any(is_ambiguous(spec) for spec, _ in search.layers(decided.theta)):
                continue
            found = cost_of(decided.exported, case.inputs(), self.models).totals
            for name, model in self.models.items():
                rows = search.moments if model.peak else search.layers
                promised = total(model, rows(decided.theta)).item()
                assert found[name] == pytest.approx(promised, rel=1e-6), name

    def test_something_of_every_group_survives(self, opened: Opened) -> None:
        for decided in opened.decided:
            for layer in opened.search.summary(decided.theta).values():
                assert layer.inputs >= 1
                assert layer.outputs >= 1
            assert all(p.numel() > 0 for p in decided.exported.parameters())

    def test_frozen_groups_stay_whole(self, opened: Opened) -> None:
        frozen = {name for g in opened.search.table.groups if g.frozen for name in g.producers}
        whole = {
            row.name
            for row in opened.search.table.rows
            if row.name in frozen and not bool(row.cout.any())
        }
        for decided in opened.decided:
            summary = opened.search.summary(decided.theta)
            for name in whole & summary.keys():  # the others lie in branches that are gone
                assert summary[name].outputs == summary[name].seed_outputs

    def test_decisions_go_through_json_and_back(self, opened: Opened) -> None:
        for decided in opened.decided:
            text = json.dumps(opened.search.encode(decided.theta))
            theta = opened.search.decode(json.loads(text))
            assert theta.keys() == decided.theta.keys()
            assert all(torch.equal(theta[name], decided.theta[name]) for name in theta)

    def test_an_exported_net_shares_nothing_with_the_search(self, opened: Opened) -> None:
        own = {p.data_ptr() for p in opened.search.parameters() if p.numel()}
        for decided in opened.decided:
            assert own.isdisjoint(p.data_ptr() for p in decided.exported.parameters())

    def test_export_keeps_what_was_trained(self, trained: Search, case: Case) -> None:
        for seed in (None, 0):
            if seed is not None:
                self.draw(trained, seed)
            modes = [module.training for module in trained.modules()]
            before = {name: value.clone() for name, value in trained.state_dict().items()}
            exported = trained.export()
            assert exported.training
            assert modes == [module.training for module in trained.modules()]
            after = trained.state_dict()
            assert all(torch.equal(value, after[name]) for name, value in before.items())
            self.assert_alike(trained, trained.theta(hard=True), exported, case.inputs(3))

    def test_layers_excluded_by_name_stay_as_they_are(self, settings: Method, case: Case) -> None:
        seed = case.build()
        example = case.inputs()
        name = self._layers(seed)[0]
        search = self._search(settings)(
            seed, COSTS, input_example=example, exclude_names=(name,), **asdict(settings)
        )
        self.draw(search, 0)
        self._assert_untouched(seed, search.export(), [name])

    @pytest.mark.parametrize("name", ["chain", "Residual", "Concat", "Shuffle", "SqueezeExcite"])
    def test_layers_excluded_by_type_stay_as_they_are(self, settings: Method, name: str) -> None:
        case = NETS[name]
        seed = case.build()
        search = self._search(settings)(
            seed,
            COSTS,
            input_example=case.inputs(),
            exclude_types=(nn.BatchNorm2d,),
            **asdict(settings),
        )
        norms = [n for n, m in seed.named_modules() if isinstance(m, nn.BatchNorm2d)]
        self.draw(search, 0)
        self._assert_untouched(seed, search.export(), norms)

    def _search(self, settings: Method) -> type[Search]:
        """The class that `settings` opens."""
        return type(settings.open(nn.Linear(2, 2), (torch.zeros(2, 2),), COSTS))

    def _layers(self, net: nn.Module) -> list[str]:
        """The layers of `net` that are in every export, under their own names."""
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
        return [name for name, module in net.named_modules() if isinstance(module, kinds)]

    def _assert_untouched(self, seed: nn.Module, exported: nn.Module, names: list[str]) -> None:
        for name in names:
            before, after = seed.get_submodule(name), exported.get_submodule(name)
            assert type(before) is type(after)
            pairs = zip(before.parameters(), after.parameters(), strict=True)
            assert all(torch.equal(left, right) for left, right in pairs)

    # -- cost -----------------------------------------------------------------------------------

    def test_the_slope_of_the_cost_is_its_finite_difference(
        self, settings: Method, case: Case
    ) -> None:
        search = self.open(settings, case).double()
        self.draw_smooth(search)
        for name in ("params", "macs"):
            cost = search.get_cost(name)
            if not cost.requires_grad:
                continue
            decisions = list(search.nas_parameters())
            slopes = torch.autograd.grad(cost, decisions, materialize_grads=True)
            for decision, slope in zip(decisions, slopes, strict=True):
                for index, measured in self._differences(search, name, decision):
                    slope_here = slope.flatten()[index].item()
                    assert slope_here == pytest.approx(measured, rel=1e-6, abs=1e-6)

    @torch.no_grad()
    def _differences(
        self, search: Search, name: str, decision: nn.Parameter
    ) -> Iterator[tuple[int, float]]:
        flat, step = decision.view(-1), 1e-4
        for index in range(min(len(flat), 8)):
            value = flat[index].item()
            flat[index] = value + step
            above = search.get_cost(name).item()
            flat[index] = value - step
            below = search.get_cost(name).item()
            flat[index] = value
            yield index, (above - below) / (2 * step)

    # -- freezing -------------------------------------------------------------------------------

    @pytest.mark.parametrize("group", PARAMETER_GROUPS)
    def test_a_frozen_group_stays_while_the_other_learns(
        self, settings: Method, group: ParameterGroup
    ) -> None:
        for case in self.some():
            search = self.open(settings, case)
            train(search, case, steps=1)  # leaves gradients behind
            search.freeze(group)
            before = {name: p.detach().clone() for name, p in search.named_parameters()}
            train(search, case)
            search.eval().train()
            exported = search.export()
            frozen = {name for name, p in search.named_parameters() if not p.requires_grad}
            moved = {n for n, p in search.named_parameters() if not torch.equal(p, before[n])}
            own = search.nas_parameters() if group == "nas" else search.net_parameters()
            assert len(frozen) == len(list(own))
            assert moved
            assert not moved & frozen
            assert all(p.requires_grad for p in exported.parameters())
            search.unfreeze(group)
            assert all(p.requires_grad for p in search.parameters())

    @pytest.mark.parametrize("group", PARAMETER_GROUPS)
    def test_what_the_user_froze_stays_frozen(
        self, settings: Method, group: ParameterGroup
    ) -> None:
        for case in self.some():
            seed = case.build()
            name, first = next(seed.named_parameters())
            first.requires_grad_(False)
            search = self.open(settings, case, seed)
            decision, own = next(search.named_nas_parameters())
            own.requires_grad_(False)
            for _ in range(2):
                search.freeze(group)
                search.unfreeze(group)
            # By name: a search may fold norms into what is frozen.
            frozen = [n for n, p in search.named_parameters() if not p.requires_grad]
            assert frozen == [f"net.{name}", decision]
            left = [p for p in search.export().parameters() if not p.requires_grad]
            assert len(left) == 1

    # -- state ----------------------------------------------------------------------------------

    def test_the_same_seed_gives_the_same_bits(
        self, settings: Method, trained: Search, case: Case
    ) -> None:
        twin = self.open(settings, case)
        train(twin, case)
        assert_same_bits(trained, twin)

    def test_copies_after_a_backward_pass_go_on_alike(self, trained: Search, case: Case) -> None:
        train(trained, case, steps=1)
        twin = copy.deepcopy(trained)
        train(trained, case, steps=1)
        train(twin, case, steps=1)
        assert_same_bits(trained, twin)

    def test_a_checkpoint_holds_everything(
        self, settings: Method, trained: Search, case: Case
    ) -> None:
        file = io.BytesIO()
        torch.save(trained.state_dict(), file)
        file.seek(0)
        twin = self.open(settings, case, case.build(seed=5))
        twin.load_state_dict(torch.load(file, weights_only=True))
        left, right = outputs(trained.eval(), case.inputs()), outputs(twin.eval(), case.inputs())
        assert_close(left, right, 0.0)
        assert twin.get_cost("macs").item() == trained.get_cost("macs").item()

    def test_goes_on_bit_by_bit_where_another_left_off(
        self, settings: Method, trained: Search, case: Case
    ) -> None:
        trained.sample()  # what is drawn belongs to it
        twin = self.open(settings, case, case.build(seed=5))
        load_net_state(twin, unseal(seal(net_state(trained))))
        assert seal(net_state(twin)) == seal(net_state(trained))
        with torch.no_grad():
            expected = [cost.item() for cost in trained.get_costs().values()]
            assert [cost.item() for cost in twin.get_costs().values()] == expected
        for search in (trained, twin):
            train(search, case, steps=1)
        assert_same_bits(trained, twin)

    def test_a_pickled_search_goes_on(self, opened: Opened, case: Case) -> None:
        if not case.pickles:
            pytest.skip("PyTorch does not pickle this layer")
        twin = pickle.loads(pickle.dumps(opened.search))
        expected = outputs(opened.search, case.inputs())
        assert_close(expected, outputs(twin, case.inputs()), 0.0)
        assert twin.get_cost("params").item() == opened.search.get_cost("params").item()
        theta = opened.decided[0].theta
        expected = outputs(opened.decided[0].exported, case.inputs())
        assert_close(expected, outputs(twin.export(theta), case.inputs()), 0.0)

    # -- the ways PyTorch runs it ---------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_runs_in_other_precisions(
        self, settings: Method, opened: Opened, case: Case, dtype: torch.dtype
    ) -> None:
        inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in case.inputs())
        search = settings.open(case.build().to(dtype), inputs, COSTS)
        assert all(decision.dtype == dtype for decision in search.nas_parameters())
        theta = {name: value.to(dtype) for name, value in opened.decided[0].theta.items()}
        for name, promised in opened.decided[0].costs.items():
            assert total(COSTS[name], search.layers(theta)).item() == promised
        exported = search.export(theta)
        assert all(out.dtype == dtype for out in outputs(exported, inputs))

    def test_compiles_without_a_break(self, settings: Method) -> None:
        for case in self.some():
            search = self.open(settings, case)
            self.draw(search, 0)
            torch.compiler.reset()
            compiled = torch.compile(search, fullgraph=True, backend="eager")
            assert_close(outputs(search, case.inputs()), outputs(compiled, case.inputs()))
