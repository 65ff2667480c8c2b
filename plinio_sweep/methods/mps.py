"""MPS: mixed-precision search, a bit-width for every weight row and every activation.

Every output channel (or every layer) has logits `a_p` over the bit-widths `p > 0`, `p / max p` at
the start; every set of channels that live and die together has, where 0 bit is among the
candidates, a logit `z`, 0 at the start. With temperature `T` (and Gumbel noise on all logits, as a
setting),

    theta_0 = sigmoid(z / T - mean over rows of logsumexp(a / T))       pruned
    theta_p = (1 - theta_0) softmax(a / T)_p                            at p bits

For a set with one row this is the published softmax over all candidates; where layers share a
channel (a residual sum, a depthwise convolution) it dies in all of them or in none. The best of
every set of channels that must not die out has `theta_0 = 0`. Weights and activations are then

    w = sum_p theta_p Q_p(w)        x = sum_p theta_p Q_p(x)        b = round(b / s) s, s = s_x s_w

with the grids of `graph/quantize.py`. Norms are folded with their running statistics on the way and
keep their own parameters. With one bit-width each this is quantisation-aware training.

Which decision each part of a net follows is in `layout.py`, where ranges of activations start in
`clips.py`, what a layer costs at all its widths in `row_costs.py`, what is stored in `decided.py`.

Shapes: `P` bit-widths of weights above 0, `D` decisions on them, `R` rows, `L` labels of the table
with 0 (always live), `Q` quantisers of activations, `X` their bit-widths, `A` decisions on these.

References:
    Risso et al., "Channel-wise Mixed-precision Assignment for DNN Inference on Constrained Edge
    Nodes", IGSC 2022 (arXiv 2206.08852), equations 2 to 5; Jahier Pagliari et al., "PLiNIO", 2023
    (arXiv 2307.09488), section III-C.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, cast, final

import torch
from torch import Tensor, fx, nn

from costs import LayerSpec, params, ste
from plinio_sweep.graph.fold import bypass, foldable
from plinio_sweep.graph.memory import Memory
from plinio_sweep.graph.quantize import WeightRanges, mix_rows, round_bias, row_steps
from plinio_sweep.graph.quantized import LayerBits, Quantizer, measure_ranges, quantize_net
from plinio_sweep.graph.sites import Sites, find_sites, insert_quantizers
from plinio_sweep.graph.surgery import cut
from plinio_sweep.graph.table import Analysis
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.methods.candidates import Per, check_candidates, ranges_called
from plinio_sweep.methods.clips import quantizers_at, start_of, told
from plinio_sweep.methods.decided import activation_bits, decode, encode, row_bits, with_bits
from plinio_sweep.methods.layout import Layout, plan_rows
from plinio_sweep.methods.relax import Sampling, discrete, gumbel_like, relax, straight_through
from plinio_sweep.methods.row_costs import buffer_widths, calls_at
from plinio_sweep.methods.rows import RowLayer, Rows
from plinio_sweep.methods.search import Architecture, Costs, Search, Shapes, Theta, exact, given


@dataclass(frozen=True, kw_only=True)
class MPSSettings:
    """Settings of `MPS` in a plan, under the names that they have there.

    A plan is stored, so that `ranges` of one's own have a name here: "module:name".
    """

    name: ClassVar[str] = "mps"
    pressed: ClassVar[bool] = True
    w_bits: tuple[int, ...] = (2, 4, 8)
    x_bits: tuple[int, ...] = (8,)
    per: Per = "channel"
    sampling: Sampling = "softmax"
    hard: bool = False
    ranges: str = "minmax"
    quantize_outputs: bool = False
    percentile: float = 100.0

    def __post_init__(self) -> None:
        # Stored settings come back from JSON, which has no tuples.
        object.__setattr__(self, "w_bits", tuple(self.w_bits))
        object.__setattr__(self, "x_bits", tuple(self.x_bits))
        check_candidates(self.w_bits, self.x_bits, self.per, self.sampling, self.percentile)
        ranges_called(self.ranges)

    def open(self, net: nn.Module, example: Inputs | Shapes, cost: Costs = params) -> MPS:
        """The search of these settings over `net`, for an example or for input shapes."""
        return MPS(net, cost, **given(example), **asdict(self))


@final
class MPS(Search):
    """A net whose weights and activations have bit-widths to choose.

    Clips of activations start from the example; `prepare` sets them from more data. It takes what
    every `Search` takes, and its own settings.

    Args:
        w_bits: Candidate bit-widths of the weights; with 0 channels can be pruned.
        x_bits: Candidate bit-widths of the activations.
        per: What has a bit-width of its own: each output "channel", or each "layer".
        sampling: "softmax" mixes all candidates; "gumbel" adds noise in training.
        hard: Whether one candidate alone is used in each forward pass of the training.
        ranges: How ranges of weights are found: "minmax", "learned", or a record of one's own.
        quantize_outputs: Whether what the net returns is rounded, too.
        percentile: Of the extremes of all items that a clip starts at; 100 is the largest.

    Example:
        >>> from costs import size_bits
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> model = MPS(net, size_bits, input_shape=(4,), w_bits=(8,))
        >>> model.cost.item()  # 48 weights at 8 bit, 10 biases and 10 scales at 32
        1024.0
    """

    sites: Sites
    signed: Tensor  # `(Q,)` 1 for quantisers with a sign
    log_clip: nn.Parameter  # `(Q, X)` logarithms of the clips
    log_span: nn.Parameter | None  # `(R,)` logarithms of the ranges of rows, where trained
    layout: Layout

    def __init__(
        self,
        net: nn.Module,
        cost: Costs = params,
        *,
        input_shape: Any = None,
        input_example: Any = None,
        exclude_names: Collection[str] = (),
        exclude_types: tuple[type, ...] = (),
        w_bits: tuple[int, ...] = (2, 4, 8),
        x_bits: tuple[int, ...] = (8,),
        per: Per = "channel",
        sampling: Sampling = "softmax",
        hard: bool = False,
        ranges: str | WeightRanges = "minmax",
        quantize_outputs: bool = False,
        percentile: float = 100.0,
    ) -> None:
        check_candidates(w_bits, x_bits, per, sampling, percentile)
        self.widths = tuple(bits for bits in w_bits if bits)
        self.prunes = 0 in w_bits
        self.x_bits, self.per, self.percentile = tuple(x_bits), per, percentile
        self.sampling, self.hard, self.outputs = sampling, hard, quantize_outputs
        self.ranges = ranges_called(ranges) if isinstance(ranges, str) else ranges
        super().__init__(
            net,
            cost,
            input_shape=input_shape,
            input_example=input_example,
            exclude_names=exclude_names,
            exclude_types=exclude_types,
        )

    # -- opening --------------------------------------------------------------------------------

    def _open(self, analysis: Analysis) -> None:
        norms = foldable(self.table)
        for layer, norm in norms.items():
            bypass(self.net, norm)
            _hold_bias(self.net.get_submodule(layer))
        self.net.recompile()
        found = self._labelling(self.net) if norms else analysis.found
        self.sites = find_sites(self.net, found, outputs=self.outputs)
        modules = {
            plan.name: Quantizer(self.x_bits, signed=plan.signed).to(self.temperature)
            for plan in self.sites.quantizers
        }
        insert_quantizers(self.net, self.sites, modules, outputs=self.outputs)
        self.net.train(self.net.training)
        analysis = self._analysis(self.net)
        self.table = analysis.table
        self.memory = Memory(analysis).to(self.temperature.device)
        rows = plan_rows(self.net, self.table, norms, self.is_excluded)
        layout = Layout(
            rows,
            self.sites,
            self.table,
            widths=self.widths,
            x_bits=self.x_bits,
            per=self.per,
            prunes=self.prunes,
        )
        self.layout = layout.to(self.temperature)
        self._decide(rows)
        self.prepare([self._example])

    def _decide(self, rows: Rows) -> None:
        """Makes the decisions, all at their start, and the ranges."""
        like, count = self.temperature, self.layout.num_decisions
        self._add("weights", _start(self.widths, count).to(like), fixed=len(self.widths) == 1)
        self._add("channels", like.new_zeros(self.table.size - 1), fixed=not self.prunes)
        activations = _start(self.x_bits, self.sites.decisions).to(like)
        self._add("activations", activations, fixed=len(self.x_bits) == 1)
        signs = [float(plan.signed) for plan in self.sites.quantizers]
        self.register_buffer("signed", like.new_tensor(signs))
        self.register_load_state_dict_post_hook(MPS._sign)
        self.log_clip = nn.Parameter(like.new_zeros(len(self.sites.quantizers), len(self.x_bits)))
        self.register_parameter("log_span", None)
        if self.ranges.trained and rows.layers:
            matrices, _ = rows.read(self.net)
            spans = torch.cat([self.ranges.span(m.detach()) for m in matrices])
            self.log_span = nn.Parameter(torch.where(spans > 0, spans, 1.0).log())

    def _add(self, name: str, start: Tensor, *, fixed: bool) -> None:
        """One kind of decision; where there is nothing to choose its logits are no parameter."""
        if fixed:
            self.register_buffer(f"logits_{name}", start, persistent=False)
        else:
            self.decisions[name] = nn.Parameter(start)
            self.register_buffer(f"noise_{name}", torch.zeros_like(start), persistent=False)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Inputs]) -> None:
        """Starts the clips of all quantisers, and the signs of inputs, from data.

        Args:
            batches: Inputs of the net, as it will meet them.

        Raises:
            ValueError: When an activation is not finite.
        """
        rows = self.layout.rows
        floats = rows.write(self.net, *rows.read(self.net)) if rows.layers else {}
        for index, plan in enumerate(self.sites.quantizers):
            self.signed[index] = float(plan.signed or plan.measured)  # until it is seen
        self._sign()
        found = measure_ranges(self.net, floats, batches)
        for index, plan in enumerate(self.sites.quantizers):
            signed, clip = start_of(plan, found[plan.name], self.percentile)
            self.signed[index], self.log_clip[index] = float(signed), clip
        self._sign()

    def _sign(self, *_: Any) -> None:
        """Tells the quantisers their signs: a compiled net has them as constants."""
        for plan, signed in zip(self.sites.quantizers, self.signed.tolist(), strict=True):
            cast(Quantizer, self.net.get_submodule(plan.name)).signed = signed > 0

    # -- decisions ------------------------------------------------------------------------------

    def sample(self) -> None:
        """Draws new noise in training; there is none in eval mode."""
        for name in self.decisions:
            noise = self.get_buffer(f"noise_{name}")
            noisy = self.training and self.sampling == "gumbel"
            noise.copy_(gumbel_like(noise) if noisy else torch.zeros_like(noise))

    def theta(self, *, hard: bool = False) -> Theta:
        """The decisions as they stand; `hard` rounds each to what export would take.

        `weights` `(P, D)` and `activations` `(X, A)` weigh the bit-widths, `live` `(L,)` says how
        far each label lives, `signed` `(Q,)` which quantisers have a sign.
        """
        logits = self._logits("weights", hard)
        live, weights = self._live(logits, hard), self._choose(logits, hard)
        if hard and self.prunes:
            # Which bit-width a pruned row had is nothing to remember.
            decision, lives = self.layout.decision, live[self.layout.label]
            alive = torch.zeros_like(logits[0]).index_add(0, decision, lives)
            first = torch.zeros_like(weights)
            first[:1] = 1
            weights = torch.where(alive > 0, weights, first)
        return {
            "weights": weights,
            "activations": self._choose(self._logits("activations", hard), hard),
            "live": live,
            "signed": self.signed,
        }

    def _logits(self, name: str, hard: bool) -> Tensor:
        if name not in self.decisions:
            return self.get_buffer(f"logits_{name}")
        logits: Tensor = self.decisions[name]
        return logits if hard else logits + self.get_buffer(f"noise_{name}")

    def _choose(self, logits: Tensor, hard: bool) -> Tensor:
        if hard or len(logits) == 1:
            return discrete(logits)
        weights = relax(logits, self.temperature)
        return straight_through(weights) if self.hard else weights

    def _live(self, logits: Tensor, hard: bool) -> Tensor:
        """`(L,)` how far each label lives."""
        every = logits.new_ones(self.table.size)
        if not self.prunes:
            return every
        soft = self.temperature * torch.logsumexp(logits / self.temperature, 0)
        score = (logits.amax(0) if hard else soft)[self.layout.decision]
        margin, fixed = self.layout.margins(score, self._logits("channels", hard))
        if hard:
            return ((margin > 0) | fixed).to(margin.dtype)
        live = torch.sigmoid(margin / self.temperature)
        return torch.where(fixed, every, ste.threshold(live) if self.hard else live)

    # -- what they do to the net ----------------------------------------------------------------

    def overrides(self, theta: Theta) -> dict[str, Tensor]:
        """Rounded weights and biases, and the clips and weights of the quantisers."""
        rows, source = self.layout.rows, self.layout.source
        steps = self.layout.steps(self.log_clip, theta["signed"])
        bits = theta["activations"][:, self.layout.agreed]
        changed = told(self.sites.quantizers, steps, bits if len(self.x_bits) > 1 else None)
        if not rows.layers:
            return changed
        matrices, biases = rows.read(self.net)
        live = theta["live"][self.layout.label]
        mixed, row_step = self._mix(theta, matrices, live)
        if len(self.sites.quantizers):
            step = (bits * steps).sum(0)[source.clamp(min=0)]
            biases = torch.where(source >= 0, round_bias(biases, step * row_step), biases)
        return changed | rows.write(self.net, mixed, biases * live)

    def _mix(
        self, theta: Theta, matrices: list[Tensor], live: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """The matrices of rows, rounded, and the `(R,)` mean step of each row."""
        masks = self.layout.masks(theta["live"]) if self.prunes else []
        if masks:
            matrices = [rows * mask for rows, mask in zip(matrices, masks, strict=True)]
        if self.log_span is None:
            spans = torch.cat([self.ranges.span(rows) for rows in matrices])
        else:
            spans = self.log_span.exp()[self.layout.base]
        weights, heights = theta["weights"][:, self.layout.decision], self.layout.rows.heights
        steps = row_steps(spans, self.widths)
        step_parts = torch.split(steps, heights, 1)
        parts = zip(matrices, step_parts, torch.split(weights * live, heights, 1), strict=True)
        mixed = [mix_rows(rows, step, part, self.widths) for rows, step, part in parts]
        if masks and 1 in self.widths:  # the one grid without a zero
            mixed = [rows * mask for rows, mask in zip(mixed, masks, strict=True)]
        return mixed, (weights * steps).sum(0)

    # -- cost -----------------------------------------------------------------------------------

    def layers(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """Every call of every layer: its channels at each bit-width, and the share of each pair."""
        return calls_at(self.layout, theta)

    def moments(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """What is in memory while each operation runs, at the expected width of each activation."""
        widths = buffer_widths(self.layout, self.memory, theta)
        return self._moments(exact(theta["live"]), widths=widths)

    # -- parameters and results -----------------------------------------------------------------

    def named_net_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The seed's own parameters, and the ranges of the quantisers, which are trained alike."""
        yield from super().named_net_parameters()
        yield "log_clip", self.log_clip
        if self.log_span is not None:
            yield "log_span", self.log_span

    @property
    def details(self) -> str:
        """The quantisers of activations."""
        return str(self.sites)

    def summary(self, theta: Theta | None = None) -> Architecture:
        """What each layer would come to if the search ended now."""
        hard = self.theta(hard=True) if theta is None else theta
        return with_bits(self.layout, hard, super().summary(hard))

    def _cut(self, analysis: Analysis, theta: Theta) -> fx.GraphModule:
        net, layout = analysis.net, self.layout
        bits, activations = row_bits(layout, theta), activation_bits(layout, theta)
        if layout.rows.layers:
            layout.rows.bake(net)
        cut(analysis, theta["live"].cpu() > 0.5)
        layers: dict[str, LayerBits] = {}
        for layer in layout.rows.layers:
            source = layout.source_of(layer.name)
            left = bits[layer.name] > 0
            shared = layers.get(layer.shares)
            layers[layer.name] = LayerBits(
                w_bits=bits[layer.name][left],
                log_span=self._spans(layer, left) if shared is None else shared.log_span,
                source=None if source is None else self.sites.quantizers[source].name,
            )
        quantizers = quantizers_at(
            self.sites.quantizers,
            activations,
            (theta["signed"] > 0).tolist(),
            self._clips(activations),
            learns=self._learns("log_clip", self.log_clip),
        )
        quantize_net(net, layers, quantizers, self.ranges)
        return net

    def _spans(self, layer: RowLayer, left: Tensor) -> nn.Parameter | None:
        """The trained ranges of the rows that are left of a layer."""
        if self.log_span is None:
            return None
        start = self.layout.rows.start[layer.name]
        rows = self.log_span.detach()[start : start + layer.rows]
        learns = self._learns("log_span", self.log_span)
        return nn.Parameter(rows[left.to(rows.device)].clone(), learns)

    def _clips(self, bits: Mapping[str, int]) -> list[Tensor]:
        """`(1,)` logarithm of the clip of each quantiser at its bit-width."""
        clips = zip(self.log_clip.detach().unbind(), self.sites.quantizers, strict=True)
        candidates = [(clip, self.x_bits.index(bits[plan.name])) for clip, plan in clips]
        return [clip[index : index + 1].clone() for clip, index in candidates]

    def _twin(self) -> Self:
        # In single precision a sum in another order can move a value across a rounding edge. Norms
        # are folded before, as export folds them: in double precision they give other weights.
        twin = super()._twin()
        if twin.layout.rows.layers:
            twin.layout.rows = twin.layout.rows.bake(twin.net)
        return twin

    def encode(self, theta: Theta) -> dict[str, Any]:
        """Bit-widths of each row of each layer and of each activation, and which have a sign."""
        return encode(self.layout, theta)

    def decode(self, decisions: Mapping[str, Any]) -> Theta:
        """The hard decisions that `encode` wrote.

        Raises:
            ValueError: When they belong to another net.
        """
        return decode(self.layout, decisions, self.theta(hard=True))


def _hold_bias(layer: Any) -> None:
    """Gives a layer without a bias a place to put that of its norm."""
    if layer.bias is None:
        del layer.bias
        layer.register_buffer("bias", layer.weight.new_zeros(len(layer.weight)), persistent=False)


def _start(widths: tuple[int, ...], count: int) -> Tensor:
    """`(P, count)` logits at the start: the widest candidate is ahead, as published."""
    return (torch.tensor(widths) / max(widths))[:, None].repeat(1, count)
