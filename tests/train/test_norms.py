"""Norms measured anew after an export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from plinio_sweep.train.loop import restore_norms
from plinio_sweep.train.recipe import Split


def split(count: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    # Sorted: batches differ in their means, so that a wrong weight of one shows.
    values = torch.randn(count, 3, generator=generator).sort(0).values * 2 + 1
    return Split((values,), torch.zeros(count))


@pytest.mark.parametrize(
    "count", [12, 10, 9]
)  # even batches of 4, a short last one, one that joins
def test_running_means_are_plain_means_over_the_data(count: int) -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    data = split(count)
    restore_norms(net, data, batch_size=4)
    torch.testing.assert_close(net[0].running_mean, data.inputs[0].mean(0))


def test_running_variances_are_means_over_the_batches() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3))
    data = split(6)
    restore_norms(net, data, batch_size=6)
    torch.testing.assert_close(net[0].running_var, data.inputs[0].var(0))


def test_momentum_and_mode_are_as_before() -> None:
    for training in (True, False):
        net = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3), nn.BatchNorm1d(3, momentum=None))
        net.train(training)
        restore_norms(net, split(8), batch_size=4)
        assert [norm.momentum for norm in net] == [0.3, None]
        assert [module.training for module in net.modules()] == 3 * [training]


def test_dropout_is_off_while_norms_are_measured() -> None:
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3)).train()
    data = split(8)
    restore_norms(net, data, batch_size=4)
    torch.testing.assert_close(net[1].running_mean, data.inputs[0].mean(0))


def test_a_norm_that_runs_twice_is_measured_over_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.norm(x + 10)

    net, data = Twice(), split(10)
    restore_norms(net, data, batch_size=4)
    torch.testing.assert_close(net.norm.running_mean, data.inputs[0].mean(0) + 5)


def test_weights_and_norms_without_statistics_stay() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    restore_norms(net, split(8), batch_size=4)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training
