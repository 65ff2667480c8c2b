"""What a run is made of, taken and put back."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plinio_sweep import MPSSettings, PITSettings, SuperNetSettings
from plinio_sweep.methods.search import Method, Search
from plinio_sweep.train.sealed import seal, unseal
from plinio_sweep.train.state import (
    load_net_state,
    load_optimizer_state,
    load_random_state,
    net_state,
    random_state,
    seed_random,
)
from tests.messages import is_sentence
from tests.train.runs import MODELS, Net

CPU = torch.device("cpu")
METHODS: dict[str, Method] = {
    "pit": PITSettings(),
    "supernet": SuperNetSettings(),
    "mps": MPSSettings(w_bits=(0, 2, 8), x_bits=(4, 8), sampling="gumbel", ranges="learned"),
}


def search(method: str, seed: int = 0) -> Search:
    torch.manual_seed(seed)
    return METHODS[method].open(Net(choice=method == "supernet"), ((1, 6, 6),), MODELS)


@torch.no_grad()
def disturb(net: nn.Module) -> None:
    """Gives everything in `net` other values than it starts from."""
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if name == "signed":  # which quantisers are told by whoever changes it
            continue
        if tensor.is_floating_point():
            tensor.mul_(0.9).add_(0.05 * torch.rand_like(tensor))
        elif "int" in str(tensor.dtype) and tensor.dim() == 0:
            tensor.add_(3)


# -- nets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_search_made_anew_takes_all_of_the_first(method: str) -> None:
    first, second = search(method), search(method, seed=1)
    disturb(first)
    first.freeze("net")
    first.eval()
    first.net.train()
    data = seal(net_state(first))
    assert seal(net_state(second)) != data
    load_net_state(second, unseal(data))
    assert seal(net_state(second)) == data
    x = torch.randn(4, 1, 6, 6)
    for net in (first, second):
        net.eval()
    assert torch.equal(first(x), second(x))
    for net in (first, second):
        net.unfreeze("net")
    assert seal(net_state(second)) == seal(net_state(first))
    assert all(p.requires_grad for p in second.parameters())


def test_the_noise_of_the_last_step_belongs_to_a_search() -> None:
    first, second = search("supernet"), search("supernet")
    first.train().sample()
    second.train()
    load_net_state(second, unseal(seal(net_state(first))))
    (one,), (other,) = first.theta().values(), second.theta().values()
    assert torch.equal(one, other)
    assert float((one - 1 / 3).abs().max().detach()) > 0.01


def test_signs_of_quantisers_follow_their_state() -> None:
    first, second = search("mps"), search("mps")
    first.prepare([(torch.rand(4, 1, 6, 6),)])
    second.prepare([(-torch.rand(4, 1, 6, 6),)])
    x = torch.randn(4, 1, 6, 6)
    assert not torch.equal(first.eval()(x), second.eval()(x))
    load_net_state(second, unseal(seal(net_state(first))))
    assert torch.equal(first(x), second(x))


def test_tied_and_shared_tensors_stay_so() -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
        net[1].weight = net[0].weight
        return net

    first, second = tied(), tied()
    load_net_state(second, unseal(seal(net_state(first))))
    assert second[1].weight is second[0].weight
    assert torch.equal(second[0].weight, first[0].weight)


class Counting(nn.Module):
    """A net with state of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def get_extra_state(self) -> Any:
        return {"seen": self.seen}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state["seen"]


def test_what_a_module_adds_to_its_state_is_kept() -> None:
    first, second = Counting(), Counting()
    first.seen = 5
    load_net_state(second, unseal(seal(net_state(first))))
    assert second.seen == 5


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: nn.Linear(3, 4), ["'weight'", "shape (2, 3)", "shape (4, 3)"]),
        (lambda: nn.Linear(3, 2, bias=False), ["'bias'", "nothing"]),
        (lambda: nn.Linear(3, 2).double(), ["float32", "float64"]),
        (lambda: nn.Sequential(nn.Linear(3, 2)), ["nothing"]),
        (Counting, ["nothing"]),
    ],
    ids=["wider", "no bias", "double", "nested", "other"],
)
def test_the_state_of_another_net_is_refused(
    other: Callable[[], nn.Module], words: list[str]
) -> None:
    net = other()
    before = seal(net_state(net))
    with pytest.raises(ValueError, match="must fit it") as error:
        load_net_state(net, net_state(nn.Linear(3, 2)))
    assert is_sentence(error.value)
    for word in words:
        assert word in str(error.value)
    assert seal(net_state(net)) == before


# -- optimisers -----------------------------------------------------------------------------------


class Precise(torch.optim.Optimizer):
    """Momentum in single precision for parameters of any."""

    def __init__(self, parameters: Any, lr: float = 0.1) -> None:
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter, dtype=torch.float32)
                state["momentum"].mul_(group["betas"][0]).add_(parameter.grad.float())
                parameter.sub_((group["lr"] * state["momentum"]).to(parameter.dtype))


def conv(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3).to(dtype).to(memory_format=torch.channels_last)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    dtype = next(net.parameters()).dtype
    for _ in range(count):
        optimizer.zero_grad()
        x = torch.randn(2, 4, 5, 5, dtype=torch.float32).to(dtype)
        net(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        Precise,
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), foreach=False),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True, momentum=0.5),
        lambda p: torch.optim.NAdam(p, lr=0.1),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.Rprop(p, lr=0.1),
    ],
    ids=["precise", "adam", "tensor rate", "sgd", "rmsprop", "nadam", "adagrad", "rprop"],
)
def test_an_optimiser_made_anew_takes_the_same_steps(make: Any, dtype: torch.dtype) -> None:
    net = conv(dtype)
    first = make(net.parameters())
    steps(net, first, 3)
    data = seal(first.state_dict())
    twin = copy.deepcopy(net)
    second = make(twin.parameters())
    load_optimizer_state(second, unseal(data))
    assert seal(second.state_dict()) == data
    for one, optimizer in ((net, first), (twin, second)):
        torch.manual_seed(1)
        steps(one, optimizer, 2)
    assert all(map(torch.equal, net.parameters(), twin.parameters()))


def test_moments_lie_in_memory_as_their_weights_do() -> None:
    net = conv()
    first = torch.optim.Adam(net.parameters())
    steps(net, first, 1)
    second = torch.optim.Adam(conv().parameters())
    load_optimizer_state(second, unseal(seal(first.state_dict())))
    strides = [value["exp_avg"].stride() for value in second.state.values()]
    assert strides == [p.stride() for p in net.parameters()]
    assert not next(iter(second.state.values()))["exp_avg"].is_contiguous()


def test_the_state_of_other_groups_is_refused() -> None:
    one, two = conv(), nn.Linear(2, 2, bias=False)
    with pytest.raises(ValueError, match="doesn't match"):
        load_optimizer_state(
            torch.optim.Adam(two.parameters()), torch.optim.Adam(one.parameters()).state_dict()
        )


# -- random states --------------------------------------------------------------------------------


def draws() -> list[Any]:
    """Something of every kind, from every random state."""
    found: list[Any] = [torch.randn(3).tolist(), torch.randperm(5).tolist()]
    found += [np.random.rand(), np.random.randn(), random.random(), random.gauss(0, 1)]
    return found


@pytest.mark.parametrize("before", range(4))
def test_all_draw_again_what_they_drew(before: int) -> None:
    seed_random(before)
    for _ in range(before):  # a normal number is drawn in pairs: one may be left over
        draws()
    data = seal(random_state(CPU))
    expected = draws()
    seed_random(99)
    load_random_state(unseal(data), CPU)
    assert seal(random_state(CPU)) == data
    assert draws() == expected


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3])
def test_a_seed_decides_every_draw(seed: int) -> None:
    seed_random(seed)
    first = draws()
    seed_random(seed)
    assert draws() == first
    seed_random(seed + 1)
    assert not set(map(str, draws())) & set(map(str, first))


def test_states_of_devices_that_are_not_here_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plinio_sweep.train.state._accelerators", lambda: [])  # on any machine
    state = random_state(CPU)
    load_random_state(state | {"devices": [torch.zeros(16, dtype=torch.uint8)] * 9, "own": 8}, CPU)
    assert seal(random_state(CPU)) == seal(state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_states_of_a_gpu() -> None:
    device = torch.device("cuda:0")

    def draw() -> Tensor:
        return torch.rand(5, device=device)

    draw()
    data = seal(random_state(device))
    expected = draw()
    load_random_state(unseal(data), device)
    assert torch.equal(draw(), expected)
