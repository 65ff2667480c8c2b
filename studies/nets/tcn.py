"""A temporal convolutional net for six signals of a watch: 29,408 weights, 1.54 million MACs.

Its kernels are long, dense and causal: which taps are needed, in other words receptive field and
dilation, is for the search to say.

References:
    Bai et al., "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for
    Sequence Modeling", 2018 (arXiv 1803.01271), section 3, for the residual block;
    Risso et al., 2023 (arXiv 2301.10281), section 4, for seeds whose kernels are dense.
"""

from __future__ import annotations

from torch import Tensor, nn

CHANNELS = (16, 24, 32)
TAPS = 9


class Block(nn.Module):
    """Two causal convolutions and a shortcut of one tap."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = causal(inputs, outputs)
        self.relu = nn.ReLU()
        self.second = causal(outputs, outputs)
        self.shortcut = nn.Conv1d(inputs, outputs, 1, bias=False)
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, T)` to `(B, outputs, T)`."""
        y = self.relu(self.first(x))
        return self.last(self.second(y) + self.shortcut(x))


def causal(inputs: int, outputs: int) -> nn.Module:
    """A convolution with its norm that sees its own time and the `TAPS - 1` before."""
    return nn.Sequential(
        nn.ConstantPad1d((TAPS - 1, 0), 0.0),
        nn.Conv1d(inputs, outputs, TAPS, bias=False),
        nn.BatchNorm1d(outputs),
    )


def tcn(classes: int = 7) -> nn.Module:
    """The net for windows `(6, 128)`: six signals over 128 samples."""
    first, second, third = CHANNELS
    return nn.Sequential(
        Block(6, first),
        nn.AvgPool1d(2),
        Block(first, second),
        nn.AvgPool1d(2),
        Block(second, third),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(third, classes),
    )
