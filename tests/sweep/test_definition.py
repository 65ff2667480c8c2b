from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from costs import cost, macs
from plinio_sweep.plugin import load_file
from plinio_sweep.sweep import definition
from plinio_sweep.sweep.definition import describe, differences, digest


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], ModuleType]:
    """Loads source text as a user's file, each in a folder of its own."""
    count = iter(range(100))

    def load(text: str) -> ModuleType:
        path = tmp_path / str(next(count)) / "study.py"
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        return load_file(path)

    return load


# -- plain data -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    width: int
    bits: tuple[int, ...]


def test_plain_data_describes_itself() -> None:
    value = {"a": [1, 2.5, None, True, "x"], 3: (1, 2)}
    assert describe(value) == {"a": [1, 2.5, None, True, "x"], "3": [1, 2]}


@pytest.mark.parametrize("at_once", [1, 100, definition._AT_ONCE])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(4 * 3 * 5, dtype=torch.float32).reshape(4, 3, 5),
        torch.arange(4 * 3 * 5).reshape(4, 3, 5).transpose(0, 2),
        torch.arange(40.0, requires_grad=True)[::3],
        torch.ones(1).expand(7, 2),
        torch.tensor([True, False, True]),
        torch.arange(9, dtype=torch.bfloat16),
        torch.tensor(2.5, dtype=torch.float64),
        torch.empty(0, 3),
        torch.empty(3, 0),
    ],
    ids=lambda value: f"{list(value.shape)}" if isinstance(value, torch.Tensor) else None,
)
def test_a_tensor_is_its_bytes_whatever_is_read_at_once(
    tensor: torch.Tensor, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definition, "_AT_ONCE", at_once)
    whole = bytes(tensor.detach().clone(memory_format=torch.contiguous_format).untyped_storage())
    expected = f"tensor {list(tensor.shape)} @{hashlib.sha256(whole).hexdigest()[:12]}"
    assert describe(tensor) == expected


def test_a_tensor_has_the_key_that_it_always_had() -> None:
    # What is stored under a key is found by it again: these are of the first version.
    assert describe(torch.arange(10.0)) == "tensor [10] @143de3a0e041"
    assert describe(torch.arange(12).reshape(3, 4).T) == "tensor [4, 3] @bf6cce68c5f4"


def test_a_record_is_its_fields() -> None:
    assert describe(Settings(3, (2, 4))) == {"record": "Settings", "width": 3, "bits": [2, 4]}


def test_every_description_is_json() -> None:
    for value in (Settings(3, (2,)), F.relu, nn.Conv2d, macs, functools.partial(F.gelu, x=1)):
        assert json.loads(json.dumps(describe(value))) == describe(value)


def test_a_partial_is_its_function_with_its_arguments() -> None:
    def of(**arguments: Any) -> Any:
        return describe(functools.partial(F.cross_entropy, **arguments))

    assert of(label_smoothing=0.1) == of(label_smoothing=0.1)
    assert of(label_smoothing=0.1) != of(label_smoothing=0.2)


# -- code -----------------------------------------------------------------------------------------


def test_a_function_of_a_library_is_its_name() -> None:
    assert describe(F.cross_entropy) == "torch.nn.functional.cross_entropy"


def test_a_function_of_the_user_is_its_source(load: Callable[[str], ModuleType]) -> None:
    first = load("def net():\n    return 1\n").net
    moved = load("import torch\n\n# elsewhere\ndef net():\n    return 1\n").net
    other = load("def net():\n    return 2\n").net
    assert describe(first) == describe(moved)
    assert describe(first) != describe(other)


CHANGES = {
    "a constant": ("WIDTH = 8\n\ndef net():\n    return WIDTH\n", "= 8", "= 16"),
    "a helper": (
        "def block():\n    return 1\n\ndef net():\n    return [block() for _ in range(3)]\n",
        "return 1",
        "return 2",
    ),
    "a helper of a helper": (
        "def a():\n    return 1\n\ndef b():\n    return a()\n\ndef net():\n    return b()\n",
        "return 1",
        "return 2",
    ),
    "a class behind a lambda": (
        "class Net:\n    def forward(self):\n        return 1\n\nnet = lambda: Net()\n",
        "return 1",
        "return 2",
    ),
    "a class that a class uses": (
        "class Block:\n    size = 1\n\nclass net:\n    def __init__(self):\n        Block()\n",
        "size = 1",
        "size = 2",
    ),
    "a base class": ("class Base:\n    size = 1\n\nclass net(Base):\n    pass\n", "= 1", "= 2"),
    "a captured value": (
        "def make(width):\n    def net():\n        return width\n    return net\n\nnet = make(8)\n",
        "make(8)",
        "make(16)",
    ),
    "a default": ("def net(width=8):\n    return width\n", "=8", "=16"),
    "an attribute of an object": (
        "class Loss:\n    def __init__(self, a):\n        self.a = a\n\nnet = Loss(1.0)\n",
        "Loss(1.0)",
        "Loss(2.0)",
    ),
    "the object of a method": (
        "class Net:\n    def __init__(self, a):\n        self.a = a\n"
        "    def make(self):\n        return self.a\n\nnet = Net(1).make\n",
        "Net(1)",
        "Net(2)",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_code_reaches_is_part_of_it(change: str, load: Callable[[str], ModuleType]) -> None:
    text, old, new = CHANGES[change]
    assert text.count(old) == 1
    first, same = describe(load(text).net), describe(load(f"import os\n\n{text}").net)
    assert first == same
    assert first != describe(load(text.replace(old, new)).net)


def test_code_that_reaches_itself_is_described(load: Callable[[str], ModuleType]) -> None:
    text = "def net(n):\n    return other(n)\n\ndef other(n):\n    return net(n - 1)\n"
    assert describe(load(text).net) != describe(load(text.replace("- 1", "- 2")).net)


def test_what_code_does_not_reach_is_no_part_of_it(load: Callable[[str], ModuleType]) -> None:
    text = "cache = {}\nUNUSED = 1\n\ndef net():\n    return cache.get(1)\n"
    assert describe(load(text).net) == describe(load(text.replace("= 1\n", "= 2\n")).net)


def test_a_cache_is_no_part_of_code(load: Callable[[str], ModuleType]) -> None:
    module = load("cache = {}\n\ndef net():\n    return cache.setdefault(1, 2)\n")
    before = describe(module.net)
    module.net()
    assert describe(module.net) == before


def test_a_loss_object_is_its_settings_and_tensors() -> None:
    plain, smooth = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)
    weighted = [nn.CrossEntropyLoss(weight=torch.tensor([1.0, w])) for w in (1.0, 2.0, 2.0)]
    described = [digest(describe(loss)) for loss in (plain, smooth, *weighted)]
    assert len(set(described)) == 4
    assert described[-1] == described[-2]
    assert describe(plain.eval()) == describe(nn.CrossEntropyLoss())


def test_a_cost_model_is_its_formula(load: Callable[[str], ModuleType]) -> None:
    text = 'from costs import cost\n\n@cost(unit="x")\ndef net(layer):\n    return layer.cin\n'
    first, other = load(text).net, load(text.replace("cin", "cout")).net
    unit = load(text.replace('"x"', '"y"')).net
    assert len({digest(describe(model)) for model in (first, other, unit)}) == 3
    assert describe(cost(unit="x")(first.function)) == describe(first)


def test_the_description_does_not_depend_on_the_process() -> None:
    program = (
        "from tests.studies.tiny import sweep; from plinio_sweep.sweep.definition import digest; "
        "print(digest(sweep.definition()))"
    )
    from tests.studies.tiny import sweep

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == digest(sweep.definition())


# -- differences ----------------------------------------------------------------------------------


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_differences_name_the_fields() -> None:
    old = {"a": {"b": 1, "c": [1]}, "d": 3}
    new = {"a": {"b": 2, "c": [1, 2]}, "e": 4}
    assert differences(old, new) == [
        "a.b: 1 -> 2",
        "a.c: [1] -> [1, 2]",
        "d: 3 -> null",
        "e: null -> 4",
    ]
    assert differences(old, old) == []


def test_long_values_are_cut() -> None:
    (line,) = differences({"a": "x" * 500}, {"a": "y"})
    assert len(line) < 100
    assert line.startswith('a: "xxx')
