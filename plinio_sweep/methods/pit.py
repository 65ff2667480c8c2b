"""PIT: pruning in time, channels by trainable masks.

Every free label `c` of the table (a set of channels that live and die together) has one parameter
`alpha_c`, 1 at the start. With `H(z) = 1 if z > 0.5 else 0` (gradient 1),

    theta_c = min(|alpha_c|, 1)              the cost's number of channels, summed over labels
    m_c     = H(theta_c)                     the mask in the forward pass

The best label of every set that must not die out has `theta_c = 1`.

Where the mask acts is a setting. With `gate="norm"`, as published, it multiplies scale and shift of
the norm behind each producer, so that a removed channel is zero and gets no gradient: it stays
removed. With `gate="consumer"` it multiplies the columns of the weights that read the channel: the
channel itself goes on, and may come back. In both the columns are masked, so that what happens
between producer and consumer (a sigmoid, a shift) can't leak a removed channel.

Shapes: `L` labels of the table with 0 (always live), `O` rows and `I` columns of a weight.

References:
    Risso et al., "Lightweight Neural Architecture Search for Temporal Convolutional Networks at the
    Edge", IEEE Trans. Computers 2023 (arXiv 2301.10281), section 4; Jahier Pagliari et al.,
    "PLiNIO", 2023 (arXiv 2307.09488), section III-B.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, fx, nn

from costs import LayerSpec, params, ste
from plinio_sweep.graph.surgery import cut
from plinio_sweep.graph.table import Analysis, Row
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.methods.search import Costs, Search, Shapes, Theta, given

Gate = Literal["norm", "consumer"]
GATES: tuple[Gate, ...] = ("norm", "consumer")


@dataclass(frozen=True, kw_only=True)
class PITSettings:
    """Settings of `PIT` in a plan.

    Args:
        gate: Where a mask acts: "norm" as published, "consumer" lets removed channels return.
    """

    name: ClassVar[str] = "pit"
    gate: Gate = "norm"

    def __post_init__(self) -> None:
        _check_gate(self.gate)

    def open(self, net: nn.Module, example: Inputs | Shapes, cost: Costs = params) -> PIT:
        """The search of these settings over `net`, for an example or for input shapes."""
        return PIT(net, cost, **given(example), gate=self.gate)


@dataclass(frozen=True, slots=True)
class _Mask:
    """One tensor of the net times the mask of its channels along `axis`."""

    name: str
    axis: int
    learns: bool  # whether its gradient reaches the mask


@final
class PIT(Search):
    """A net whose channels can be removed.

    Args:
        net: The seed; it is copied, never changed.
        cost: One cost model, or several by name.
        input_shape: Sizes of one input without the batch, or a tuple of them.
        input_example: An input, or the tuple of all inputs, instead of `input_shape`.
        exclude_names: Paths of modules to be left alone.
        exclude_types: Classes of modules to be left alone.
        gate: Where a mask acts: "norm" as published, "consumer" lets removed channels return.

    Example:
        >>> from costs import size_bits
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> model = PIT(net, {"size": size_bits}, input_shape=(3, 8, 8))
        >>> model.get_cost("size").item()
        16512.0
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
        gate: Gate = "norm",
    ) -> None:
        self.gate = _check_gate(gate)
        super().__init__(
            net,
            cost,
            input_shape=input_shape,
            input_example=input_example,
            exclude_names=exclude_names,
            exclude_types=exclude_types,
        )

    _where: Tensor  # labels of all masks, one after another
    _keep: Tensor  # `(S, M)` decisions of which one a row must live
    _counts: Tensor  # `(2R, L)` how often each label is an input and an output of each row

    def _open(self, analysis: Analysis) -> None:
        first = next((p for p in self.net.parameters() if p.is_floating_point()), torch.zeros(()))
        size = analysis.table.size
        self.decisions["channels"] = nn.Parameter(first.new_ones(size - 1))
        self._masks, where = self._plan_masks()
        self._sizes = [len(labels) for labels in where]
        none = torch.zeros(0, dtype=torch.long)
        self._hold("_where", torch.cat([none, *where]), first.device)
        self._hold("_keep", _padded(analysis.table.keep), first.device)
        # Row by row, how often each label counts: one product gives all channel counts.
        sides = [labels for row in analysis.table.rows for labels in (row.cin, row.cout)]
        counts = [torch.bincount(labels, minlength=size) for labels in sides]
        stacked = torch.stack(counts) if counts else torch.zeros(0, size, dtype=torch.long)
        self._hold("_counts", stacked, first.device)

    def _hold(self, name: str, value: Tensor, device: torch.device) -> None:
        # Not persistent: it follows from the table, and a checkpoint holds no more than it must.
        self.register_buffer(name, value.to(device), persistent=False)

    def _plan_masks(self) -> tuple[tuple[_Mask, ...], list[Tensor]]:
        masks: list[_Mask] = []
        where: list[Tensor] = []
        known = {name for name, _ in self.net.named_parameters()}

        def add(name: str, axis: int, labels: Tensor, learns: bool) -> None:
            if name in known and bool(labels.any()) and (name, axis) not in seen:
                seen.add((name, axis))
                masks.append(_Mask(name, axis, learns))
                where.append(labels)

        seen: set[tuple[str, int]] = set()
        for row in self.table.rows:
            if row.spec.op not in ("conv", "linear"):
                continue
            gated = self._gated(row) if self.gate == "norm" else ()
            for name in gated:
                add(name, 0, row.cout, True)
            if not row.spec.depthwise:
                # Gradient through one of the two ends only: both would count a channel twice.
                learns = self.gate == "consumer" or not self._all_gated(row)
                add(f"{row.name}.weight", 1, row.cin, learns)
        return tuple(masks), where

    def _gated(self, row: Row) -> tuple[str, ...]:
        """The tensors that make the channels of `row`, zero where masked."""
        if row.norm is None:
            return (f"{row.name}.weight", f"{row.name}.bias")
        norm: Any = self.net.get_submodule(row.norm)
        return (f"{row.norm}.weight", f"{row.norm}.bias") if norm.affine else ()

    def _all_gated(self, row: Row) -> bool:
        """Whether every channel that `row` reads is masked where it is made."""
        made = [
            r.cout for r in self.table.rows if r.spec.op in ("conv", "linear") and self._gated(r)
        ]
        none = torch.zeros(1, dtype=torch.long)
        return bool(torch.isin(row.cin, torch.cat([none, *made])).all())

    def theta(self, *, hard: bool = False) -> Theta:
        """`channels`: `(L,)` in [0, 1], how far each label lives; 1 for label 0."""
        magnitude = self.decisions["channels"].abs()
        kept = torch.zeros_like(magnitude)
        if self._keep.numel():
            best = magnitude.detach()[self._keep].argmax(1, keepdim=True)
            kept = kept.index_fill(0, self._keep.gather(1, best)[:, 0], 1)
        if hard:
            live = ((magnitude > 0.5) | (kept > 0)).to(magnitude.dtype)
        else:
            live = torch.where(kept > 0, kept, ste.clamp_max(magnitude, 1.0))
        return {"channels": torch.cat([magnitude.new_ones(1), live])}

    def overrides(self, theta: Theta) -> dict[str, Tensor]:
        """The tensors of the net times their masks."""
        mask = ste.threshold(theta["channels"], 0.5)[self._where]
        changed: dict[str, Tensor] = {}
        tensors = dict(self.net.named_parameters())
        for plan, part in zip(self._masks, torch.split(mask, self._sizes), strict=True):
            value = changed.get(plan.name, tensors[plan.name])
            gate = part if plan.learns else part.detach()
            shape = [-1 if axis == plan.axis else 1 for axis in range(value.dim())]
            changed[plan.name] = value * gate.reshape(shape)
        return changed

    def layers(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """Every call of every layer with its live channels."""
        # Half precision ends at a few hundred channels: counts are summed in single at least.
        live = theta["channels"]
        live = live.to(torch.promote_types(live.dtype, torch.float32))
        counts = (self._counts.to(live.dtype) @ live).unbind()
        certain = live.new_ones(())
        for row, cin, cout in zip(self.table.rows, counts[::2], counts[1::2], strict=True):
            if row.spec.op == "other":
                yield row.spec, certain
                continue
            groups = cout if row.spec.depthwise else row.spec.groups
            yield replace(row.spec, cin=cin, cout=cout, groups=groups), certain

    def _cut(self, analysis: Analysis, theta: Theta) -> fx.GraphModule:
        return cut(analysis, theta["channels"].cpu() > 0.5)

    def encode(self, theta: Theta) -> dict[str, Any]:
        """Which labels live, by group."""
        live = theta["channels"].cpu() > 0.5
        return {
            "channels": {
                group.name: live[group.labels.start : group.labels.stop].nonzero()[:, 0].tolist()
                for group in self.table.groups
                if group.labels
            }
        }

    def decode(self, decisions: Mapping[str, Any]) -> Theta:
        """The hard decisions that `encode` wrote.

        Raises:
            ValueError: When they belong to another net.
        """
        live = torch.zeros_like(self.theta(hard=True)["channels"])
        live[0] = 1
        chosen = decisions["channels"]
        groups = {group.name: group.labels for group in self.table.groups if group.labels}
        if set(chosen) != set(groups):
            raise ValueError(
                f"Stored decisions must fit the groups of the net, {sorted(groups)}, but hold "
                f"{sorted(chosen)}; use the net that they were made for."
            )
        for name, labels in groups.items():
            if any(not 0 <= index < len(labels) for index in chosen[name]):
                raise ValueError(
                    f"Stored channels of {name!r} must be below {len(labels)}, but are "
                    f"{chosen[name]}; use the net that they were made for."
                )
            live[[labels.start + index for index in chosen[name]]] = 1
        return {"channels": live}


def _padded(keep: tuple[Tensor, ...]) -> Tensor:
    """`(S, M)` indices of the decisions in each set, its first one repeated to full length."""
    longest = max((len(labels) for labels in keep), default=0)
    rows = [torch.cat([labels, labels[:1].expand(longest - len(labels))]) - 1 for labels in keep]
    return torch.stack(rows) if rows else torch.zeros(0, 0, dtype=torch.long)


def _check_gate(gate: Gate) -> Gate:
    if gate not in GATES:
        raise ValueError(f"`gate` must be among {GATES}, but got {gate=}; choose one of them.")
    return gate
