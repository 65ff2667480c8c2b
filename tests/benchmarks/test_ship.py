"""The integer ResNet-8: how long it takes to be made, and one image in C and in onnxruntime.

    pytest tests/benchmarks -m benchmark -k ship -s

For information: the C code is written to be small and exact, not fast on a processor like this.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from plinio_sweep import MPS, integerize
from plinio_sweep.ship.packed import pack_program
from plinio_sweep.ship.quantized_onnx import export_qdq
from tests.benchmarks.nets import resnet8
from tests.benchmarks.timing import ratios
from tests.ship.compiled import Compiled, needs_gcc


@needs_gcc
@pytest.mark.parametrize("w_bits", [(8,), (2, 4, 8)], ids=str)
def test_ship(w_bits: tuple[int, ...], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(64, 3, 32, 32)
    search = MPS(resnet8().eval(), input_example=x, w_bits=w_bits)
    with torch.no_grad():
        for logits in search.nas_parameters():
            logits.normal_()
    exported = search.export().eval()
    start = time.perf_counter()
    integers = integerize(exported, x)
    seconds = time.perf_counter() - start
    code = Compiled(integers.program, tmp_path, "-O3")
    export_qdq(integers.program, tmp_path / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), options, providers=["CPUExecutionProvider"]
    )
    image = x[:1].numpy()
    codes = [c.numpy() for c in integers.quantize(x[:1])]
    (name,) = (item.name for item in session.get_inputs())
    steps = {
        "onnxruntime": lambda: session.run(None, {name: image}),
        "C": lambda: code(codes),
        "fake-quantised": lambda: exported(x[:1]),
    }
    base, found = ratios(steps, "onnxruntime", rounds=9, repeats=2)
    print(
        f"\nResNet-8, weights {w_bits}: {len(pack_program(integers.program)):,} bytes packed, "
        f"arena {code.report.arena_bytes:,} bytes, made and compared in {seconds:.1f} s"
    )
    for kind, (middle, low, high) in found.items():
        print(f"  {kind:15} {middle:6.2f} ({low:.2f} to {high:.2f}) x {1e3 * base:.2f} ms")
    assert np.array_equal(code(codes)[0], integers.run(integers.quantize(x[:1]))[0].numpy())
