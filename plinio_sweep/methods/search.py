"""What all methods share: a net with open decisions, run by one functional call.

The net keeps its stock layers and the seed's own parameters. A decision is plain data, `theta`: it
is sampled, turned into overrides of the net's tensors, costed, and exported.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from costs import CostModel, LayerSpec, Scalar, params, stacked, total
from plinio_sweep.graph.draws import without_trace
from plinio_sweep.graph.labels import Labelling
from plinio_sweep.graph.memory import Memory
from plinio_sweep.graph.nodes import tensors
from plinio_sweep.graph.table import Analysis, Table, analyse_graph, is_excluded, label_graph
from plinio_sweep.graph.trace import Inputs, as_inputs, beside, random_inputs, trace

Theta = Mapping[str, Tensor]
Costs = CostModel | Mapping[str, CostModel]
Shapes = tuple[tuple[int, ...], ...]
ParameterGroup = Literal["nas", "net"]
PARAMETER_GROUPS: tuple[ParameterGroup, ...] = ("nas", "net")


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """What one layer came to, beside what it was."""

    inputs: int
    outputs: int
    seed_inputs: int
    seed_outputs: int
    w_bits: Mapping[int, int] | None = None  # how many outputs have each bit-width
    x_bits: int | None = None  # of the input
    taps: int = 0  # of a kernel along one axis; 0 where there is none
    dilation: int = 0
    seed_taps: int = 0
    seed_dilation: int = 0


Architecture = Mapping[str, LayerChoice]


class Search(nn.Module, ABC):
    """A net with open decisions. Final subclasses: one a method.

    What training changes in one is a parameter or a buffer, so that a checkpoint holds it.

    Args:
        net: The seed; it is copied, never changed.
        cost: One cost model, or several by name.
        input_shape: Sizes of one input without the batch, or a tuple of them.
        input_example: An input, or the tuple of all inputs, instead of `input_shape`.
        exclude_names: Paths of modules to be left alone.
        exclude_types: Classes of modules to be left alone.

    Raises:
        ValueError: For unknown names, both or no input description, a net that can't be traced.
        TypeError: For arguments of the wrong kind.
    """

    excludes_branches: ClassVar[bool] = False  # whether one branch of a choice stays alone

    net: fx.GraphModule
    decisions: nn.ParameterDict
    table: Table
    memory: Memory  # which activations are in memory when
    temperature: Tensor  # 0-dim, of all relaxed choices; a recipe anneals it

    def __init__(
        self,
        net: nn.Module,
        cost: Costs = params,
        *,
        input_shape: Any = None,
        input_example: Any = None,
        exclude_names: Collection[str] = (),
        exclude_types: tuple[type, ...] = (),
    ) -> None:
        super().__init__()
        _check_names(net, exclude_names)
        self._excluded = (tuple(exclude_names), tuple(exclude_types))
        example = _example(net, input_shape, input_example)
        self._num_inputs = len(example)
        for index, value in enumerate(example):  # buffers follow the net to another device
            self.register_buffer(f"_input_{index}", value, persistent=False)
        own = copy.deepcopy(net)
        traced = trace(own, example, opaque_names=exclude_names, opaque_types=exclude_types)
        self.net = traced.train(net.training)
        self.train(net.training)
        self.costs = cost
        self._frozen: dict[ParameterGroup, frozenset[str]] = {}
        analysis = self._analysis(self.net)
        self.table = analysis.table
        self.decisions = nn.ParameterDict()
        first = next((p for p in own.parameters() if p.is_floating_point()), torch.zeros(()))
        self.register_buffer("temperature", first.new_ones(()))
        memory = Memory(analysis, choices=self.excludes_branches)
        self.memory = memory.to(first.device)
        self._open(analysis)

    @abstractmethod
    def _open(self, analysis: Analysis) -> None:
        """Makes the decisions and what they need, once."""

    def prepare(self, batches: Iterable[Inputs]) -> None:
        """Looks at training data once, before a search: for nothing here.

        Args:
            batches: Inputs of the net.
        """

    @abstractmethod
    def theta(self, *, hard: bool = False) -> Theta:
        """The decisions as they stand; `hard` rounds each to what export would take."""

    @abstractmethod
    def overrides(self, theta: Theta) -> dict[str, Tensor]:
        """The tensors of the net that `theta` changes, by their names in it."""

    @abstractmethod
    def layers(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """Every call of every layer at `theta`, with its probability."""

    def moments(self, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
        """What is in memory while each operation runs: all of the seed, unless overridden."""
        return self._moments(exact(self.temperature).new_ones(self.table.size))

    @abstractmethod
    def _cut(self, analysis: Analysis, theta: Theta) -> fx.GraphModule:
        """The plain net at hard `theta`, made from a copy."""

    @abstractmethod
    def encode(self, theta: Theta) -> dict[str, Any]:
        """Hard `theta` as JSON values."""

    @abstractmethod
    def decode(self, decisions: Mapping[str, Any]) -> Theta:
        """The hard `theta` that `encode` wrote."""

    def sample(self) -> None:
        """Draws what is random in `theta`, which keeps it until the next draw: nothing here."""

    def kernels(self, theta: Theta) -> Mapping[str, range]:
        """The taps that hard `theta` keeps of each kernel that is searched: none are here."""
        return {}

    def forward(self, *inputs: Tensor, theta: Theta | None = None) -> Any:
        """What the net computes at `theta`, or at a new sample of the decisions as they stand."""
        if theta is None:
            self.sample()
            theta = self.theta()
        # Layers that share a parameter may be told different values: each name has its own.
        return functional_call(self.net, self.overrides(theta), inputs, tie_weights=False)

    # -- cost -----------------------------------------------------------------------------------

    @property
    def cost(self) -> Tensor:
        """The differentiable cost, where there is one model.

        Raises:
            ValueError: Where there are several.
        """
        return self.get_cost()

    def get_cost(self, name: str | None = None, *, hard: bool = False) -> Tensor:
        """The differentiable cost of the net at its decisions as they stand, 0-dim.

        Args:
            name: Which model; may be left out where there is one.
            hard: Count the net that `export` would return instead.

        Raises:
            ValueError: For an unknown name, or none where there are several models.
        """
        model = self._model(name)
        return self._totals({model.name: model}, self.theta(hard=hard))[model.name]

    def get_costs(self, *, hard: bool = False) -> dict[str, Tensor]:
        """All costs at once, by name, as `get_cost` gives each: layers are looked at once."""
        return self._totals(self.models, self.theta(hard=hard))

    def _totals(self, models: Mapping[str, CostModel], theta: Theta) -> dict[str, Tensor]:
        kinds = {(model.peak, model.stacks) for model in models.values()}
        calls: dict[tuple[bool, bool], list[tuple[LayerSpec, Tensor]]] = {}
        for peak in {peak for peak, _ in kinds}:
            calls[peak, False] = list(self.moments(theta) if peak else self.layers(theta))
            if (peak, True) in kinds:
                calls[peak, True] = stacked(calls[peak, False])
        return {
            name: total(model, calls[model.peak, model.stacks]) for name, model in models.items()
        }

    def _moments(
        self, channels: Tensor, chances: Tensor | None = None, widths: Tensor | None = None
    ) -> Iterator[tuple[LayerSpec, Tensor]]:
        """The moments when `(L,)` `channels` live, with what `Memory.moments` takes."""
        certain = channels.new_ones(())
        for moment in self.memory.moments(self.memory.sizes(channels), chances, widths):
            yield moment, certain

    @property
    def models(self) -> Mapping[str, CostModel]:
        """The cost models by name, be it one or several."""
        return self.costs if isinstance(self.costs, Mapping) else {self.costs.name: self.costs}

    def _model(self, name: str | None) -> CostModel:
        models = self.models
        if name is None and len(models) == 1:
            return next(iter(models.values()))
        if name is None or name not in models:
            raise ValueError(
                f"`name` must be among {list(models)}, but got {name=}; choose one of them."
            )
        return models[name]

    # -- parameters -----------------------------------------------------------------------------

    def named_nas_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The decisions, for an optimiser of their own without weight decay."""
        yield from self.decisions.named_parameters(prefix="decisions")

    def nas_parameters(self) -> Iterator[nn.Parameter]:
        """The decisions, without names."""
        return (parameter for _, parameter in self.named_nas_parameters())

    def named_net_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The seed's own parameters, under their own names."""
        yield from self.net.named_parameters()

    def net_parameters(self) -> Iterator[nn.Parameter]:
        """The seed's own parameters, without names."""
        return (parameter for _, parameter in self.named_net_parameters())

    def freeze(self, group: ParameterGroup) -> None:
        """Stops the training of a group, until `unfreeze`: the decisions or the seed's parameters.

        The running statistics of norms are no parameters and go on.

        Args:
            group: "nas" for the decisions, "net" for the seed's own parameters.

        Raises:
            ValueError: For another group.

        Example:
            >>> from plinio_sweep import PIT
            >>> model = PIT(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), input_shape=(4,))
            >>> model.freeze("net")  # the decisions alone learn
            >>> [name for name, p in model.named_parameters() if p.requires_grad]
            ['decisions.channels']
        """
        named = self._group(group)
        trained = frozenset(name for name, parameter in named.items() if parameter.requires_grad)
        for name in trained:
            # Without a gradient, an optimiser that has one in store does not step either.
            named[name].requires_grad_(False).grad = None
        self._frozen[group] = self._frozen.get(group, frozenset()) | trained

    def unfreeze(self, group: ParameterGroup) -> None:
        """Has those parameters learn again from which `freeze` took it, and no others.

        What was frozen by its own `requires_grad_(False)` before stays frozen.

        Raises:
            ValueError: For an unknown group.
        """
        named = self._group(group)
        for name in self._frozen.pop(group, frozenset()):
            named[name].requires_grad_(True)

    @property
    def frozen(self) -> Mapping[ParameterGroup, list[str]]:
        """What `unfreeze` would have learn again, by group: the names that `freeze` took.

        A checkpoint stores it beside `requires_grad`, and sets it.
        """
        return {group: sorted(names) for group, names in self._frozen.items()}

    @frozen.setter
    def frozen(self, frozen: Mapping[ParameterGroup, Iterable[str]]) -> None:
        self._frozen = {group: frozenset(names) for group, names in frozen.items()}

    def _group(self, group: ParameterGroup) -> dict[str, nn.Parameter]:
        if group not in PARAMETER_GROUPS:
            raise ValueError(
                f"`group` must be among {PARAMETER_GROUPS}, but got {group=}; choose one of them."
            )
        return dict(self.named_nas_parameters() if group == "nas" else self.named_net_parameters())

    def _learns(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether an exported net trains what is `parameter` here: `freeze` is for this search."""
        return parameter.requires_grad or name in self._frozen.get("net", frozenset())

    # -- results --------------------------------------------------------------------------------

    @property
    def details(self) -> str:
        """What `plinio-sweep check` prints of this method beside the table: nothing here."""
        return ""

    def summary(self, theta: Theta | None = None) -> Architecture:
        """What each layer would come to if the search ended now."""
        hard = self.theta(hard=True) if theta is None else theta
        found: dict[str, LayerChoice] = {}
        kernels = self._kernel_choices(self.kernels(hard))
        rows = {row.name: row for row in self.table.rows}
        for spec, share in self.layers(hard):
            known = spec.name in found or not bool(share.any())  # a branch that is not taken
            if spec.op in ("conv", "linear") and not known:
                found[spec.name] = LayerChoice(
                    inputs=_count(spec.cin),
                    outputs=_count(spec.cout),
                    seed_inputs=len(rows[spec.name].cin),
                    seed_outputs=len(rows[spec.name].cout),
                    **kernels.get(spec.name, {}),
                )
        return found

    def _kernel_choices(self, kept: Mapping[str, range]) -> dict[str, dict[str, Any]]:
        return {
            kernel.name: {
                "taps": len(taps),
                "dilation": kernel.dilation * taps.step,
                "seed_taps": kernel.taps,
                "seed_dilation": kernel.dilation,
            }
            for kernel in self.table.kernels
            for taps in [kept.get(kernel.name, range(kernel.taps))]
        }

    @torch.no_grad()
    def export(self, theta: Theta | None = None, *, check: bool = True) -> fx.GraphModule:
        """The decided net: plain modules of its own that compute what the search computed.

        Args:
            theta: Hard decisions; those of this moment when left out.
            check: Compare the outputs with the search net, in eval mode.

        Raises:
            ValueError: When the outputs differ, with the difference: the net is not to be used.
        """
        hard = self.theta(hard=True) if theta is None else theta
        own = copy.deepcopy(self.net)
        for name, parameter in own.named_parameters():
            parameter.requires_grad_(self._learns(name, parameter))
        exported = self._cut(self._analysis(own), hard)
        if check:
            self._compare(exported, hard)
        return exported.train(self.training)

    def _compare(self, exported: nn.Module, theta: Theta) -> None:
        own = torch.finfo(self.temperature.dtype).eps
        try:
            # Fast kernels multiply floats with fewer digits (TF32 has three), and sum them in an
            # order of their own: more than export may change. None of them takes doubles. What it
            # rounds anew is a weight here and there, of a norm that is unfolded.
            pairs, limit = self._outputs(exported, theta, double=True), max(1e-5, 8 * own)
        except Exception:
            # A net that makes tensors of a precision of its own may not run in another one.
            pairs, limit = self._outputs(exported, theta, double=False), max(1e-5, 200 * own)
        for left, right in pairs:
            most = limit * (max(1.0, float(left.abs().max())) if left.numel() else 1.0)
            difference = float((left - right).abs().max()) if left.numel() else 0.0
            if not difference <= most:
                raise ValueError(
                    f"The exported net must equal the search net, but their outputs differ by "
                    f"{difference:.3g} (limit {most:.3g}); name the layers with unusual "
                    f"operations in `exclude_names`, and report the net."
                )

    def _outputs(
        self, exported: nn.Module, theta: Theta, *, double: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """What the search net and the exported one give for the example, side by side."""
        twin, plain = self._twin().eval(), copy.deepcopy(exported).eval()
        if double:
            twin, plain = twin.double(), plain.double()  # inputs of whole numbers stay as they are
            theta = {name: value.double() for name, value in theta.items()}
        found = []
        given: tuple[tuple[nn.Module, dict[str, Theta]], ...] = (
            (twin, {"theta": theta}),
            (plain, {}),
        )
        for net, decided in given:
            # A net that draws noise draws the same twice.
            with _exact_products(), without_trace(self.temperature.device):
                found.append(tensors(net(*twin._example, **decided)))
        return list(zip(*found, strict=True))

    def _twin(self) -> Self:
        """A copy that computes in double precision what this one computes in its own."""
        return copy.deepcopy(self)

    @property
    def _example(self) -> Inputs:
        return tuple(self.get_buffer(f"_input_{index}") for index in range(self._num_inputs))

    def is_excluded(self, name: str) -> bool:
        """Whether the user wants the module at `name` to be left alone."""
        return is_excluded(self.net, name, *self._excluded)

    def _analysis(self, net: fx.GraphModule) -> Analysis:
        names, types = self._excluded
        inputs = self._example_for(net)
        return analyse_graph(net, inputs, exclude_names=names, exclude_types=types)

    def _labelling(self, net: fx.GraphModule) -> Labelling:
        """A part of the analysis, in half its time."""
        names, types = self._excluded
        inputs = self._example_for(net)
        return label_graph(net, inputs, exclude_names=names, exclude_types=types)

    def _example_for(self, net: nn.Module) -> Inputs:
        return beside(net, self._example)


class Method(Protocol):
    """Settings of a method: a frozen record that a plan holds and a plug-in registers."""

    name: ClassVar[str]
    pressed: ClassVar[bool]  # whether its search feels a cost at all

    def open(self, net: nn.Module, example: Inputs | Shapes, cost: Costs = params) -> Search:
        """The search of this method over `net`, for an example or for input shapes."""
        ...


@contextmanager
def _exact_products() -> Iterator[None]:
    """Leaves out cuDNN, which multiplies single precision in TF32."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def exact(counts: Tensor) -> Tensor:
    """`counts` in single precision at least: half precision ends at a few hundred channels."""
    return counts.to(torch.promote_types(counts.dtype, torch.float32))


def given(example: Inputs | Shapes) -> dict[str, Any]:
    """How a search takes `example`: tensors, or sizes of each input without the batch."""
    tensors = all(isinstance(value, Tensor) for value in example)
    return {"input_example" if tensors else "input_shape": example}


def _count(channels: Scalar) -> int:
    """A number of channels; one for each bit-width where there are several."""
    return round(float(torch.as_tensor(channels).sum()))


def _check_names(net: nn.Module, names: Iterable[str]) -> None:
    known = dict(net.named_modules())
    for name in names:
        if name not in known:
            near = [path for path in known if path.endswith(name.rsplit(".", 1)[-1])][:3]
            raise ValueError(
                f"`exclude_names` must name modules of the net, but {name!r} is none of them; "
                f"near it: {near or list(known)[1:4]}."
            )


def _example(net: nn.Module, shape: Any, example: Any) -> Inputs:
    if (shape is None) == (example is None):
        given = "both" if shape is not None else "none"
        raise ValueError(
            f"One of `input_shape` and `input_example` must be given, but got {given}; "
            f"give for instance input_shape=(3, 32, 32)."
        )
    return random_inputs(net, shape) if example is None else beside(net, as_inputs(example))
