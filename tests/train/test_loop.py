"""The loop. Shapes: `B` items of a batch."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from costs import params, size_bytes
from plinio_sweep.graph.count import cost_of
from plinio_sweep.methods.pit import PIT
from plinio_sweep.methods.supernet import SuperNet
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import DivergedError, Watch, annealed, evaluate, fit, shuffled
from plinio_sweep.train.metrics import accuracy
from plinio_sweep.train.pressure import Budget, Pressure
from plinio_sweep.train.recipe import Phase, Split, Splits, Task, cosine
from tests.messages import is_sentence
from tests.studies.tiny import TinyNet, bars
from tests.train.runs import RUNS

TASK = Task(net=TinyNet, data=bars, loss=F.cross_entropy, metrics={"accuracy": accuracy})
DATA = bars()
MODELS = {"params": params, "size_bytes": size_bytes}


def tiny_net(seed: int = 0) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet()


def search_net(gate: Any = "consumer") -> PIT:
    return PIT(tiny_net(), MODELS, input_shape=(1, 6, 6), gate=gate)


def train(net: nn.Module, phase: Phase, **changes: Any) -> list[Epoch]:
    settings: dict[str, Any] = {"name": "some", "batch_size": 32, "seed": 0, "task": TASK} | changes
    return fit(net, DATA, phase=phase, **settings)


def strong(strength: float = 10.0, ramp: float = 0.5) -> Pressure:
    return Pressure.on(search_net(), "params", strength=strength, loss=0.7, ramp=ramp)


def scripted(*losses: float) -> Callable[[Any, Tensor], Tensor]:
    """A loss that reads the script in eval mode: what the best epoch is, is then known."""
    script = iter(losses)

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        true = F.cross_entropy(outputs, target)
        return true if torch.is_grad_enabled() else torch.tensor(next(script))

    return loss


def task(loss: Callable[[Any, Tensor], Tensor], **metrics: Any) -> Task:
    return Task(net=TinyNet, data=bars, loss=loss, metrics=metrics)


# -- learning -------------------------------------------------------------------------------------


def test_the_net_learns_and_every_epoch_is_recorded() -> None:
    net = tiny_net()
    before = evaluate(net, DATA.part("validation"), TASK)
    history = train(net, Phase(epochs=4, lr=1e-2), name="warmup", first_step=3)
    after = evaluate(net, DATA.part("validation"), TASK)
    assert after.loss < before.loss
    assert after.metrics["accuracy"] > 0.8
    assert [(e.phase, e.index, e.step) for e in history] == [
        ("warmup", index, index + 3) for index in range(4)
    ]
    assert all(epoch.strength == 0 and not epoch.costs for epoch in history)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    def weights(seed: int) -> Tensor:
        net = nn.Sequential(tiny_net(), nn.Dropout(0.5))
        train(net, Phase(epochs=2, lr=1e-2), seed=seed)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    first = weights(1)
    torch.rand(3)  # the global generator may stand anywhere
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_a_seed_covers_what_a_loss_draws_from_numpy_and_python() -> None:
    def noisy(outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs, target) * (random.random() + float(np.random.rand()))

    def losses(seed: int) -> list[float]:
        history = train(tiny_net(), Phase(epochs=2), task=task(noisy), seed=seed)
        return [epoch.train_loss for epoch in history]

    first = losses(1)
    random.random(), np.random.rand()  # they may stand anywhere
    assert losses(1) == first != losses(2)


def test_the_bits_are_those_of_a_loop_by_hand() -> None:
    net, hand = tiny_net(), tiny_net().to(memory_format=torch.channels_last)
    drop = nn.Sequential(net, nn.Dropout(0.5))
    torch.manual_seed(5)
    optimizer = torch.optim.Adam(hand.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        hand.train()
        for index in torch.split(torch.randperm(96, generator=generator), 32):
            outputs = F.dropout(hand(DATA.part("train").inputs[0][index]), 0.5)
            loss = F.cross_entropy(outputs, DATA.part("train").target[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    falling = task(scripted(3.0, 2.0, 1.0))  # the last epoch is the best
    train(drop, Phase(epochs=3, lr=1e-2), task=falling, seed=5)
    for name, value in hand.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_no_epochs_leave_the_net_as_it_was() -> None:
    net = tiny_net()
    before = copy.deepcopy(net.state_dict())
    assert train(net, Phase(epochs=0)) == []
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_schedule_is_a_factor_of_both_rates() -> None:
    seen: list[list[float]] = []
    made: list[torch.optim.Optimizer] = []

    def optimizer(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(parameters, lr=lr))
        return made[-1]

    def note(epoch: Epoch, epochs: int) -> None:
        seen.append([group["lr"] for group in made[0].param_groups])

    train(
        tiny_net(),
        Phase(epochs=4, lr=0.2, optimizer=optimizer, schedule=cosine),
        watch=Watch(epoch=note),
    )
    assert seen == [[pytest.approx(0.2 * cosine(index / 4))] for index in range(4)]


def test_the_watch_sees_every_step_and_can_end_the_training() -> None:
    class EnoughError(Exception):
        pass

    steps = iter(range(5))

    def step() -> None:
        if next(steps) == 4:
            raise EnoughError

    epochs: list[int] = []
    with pytest.raises(EnoughError):
        train(
            tiny_net(),
            Phase(epochs=3),
            watch=Watch(step=step, epoch=lambda epoch, of: epochs.append(of)),
        )
    assert epochs == [3]  # three steps an epoch: the second one was cut


# -- decisions ------------------------------------------------------------------------------------


def test_weight_decay_reaches_the_weights_and_not_the_decisions() -> None:
    def decaying(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=10.0)

    def no_loss(outputs: Tensor, target: Tensor) -> Tensor:
        return 0.0 * outputs.sum()

    net = search_net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train(net, Phase(epochs=1, lr=1e-2, optimizer=decaying), task=task(no_loss))
    after = dict(net.named_parameters())
    assert torch.equal(after["decisions.channels"], before["decisions.channels"])
    assert after["net.first.weight"].norm() < 0.9 * before["net.first.weight"].norm()


def test_decisions_have_a_rate_of_their_own() -> None:
    def moved(**rates: float) -> float:
        net = search_net()
        train(net, Phase(epochs=1, **rates), pressure=strong(ramp=0.0))
        return float((1 - net.decisions["channels"].detach()).abs().max())

    # Adam's first steps are as long as its rate.
    assert moved(lr=1e-3) == pytest.approx(3e-3, rel=0.1)
    assert moved(lr=1e-3, arch_lr=1e-2) == pytest.approx(3e-2, rel=0.1)


def test_the_pressure_rises_and_cuts_the_net() -> None:
    net, pressure = search_net(), strong(ramp=0.5)
    history = train(net, Phase(epochs=4, lr=1e-2, arch_lr=0.2), pressure=pressure)
    assert [epoch.strength for epoch in history] == pytest.approx(
        [0.0, pressure.full / 2, pressure.full, pressure.full]
    )
    assert history[-1].costs["params"] < history[0].costs["params"]
    assert set(history[0].costs) == set(MODELS)


def test_costs_of_an_epoch_are_those_of_the_exported_net() -> None:
    net = search_net()
    (epoch,) = train(
        net, Phase(epochs=1, lr=1e-2, arch_lr=0.3), pressure=strong(ramp=0.0, strength=30.0)
    )
    exported = cost_of(net.export(), DATA.example(), MODELS).totals
    assert epoch.costs == exported
    assert exported["params"] < cost_of(tiny_net(), DATA.example(), MODELS).totals["params"]


@pytest.mark.parametrize("groups", [("net",), ("nas",), ("net", "nas")], ids=" and ".join)
def test_frozen_groups_stay_as_they_are(groups: tuple[Any, ...]) -> None:
    net = search_net()
    for group in groups:
        net.freeze(group)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train(net, Phase(epochs=1, lr=1e-2, arch_lr=0.2), pressure=strong(ramp=0.0))
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in net.named_parameters() if p.requires_grad}
    assert bool(moved) == (len(groups) == 1)


def test_a_search_without_a_choice_is_trained_like_a_plain_net() -> None:
    net = SuperNet(tiny_net(), MODELS, input_shape=(1, 6, 6))
    assert not list(net.nas_parameters())
    before = evaluate(net, DATA.part("validation"), TASK)
    train(net, Phase(epochs=3, lr=1e-2), pressure=strong(ramp=0.0))
    assert evaluate(net, DATA.part("validation"), TASK).loss < before.loss


# -- the best epoch -------------------------------------------------------------------------------


def test_the_best_epoch_on_validation_is_kept() -> None:
    states: list[dict[str, Tensor]] = []
    net = tiny_net()
    watch = Watch(epoch=lambda epoch, epochs: states.append(copy.deepcopy(net.state_dict())))
    train(net, Phase(epochs=4, lr=1e-2), task=task(scripted(3.0, 1.0, 2.0, 1.0)), watch=watch)
    kept = net.state_dict()
    same = [all(torch.equal(state[n], v) for n, v in kept.items()) for state in states]
    assert same == [False, True, False, False]


def search_epoch_kept(pressure: Pressure, *losses: float) -> tuple[int, list[Epoch]]:
    """Which epoch of a search with scripted validation losses is kept."""
    states: list[Tensor] = []
    net = search_net()
    watch = Watch(epoch=lambda epoch, of: states.append(net.decisions["channels"].detach().clone()))
    phase = Phase(epochs=len(losses), lr=1e-2, arch_lr=0.15)
    history = train(net, phase, task=task(scripted(*losses)), pressure=pressure, watch=watch)
    (index,) = [i for i, s in enumerate(states) if torch.equal(s, net.decisions["channels"])]
    return index, history


def test_epochs_under_the_ramp_are_not_eligible() -> None:
    index, _ = search_epoch_kept(strong(ramp=0.5), 0.0, 0.1, 9.0, 8.0)
    assert index == 3


def test_the_last_epoch_is_eligible_where_the_ramp_covers_all() -> None:
    index, _ = search_epoch_kept(strong(ramp=0.9), 0.0, 0.1)
    assert index == 1


def test_the_best_epoch_of_a_search_counts_its_discretised_cost() -> None:
    pressure = strong(ramp=0.0)
    losses = (0.5, 0.6, 0.7, 0.8)
    index, history = search_epoch_kept(pressure, *losses)
    totals = [
        loss + pressure.full * epoch.costs["params"]
        for loss, epoch in zip(losses, history, strict=True)
    ]
    assert index == totals.index(min(totals))
    assert index > 0  # the least loss alone would be the first


def test_the_best_epoch_under_a_budget_keeps_it_after_rounding() -> None:
    target = 300.0
    budget = Budget(targets={"params": target})
    pressing = Pressure.on(search_net(), budget, strength=10.0, loss=0.7)
    index, history = search_epoch_kept(pressing, 0.1, 0.5, 0.3, 0.4)
    found = [epoch.costs["params"] for epoch in history]
    assert found[0] > target > max(found[1:])
    assert index == 2  # the first is better, but too large


def test_where_no_epoch_keeps_the_budget_loss_and_pressure_decide() -> None:
    budget = Budget(targets={"params": 1.0})
    pressing = Pressure.on(search_net(), budget, strength=10.0, loss=0.7)
    losses = (0.5, 0.6, 0.7, 0.8)
    index, history = search_epoch_kept(pressing, *losses)
    ranks = [pressing.rank(e.validation_loss, e.costs) for e in history]
    assert all(missed for missed, _ in ranks)
    assert index == ranks.index(min(ranks)) > 0


# -- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training_early(value: float) -> None:
    calls: list[int] = []

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        true = F.cross_entropy(outputs, target)
        late = torch.is_grad_enabled() and len(calls) > 4
        return true + value if late else true  # the weights stay finite

    with pytest.raises(
        DivergedError, match=f"must stay finite, but became {value} in epoch 2 of some"
    ) as error:
        train(tiny_net(), Phase(epochs=50), task=task(loss))
    assert is_sentence(error.value)
    assert len(calls) == 9  # a step to try, and two epochs of three steps and a validation each


def test_a_validation_loss_that_is_no_number_ends_the_training_too() -> None:
    with pytest.raises(DivergedError, match="became nan in epoch 2"):
        train(tiny_net(), Phase(epochs=50), task=task(scripted(1.0, math.nan)))


# -- batches --------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(2, 12), st.integers(0, 3))
def test_batches_hold_every_item_once_and_no_item_alone(count: int, size: int, seed: int) -> None:
    split = Split((torch.arange(count), -torch.arange(count)), torch.arange(count))
    parts = list(shuffled(split, size, torch.Generator().manual_seed(seed)))
    assert sorted(torch.cat([part.target for part in parts]).tolist()) == list(range(count))
    assert all(2 <= len(part) <= size + 1 for part in parts)
    for part in parts:
        assert torch.equal(part.inputs[0], part.target)
        assert torch.equal(part.inputs[1], -part.target)


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_batches_that_are_left_are_those_of_a_whole_pass(first: int) -> None:
    split = Split((torch.arange(9),), torch.arange(9))
    passes = [torch.Generator().manual_seed(0) for _ in range(2)]
    whole = [part.target.tolist() for part in shuffled(split, 3, passes[0])]
    left = [part.target.tolist() for part in shuffled(split, 3, passes[1], first=first)]
    assert left == whole[first:]


class EndError(Exception):
    """The end of an epoch, for a test."""


@pytest.mark.parametrize("name", ["warm-up", "pit at norms", "mps", "supernet"])
def test_a_step_neither_reads_from_a_gpu_nor_copies_to_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either has the device wait."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a step waits for the device")

    steps = iter([(), ((Tensor, "cpu"), (Tensor, "new_tensor"), (torch, "tensor"))])

    def step() -> None:
        for owner, waits in next(steps, ()):  # not in the first, in which optimisers are set up
            monkeypatch.setattr(owner, waits, refuse)

    def epoch(*_: Any) -> None:
        raise EndError

    net = RUNS[name].open()
    with pytest.raises(EndError):
        RUNS[name].train(net, watch=Watch(step=step, epoch=epoch))


def test_a_last_batch_of_one_item_joins_the_one_before() -> None:
    split = Split((torch.arange(9),), torch.arange(9))
    sizes = [len(part) for part in shuffled(split, 4, torch.Generator().manual_seed(0))]
    assert sizes == [4, 5]


# -- evaluation -----------------------------------------------------------------------------------


class Pair(NamedTuple):
    scores: Tensor
    features: Tensor


class Wrapped(nn.Module):
    """A net over `(B, 3)` whose output has some form."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.layer(x), 2 * x)


FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda scores, features: scores, lambda out: out),
    "tuple": (lambda scores, features: (scores, features), lambda out: out[0]),
    "list": (lambda scores, features: [features, scores], lambda out: out[1]),
    "dict": (lambda s, f: {"scores": s, "rest": (f, {"f": f})}, lambda out: out["scores"]),
    "named tuple": (Pair, lambda out: out.scores),
}


@pytest.mark.parametrize("form", FORMS)
def test_outputs_of_every_form_are_joined_over_batches(form: str) -> None:
    wrap, scores = FORMS[form]
    split = Split((torch.randn(10, 3),), torch.arange(10) % 2)

    def loss(outputs: Any, target: Tensor) -> Tensor:
        return F.cross_entropy(scores(outputs), target)

    net = Wrapped(wrap)
    own = task(loss, count=lambda outputs, target: float(len(scores(outputs))))
    whole, parts = evaluate(net, split, own), evaluate(net, split, own, batch_size=4)
    assert parts.metrics == {"count": 10.0}
    assert parts.loss == pytest.approx(whole.loss)


def test_several_inputs_reach_the_net_in_their_order() -> None:
    class Ratio(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x / y

    split = Split((torch.full((4, 1), 6.0), torch.full((4, 1), 2.0)), torch.zeros(4))
    score = evaluate(Ratio(), split, task(lambda outputs, target: outputs.mean()), batch_size=2)
    assert score.loss == 3.0


def test_several_inputs_are_trained_on_in_step() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.layer(torch.cat([x, y], 1))

    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    part = ((x, -x), (x.sum(1) > 0).long())
    torch.manual_seed(0)
    net = Both()
    own = Task(net=Both, data=bars, loss=F.cross_entropy, metrics={"accuracy": accuracy})
    data = Splits(train=part, validation=part, test=part)
    history = fit(net, data, own, Phase(epochs=10, lr=0.1), name="a", batch_size=16, seed=0)
    assert history[-1].metrics["accuracy"] > 0.95


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_in_eval_mode_and_leaves_the_mode(training: bool) -> None:
    net = nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 2)).train(training)
    split = Split((torch.randn(8, 3),), torch.arange(8) % 2)
    own = task(F.cross_entropy)
    assert evaluate(net, split, own).loss == evaluate(net, split, own).loss
    assert net.training is training


def test_a_search_is_evaluated_at_its_discretised_decisions() -> None:
    net = search_net().eval()
    with torch.no_grad():
        net.decisions["channels"][:3] = 0.4
    score = evaluate(net, DATA.part("validation"), TASK)
    exported = evaluate(net.export(), DATA.part("validation"), TASK)
    assert score.loss == pytest.approx(exported.loss, rel=1e-5)
    assert net.get_cost("params", hard=True).item() < net.get_cost("params").item()


@given(st.integers(1, 30), st.floats(0, 0.95))
def test_the_temperature_stays_while_the_pressure_rises_and_then_falls_to_its_end(
    epochs: int, ramp: float
) -> None:
    found = [annealed((2.0, 0.1), index, epochs, ramp) for index in range(epochs)]
    still = max(1, math.ceil(ramp * epochs))
    assert found[:still] == [2.0] * min(still, epochs)
    falling = found[still - 1 :]
    assert falling == sorted(set(falling), reverse=True)
    if still < epochs:
        assert found[-1] == pytest.approx(0.1)
