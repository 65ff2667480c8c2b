"""A net as JSON and tensors, and back: without the study, pickles, or any code out of the file.

The JSON holds the modules with their plain attributes and the graph between them. Only what
`ship.allowed` lists can be in it, in either direction; every name that a graph turns into source
text is checked, because `fx` writes and runs a `forward` of its own.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, fx, nn

from plinio_sweep.graph.quantized import Quantizer, is_quantized
from plinio_sweep.graph.trace import is_stock
from plinio_sweep.ship.allowed import ATTRIBUTES, classes, function_names, functions, methods
from plinio_sweep.ship.values import decode, dtype_of, encode, foreign

VERSION = 1

_PATH = re.compile(r"[\w -]+(\.[\w -]+)*")  # no quotes: a path becomes part of source text
_INTERNAL = frozenset(vars(nn.Module()))
# Of recurrent layers: other references to their parameters, which are made anew
_DERIVED = frozenset({"_flat_weights", "_flat_weight_refs"})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def describe_net(net: fx.GraphModule) -> dict[str, Any]:
    """All of `net` but the values of its state, as JSON.

    Args:
        net: What a search exported.

    Raises:
        ValueError: When a part of it is neither a stock layer or function nor one of ours.

    Example:
        >>> net = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 1), nn.ReLU()))
        >>> [node["op"] for node in describe_net(net)["nodes"]]
        ['placeholder', 'call_module', 'call_module', 'output']
    """
    called = {str(node.target) for node in net.graph.nodes if node.op == "call_module"}
    first: dict[int, str] = {}
    return {
        "version": VERSION,
        "name": type(net).__name__,
        "modules": [
            _describe_module(path, module, called, first)
            for path, module in net.named_modules(remove_duplicate=False)
        ],
        "nodes": [_describe_node(node) for node in net.graph.nodes],
    }


def rebuild_net(description: Mapping[str, Any]) -> fx.GraphModule:
    """The net that `describe_net` wrote, in eval mode, with any weights.

    Args:
        description: JSON values, from anyone.

    Raises:
        ValueError: When they are not of a net, or name something that no net may hold.

    Example:
        >>> net = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 1), nn.ReLU()))
        >>> again = rebuild_net(json.loads(json.dumps(describe_net(net))))
        >>> again.load_state_dict(net.state_dict())
        <All keys matched successfully>
    """
    try:
        if description["version"] != VERSION:
            raise ValueError(f"it has version {description['version']}")
        net = fx.GraphModule(nn.Module(), fx.Graph(), _identifier(description["name"]))
        _rebuild_modules(net, description["modules"])
        net.graph = _rebuild_graph(net, description["nodes"])
        net.graph.lint()
        return net.eval()
    except Exception as error:  # layers and graphs of PyTorch raise what they like
        raise _unreadable("architecture", error) from error


def read_net(architecture: bytes, weights: bytes) -> fx.GraphModule:
    """A net out of the contents of two files, in eval mode.

    Args:
        architecture: JSON of `describe_net`.
        weights: The `state_dict`, as safetensors.

    Raises:
        ValueError: When one of them is damaged, or they are not of one net.

    Example:
        >>> net = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 1), nn.ReLU()))
        >>> weights = safetensors.torch.save(net.state_dict())
        >>> read_net(json.dumps(describe_net(net)).encode(), weights)(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """
    try:
        description = json.loads(architecture)
    except (ValueError, RecursionError) as error:
        raise _unreadable("architecture", error) from error
    net = rebuild_net(description)
    try:
        state = safetensors.torch.load(weights)
    except Exception as error:  # SafetensorError, and KeyError for a type of a later version
        raise _unreadable("weights", error) from error
    own = net.state_dict()
    found, wanted = ({n: (v.dtype, tuple(v.shape)) for n, v in s.items()} for s in (state, own))
    if found != wanted:
        name = min(n for n in {*found, *wanted} if found.get(n) != wanted.get(n))
        raise ValueError(
            f"Stored weights must be those of the stored net, but {name!r} is {found.get(name)} "
            f"instead of {wanted.get(name)}; export the trial again."
        )
    net.load_state_dict(state)
    return net


def _unreadable(part: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(
        f"The stored {part} of a net must be as version {VERSION} wrote it, but this is not: "
        f"{type(error).__name__}: {reason}; export the trial again."
    )


# -- modules --------------------------------------------------------------------------------------


def _describe_module(
    path: str, module: nn.Module, called: set[str], first: dict[int, str]
) -> dict[str, Any]:
    if path and not _PATH.fullmatch(path):
        raise foreign(f"a module named {path!r}")
    if id(module) in first:
        return {"path": path, "same_as": first[id(module)]}
    first[id(module)] = path
    # What lies in a layer that is called is called by it.
    inside = any(f"{path}.".startswith(f"{name}.") for name in called)
    hooks = [name for name in _HOOKS if vars(module)[name]]
    if hooks:
        raise foreign(f"hooks on the module {path!r}")
    owned = set(module._non_persistent_buffers_set)
    return {
        "path": path,
        "class": _class_name(path, module) if inside else None,
        "attributes": _attributes(path, module) if inside else {},
        "parameters": {
            name: _describe_tensor(f"{path}.{name}", value, first)
            for name, value in module._parameters.items()
        },
        "buffers": {
            name: _describe_tensor(f"{path}.{name}", value, first, values=name in owned)
            for name, value in module._buffers.items()
        },
    }


def _class_name(path: str, module: nn.Module) -> str:
    known = {value: name for name, value in classes().items()}
    if isinstance(module, Quantizer) or is_quantized(module) or is_stock(module):
        # A subclass that computes what its stock class does is as good as that.
        mro = type(module).__mro__
        stock = next(c for c in mro if c in known or c.__module__.startswith("torch.nn."))
        if stock in known:
            return known[stock]
    elif type(module) in known:  # containers within a layer
        return known[type(module)]
    raise foreign(f"the module {path!r} of class {type(module).__name__!r}")


def _attributes(path: str, module: nn.Module) -> dict[str, Any]:
    own = {n: v for n, v in vars(module).items() if n not in _INTERNAL | _DERIVED}
    return {name: encode(value, f"{path}.{name}") for name, value in own.items()}


def _describe_tensor(
    name: str, value: Tensor | None, first: dict[int, str], *, values: bool = False
) -> dict[str, Any] | None:
    if value is None:
        return None
    if id(value) in first:
        return {"same_as": first[id(value)]}
    first[id(value)] = name
    described = {
        "shape": list(value.shape),
        "dtype": str(value.dtype).removeprefix("torch."),
        "trained": value.requires_grad,
    }
    if values:  # nowhere else to be found: the state leaves it out
        described["values"] = encode(value.tolist(), name)
    return described


def _rebuild_modules(net: fx.GraphModule, described: list[Mapping[str, Any]]) -> None:
    modules: dict[str, nn.Module] = {}
    tensors: dict[str, Tensor] = {}
    for stored in described:
        path = stored["path"]
        if path and not _PATH.fullmatch(path):
            raise ValueError(f"no module is named {path!r}")
        if "same_as" in stored:
            module = modules[stored["same_as"]]
        else:
            module = _module(net, stored)
            _add_tensors(module, stored, tensors)
        modules[path] = module
        if path:
            parent, _, name = path.rpartition(".")
            modules[parent].add_module(name, module)
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


def _module(net: fx.GraphModule, stored: Mapping[str, Any]) -> nn.Module:
    if not stored["path"]:
        return net
    if stored["class"] is None:
        return nn.Module()
    kind = classes()[stored["class"]]
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    for name, value in stored["attributes"].items():
        # Nothing that `Module` or the class relies on: neither its registries nor a method.
        if name in _INTERNAL or name.startswith("__") or callable(getattr(kind, name, None)):
            raise ValueError(f"{name!r} is no attribute of {stored['class']}")
        vars(module)[_identifier(name)] = decode(value, {})
    return module


def _add_tensors(module: nn.Module, stored: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    for kind in ("parameters", "buffers"):
        for name, value in stored[kind].items():
            full = f"{stored['path']}.{name}"
            tensor = None if value is None else _tensor(value, tensors, kind == "parameters")
            if tensor is not None:
                tensors[full] = tensor
            if kind == "parameters":
                module.register_parameter(name, cast(nn.Parameter | None, tensor))
            else:
                lasting = value is None or "values" not in value
                module.register_buffer(name, tensor, persistent=lasting)


def _tensor(value: Mapping[str, Any], tensors: Mapping[str, Tensor], parameter: bool) -> Tensor:
    if "same_as" in value:
        return tensors[value["same_as"]]
    dtype = dtype_of(value["dtype"])
    if "values" in value:
        made = torch.tensor(decode(value["values"], {}), dtype=dtype).reshape(value["shape"])
    else:
        # Not filled: a shape that is too large for the weights in hand costs nothing so far.
        made = torch.empty(value["shape"], dtype=dtype)
    return nn.Parameter(made, value["trained"]) if parameter else made


# -- the graph ------------------------------------------------------------------------------------


def _describe_node(node: fx.Node) -> dict[str, Any]:
    target: Any = node.target
    if node.op == "call_function":
        target = function_names().get(id(node.target))
        if target is None:
            name = getattr(node.target, "__name__", str(node.target))
            raise foreign(f"the function {name!r} at {node.name!r}")
    described = {
        "op": node.op,
        "name": node.name,
        "target": target,
        "args": encode(node.args, node.name),
        "kwargs": {name: encode(value, node.name) for name, value in node.kwargs.items()},
    }
    try:
        _check_target(node.op, target, node.args)
        for name in (node.name, *node.kwargs):
            _identifier(name)
    except ValueError as error:
        raise foreign(f"the operation {node.name!r} where {error}") from error
    return described


def _rebuild_graph(net: fx.GraphModule, described: list[Mapping[str, Any]]) -> fx.Graph:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for stored in described:
        op, target, name = stored["op"], stored["target"], _identifier(stored["name"])
        args = decode(stored["args"], nodes)
        kwargs = {_identifier(n): decode(v, nodes) for n, v in stored["kwargs"].items()}
        _check_target(op, target, args)
        if op == "call_module":
            net.get_submodule(target)
        elif op == "get_attr":
            module, _, last = target.rpartition(".")
            own = net.get_submodule(module)
            if last not in own._parameters and last not in own._buffers:
                raise ValueError(f"there is no tensor {target!r}")
        real = functions()[target] if op == "call_function" else target
        nodes[name] = graph.create_node(op, real, args, kwargs, name=name)
    if [node.op for node in graph.nodes].index("output") != len(nodes) - 1:
        raise ValueError("a graph has one output, at its end")
    return graph


def _check_target(op: str, target: str, args: tuple[Any, ...]) -> None:
    """Refuses what `fx` would write into source text, or call, and is not known to be harmless."""
    known: dict[str, Callable[[str], object]] = {
        "placeholder": str.isidentifier,
        "get_attr": _PATH.fullmatch,
        "call_module": _PATH.fullmatch,
        "call_method": methods().__contains__,
        "call_function": functions().__contains__,
        "output": "output".__eq__,
    }
    if not isinstance(target, str) or not known[op](target) or keyword.iskeyword(target):
        raise ValueError(f"{op} of {target!r} is not allowed")
    if target == "builtins.getattr" and (len(args) != 2 or args[1] not in ATTRIBUTES):
        raise ValueError(f"an attribute beyond {sorted(ATTRIBUTES)} is not allowed")


def _identifier(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is not a name")
    return name
