"""What a front is compared with: plans that are fixed, trained beside the trials, never chosen.

Each is a plan like those of trials, so it shares their warm-up and whatever else begins alike, with
other studies, too. The seed net, trained like a trial of one stage, is one by itself and always
there.

Bits, strengths and sparsities below are those of the literature:

    Jahier Pagliari et al., "PLiNIO", 2023 (arXiv 2307.09488), section IV: lambda from 1e-2 to
    1e-10 for PIT and SuperNet; Gumbel-softmax without a cost, as in Dong and Yang, CVPR 2019
    (arXiv 1910.04465); L1 norms as in Li et al., ICLR 2017 (arXiv 1608.08710).
    Motetti et al., 2024 (arXiv 2407.01054): uniform weights of 8, 4 and 2 bits beside 8-bit
    activations.
"""

from __future__ import annotations

from dataclasses import dataclass

from plinio_sweep.methods.l1 import L1Settings
from plinio_sweep.methods.mps import MPSSettings
from plinio_sweep.methods.search import Method
from plinio_sweep.methods.supernet import SuperNetSettings
from plinio_sweep.sweep.result import SEED
from plinio_sweep.sweep.stage import Stage
from plinio_sweep.train.recipe import NetFn

PAPER_LAMBDAS = tuple(10.0**-power for power in range(2, 11))


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A fixed plan of a study.

    Args:
        name: Its own within the study; no number, not "seed" and without "#".
        family: Of the series in plots that it belongs to; its name when left out.
        stages: What is done, in order, after the warm-up.
        net: Makes the net that it starts from; that of the study when left out.

    Raises:
        ValueError: For a name that is taken, and without a stage.
    """

    name: str
    stages: tuple[Stage, ...]
    family: str = ""
    net: NetFn | None = None

    def __post_init__(self) -> None:
        taken = self.name == SEED or self.name.isdigit() or "#" in self.name
        if taken or not self.name.strip():
            raise ValueError(
                f"`name` of a baseline must be words, for numbers are trials, {SEED!r} is the seed "
                f"net and '3#1' a replicate, but got {self.name!r}; say what it is, as in 'w8a8'."
            )
        if not self.family:
            object.__setattr__(self, "family", self.name)
        if not self.stages:
            raise ValueError(
                f"`stages` of {self.name!r} must hold one stage or more, but are empty; the seed "
                f"net without a stage is always a baseline."
            )


def uniform(*w_bits: int, x_bits: int = 8) -> tuple[Baseline, ...]:
    """Quantisation-aware training of the seed net at one bit-width each.

    Args:
        w_bits: Of the weights; 8, 4 and 2 when left out.
        x_bits: Of the activations.

    Example:
        >>> [baseline.name for baseline in uniform()]
        ['w8a8', 'w4a8', 'w2a8']
    """
    return tuple(
        Baseline(
            name=f"w{bits}a{x_bits}",
            family="uniform",
            stages=(Stage(method=MPSSettings(w_bits=(bits,), x_bits=(x_bits,))),),
        )
        for bits in w_bits or (8, 4, 2)
    )


def grid(method: Method, lambdas: tuple[float, ...] = PAPER_LAMBDAS) -> tuple[Baseline, ...]:
    """One method under fixed `lambda`s, as a user without an outer search tries them.

    Args:
        method: With its settings.
        lambdas: The loss for one unit of what presses in the study.

    Example:
        >>> from plinio_sweep import PITSettings
        >>> [baseline.name for baseline in grid(PITSettings(), (1e-3, 1e-5))]
        ['pit 0.001', 'pit 1e-05']
    """
    return tuple(
        Baseline(
            name=f"{method.name} {value:.3g}",
            family=f"{method.name}, fixed lambdas",
            stages=(Stage(method=method, strength=value, relative=False),),
        )
        for value in lambdas
    )


def free_choice() -> tuple[Baseline, ...]:
    """SuperNet by Gumbel-softmax without pressure: the branches that are best, whatever they cost.

    Example:
        >>> free_choice()[0].name
        'supernet without cost'
    """
    stage = Stage(method=SuperNetSettings(sampling="gumbel"))
    return (Baseline(name="supernet without cost", stages=(stage,)),)


def magnitude(*sparsities: float) -> tuple[Baseline, ...]:
    """The seed net, trained, pruned by L1 norms of its channels and fine-tuned.

    Args:
        sparsities: Fraction of the channels of every group that goes; 0.25, 0.5, 0.75 when left
            out.

    Example:
        >>> [baseline.name for baseline in magnitude(0.5)]
        ['l1 50%']
    """
    return tuple(
        Baseline(
            name=f"l1 {100 * sparsity:.3g}%",
            family="l1",
            stages=(Stage(method=L1Settings(sparsity=sparsity)),),
        )
        for sparsity in sparsities or (0.25, 0.5, 0.75)
    )


def longer(stages: int, *baselines: Baseline) -> tuple[Baseline, ...]:
    """The float net and `baselines`, each trained for the epochs of some stages more.

    A chain of methods is trained longer than one of them: what it is better than these by, it does
    not owe to its epochs.

    Args:
        stages: That a chain has more than they; each is a pruning that removes nothing.
        baselines: Of one stage.

    Raises:
        ValueError: For less than one stage.

    Example:
        >>> [baseline.name for baseline in longer(1, *uniform(8))]
        ['float +1 stage', 'w8a8 +1 stage']
    """
    if stages < 1:
        raise ValueError(f"`stages` must be 1 or more, but got {stages}; leave these out.")
    idle = Stage(method=L1Settings(sparsity=0.0))
    more = f"+{stages} stage{'s' if stages > 1 else ''}"
    float_net = Baseline(name="float", family="seed", stages=(idle,))
    return tuple(
        Baseline(
            name=f"{baseline.name} {more}",
            family=f"{baseline.family}, longer",
            stages=(*(idle,) * stages, *baseline.stages),
            net=baseline.net,
        )
        for baseline in (float_net, *baselines)
    )
