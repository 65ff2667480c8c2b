"""Nets written as ONNX and run by another runtime."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from plinio_sweep.methods.mps import MPS
from plinio_sweep.ship.onnx import export_onnx, run_onnx
from tests.zoo.shipped import Residual, TwoInputs

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra onnx",
)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.fixture
def net() -> nn.Module:
    """A net whose batch norm has seen data, in training mode."""
    torch.manual_seed(0)
    net = Residual().train()
    for _ in range(3):
        net(torch.randn(8, 3, 6, 6))
    return net


@needs_onnx
@pytest.mark.parametrize("batch", [1, 2])
def test_the_file_gives_the_outputs_of_the_net_for_any_batch_size(
    net: nn.Module, tmp_path: Path, batch: int
) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(net, (torch.randn(batch, 3, 6, 6),), path)

    net.eval()
    for size in (1, 5):
        x = torch.randn(size, 3, 6, 6)
        (output,) = run_onnx(path, (x,))
        np.testing.assert_allclose(output, net(x).detach().numpy(), rtol=1e-5, atol=1e-6)


@needs_onnx
@pytest.mark.parametrize("ranges", ["minmax", "learned"])
def test_a_rounded_net_computes_the_same_elsewhere(tmp_path: Path, ranges: str) -> None:
    path = tmp_path / "model.onnx"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        search = MPS(Residual().eval(), input_shape=(3, 6, 6), x_bits=(4, 8), ranges=ranges)
        with torch.no_grad():
            search.decisions["weights"].uniform_()
        net, x = search.export(), torch.randn(5, 3, 6, 6)
    export_onnx(net, (x[:2],), path)
    (output,) = run_onnx(path, (x,))
    expected = net(x).detach().numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@needs_onnx
def test_everything_is_in_one_file_and_nothing_is_printed(
    net: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export_onnx(net, (torch.randn(2, 3, 6, 6),), tmp_path / "model.onnx")
    run_onnx(tmp_path / "model.onnx", (torch.randn(2, 3, 6, 6),))

    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")


@needs_onnx
def test_the_net_keeps_its_mode_and_its_values(net: nn.Module, tmp_path: Path) -> None:
    net.body.eval()  # one part frozen: modes are per module
    before = {name: value.clone() for name, value in net.state_dict().items()}
    export_onnx(net, (torch.randn(2, 3, 6, 6),), tmp_path / "model.onnx")

    assert net.training
    assert not net.body.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@needs_onnx
def test_several_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(TwoInputs(), (torch.ones(1, 4), torch.ones(1, 4)), path)

    x, y = np.full((3, 4), 5, np.float32), np.full((3, 4), 2, np.float32)
    total, difference = run_onnx(path, (x, torch.from_numpy(y)))
    np.testing.assert_array_equal(total, x + y)
    np.testing.assert_array_equal(difference, x - y)


@needs_onnx
def test_a_net_that_branches_on_its_data_is_refused_in_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="expressible in ONNX") as refusal:
        export_onnx(Branching(), (torch.ones(2, 4),), tmp_path / "model.onnx")
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["onnxscript", "onnxruntime"])
def test_without_the_extra_the_way_to_install_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):  # None makes Python's import fail
        monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=r"pip install 'plinio-sweep\[onnx\]'"):
        if module == "onnxscript":
            export_onnx(nn.Identity(), (torch.ones(1, 4),), path)
        else:
            run_onnx(path, (torch.ones(1, 4),))
