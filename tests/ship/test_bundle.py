"""Bundles: written, reloaded, compared; and never half there."""

from __future__ import annotations

import errno
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, fx, nn

import plinio_sweep
from costs import size_bits
from plinio_sweep.methods.pit import PIT
from plinio_sweep.ship.arena import arrange
from plinio_sweep.ship.bundle import write_bundle
from plinio_sweep.ship.integer import integerize
from plinio_sweep.ship.onnx import run_onnx
from plinio_sweep.ship.reference import IntegerNet
from tests.examples import heavy
from tests.nets import NETS
from tests.ship.compiled import needs_gcc
from tests.ship.quantized import export

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra onnx",
)


class Residual(nn.Module):
    """A stem of `width` channels and one convolution used twice around a residual sum."""

    def __init__(self, width: int, slope: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.again = self.body  # one tensor under two names
        self.head = nn.Linear(width, 2)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        features = nn.functional.leaky_relu(self.norm(self.stem(x)), self.slope)
        features = features + self.again(self.body(features))
        return self.head(features.mean((2, 3)))


class Unfaithful(Residual):
    """Computes something else once it is exported, as a faulty exporter would make it."""

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        return 1.01 * output if torch.compiler.is_exporting() else output


class Nested(Residual):
    def forward(self, x: Tensor) -> dict[str, Any]:
        output = super().forward(x)
        return {"logits": output, "rest": [output.argmax(1), (output.exp(),)]}


def rebuild(architecture: Mapping[str, Any]) -> nn.Module:
    return Residual(architecture["width"])


EXAMPLE = (torch.linspace(-1, 1, 2 * 3 * 6 * 6).reshape(2, 3, 6, 6),)
ARCHITECTURE = {"width": 4}
REPORT = {"costs": {"size_bytes": 1234.0}}


def trained(net: nn.Module) -> nn.Module:
    """Gives batch norm a history, and leaves `net` in training mode."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        net.train()(torch.randn(8, 3, 6, 6, generator=generator))
    return net


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return trained(Residual(4))


@needs_onnx
def test_a_bundle_holds_four_files_that_give_the_outputs_of_the_net(
    net: nn.Module, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "bundle"
    checks = write_bundle(target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild)

    assert net.training
    assert sorted(file.name for file in target.iterdir()) == [
        "architecture.json",
        "model.onnx",
        "model.safetensors",
        "report.json",
    ]
    loaded = rebuild(json.loads((target / "architecture.json").read_text())).eval()
    loaded.load_state_dict(load_file(target / "model.safetensors"))
    x = torch.randn(5, 3, 6, 6)
    expected = net.eval()(x)
    torch.testing.assert_close(loaded(x), expected, rtol=0, atol=0)
    (output,) = run_onnx(target / "model.onnx", (x,))
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-6)
    assert set(checks) == {"safetensors", "onnx"}
    assert checks["safetensors"] == 0
    assert 0 <= checks["onnx"] < 1e-4
    assert json.loads((target / "report.json").read_text()) == {**REPORT, "checks": checks}


def test_without_onnx_there_is_no_onnx_file_and_no_check_of_one(
    net: nn.Module, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    checks = write_bundle(
        target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, formats=("torch",)
    )

    assert checks == {"safetensors": 0}
    assert not (target / "model.onnx").exists()


@needs_onnx
def test_nested_outputs_are_compared_one_by_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = trained(Nested(4))
    checks = write_bundle(
        tmp_path / "bundle", net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=lambda _: Nested(4)
    )
    assert set(checks) == {"safetensors", "onnx"}


def test_an_empty_folder_may_be_filled_and_a_filled_one_may_not(
    net: nn.Module, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    write_bundle(target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, formats=("torch",))
    before = (target / "report.json").read_bytes()

    with pytest.raises(ValueError, match="must be new or empty") as refusal:
        write_bundle(target, net, EXAMPLE, ARCHITECTURE, {}, rebuild=rebuild, formats=("torch",))
    assert str(target) in str(refusal.value)
    assert (target / "report.json").read_bytes() == before
    assert [folder.name for folder in tmp_path.iterdir()] == ["bundle"]


def test_a_file_in_the_place_of_the_folder_is_left_alone(net: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.write_text("mine")
    with pytest.raises(ValueError, match="must be new or empty"):
        write_bundle(
            target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, formats=("torch",)
        )
    assert target.read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused(net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    target = tmp_path / "file" / "bundle"
    with pytest.raises(ValueError, match="must lie in a folder you can write"):
        write_bundle(
            target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, formats=("torch",)
        )


def test_a_full_disk_is_told_and_leaves_nothing(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: str, encoding: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)  # reached after the weights are written
    with pytest.raises(ValueError, match=r"must have room for the bundle.*No space left"):
        write_bundle(
            tmp_path / "bundle",
            net,
            EXAMPLE,
            ARCHITECTURE,
            REPORT,
            rebuild=rebuild,
            formats=("torch",),
        )
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_rebuilding_is_passed_on(net: nn.Module, tmp_path: Path) -> None:
    def unreadable(architecture: Mapping[str, Any]) -> nn.Module:
        raise PermissionError(errno.EACCES, "not your net")

    with pytest.raises(PermissionError, match="not your net"):
        write_bundle(
            tmp_path / "bundle",
            net,
            EXAMPLE,
            ARCHITECTURE,
            REPORT,
            rebuild=unreadable,
            formats=("torch",),
        )
    assert not list(tmp_path.iterdir())


def test_weights_that_give_other_outputs_are_refused(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors must equal .* differ by 0\.\d+"):
        write_bundle(
            tmp_path / "bundle",
            net,
            EXAMPLE,
            ARCHITECTURE,
            REPORT,
            rebuild=lambda architecture: Residual(architecture["width"], slope=0.5),
        )
    assert not list(tmp_path.iterdir())


def test_an_architecture_of_other_shapes_is_refused(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must take the weights") as refusal:
        write_bundle(tmp_path / "bundle", net, EXAMPLE, {"width": 5}, REPORT, rebuild=rebuild)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_outputs_of_other_shapes_are_refused(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors must have the shapes"):
        write_bundle(
            tmp_path / "bundle", net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=lambda _: Nested(4)
        )
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_not_numbers_are_refused(net: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        net.head.bias[0] = float("nan")
    with pytest.raises(ValueError, match="differ by nan"):
        write_bundle(tmp_path / "bundle", net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild)
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_an_onnx_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = trained(Unfaithful(4))
    with pytest.raises(ValueError, match=r"model\.onnx must equal"):
        write_bundle(tmp_path / "bundle", net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild)
    assert not list(tmp_path.iterdir())


# -- integers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantized() -> tuple[fx.GraphModule, tuple[Tensor, ...], IntegerNet]:
    net, inputs = export(NETS["SqueezeExcite"])
    return net, inputs, integerize(net, inputs)


def no_rebuild(architecture: Mapping[str, Any]) -> nn.Module:
    raise AssertionError("the folder alone must do")


Quantized = tuple[fx.GraphModule, tuple[Tensor, ...], IntegerNet]


@needs_onnx
@needs_gcc
def test_a_quantised_net_ships_as_integers_in_every_form(
    quantized: Quantized, tmp_path: Path
) -> None:
    net, inputs, integers = quantized
    target = tmp_path / "bundle"
    checks = write_bundle(
        target,
        net,
        inputs,
        {},
        REPORT,
        rebuild=no_rebuild,
        integers=integers,
        formats=("torch", "onnx", "c"),
    )
    assert {path.name for path in target.iterdir()} == {
        *("architecture.json", "model.safetensors", "report.json", "model.onnx"),
        *("model.bin", "integers.onnx", "model.c", "model.h"),
    }
    assert set(checks) == {"safetensors", "onnx", "integers", "integers_onnx", "c"}
    assert checks["safetensors"] == checks["integers"] == checks["c"] == 0
    assert checks["integers_onnx"] <= 1.001
    report = json.loads((target / "report.json").read_text())
    assert sum(report["bytes"].values()) == (target / "model.bin").stat().st_size
    assert report["c"]["activation_bytes"] == arrange(integers.program).size
    assert report["c"]["object"]["text"] > report["c"]["constant_bytes"]


def test_a_bundle_is_loaded_without_its_study(quantized: Quantized, tmp_path: Path) -> None:
    net, inputs, integers = quantized
    target = tmp_path / "bundle"
    write_bundle(
        *(target, net, inputs, {}, REPORT),
        rebuild=no_rebuild,
        integers=integers,
        formats=("torch",),
    )
    with torch.no_grad():
        assert torch.equal(plinio_sweep.load(target)(*inputs), net(*inputs))
    again = plinio_sweep.load_integers(target)
    assert torch.equal(again(*inputs), integers(*inputs))
    assert again.program.operations == integers.program.operations
    assert again.state_dict().keys() == integers.state_dict().keys()


def test_a_loaded_net_can_be_searched_again(quantized: Quantized, tmp_path: Path) -> None:
    net, inputs, _ = quantized
    write_bundle(
        tmp_path / "bundle", net, inputs, {}, REPORT, rebuild=no_rebuild, formats=("torch",)
    )
    search = PIT(plinio_sweep.load(tmp_path / "bundle"), size_bits, input_example=inputs)
    assert torch.equal(search.export()(*inputs), net(*inputs))


def test_what_a_bundle_does_not_hold_is_said(net: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write_bundle(target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, formats=("torch",))
    with pytest.raises(ValueError, match="load it with its study"):
        plinio_sweep.load(target)
    with pytest.raises(ValueError, match="must be of a quantised net to hold integers"):
        plinio_sweep.load_integers(target)
    with pytest.raises(ValueError, match=r"must be whole, but .*No such file"):
        plinio_sweep.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="C code must be of an integer net"):
        write_bundle(
            tmp_path / "c", net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, formats=("c",)
        )
    assert not (tmp_path / "c").exists()


@heavy(60, deadline=None)
@given(data=st.data())
def test_damaged_bundles_are_refused_in_one_sentence(
    data: st.DataObject, whole: Mapping[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    name = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[name])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    for other, kept in whole.items():
        (folder / other).write_bytes(bytes(content) if other == name else kept)
    for read in (plinio_sweep.load, plinio_sweep.load_integers):
        try:
            read(folder)
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.fixture(scope="module")
def whole(quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a bundle that loading reads."""
    net, inputs, integers = quantized
    target = tmp_path_factory.mktemp("whole") / "bundle"
    write_bundle(
        *(target, net, inputs, {}, REPORT),
        rebuild=no_rebuild,
        integers=integers,
        formats=("torch",),
    )
    return {path.name: path.read_bytes() for path in target.iterdir() if path.stem != "report"}


def test_force_replaces_a_bundle_and_nothing_else(net: nn.Module, tmp_path: Path) -> None:
    def write(target: Path, *, force: bool) -> None:
        write_bundle(
            *(target, net, EXAMPLE, ARCHITECTURE, REPORT),
            rebuild=rebuild,
            formats=("torch",),
            force=force,
        )

    target, other = tmp_path / "bundle", tmp_path / "thesis"
    write(target, force=False)
    before = (target / "report.json").stat().st_ino
    with pytest.raises(ValueError, match="must be new or empty"):
        write(target, force=False)
    write(target, force=True)
    assert (target / "report.json").stat().st_ino != before
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"a bundle to be replaced, but .* holds something else"):
        write(other, force=True)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        write(target, force=True)
    assert {p.name for p in tmp_path.iterdir()} == {"bundle", "thesis"}
