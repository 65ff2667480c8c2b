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

Shapes: `P` bit-widths of weights above 0, `D` decisions on them, `R` rows, `L` labels of the table
with 0 (always live), `Q` quantisers of activations, `X` their bit-widths, `A` decisions on these.

References:
    Risso et al., "Channel-wise Mixed-precision Assignment for DNN Inference on Constrained Edge
    Nodes", IGSC 2022 (arXiv 2206.08852), equations 2 to 5; Jahier Pagliari et al., "PLiNIO", 2023
    (arXiv 2307.09488), section III-C.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, fx, nn

from costs import LayerSpec, params, ste
from plinio_sweep.graph.fold import bypass, foldable
from plinio_sweep.graph.memory import Memory
from plinio_sweep.graph.quantize import (
    WeightRanges,
    activation_codes,
    mix_rows,
    round_bias,
    row_steps,
)
from plinio_sweep.graph.quantized import (
    LayerBits,
    Quantizer,
    is_quantized,
    measure_ranges,
    quantize_net,
)
from plinio_sweep.graph.sites import Sites, find_sites, insert_quantizers
from plinio_sweep.graph.surgery import cut
from plinio_sweep.graph.table import Analysis, Row
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.methods.candidates import Per, check_candidates, check_stored, ranges_called
from plinio_sweep.methods.relax import (
    Sampling,
    discrete,
    gumbel_like,
    relax,
    straight_through,
)
from plinio_sweep.methods.rows import RowLayer, Rows
from plinio_sweep.methods.search import Architecture, Costs, Search, Shapes, Theta, exact, given


@dataclass(frozen=True, kw_only=True)
class MPSSettings:
    """Settings of `MPS` in a plan, under the names that they have there.

    A plan is stored, so that `ranges` of one's own have a name here: "module:name".
    """

    name: ClassVar[str] = "mps"
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
    _agreed: Tensor  # `(Q,)` the decision that each quantiser follows
    _base: Tensor  # `(R,)` the first row that has the very weights of each row
    _decision: Tensor  # `(R,)` which decision each row follows
    _label: Tensor  # `(R,)` label of each row
    _layer: Tensor  # `(R,)` row of which layer
    _keep: Tensor  # `(S, M)` labels of which one a row must live
    _prunable: Tensor  # `(L,)` whether a label may die
    _counts: Tensor  # `(2 rows of the table, L)`
    _tops: Tensor  # `(2, X, 1)` largest code, without and with a sign
    _source: Tensor  # `(R,)` quantiser of the input of each row's layer, -1 for floats

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
        self._norms = foldable(self.table)
        for layer, norm in self._norms.items():
            bypass(self.net, norm)
            _hold_bias(self.net.get_submodule(layer))
        self.net.recompile()
        analysis = self._analysis(self.net)
        self.sites = find_sites(self.net, analysis.found, outputs=self.outputs)
        modules = {
            plan.name: Quantizer(self.x_bits, signed=plan.signed).to(self.temperature)
            for plan in self.sites.quantizers
        }
        insert_quantizers(self.net, self.sites, modules, outputs=self.outputs)
        self.net.train(self.net.training)
        analysis = self._analysis(self.net)
        self.table = analysis.table
        self.memory = Memory(analysis).to(self.temperature.device)
        self._rows = Rows(self._plan_rows())
        self._decide()
        self.prepare([self._example])

    def _plan_rows(self) -> list[RowLayer]:
        """The layers whose weights are rounded; those that share a weight are one."""
        first: dict[int, str] = {}
        found: dict[str, RowLayer] = {}
        read = {node.target for node in self.net.graph.nodes if node.op == "get_attr"}
        for row in self.table.rows:
            layer: Any = self.net.get_submodule(row.name) if _is_layer(row) else None
            if layer is None or self.is_excluded(row.name) or is_quantized(layer):
                continue
            if f"{row.name}.weight" in read:
                continue  # what else reads this weight reads it as it is
            found[row.name] = RowLayer(
                name=row.name,
                shares=first.setdefault(id(layer.weight), row.name),
                norm=self._norms.get(row.name),
                shape=tuple(layer.weight.shape),
                bias=layer.bias is not None,
            )
        return list(found.values())

    def _decide(self) -> None:
        """Makes the decisions, and the indices that tie them to rows, labels and quantisers."""
        like, table, rows = self.temperature, self.table, self._rows
        calls = {r.name: r for r in table.rows if r.name in rows.start and _is_layer(r)}
        own = [calls[layer.name] for layer in rows.layers]
        none = torch.zeros(0, dtype=torch.long)
        base = rows.base if self.per == "channel" else rows.layer[rows.base]
        decision = torch.unique(base, return_inverse=True)[1]
        label = torch.cat([none, *(row.cout for row in own)])
        sources = [self._source_of(layer.name) for layer in rows.layers]
        source = torch.tensor([-1 if s is None else s for s in sources], dtype=torch.long)
        self._hold("_decision", decision)
        self._hold("_base", rows.base)
        self._hold("_label", label)
        self._hold("_layer", rows.layer)
        self._hold("_source", source[rows.layer])
        tops = [[activation_codes(b, signed=s)[1] for b in self.x_bits] for s in (False, True)]
        self._hold("_tops", like.new_tensor(tops)[:, :, None])
        agreed = [plan.decision for plan in self.sites.quantizers]
        self._hold("_agreed", torch.tensor(agreed, dtype=torch.long))
        self._hold("_prunable", self._prunable_labels(label))
        self._hold("_keep", table.keep_index())
        self._hold("_counts", table.counts())
        for index, matrix in enumerate(rows.matrices):
            columns = [_columns(calls[layer.name], layer) for layer in matrix]
            self._hold(f"_columns_{index}", torch.cat(columns))
            tall = torch.tensor([layer.rows for layer in matrix])
            self._hold(f"_inside_{index}", torch.arange(len(matrix)).repeat_interleave(tall))
        count = int(decision.max()) + 1 if len(decision) else 0
        self._add("weights", _start(self.widths, count).to(like), fixed=len(self.widths) == 1)
        self._add("channels", like.new_zeros(table.size - 1), fixed=not self.prunes)
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

    def _hold(self, name: str, value: Tensor) -> None:
        # Not persistent: it follows from the table, and a checkpoint holds no more than it must.
        self.register_buffer(name, value.to(self.temperature.device), persistent=False)

    def _add(self, name: str, start: Tensor, *, fixed: bool) -> None:
        """One kind of decision; where there is nothing to choose its logits are no parameter."""
        if fixed:
            self.register_buffer(f"logits_{name}", start, persistent=False)
        else:
            self.decisions[name] = nn.Parameter(start)
            self.register_buffer(f"noise_{name}", torch.zeros_like(start), persistent=False)

    def _source_of(self, layer: str) -> int | None:
        """The quantiser that all calls of `layer` read; nothing where one reads floats."""
        nodes = [row.node for row in self.table.rows if row.name == layer]
        read = {self.sites.reads.get(node) for node in nodes}
        return read.pop() if len(read) == 1 else None

    def _prunable_labels(self, label: Tensor) -> Tensor:
        """`(L,)` labels that may die: all layers that make them have rows here."""
        prunable = torch.zeros(self.table.size, dtype=torch.bool)
        prunable[label] = True
        for row in self.table.rows:
            if _is_layer(row) and row.name not in self._rows.start:
                prunable[row.cout] = False
        prunable[0] = False
        return prunable

    @torch.no_grad()
    def prepare(self, batches: Iterable[Inputs]) -> None:
        """Starts the clips of all quantisers, and the signs of inputs, from data.

        Args:
            batches: Inputs of the net, as it will meet them.

        Raises:
            ValueError: When an activation is not finite.
        """
        floats = self._rows.write(self.net, *self._rows.read(self.net)) if self._rows.layers else {}
        for index, plan in enumerate(self.sites.quantizers):
            self.signed[index] = float(plan.signed or plan.measured)  # until it is seen
        self._sign()
        found = measure_ranges(self.net, floats, batches)
        for index, plan in enumerate(self.sites.quantizers):
            low, high = found[plan.name]
            if plan.measured:
                self.signed[index] = float((low < 0).any())
            extremes = torch.maximum(high, -low) if self.signed[index] else high
            clip = torch.quantile(extremes.double(), self.percentile / 100)
            if not bool(torch.isfinite(clip)):
                raise ValueError(
                    f"Activations must be finite, but those of {plan.nodes[0]!r} reach "
                    f"{float(clip)}; train the net first, or mend its data."
                )
            self.log_clip[index] = float(clip.log()) if clip > 0 else 0.0
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
            alive = torch.zeros_like(logits[0]).index_add(0, self._decision, live[self._label])
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
        score = (logits.amax(0) if hard else soft)[self._decision]
        rows = torch.zeros_like(every).index_add(0, self._label, torch.ones_like(score))
        mean = torch.zeros_like(every).index_add(0, self._label, score) / rows.clamp(min=1)
        margin = mean - torch.cat([every[:1], self._logits("channels", hard)])
        fixed = ~self._prunable
        if self._keep.numel():
            best = margin.detach()[self._keep].argmax(1, keepdim=True)
            fixed = fixed.index_fill(0, self._keep.gather(1, best)[:, 0], True)
        if hard:
            return ((margin > 0) | fixed).to(margin.dtype)
        live = torch.sigmoid(margin / self.temperature)
        return torch.where(fixed, every, ste.threshold(live) if self.hard else live)

    # -- what they do to the net ----------------------------------------------------------------

    def overrides(self, theta: Theta) -> dict[str, Tensor]:
        """Rounded weights and biases, and the clips and weights of the quantisers."""
        steps = self._steps(theta)
        changed = self._quantizers(theta, steps)
        if not self._rows.layers:
            return changed
        matrices, biases = self._rows.read(self.net)
        live = theta["live"][self._label]
        mixed, row_step = self._mix(theta, matrices, live)
        bits = theta["activations"][:, self._agreed]
        if len(self.sites.quantizers):
            step = (bits * steps).sum(0)[self._source.clamp(min=0)]
            rounded = round_bias(biases, step * row_step)
            biases = torch.where(self._source >= 0, rounded, biases)
        return changed | self._rows.write(self.net, mixed, biases * live)

    def _quantizers(self, theta: Theta, steps: Tensor) -> dict[str, Tensor]:
        """What each quantiser is told."""
        plans = self.sites.quantizers
        names = [plan.name for plan in plans]
        # The range of an input is that of the data. To train it would need the gradient of the
        # first layer's input, which can cost more than all other layers.
        given = [f"{name}.steps" for name in names]
        pairs = zip(plans, steps.unbind(1), strict=True)
        parts = [step.detach() if plan.measured else step for plan, step in pairs]
        found = dict(zip(given, parts, strict=True))
        if len(self.x_bits) > 1:
            weights = theta["activations"][:, self._agreed].unbind(1)
            found |= zip([f"{name}.weights" for name in names], weights, strict=True)
        return found

    def _steps(self, theta: Theta) -> Tensor:
        """`(X, Q)` step of each quantiser at each bit-width."""
        top = torch.where(theta["signed"] > 0, self._tops[1], self._tops[0])
        return self.log_clip.exp().t() / top

    def _mix(
        self, theta: Theta, matrices: list[Tensor], live: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """The matrices of rows, rounded, and the `(R,)` mean step of each row."""
        masks = self._masks(theta) if self.prunes else []
        if masks:
            matrices = [rows * mask for rows, mask in zip(matrices, masks, strict=True)]
        if self.log_span is None:
            spans = torch.cat([self.ranges.span(rows) for rows in matrices])
        else:
            spans = self.log_span.exp()[self._base]
        weights, heights = theta["weights"][:, self._decision], self._rows.heights
        steps = row_steps(spans, self.widths)
        step_parts = torch.split(steps, heights, 1)
        parts = zip(matrices, step_parts, torch.split(weights * live, heights, 1), strict=True)
        mixed = [mix_rows(rows, step, part, self.widths) for rows, step, part in parts]
        if masks and 1 in self.widths:  # the one grid without a zero
            mixed = [rows * mask for rows, mask in zip(mixed, masks, strict=True)]
        return mixed, (weights * steps).sum(0)

    def _masks(self, theta: Theta) -> list[Tensor]:
        """For each matrix 0 where a weight reads a channel that is pruned for good, 1 elsewhere."""
        live = (theta["live"].detach() > 0).to(theta["live"].dtype)
        count = len(self._rows.matrices)
        columns = [self.get_buffer(f"_columns_{index}") for index in range(count)]
        inside = [self.get_buffer(f"_inside_{index}") for index in range(count)]
        return [live[of][rows] for of, rows in zip(columns, inside, strict=True)]

    # -- cost -----------------------------------------------------------------------------------

    def layers(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """Every call of every layer: its channels at each bit-width, and the share of each pair."""
        live = exact(theta["live"])
        counts = (self._counts.to(live.dtype) @ live).unbind()
        weights = theta["weights"].to(live.dtype)
        rows = weights[:, self._decision] * live[self._label]
        layers = rows.new_zeros(len(self.widths), len(self._rows.layers))
        wide = dict(
            zip(
                (layer.name for layer in self._rows.layers),
                layers.index_add(1, self._layer, rows).unbind(1),
                strict=True,
            )
        )
        activations = theta["activations"].to(live.dtype)
        w_bits, x_bits = live.new_tensor(self.widths), live.new_tensor(self.x_bits)
        expected = (x_bits @ activations).unbind()
        for row, cin, cout in zip(self.table.rows, counts[::2], counts[1::2], strict=True):
            if row.spec.op == "other":
                yield row.spec, live.new_ones(())
                continue
            written = self.sites.writes.get(row.node)
            plan = None if written is None else self.sites.quantizers[written]
            y_bits = row.spec.y_bits if plan is None else expected[plan.decision]
            spec = replace(row.spec, cin=cin, cout=cout, y_bits=y_bits)
            share = live.new_ones(1, 1)
            if row.name in self._rows.start:
                spec, share = self._at_widths(row, spec, wide[row.name], w_bits, weights)
            elif row.w_bits is not None:
                spec = row.at_widths(spec, live[row.cout])
                share = share.expand(1, torch.as_tensor(spec.cout).shape[-1])
            if spec.depthwise:
                spec = replace(spec, cin=spec.cout, groups=spec.cout)
            elif row.separate:
                spec = replace(spec, groups=cin)
            # A layer that is not rounded itself computes in floats, whatever it reads.
            read = self.sites.reads.get(row.node) if row.name in self._rows.start else None
            if read is not None:
                spec = replace(spec, x_bits=x_bits[:, None])
                share = share * activations[:, self.sites.quantizers[read].decision, None]
            yield spec, share

    def moments(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """What is in memory while each operation runs, at the expected width of each activation."""
        live = exact(theta["live"])
        activations = theta["activations"].to(live.dtype)
        expected = live.new_tensor(self.x_bits) @ activations
        decisions = {plan.name: plan.decision for plan in self.sites.quantizers}
        widths = self.memory.widths.to(live.dtype)
        if any(self.memory.quantizers):
            own = [decisions.get(name or "", -1) for name in self.memory.quantizers]
            index = torch.tensor(own, device=live.device)
            widths = torch.where(index >= 0, expected[index.clamp(min=0)], widths)
        return self._moments(live, widths=widths)

    def _at_widths(
        self, row: Row, spec: LayerSpec, wide: Tensor, w_bits: Tensor, weights: Tensor
    ) -> tuple[LayerSpec, Tensor]:
        """A layer at all its bit-widths, and the share of each.

        Rows with bit-widths of their own make a layer of each width, all of them there; one
        decision for the whole layer makes candidates, one of them there.
        """
        if self.per == "channel":
            share = torch.ones_like(wide[None])
            return replace(spec, cout=wide[None], w_bits=w_bits[None]), share
        first = self._decision[self._rows.start[row.name]]
        return replace(spec, w_bits=w_bits[None]), weights[:, first][None]

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
        found = dict(super().summary(hard))
        bits = self._bits(hard)
        activations = hard["activations"].argmax(0).tolist()
        for row in self.table.rows:
            if row.name in found and row.name in self._rows.start:
                counted = Counter(w for w in bits[row.name].tolist() if w)
                read = self.sites.reads.get(row.node)
                decision = None if read is None else self.sites.quantizers[read].decision
                found[row.name] = replace(
                    found[row.name],
                    w_bits=dict(sorted(counted.items())),
                    x_bits=None if decision is None else self.x_bits[activations[decision]],
                )
        return found

    def _bits(self, theta: Theta) -> dict[str, Tensor]:
        """`(O,)` bit-width of each row of each layer, 0 where it is pruned."""
        widths = torch.tensor(self.widths)[theta["weights"].cpu().argmax(0)]
        rows = widths[self._decision.cpu()] * (theta["live"].cpu() > 0.5)[self._label.cpu()]
        parts = torch.split(rows, self._rows.sizes)
        return {layer.name: part for layer, part in zip(self._rows.layers, parts, strict=True)}

    def _cut(self, analysis: Analysis, theta: Theta) -> fx.GraphModule:
        net = analysis.net
        live = theta["live"].cpu() > 0.5
        bits = self._bits(theta)
        if self._rows.layers:
            self._rows.bake(net)
        cut(analysis, live)
        layers: dict[str, LayerBits] = {}
        for layer in self._rows.layers:
            source = self._source_of(layer.name)
            left = bits[layer.name] > 0
            shared = layers.get(layer.shares)
            layers[layer.name] = LayerBits(
                w_bits=bits[layer.name][left],
                log_span=self._spans(layer, left) if shared is None else shared.log_span,
                source=None if source is None else self.sites.quantizers[source].name,
            )
        quantize_net(net, layers, self._decided(theta), self.ranges)
        return net

    def _spans(self, layer: RowLayer, left: Tensor) -> nn.Parameter | None:
        """The trained ranges of the rows that are left of a layer."""
        if self.log_span is None:
            return None
        start = self._rows.start[layer.name]
        rows = self.log_span.detach()[start : start + layer.rows]
        learns = self._learns("log_span", self.log_span)
        return nn.Parameter(rows[left.to(rows.device)].clone(), learns)

    def _decided(self, theta: Theta) -> dict[str, Quantizer]:
        """The quantisers at their bit-widths."""
        chosen = theta["activations"].argmax(0).tolist()
        signs = (theta["signed"] > 0).tolist()
        found = {}
        for index, (plan, signed) in enumerate(zip(self.sites.quantizers, signs, strict=True)):
            candidate = chosen[plan.decision]
            clip = self.log_clip.detach()[index, candidate : candidate + 1].clone()
            learns = self._learns("log_clip", self.log_clip)
            found[plan.name] = Quantizer(
                (self.x_bits[candidate],),
                signed=signed,
                log_clip=clip if plan.measured else nn.Parameter(clip, learns),
            )
        return found

    def _compare(self, exported: nn.Module, theta: Theta) -> None:
        # In single precision a sum in another order can move a value across a rounding edge. Norms
        # are folded before, as export folds them: in double precision they give other weights.
        twin = copy.deepcopy(self)
        if self._rows.layers:
            twin._rows = self._rows.bake(twin.net)
        twin.double()
        exact = {name: value.double() for name, value in theta.items()}
        super(MPS, twin)._compare(copy.deepcopy(exported).double(), exact)

    def encode(self, theta: Theta) -> dict[str, Any]:
        """Bit-widths of each row of each layer and of each activation, and which have a sign."""
        activations = theta["activations"].argmax(0).tolist()
        plans = self.sites.quantizers
        signs = (theta["signed"] > 0).tolist()
        return {
            "weights": {name: rows.tolist() for name, rows in self._bits(theta).items()},
            "activations": {q.name: self.x_bits[activations[q.decision]] for q in plans},
            "signed": [q.name for q, signed in zip(plans, signs, strict=True) if signed],
        }

    def decode(self, decisions: Mapping[str, Any]) -> Theta:
        """The hard decisions that `encode` wrote.

        Raises:
            ValueError: When they belong to another net.
        """
        sizes = {layer.name: layer.rows for layer in self._rows.layers}
        known = (*self.widths, 0) if self.prunes else self.widths
        names = {plan.name for plan in self.sites.quantizers}
        check_stored(decisions, sizes, names, known, self.x_bits)
        found = {name: torch.zeros_like(value) for name, value in self.theta(hard=True).items()}
        bits = [b for layer in self._rows.layers for b in decisions["weights"][layer.name]]
        alive = torch.tensor([b > 0 for b in bits], dtype=torch.bool)
        chosen = torch.tensor([self.widths.index(b) if b else 0 for b in bits], dtype=torch.long)
        found["weights"][chosen, self._decision.cpu()] = 1
        found["live"][:] = 1
        found["live"][self._label.cpu()[~alive]] = 0
        for number, plan in enumerate(self.sites.quantizers):
            candidate = self.x_bits.index(decisions["activations"][plan.name])
            found["activations"][candidate, plan.decision] = 1
            found["signed"][number] = float(plan.name in decisions["signed"])
        return found


def _hold_bias(layer: Any) -> None:
    """Gives a layer without a bias a place to put that of its norm."""
    if layer.bias is None:
        del layer.bias
        layer.register_buffer("bias", layer.weight.new_zeros(len(layer.weight)), persistent=False)


def _is_layer(row: Row) -> bool:
    return row.spec.op in ("conv", "linear")


def _start(widths: tuple[int, ...], count: int) -> Tensor:
    """`(P, count)` logits at the start: the widest candidate is ahead, as published."""
    return (torch.tensor(widths) / max(widths))[:, None].repeat(1, count)


def _columns(row: Row, layer: RowLayer) -> Tensor:
    """`(1, K)` label that each weight of a row reads; 0 where that can't be pruned."""
    taps = torch.Size(layer.shape[2:]).numel()
    if row.separate:
        return torch.zeros(1, taps, dtype=torch.long)
    return row.columns.repeat_interleave(taps)[None]
