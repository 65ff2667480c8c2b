"""What keeping freed memory saves: steps of ResNet-8 in two processes, one as workers are started.

Both do the same steps in turns, one thread each. Times are CPU seconds, with those of the system;
the other process is the baseline. Faults are pages that the system had to clear.

    pytest tests/benchmarks -m benchmark -k memory -s
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from plinio_sweep.engine.local import KEPT_MEMORY
from tests.benchmarks.nets import STUDIES

ROUNDS = 9
CHILD = """
import json, resource, sys
import torch
from torch.nn import functional as F
from nets.resnet8 import resnet8

torch.manual_seed(0)
torch.set_num_threads(1)
net = resnet8()
optimizer = torch.optim.Adam(net.parameters())
images, target = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))
for _ in sys.stdin:
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(net(images), target).backward()
        optimizer.step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "faults": (after.ru_minflt - before.ru_minflt) / 10,
        "weights": sum(p.double().sum().item() for p in net.parameters()),
    }
    print(json.dumps(told), flush=True)
"""


class Child:
    """A process that trains ten steps whenever it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.told: list[dict[str, float]] = []

    def steps(self) -> None:
        """Has it train, and hears what that took."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write("\n")
        stdin.flush()
        self.told.append(json.loads(stdout.readline()))

    def median(self, name: str) -> float:
        """Of what it told, but for the first two rounds, in which memory is first taken."""
        return statistics.median(told[name] for told in self.told[2:])


@contextmanager
def child(**variables: str) -> Iterator[Child]:
    """A process with these variables, and with none of those that workers have of memory."""
    own = {name: value for name, value in os.environ.items() if name not in KEPT_MEMORY}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**own, "PYTHONPATH": str(STUDIES), **variables},
    )
    with process:
        yield Child(process)
        process.kill()


def test_memory() -> None:
    with child() as plain, child(**KEPT_MEMORY) as kept:
        for _ in range(ROUNDS + 2):
            plain.steps()
            kept.steps()
    pairs = zip(kept.told[2:], plain.told[2:], strict=True)
    ratios = [own["seconds"] / base["seconds"] for own, base in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"\nkept / plain: {middle:.2f} ({low:.2f} to {high:.2f}) of the CPU seconds")
    for name, found in (("plain", plain), ("kept", kept)):
        print(f"{name}: {found.median('faults'):,.0f} faults a step")
    assert plain.told[-1]["weights"] == kept.told[-1]["weights"]
