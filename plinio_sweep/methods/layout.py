"""What a search of MPS decides on, and which decision each part of the net follows.

Weights are rows (`rows.py`), activations go through quantisers (`graph/sites.py`). A row follows
one decision on its bit-width and lives and dies with one label of the table.

Shapes: `R` rows of all layers, `K` weights of a row, `L` labels of the table with 0 (always live),
`P` bit-widths of weights above 0, `D` decisions on them, `Q` quantisers of activations, `X` their
bit-widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from plinio_sweep.graph.quantize import activation_codes
from plinio_sweep.graph.quantized import is_quantized
from plinio_sweep.graph.sites import Sites
from plinio_sweep.graph.table import Row, Table
from plinio_sweep.methods.candidates import Per
from plinio_sweep.methods.rows import RowLayer, Rows


def plan_rows(
    net: fx.GraphModule,
    table: Table,
    norms: Mapping[str, str],
    is_excluded: Callable[[str], bool],
) -> Rows:
    """The layers of `net` whose weights are rounded, as rows; those that share a weight are one.

    Args:
        net: The traced net.
        table: Its table.
        norms: The norm that folds into a layer, by layer.
        is_excluded: Tells which modules are to be left alone, by path.
    """
    first: dict[int, str] = {}
    found: dict[str, RowLayer] = {}
    read = {node.target for node in net.graph.nodes if node.op == "get_attr"}
    for row in table.rows:
        layer: Any = net.get_submodule(row.name) if _is_layer(row) else None
        if layer is None or is_excluded(row.name) or is_quantized(layer):
            continue
        if f"{row.name}.weight" in read:
            continue  # what else reads this weight reads it as it is
        found[row.name] = RowLayer(
            name=row.name,
            shares=first.setdefault(id(layer.weight), row.name),
            norm=norms.get(row.name),
            shape=tuple(layer.weight.shape),
            bias=layer.bias is not None,
        )
    return Rows(list(found.values()))


class Layout(nn.Module):
    """The rows, quantisers and candidates of a search, with the indices that tie them together.

    Args:
        rows: The layers that are rounded.
        sites: The quantisers.
        table: Of the net with its quantisers.
        widths: `P` candidates of the weights.
        x_bits: `X` candidates of the activations.
        per: What has a bit-width of its own.
        prunes: Whether a row may have 0 bit as well.
    """

    base: Tensor  # `(R,)` the first row that has the very weights of each row
    decision: Tensor  # `(R,)` which decision each row follows
    label: Tensor  # `(R,)` label of each row
    layer: Tensor  # `(R,)` row of which layer
    source: Tensor  # `(R,)` quantiser of the input of each row's layer, -1 for floats
    prunable: Tensor  # `(L,)` whether a label may die
    keep: Tensor  # `(S, M)` labels of which one a row must live
    counts: Tensor  # `(2 rows of the table, L)` how often a label is an input and an output
    agreed: Tensor  # `(Q,)` the decision that each quantiser follows
    tops: Tensor  # `(2, X, 1)` largest code, without and with a sign

    def __init__(
        self,
        rows: Rows,
        sites: Sites,
        table: Table,
        *,
        widths: tuple[int, ...],
        x_bits: tuple[int, ...],
        per: Per,
        prunes: bool,
    ) -> None:
        super().__init__()
        self.rows, self.sites, self.table = rows, sites, table
        self.widths, self.x_bits, self.per, self.prunes = widths, x_bits, per, prunes
        calls = {r.name: r for r in table.rows if r.name in rows.start and _is_layer(r)}
        none = torch.zeros(0, dtype=torch.long)
        base = rows.base if per == "channel" else rows.layer[rows.base]
        sources = [self.source_of(layer.name) for layer in rows.layers]
        source = torch.tensor([-1 if s is None else s for s in sources], dtype=torch.long)
        agreed = [plan.decision for plan in sites.quantizers]
        tops = [[activation_codes(b, signed=s)[1] for b in x_bits] for s in (False, True)]
        self._hold("base", rows.base)
        self._hold("decision", torch.unique(base, return_inverse=True)[1])
        self._hold("label", torch.cat([none, *(calls[layer.name].cout for layer in rows.layers)]))
        self._hold("layer", rows.layer)
        self._hold("source", source[rows.layer])
        self._hold("prunable", self._prunable())
        self._hold("keep", table.keep_index())
        self._hold("counts", table.counts())
        self._hold("agreed", torch.tensor(agreed, dtype=torch.long))
        self._hold("tops", torch.tensor(tops, dtype=torch.get_default_dtype())[:, :, None])
        for index, matrix in enumerate(rows.matrices):
            self._hold(
                f"columns_{index}", torch.cat([_columns(calls[one.name], one) for one in matrix])
            )
            tall = torch.tensor([one.rows for one in matrix])
            self._hold(f"inside_{index}", torch.arange(len(matrix)).repeat_interleave(tall))

    @property
    def num_decisions(self) -> int:
        """`D`."""
        return int(self.decision.max()) + 1 if len(self.decision) else 0

    def source_of(self, layer: str) -> int | None:
        """The quantiser that all calls of `layer` read; nothing where one reads floats."""
        nodes = [row.node for row in self.table.rows if row.name == layer]
        read = {self.sites.reads.get(node) for node in nodes}
        return read.pop() if len(read) == 1 else None

    def margins(self, score: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """How far each label is from being pruned, and which must live.

        Args:
            score: `(R,)` of each row at its bit-widths.
            channels: `(L - 1,)` of 0 bit.

        Returns:
            `(L,)` mean score of the rows of a label above that of 0 bit, and `(L,)` booleans.
        """
        zeros = score.new_zeros(self.table.size)
        rows = zeros.index_add(0, self.label, torch.ones_like(score))
        mean = zeros.index_add(0, self.label, score) / rows.clamp(min=1)
        margin = mean - torch.cat([score.new_ones(1), channels])
        fixed = ~self.prunable
        if self.keep.numel():
            best = margin.detach()[self.keep].argmax(1, keepdim=True)
            fixed = fixed.index_fill(0, self.keep.gather(1, best)[:, 0], True)
        return margin, fixed

    def masks(self, live: Tensor) -> list[Tensor]:
        """For each matrix 0 where a weight reads a channel that is pruned for good, 1 elsewhere.

        Args:
            live: `(L,)` how far each label lives.
        """
        there = (live.detach() > 0).to(live.dtype)
        count = len(self.rows.matrices)
        columns = [self.get_buffer(f"columns_{index}") for index in range(count)]
        inside = [self.get_buffer(f"inside_{index}") for index in range(count)]
        return [there[of][rows] for of, rows in zip(columns, inside, strict=True)]

    def steps(self, log_clip: Tensor, signed: Tensor) -> Tensor:
        """`(X, Q)` step of each quantiser at each bit-width.

        Args:
            log_clip: `(Q, X)` logarithms of the clips.
            signed: `(Q,)` 1 for quantisers with a sign.
        """
        top = torch.where(signed > 0, self.tops[1], self.tops[0])
        return log_clip.exp().t() / top

    def channels_at_widths(self, weights: Tensor, live: Tensor) -> dict[str, Tensor]:
        """By layer, `(P,)` how many of its rows live at each bit-width.

        Args:
            weights: `(P, D)` weights of the bit-widths.
            live: `(L,)` how far each label lives.
        """
        rows = weights[:, self.decision] * live[self.label]
        none = rows.new_zeros(len(self.widths), len(self.rows.layers))
        names = [layer.name for layer in self.rows.layers]
        return dict(zip(names, none.index_add(1, self.layer, rows).unbind(1), strict=True))

    def _prunable(self) -> Tensor:
        """`(L,)` labels that may die: all layers that make them have rows here."""
        prunable = torch.zeros(self.table.size, dtype=torch.bool)
        prunable[self.label] = True
        for row in self.table.rows:
            if _is_layer(row) and row.name not in self.rows.start:
                prunable[row.cout] = False
        prunable[0] = False
        return prunable

    def _hold(self, name: str, value: Tensor) -> None:
        # Not persistent: it follows from the table, and a checkpoint holds no more than it must.
        self.register_buffer(name, value, persistent=False)


def _is_layer(row: Row) -> bool:
    return row.spec.op in ("conv", "linear")


def _columns(row: Row, layer: RowLayer) -> Tensor:
    """`(1, K)` label that each weight of a row reads; 0 where that can't be pruned."""
    taps = torch.Size(layer.shape[2:]).numel()
    if row.separate:
        return torch.zeros(1, taps, dtype=torch.long)
    return row.columns.repeat_interleave(taps)[None]
