"""Nets with choices are pruned first and decided later."""

from __future__ import annotations

import pytest

from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.methods.supernet import SuperNetSettings
from tests.contract.method_contract import COSTS, MethodContract, Opened, assert_close, outputs
from tests.nets import FEW_CHOICES, Case


class TestPITOnChoices(MethodContract):
    """Choices are sums of all their branches to PIT, and stay open."""

    cases = FEW_CHOICES
    promised = ()
    telling = ("Nested", "NormBehind")
    few = ("Nested",)
    draws = 1

    @pytest.fixture
    def settings(self) -> PITSettings:
        return PITSettings()

    def test_every_other_method_opens_an_exported_net(
        self, settings: PITSettings, opened: Opened, case: Case
    ) -> None:
        """The choices of a pruned net are those of the seed, between its smaller branches."""
        search = SuperNetSettings().open(opened.decided[0].exported, case.inputs(), COSTS)
        before = SuperNetSettings().open(case.build(), case.inputs(), COSTS)
        assert list(search.decisions) == list(before.decisions)
        inputs = case.inputs(3)
        expected = outputs(opened.search, inputs, theta=opened.decided[0].theta)
        assert_close(outputs(search, inputs), expected)
        for net in (search, before):
            self.draw(net, 2)
        exported = search.export()
        expected = outputs(search, inputs, theta=search.theta(hard=True))
        assert_close(outputs(exported, inputs), expected)
        assert exported.state_dict().keys() == before.export().state_dict().keys()
