"""Nets as JSON and tensors: every structure comes back, and nothing else gets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from plinio_sweep.graph.nodes import tensors
from plinio_sweep.methods.mps import MPSSettings
from plinio_sweep.methods.pit import PITSettings
from plinio_sweep.methods.search import Method
from plinio_sweep.methods.supernet import SuperNetSettings
from plinio_sweep.ship.allowed import classes, functions, methods
from plinio_sweep.ship.serial import describe_net, read_net, rebuild_net
from tests.examples import heavy
from tests.nets import CASES, CHOICES, NETS, SIGNAL, TELLING, Case, rows

FOREIGN = ("own_forward", "parametrized")  # layers that only their study can make again


def method_for(case: Case) -> Method:
    """The method that changes most about a net."""
    if case in CHOICES:
        return SuperNetSettings()
    return PITSettings() if case.shapes == (SIGNAL,) else MPSSettings(w_bits=(0, 2, 4, 8))


def export(case: Case, method: Method) -> fx.GraphModule:
    """The net of `case` at random decisions, in eval mode."""
    search = method.open(case.build(), case.inputs())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for decision in search.nas_parameters():
            decision.copy_(torch.rand(decision.shape, generator=generator))
    return search.export().eval()


def files(net: fx.GraphModule) -> tuple[bytes, bytes]:
    state = {name: value.detach().clone() for name, value in net.state_dict().items()}
    return json.dumps(describe_net(net), allow_nan=False).encode(), safetensors.torch.save(state)


def assert_same(net: nn.Module, again: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        expected, found = tensors(net(*inputs)), tensors(again(*inputs))
    assert expected
    for left, right in zip(expected, found, strict=True):
        assert torch.equal(left, right)
        assert left.dtype == right.dtype


# -- round trip -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    rows(
        [case for case in (*CASES, *CHOICES) if case.name not in FOREIGN],
        (*TELLING, "Nested", "NormBehind"),
    ),
)
def test_a_net_comes_back_with_the_same_bits(case: Case) -> None:
    net = export(case, method_for(case))
    again = read_net(*files(net))
    assert_same(net, again, case.inputs(3, seed=2))
    assert list(again.state_dict()) == list(net.state_dict())
    assert not again.training
    assert describe_net(again) == describe_net(net)


@pytest.mark.parametrize("name", ["Residual", "Shuffle", "Paddings", "Volumes"])
@pytest.mark.parametrize(
    "method",
    [MPSSettings(x_bits=(4, 8), per="layer"), MPSSettings(ranges="learned"), PITSettings()],
    ids=["layers", "learned", "pit"],
)
def test_every_method_comes_back(name: str, method: Method) -> None:
    net = export(NETS[name], method)
    assert_same(net, read_net(*files(net)), NETS[name].inputs(3, seed=2))


def test_a_net_that_came_back_trains_on_as_the_other_would() -> None:
    net = export(NETS["Tied"], PITSettings())
    net.get_parameter("fc.bias").requires_grad_(False)
    again = read_net(*files(net))
    assert again.get_parameter("left.weight") is again.get_parameter("right.weight")
    trained = [{n: p.requires_grad for n, p in m.named_parameters()} for m in (net, again)]
    assert trained[0] == trained[1]
    assert set(trained[0].values()) == {True, False}


def test_a_module_called_by_two_names_is_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.two = self.one

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    net = fx.symbolic_trace(Twice())
    net.two = net.one  # the trace knows it by its first name only
    again = rebuild_net(describe_net(net))
    assert again.one is again.two


def test_values_that_json_lacks() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            x = x.to(torch.device("cpu"), torch.float64).clamp(-float("inf"), 0.5)
            x = (x[..., 1:, None] * torch.arange(3, dtype=torch.float64)).contiguous(
                memory_format=torch.contiguous_format
            )
            return {"all": x, "some": [x.flatten(1), (x.mT, x.shape[0])]}

    net = fx.symbolic_trace(Odd())
    again = read_net(*files(net))
    x = torch.randn(2, 4)
    assert_same(net, again, (x,))
    assert again(x)["some"][1][1] == 2


def test_layers_that_hold_others() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)

    net = fx.symbolic_trace(Encoder()).eval()
    assert_same(net, read_net(*files(net)), (torch.randn(2, 3, 4),))


# -- what may not be in a net ---------------------------------------------------------------------


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Leaves(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def test_a_leaf_of_the_user_is_refused_by_name() -> None:
    root = nn.Sequential(Own())
    net = fx.GraphModule(root, Leaves().trace(root))
    with pytest.raises(ValueError, match="module '0' of class 'Own'; rebuild it with its study"):
        describe_net(net)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_layer_with_a_forward_of_its_own(name: str) -> None:
    net = export(NETS[name], PITSettings())
    if name == "own_forward":  # traced through: nothing of the class is left
        assert_same(net, read_net(*files(net)), NETS[name].inputs(3))
    else:
        with pytest.raises(ValueError, match="of class 'ParametrizedConv2d'"):
            describe_net(net)


def graph_of(op: str, target: Any, *args: Any) -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.create_node(op, target, (x, *args)))
    return fx.GraphModule(nn.Module(), graph)


def own_function(x: Tensor) -> Tensor:
    return x


def test_a_function_of_the_user_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="the function 'own_function'"):
        describe_net(graph_of("call_function", own_function))


@pytest.mark.parametrize("method", ["apply_", "__reduce_ex__", "register_hook", "numpy"])
def test_a_method_that_is_no_arithmetic_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"call_method of '{method}' is not allowed"):
        describe_net(graph_of("call_method", method))


def test_a_hook_is_refused() -> None:
    net = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    net.get_submodule("0").register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="hooks on the module '0'"):
        describe_net(net)


@pytest.mark.parametrize("value", [object(), 1j, {1, 2}, lambda x: x])
def test_a_value_that_cannot_be_written_is_refused(value: Any) -> None:
    net = fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    vars(net.get_submodule("0"))["own"] = value
    with pytest.raises(ValueError, match=r"a value of type .* at '0.own'"):
        describe_net(net)


# -- what may not be in a file --------------------------------------------------------------------


@pytest.fixture(scope="module")
def written() -> tuple[bytes, bytes]:
    return files(export(NETS["Residual"], MPSSettings(w_bits=(0, 2, 4, 8))))


def refused(description: Any) -> str:
    with pytest.raises(ValueError, match=r"must be as version 1 wrote it.*export") as info:
        rebuild_net(description)
    assert str(info.value).count("\n") == 0
    return str(info.value)


def small() -> dict[str, Any]:
    net = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    return json.loads(json.dumps(describe_net(net)))


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.exec", "builtins.eval", "operator.attrgetter", "operator.call"),
        *("operator.methodcaller", "torch.load", "torch.save", "torch.from_file", "torch.compile"),
        *("torch.hub.load", "torch.nn.functional.boolean_dispatch", "torch.nn.functional.os"),
    ],
)
def test_a_function_beyond_the_list_is_refused(target: str) -> None:
    stored = small()
    stored["nodes"][2] |= {"op": "call_function", "target": target}
    assert "is not allowed" in refused(stored)
    assert target not in functions()


@pytest.mark.parametrize("method", ["apply_", "__reduce_ex__", "register_hook", "format"])
def test_a_method_beyond_the_list_is_refused(method: str) -> None:
    stored = small()
    stored["nodes"][2] |= {"op": "call_method", "target": method}
    assert f"call_method of '{method}' is not allowed" in refused(stored)


@pytest.mark.parametrize("attribute", ["__class__", "grad_fn", "__dict__", "_backward_hooks"])
def test_an_attribute_beyond_the_list_is_refused(attribute: str) -> None:
    stored = small()
    args = {"tuple": [{"node": "_0"}, attribute]}
    stored["nodes"][2] |= {"op": "call_function", "target": "builtins.getattr", "args": args}
    assert "an attribute beyond" in refused(stored)


CALL = 'open("owned", "w")'
EVIL = f'0"), {CALL}, ("'  # closes the string that an odd path is written into


@pytest.mark.parametrize(
    "place", ["name", "target", "placeholder", "kwarg", "method", "path", "net"]
)
def test_no_name_becomes_source_text(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored = small()
    node = stored["nodes"][1]
    match place:
        case "name":
            node["name"] = EVIL
        case "target":
            node["target"] = EVIL
        case "placeholder":
            stored["nodes"][0]["target"] = f"x={CALL}"  # would run at once
        case "kwarg":
            node["kwargs"] = {f"a={CALL}, b": 1}
        case "method":
            node |= {"op": "call_method", "target": f"relu(), {CALL}, input_1.relu"}
        case "path":
            stored["modules"][1]["path"] = EVIL
            node["target"] = EVIL
        case "net":
            stored["name"] = EVIL
    refused(stored)
    assert not list(tmp_path.iterdir())


def test_a_string_stays_a_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored = small()
    stored["nodes"][2] |= {"op": "call_method", "target": "add"}
    stored["nodes"][2]["args"]["tuple"].append(EVIL)
    net = rebuild_net(stored)
    with pytest.raises(TypeError):
        net(torch.ones(1, 2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["forward", "_modules", "__class__", "_forward_hooks", "training", "to"]
)
def test_an_attribute_that_would_replace_behaviour_is_refused(name: str) -> None:
    stored = small()
    layer = next(module for module in stored["modules"] if module["path"] == "0")
    layer["attributes"][name] = {"function": "torch.relu"}
    assert repr(name) in refused(stored)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d | {"version": 2}, "version 2"),
        (lambda d: d | {"nodes": d["nodes"][:-1]}, "output"),
        (lambda d: d | {"nodes": d["nodes"][::-1]}, "KeyError"),
        (lambda d: d | {"modules": d["modules"][:1]}, "no attribute"),
        (lambda d: [], "TypeError"),
        (lambda d: None, "TypeError"),
    ],
)
def test_a_file_that_is_no_net_is_refused(change: Any, says: str) -> None:
    assert says in refused(change(small()))


def test_weights_of_another_net_are_refused(written: tuple[bytes, bytes]) -> None:
    architecture, weights = written
    state = safetensors.torch.load(weights)
    for other in (
        {n: v for n, v in state.items() if n != "stem.0.weight"},
        state | {"more": torch.ones(1)},
        {n: v.double() for n, v in state.items()},
        {n: v[None] for n, v in state.items()},
    ):
        with pytest.raises(ValueError, match=r"weights must be those of the stored net.*again\."):
            read_net(architecture, safetensors.torch.save(other))


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value in JSON is."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += leaves(value, (*path, key))
    return found


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([[], {}, {"node": "x"}, {"function": "os.system"}, "os.system", 10**18, -1]),
)


@heavy(200, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_altered_json_is_a_net_or_one_sentence(written: tuple[bytes, bytes], data: Any) -> None:
    description = json.loads(written[0])
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(leaves(description)))
        parent = description
        for key in path:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[last] = data.draw(JUNK)
        else:
            del parent[last]
    try:
        net = read_net(json.dumps(description).encode(), written[1])
    except ValueError as error:
        assert "\n" not in str(error)
        assert str(error).endswith("export the trial again.")
    else:
        assert_only_allowed(net)


@heavy(200, deadline=None, derandomize=True, database=None)
@given(data=st.data(), second=st.booleans(), cut=st.booleans())
def test_altered_bytes_are_a_net_or_one_sentence(
    written: tuple[bytes, bytes], data: Any, second: bool, cut: bool
) -> None:
    content = bytearray(written[second])
    place = data.draw(st.integers(0, len(content) - 1))
    if cut:
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    pair = (written[0], bytes(content)) if second else (bytes(content), written[1])
    try:
        assert_only_allowed(read_net(*pair))
    except ValueError as error:
        assert "\n" not in str(error)
        assert str(error).endswith("export the trial again.")
        return
    assert not cut


def assert_only_allowed(net: fx.GraphModule) -> None:
    """Whatever was altered: each part is on the list."""
    for node in net.graph.nodes:
        if node.op == "call_function":
            assert any(node.target is f for f in functions().values())
        elif node.op == "call_method":
            assert node.target in methods()
    assert {type(m) for m in net.modules()} <= {*classes().values(), nn.Module, type(net)}
