"""SuperNet: the best of several branches, chosen by gradient descent.

Every `SuperNetModule` is a choice between `M` branches with logits `alpha`, zero at the start. In
training, with temperature `T` and Gumbel noise `g`,

    theta = softmax((alpha + g) / T)                  sampling="gumbel", as published
    theta = softmax(alpha / T)                        sampling="softmax", and always in eval mode
    y     = sum_m theta_m * branch_m(x)

With `hard=True` theta is one-hot in the forward pass and keeps its gradient. The cost is the
expectation over branches: a layer counts with the probability that all choices around it fall on
its branch. Layers outside of choices count in full.

Shapes: `M` branches of a choice.

References:
    Jahier Pagliari et al., "PLiNIO", 2023 (arXiv 2307.09488), section III-A; Liu et al., "DARTS",
    ICLR 2019 (arXiv 1806.09055); Jang et al., 2017 (arXiv 1611.01144) for the sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor, fx, nn

from costs import LayerSpec, params
from plinio_sweep.graph.choice import Branch, Mix, agree, keep_branch
from plinio_sweep.graph.late import late_folds
from plinio_sweep.graph.table import Analysis, Row
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.methods.relax import (
    SAMPLINGS,
    Sampling,
    discrete,
    gumbel_like,
    relax,
    straight_through,
)
from plinio_sweep.methods.search import Costs, Search, Shapes, Theta, exact, given


class SuperNetModule(nn.Module):
    """A choice between branches, anywhere in a model.

    Outside of a search it computes the mean of its branches.

    Args:
        branches: Modules or functions of one tensor; all give the same shape.

    Raises:
        ValueError: With fewer than two branches.
        TypeError: When a branch can't be called.

    Example:
        >>> block = SuperNetModule([nn.Conv2d(8, 8, 3, padding=1), nn.Identity()])
        >>> block(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(self, branches: Iterable[nn.Module | Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        listed = list(branches)
        if len(listed) < 2:
            raise ValueError(
                f"`branches` must be two or more, but got {len(listed)}; a single one is no choice."
            )
        for index, branch in enumerate(listed):
            if not callable(branch):
                raise TypeError(
                    f"`branches` must be modules or functions, but branch {index} is "
                    f"{type(branch).__name__}; pass something that can be called."
                )
        self.branches = nn.ModuleList(
            [branch if isinstance(branch, nn.Module) else _Function(branch) for branch in listed]
        )
        self.mix = Mix(len(listed))

    def forward(self, x: Tensor) -> Tensor:
        """The weighted sum of what all branches make of `x`."""
        outputs: Tensor = self.mix(*[branch(x) for branch in self.branches])
        return outputs

    def __len__(self) -> int:
        return len(self.branches)

    def __getitem__(self, index: int) -> nn.Module:
        return self.branches[index]


class _Function(nn.Module):
    """A function as a branch."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass(frozen=True, kw_only=True)
class SuperNetSettings:
    """Settings of `SuperNet` in a plan, under the names that they have there."""

    name: ClassVar[str] = "supernet"
    pressed: ClassVar[bool] = True
    sampling: Sampling = "gumbel"
    hard: bool = False

    def __post_init__(self) -> None:
        _check_sampling(self.sampling)

    def open(self, net: nn.Module, example: Inputs | Shapes, cost: Costs = params) -> SuperNet:
        """The search of these settings over `net`, for an example or for input shapes."""
        return SuperNet(net, cost, **given(example), **asdict(self))


@final
class SuperNet(Search):
    """A net whose blocks are chosen from branches, wherever the seed has a `SuperNetModule`.

    It takes what every `Search` takes, and its own settings.

    Args:
        sampling: "gumbel" adds noise in training, as published; "softmax" does not.
        hard: Whether one branch alone is used in each forward pass of the training.

    Example:
        >>> block = SuperNetModule([nn.Linear(4, 4), nn.Identity()])
        >>> model = SuperNet(nn.Sequential(block, nn.Linear(4, 2)), input_shape=(4,))
        >>> model.cost.item()  # half of the first layer's 20 parameters, all of the second's 10
        20.0
    """

    def __init__(
        self,
        net: nn.Module,
        cost: Costs = params,
        *,
        input_shape: Any = None,
        input_example: Any = None,
        exclude_names: Collection[str] = (),
        exclude_types: tuple[type, ...] = (),
        sampling: Sampling = "gumbel",
        hard: bool = False,
    ) -> None:
        self.sampling = _check_sampling(sampling)
        self.hard = hard
        super().__init__(
            net,
            cost,
            input_shape=input_shape,
            input_example=input_example,
            exclude_names=exclude_names,
            exclude_types=exclude_types,
        )

    excludes_branches = True

    def _open(self, analysis: Analysis) -> None:
        self._late = late_folds(analysis)
        self._specs = _repeated_by_branch(analysis.table.rows)
        first = next((p for p in self.net.parameters() if p.is_floating_point()), torch.zeros(()))
        self._choices: dict[str, str] = {}
        for name, module in self.net.named_modules():
            if isinstance(module, Mix):
                module.sampled = self.hard
                choice = name.rpartition(".")[0]
                key = choice.replace(".", "/")
                self._choices[key] = choice
                self.decisions[key] = nn.Parameter(first.new_zeros(len(module.weights)))
                self._draw(key, first.new_zeros(len(module.weights)))

    def _draw(self, key: str, noise: Tensor) -> None:
        self.register_buffer(f"noise/{key}", noise, persistent=False)

    def sample(self) -> None:
        """Draws new noise in training; there is none in eval mode."""
        for key in self._choices:
            noise = self.get_buffer(f"noise/{key}")
            noisy = self.training and self.sampling == "gumbel"
            noise.copy_(gumbel_like(noise) if noisy else torch.zeros_like(noise))

    def theta(self, *, hard: bool = False) -> Theta:
        """`(M,)` weights of the branches of each choice, by the path of the choice."""
        found = {}
        for key, choice in self._choices.items():
            logits = self.decisions[key]
            if hard:
                found[choice] = discrete(logits)
                continue
            weights = relax(logits, self.temperature, self.get_buffer(f"noise/{key}"))
            found[choice] = straight_through(weights) if self.hard else weights
        return found

    def overrides(self, theta: Theta) -> dict[str, Tensor]:
        """The weights of the choices."""
        return {f"{choice}.mix.weights": weights for choice, weights in theta.items()}

    def layers(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """Every call of every layer, with the probability that its branches are taken.

        A call comes twice where it depends on the choices whether a norm folds into its layer.
        """
        for row, spec in zip(self.table.rows, self._specs, strict=True):
            probability = self._probability(row.branch, theta)
            for fold in self._late:
                if row.name in (fold.norm, fold.layer):
                    folded = self._probability(fold.branch, theta)
                    probability = probability - folded
                    if row.name == fold.layer:
                        yield replace(spec, bias=True), folded
            spec = row.at_widths(spec, probability.new_ones(len(row.cout)))
            yield spec, probability.expand(torch.as_tensor(spec.w_bits).shape)

    def moments(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """What is in memory while each operation runs, of the branches that are taken."""
        chances = [self._probability(taken, theta) for taken in self.memory.conditions]
        channels = exact(self.temperature).new_ones(self.table.size)
        return self._moments(channels, torch.stack(chances))

    def _probability(self, branch: Branch, theta: Theta) -> Tensor:
        probability = self.temperature.new_ones(())
        for choice, index in branch:
            probability = probability * theta[choice][index]
        return probability

    def _cut(self, analysis: Analysis, theta: Theta) -> fx.GraphModule:
        net = analysis.net
        # From the outside in: an inner choice then has its final path, or is gone.
        paths = {choice: choice for choice in self._choices.values()}
        for choice in sorted(paths, key=lambda path: path.count(".")):
            if choice not in paths:
                continue
            now, index = paths.pop(choice), int(theta[choice].argmax())
            keep_branch(net, now, index)
            branches, kept = f"{now}.branches.", f"{now}.branches.{index}"
            paths = {
                old: now + new.removeprefix(kept) if f"{new}.".startswith(f"{kept}.") else new
                for old, new in paths.items()
                if f"{new}.".startswith(f"{kept}.") or not new.startswith(branches)
            }
        net.graph.lint()
        net.recompile()
        net.delete_all_unused_submodules()
        return net

    def encode(self, theta: Theta) -> dict[str, Any]:
        """The branch of each choice."""
        return {"branches": {choice: int(w.argmax()) for choice, w in theta.items()}}

    def decode(self, decisions: Mapping[str, Any]) -> Theta:
        """The hard decisions that `encode` wrote.

        Raises:
            ValueError: When they belong to another net.
        """
        stored = decisions["branches"]
        now = self.theta(hard=True)
        if set(stored) != set(now) or any(not 0 <= stored[c] < len(w) for c, w in now.items()):
            raise ValueError(
                f"Stored decisions must fit the choices of the net, {sorted(now)}, but are "
                f"{stored}; use the net that they were made for."
            )
        found = {choice: torch.zeros_like(weights) for choice, weights in now.items()}
        for choice, weights in found.items():
            weights[stored[choice]] = 1
        return found


def _repeated_by_branch(rows: tuple[Row, ...]) -> tuple[LayerSpec, ...]:
    """Every call, no repetition of those that can't be taken together with it."""
    specs = []
    for number, row in enumerate(rows):
        before = [earlier.branch for earlier in rows[:number] if earlier.name == row.name]
        apart = sum(not agree(branch, row.branch) for branch in before)
        specs.append(replace(row.spec, repeat=row.spec.repeat - apart))
    return tuple(specs)


def _check_sampling(sampling: Sampling) -> Sampling:
    if sampling not in SAMPLINGS:
        raise ValueError(
            f"`sampling` must be among {SAMPLINGS}, but got {sampling=}; choose one of them."
        )
    return sampling
