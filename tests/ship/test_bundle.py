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
from safetensors.torch import load_file
from torch import Tensor, nn

from plinio_sweep.ship.bundle import write_bundle
from plinio_sweep.ship.onnx import run_onnx

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
    checks = write_bundle(target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, onnx=False)

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
    write_bundle(target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, onnx=False)
    before = (target / "report.json").read_bytes()

    with pytest.raises(ValueError, match="must be new or empty") as refusal:
        write_bundle(target, net, EXAMPLE, ARCHITECTURE, {}, rebuild=rebuild, onnx=False)
    assert str(target) in str(refusal.value)
    assert (target / "report.json").read_bytes() == before
    assert [folder.name for folder in tmp_path.iterdir()] == ["bundle"]


def test_a_file_in_the_place_of_the_folder_is_left_alone(net: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.write_text("mine")
    with pytest.raises(ValueError, match="must be new or empty"):
        write_bundle(target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, onnx=False)
    assert target.read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused(net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    target = tmp_path / "file" / "bundle"
    with pytest.raises(ValueError, match="must lie in a folder you can write"):
        write_bundle(target, net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, onnx=False)


def test_a_full_disk_is_told_and_leaves_nothing(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: str, encoding: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)  # reached after the weights are written
    with pytest.raises(ValueError, match=r"must have room for the bundle.*No space left"):
        write_bundle(
            tmp_path / "bundle", net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=rebuild, onnx=False
        )
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_rebuilding_is_passed_on(net: nn.Module, tmp_path: Path) -> None:
    def unreadable(architecture: Mapping[str, Any]) -> nn.Module:
        raise PermissionError(errno.EACCES, "not your net")

    with pytest.raises(PermissionError, match="not your net"):
        write_bundle(
            tmp_path / "bundle", net, EXAMPLE, ARCHITECTURE, REPORT, rebuild=unreadable, onnx=False
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
