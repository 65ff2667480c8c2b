"""MPS: bit-widths of weights and activations, channels pruned at 0 bit."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from costs import macs, params, total
from plinio_sweep.methods.mps import MPSSettings
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.methods.search import PARAMETER_GROUPS, ParameterGroup
from tests.contract.method_contract import (
    COSTS,
    LAYERS,
    MethodContract,
    assert_close,
    count_macs,
    count_params,
    outputs,
)
from tests.nets import NETS, Case


class OfBitWidths(MethodContract):
    """The contract for a method that rounds what the net computes."""

    draws = 1
    precision = torch.float64
    few = ("Residual",)
    # Rows about state and modes are alike for all nets: these will do.
    alike: ClassVar[tuple[str, ...]] = ("Residual",)
    everywhere: ClassVar[tuple[str, ...]] = (
        "test_starts_as_the_seed",
        "test_an_exported_net_computes_what_the_search_computes",
        "test_an_exported_net_costs_what_the_search_promised",
        "test_something_of_every_group_survives",
        "test_frozen_groups_stay_whole",
        "test_decisions_go_through_json_and_back",
    )

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            every = metafunc.function.__name__ in cls.everywhere
            cases = [case for case in cls.cases if every or case.name in cls.alike]
            metafunc.parametrize("case", cases, ids=[case.name for case in cases])

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


class TestPerChannel(OfBitWidths):
    alike = ("Residual", "Shuffle", "ConcatNorm", "Attention", "SeveralInputs", "Words", "Tied")

    @pytest.fixture
    def settings(self) -> MPSSettings:
        return MPSSettings(w_bits=(0, 2, 4, 8), x_bits=(4, 8))


class TestQuantisationAwareTraining(OfBitWidths):
    cases = tuple(NETS[name] for name in ("Residual", "CalledTwice", "SeveralInputs", "Causal"))
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
    few = ("Tied",)

    @pytest.fixture
    def settings(self) -> MPSSettings:
        return MPSSettings(per="layer", ranges="learned", sampling="gumbel", quantize_outputs=True)


class TestHard(OfBitWidths):
    cases = tuple(NETS[name] for name in ("ConcatNorm", "Volumes"))
    alike = few = ("ConcatNorm",)

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
