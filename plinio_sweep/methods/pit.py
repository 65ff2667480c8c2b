"""PIT: pruning in time, channels and taps by trainable masks.

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

The `K` taps of a kernel along one axis that steps by one have two more sets of parameters: the
receptive field has `beta_d`, `0 < d < K`, the dilation `gamma_i`, `0 <= i < ceil(log2(K)) - 1`, all
1 at the start. A tap `d` positions before the last one has

    f_d = sum_{e >= d} |beta_e|              1 for d = 0
    g_d = sum_{i: 2^i divides d} |gamma_i|   1 where the largest power of two below K divides d
    t_d = f_d / max(f_d, 1) g_d / max(g_d, 1)    the cost's number of taps, summed over d
    m_d = H(f_d) H(g_d)                      the mask in the forward pass

with no gradient through the maxima. For kernels of `2^n + 1` taps the masks are the published ones;
distances count from the last tap, which both sets keep, so that every `K` works. The cost is `K` at
the start, with the published gradient for every tap that may go, and it is the true number of taps
wherever parameters are 0 or 1.

Shapes: `L` labels of the table with 0 (always live), `O` rows and `I` columns of a weight, `T` taps
of all kernels that are searched, one kernel after another.

References:
    Risso et al., "Lightweight Neural Architecture Search for Temporal Convolutional Networks at the
    Edge", IEEE Trans. Computers 2023 (arXiv 2301.10281), section 4; Jahier Pagliari et al.,
    "PLiNIO", 2023 (arXiv 2307.09488), section III-B.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx, nn

from costs import LayerSpec, params, ste
from plinio_sweep.graph.fold import Folded, fold_norms, unfold_norms
from plinio_sweep.graph.surgery import cut
from plinio_sweep.graph.table import Analysis, Row
from plinio_sweep.graph.taps import Kernel, keep_taps
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.methods.search import Costs, Search, Shapes, Theta, exact, given

Gate = Literal["norm", "consumer"]
GATES: tuple[Gate, ...] = ("norm", "consumer")


@dataclass(frozen=True, kw_only=True)
class PITSettings:
    """Settings of `PIT` in a plan, under the names that they have there."""

    name: ClassVar[str] = "pit"
    pressed: ClassVar[bool] = True
    channels: bool = True
    kernel: bool = True
    gate: Gate = "norm"
    fold: bool = False
    unfold: bool = False

    def __post_init__(self) -> None:
        if not self.channels and not self.kernel:
            raise ValueError(
                "One of `channels` and `kernel` must be true at least, but both are false; leave "
                "one out for its default."
            )
        if self.gate not in GATES:
            raise ValueError(
                f"`gate` must be among {GATES}, but got gate={self.gate!r}; choose one of them."
            )
        if self.unfold and not self.fold:
            raise ValueError(
                "`unfold` must come with `fold`, but got unfold=True and fold=False; set both, or "
                "neither to keep the norms."
            )

    def open(self, net: nn.Module, example: Inputs | Shapes, cost: Costs = params) -> PIT:
        """The search of these settings over `net`, for an example or for input shapes."""
        return PIT(net, cost, **given(example), **asdict(self))


@dataclass(frozen=True, slots=True)
class _Mask:
    """One tensor of the net times the mask of its channels along `axis`."""

    name: str
    axis: int
    learns: bool  # whether its gradient reaches the mask


class PIT(Search):
    """A net whose channels and taps can be removed.

    It takes what every `Search` takes, and its own settings.

    Args:
        channels: Whether channels can be removed.
        kernel: Whether taps of kernels along one axis can be removed.
        gate: Where a mask acts: "norm" as published, "consumer" lets removed channels return.
        fold: Whether norms are folded into the layers before them when the search opens.
        unfold: Whether export puts them back, to be trained and measured anew.

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
        channels: bool = True,
        kernel: bool = True,
        gate: Gate = "norm",
        fold: bool = False,
        unfold: bool = False,
    ) -> None:
        self.settings = PITSettings(
            channels=channels, kernel=kernel, gate=gate, fold=fold, unfold=unfold
        )
        super().__init__(
            net,
            cost,
            input_shape=input_shape,
            input_example=input_example,
            exclude_names=exclude_names,
            exclude_types=exclude_types,
        )

    _where: Tensor  # labels of all masks, and taps behind the last label, one after another
    _keep: Tensor  # `(S, M)` decisions of which one a row must live
    _counts: Tensor  # `(2R, L)` how often each label is an input and an output of each row

    def _open(self, analysis: Analysis) -> None:
        self._folded: tuple[Folded, ...] = ()
        if self.settings.fold:
            self._folded = fold_norms(self.net, analysis.table)
            analysis = self._analysis(self.net)
            self.table = analysis.table
        first = next((p for p in self.net.parameters() if p.is_floating_point()), torch.zeros(()))
        size = analysis.table.size
        if self.settings.channels:
            self.decisions["channels"] = nn.Parameter(first.new_ones(size - 1))
        self._open_kernels(first)
        self._masks, where = self._plan_masks()
        self._sizes = [len(labels) for labels in where]
        none = torch.zeros(0, dtype=torch.long)
        self._hold("_where", torch.cat([none, *where]), first.device)
        self._hold("_keep", analysis.table.keep_index() - 1, first.device)
        self._hold("_counts", analysis.table.counts(), first.device)

    def _open_kernels(self, first: Tensor) -> None:
        kernels = self.table.kernels if self.settings.kernel else ()
        self._kernels = tuple(kernel for kernel in kernels if kernel.frozen is None)
        if not self._kernels:
            return
        for name, sums in (("field", _field_sums), ("dilation", _dilation_sums)):
            parts = [sums(kernel) for kernel in self._kernels]
            # `(T, 1 + N)`: which decisions make up each tap; the first column is a constant 1.
            always = torch.cat([part[:, :1] for part in parts])
            own = torch.block_diag(*[part[:, 1:] for part in parts])
            matrix = torch.cat([always, own], 1)
            self._hold(f"_{name}", matrix.to(first.dtype), first.device)
            self.decisions[name] = nn.Parameter(first.new_ones(matrix.shape[1] - 1))

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
            if row.spec.op not in ("conv", "linear") or not self.settings.channels:
                continue
            gated = self._gated(row) if self.settings.gate == "norm" else ()
            for name in gated:
                add(name, 0, row.cout, True)
            if not row.separate:
                # Gradient through one of the two ends only: both would count a channel twice.
                learns = self.settings.gate == "consumer" or not self._all_gated(row)
                add(f"{row.name}.weight", 1, row.columns, learns)
        taps = torch.arange(sum(kernel.taps for kernel in self._kernels)) + self.table.size
        for kernel, part in zip(self._kernels, torch.split(taps, self._taps), strict=True):
            add(f"{kernel.name}.weight", 2, part, True)
        return tuple(masks), where

    @property
    def _taps(self) -> list[int]:
        return [kernel.taps for kernel in self._kernels]

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
        """How far each channel and tap lives, in [0, 1].

        `channels` is `(L,)` and 1 for label 0; where kernels are searched, `field` and `dilation`
        are `(T,)`: a tap lives as far as both let it.
        """
        found = {"channels": self._channels(hard)}
        for name in ("field", "dilation") if self._kernels else ():
            magnitude = self.decisions[name].abs()
            sums = self.get_buffer(f"_{name}") @ torch.cat([magnitude.new_ones(1), magnitude])
            if hard:
                found[name] = (sums > 0.5).to(sums.dtype)
            else:
                found[name] = sums / sums.detach().clamp(min=1)
        return found

    def _channels(self, hard: bool) -> Tensor:
        if not self.settings.channels:
            return self.temperature.new_ones(self.table.size)
        magnitude = self.decisions["channels"].abs()
        kept = torch.zeros_like(magnitude)
        if self._keep.numel():
            best = magnitude.detach()[self._keep].argmax(1, keepdim=True)
            kept = kept.index_fill(0, self._keep.gather(1, best)[:, 0], 1)
        if hard:
            live = ((magnitude > 0.5) | (kept > 0)).to(magnitude.dtype)
        else:
            live = torch.where(kept > 0, kept, ste.clamp_max(magnitude, 1.0))
        return torch.cat([magnitude.new_ones(1), live])

    def overrides(self, theta: Theta) -> dict[str, Tensor]:
        """The tensors of the net times their masks."""
        live = ste.threshold(theta["channels"], 0.5)
        if self._kernels:
            taps = ste.threshold(theta["field"], 0.5) * ste.threshold(theta["dilation"], 0.5)
            live = torch.cat([live, taps])
        mask = live[self._where]
        changed: dict[str, Tensor] = {}
        tensors = dict(self.net.named_parameters())
        for plan, part in zip(self._masks, torch.split(mask, self._sizes), strict=True):
            value = changed.get(plan.name, tensors[plan.name])
            gate = part if plan.learns else part.detach()
            shape = [-1 if axis == plan.axis else 1 for axis in range(value.dim())]
            changed[plan.name] = value * gate.reshape(shape)
        return changed

    def layers(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """Every call of every layer with its live channels and taps."""
        kernels = self._live_taps(theta)
        live = exact(theta["channels"])
        counts = (self._counts.to(live.dtype) @ live).unbind()
        certain = live.new_ones(())
        for row, cin, cout in zip(self.table.rows, counts[::2], counts[1::2], strict=True):
            if row.spec.op == "other":
                yield row.spec, certain
                continue
            groups = cin if row.separate else row.spec.groups
            kernel = kernels.get(row.name, row.spec.kernel)
            spec = replace(row.spec, cin=cin, cout=cout, groups=groups, kernel=kernel)
            if row.w_bits is None:
                yield spec, certain
                continue
            spec = row.at_widths(spec, live[row.cout])
            yield spec, certain.expand(1, torch.as_tensor(spec.cout).shape[-1])

    def _live_taps(self, theta: Theta) -> dict[str, tuple[Tensor]]:
        """0-dim number of taps of each kernel that is searched."""
        if not self._kernels:
            return {}
        live = theta["field"] * theta["dilation"]
        live = live.to(torch.promote_types(live.dtype, torch.float32))
        parts = zip(self._kernels, torch.split(live, self._taps), strict=True)
        return {kernel.name: (part.sum(),) for kernel, part in parts}

    def kernels(self, theta: Theta) -> Mapping[str, range]:
        """The taps that hard `theta` keeps of each kernel that is searched."""
        kept = {}
        for name, (field, step) in self._fields(theta).items():
            last = next(kernel.taps for kernel in self._kernels if kernel.name == name) - 1
            kept[name] = range(last - (field - 1) // step * step, last + 1, step)
        return kept

    def _fields(self, theta: Theta) -> dict[str, list[int]]:
        """Of each kernel, taps from the first live one to the last, and the step between two."""
        if not self._kernels:
            return {}
        field, dilation = (
            torch.split(theta[name].cpu() > 0.5, self._taps) for name in ("field", "dilation")
        )
        return {
            kernel.name: [int(live.sum()), kernel.taps - 1 - int(comb[:-1].nonzero()[-1])]
            for kernel, live, comb in zip(self._kernels, field, dilation, strict=True)
        }

    def moments(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """What is in memory while each operation runs, of the live channels."""
        return self._moments(exact(theta["channels"]))

    def _cut(self, analysis: Analysis, theta: Theta) -> fx.GraphModule:
        live = theta["channels"].cpu() > 0.5
        net = cut(analysis, live)
        keep_taps(net, self.kernels(theta))
        if self.settings.unfold:
            rows = {row.name: live[row.cout].nonzero()[:, 0] for row in self.table.rows}
            unfold_norms(net, self._folded, rows)
        return net

    def encode(self, theta: Theta) -> dict[str, Any]:
        """Which labels live, by group, and field and step of each kernel."""
        live = theta["channels"].cpu() > 0.5
        channels = {
            group.name: live[group.labels.start : group.labels.stop].nonzero()[:, 0].tolist()
            for group in self.table.groups
            if group.labels
        }
        return {"channels": channels, "kernels": self._fields(theta)}

    def decode(self, decisions: Mapping[str, Any]) -> Theta:
        """The hard decisions that `encode` wrote.

        Raises:
            ValueError: When they belong to another net.
        """
        channels = decisions["channels"]
        kernels = decisions.get("kernels", {})
        groups = {group.name: len(group.labels) for group in self.table.groups if group.labels}
        taps = {kernel.name: kernel.taps for kernel in self._kernels}
        if set(channels) != set(groups) or set(kernels) != set(taps):
            raise ValueError(
                f"Stored decisions must fit the groups and kernels of the net, {sorted(groups)} "
                f"and {sorted(taps)}, but hold {sorted(channels)} and {sorted(kernels)}; use the "
                f"net that they were made for."
            )
        now = self.theta(hard=True)
        live = torch.zeros_like(now["channels"])
        live[0] = 1
        for group in self.table.groups:
            chosen = channels.get(group.name, []) if group.labels else []
            if any(not 0 <= index < len(group.labels) for index in chosen):
                raise ValueError(
                    f"Stored channels of {group.name!r} must be below {len(group.labels)}, but are "
                    f"{chosen}; use the net that they were made for."
                )
            live[[group.labels.start + index for index in chosen]] = 1
        return {"channels": live, **self._decoded(kernels, live)}

    def _decoded(self, kernels: Mapping[str, Any], like: Tensor) -> Theta:
        """`field` and `dilation` of stored kernels; nothing where none is searched."""
        parts = []
        for kernel in self._kernels:
            field, step = kernels[kernel.name]
            if not 1 <= field <= kernel.taps or step not in kernel.steps:
                raise ValueError(
                    f"Stored taps of {kernel.name!r} must be 1 to {kernel.taps} in steps among "
                    f"{kernel.steps}, but are {field} in steps of {step}; use the net that they "
                    f"were made for."
                )
            before = torch.arange(kernel.taps).flip(0)
            parts.append(torch.stack([before < field, before % step == 0]))
        if not parts:
            return {}
        field, dilation = torch.cat(parts, 1).to(like).unbind()
        return {"field": field, "dilation": dilation}


def _field_sums(kernel: Kernel) -> Tensor:
    """`(K, K)`: the constant and the `beta_d` that make up each tap."""
    taps = torch.arange(kernel.taps)
    before = taps.flip(0)[:, None]
    return torch.where(before > 0, taps >= before, taps == 0).float()


def _dilation_sums(kernel: Kernel) -> Tensor:
    """`(K, len(steps))`: the constant and the `gamma_i` that make up each tap."""
    before = torch.arange(kernel.taps).flip(0)[:, None]
    divides = (before % torch.tensor(kernel.steps) == 0).float()
    always = divides[:, -1:]
    return torch.cat([always, divides[:, :-1] * (1 - always)], 1)
