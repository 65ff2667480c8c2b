"""How much of a study is run: enough to see that it works, to see a front, or all of it.

`PLINIO_SWEEP_PRESET` chooses among "smoke", "cpu" and "full", `PLINIO_SWEEP_EPOCHS` other epochs of
warm-up, search and fine-tuning than those of the preset ("20,10,5"), `PLINIO_SWEEP_ORDERS` other
orders of methods than those of the study ("pit,pit>mps"), and `PLINIO_SWEEP_SEED` another seed than
0, for a figure with its spread. All are part of the name of a study, so that their trials do not
mix; workers on other machines have them with the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from costs import size_bytes
from plinio_sweep import (
    Baseline,
    LogUniform,
    Phase,
    PITSettings,
    Recipe,
    Space,
    SuperNetSettings,
    Sweep,
    Task,
    free_choice,
    grid,
    longer,
    magnitude,
    uniform,
)
from plinio_sweep.sweep.baseline import PAPER_LAMBDAS
from plinio_sweep.train.recipe import NetFn, cosine

VARIABLE = "PLINIO_SWEEP_PRESET"
EPOCHS_VARIABLE = "PLINIO_SWEEP_EPOCHS"
ORDERS_VARIABLE = "PLINIO_SWEEP_ORDERS"
SEED_VARIABLE = "PLINIO_SWEEP_SEED"
DEFAULT = "cpu"


CHANNELS_AND_BITS = Space(
    orders=("pit>mps", "mps"),
    strength=LogUniform(low=0.1, high=20.0),
    choices={"mps.w_bits": ((2, 4, 8), (0, 2, 4, 8))},
)
CHOICES_TOO = replace(
    CHANNELS_AND_BITS,
    orders=("supernet", "supernet>pit>mps"),
    strength=LogUniform(low=0.01, high=10.0),
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much of everything.

    Args:
        most: Items of each split; all when left out.
        epochs: Of warm-up, search and fine-tuning.
        trials: How many in all.
        w_bits: Of the uniform nets beside the trials.
        sparsities: Of the nets that are pruned by magnitude beside the trials.
        lambdas: Of the methods that are trained alone beside the trials.
        orders: Of methods; those of the study when left out.
        seed: Of all that is random.
    """

    most: int | None
    epochs: tuple[int, int, int]
    trials: int
    w_bits: tuple[int, ...] = (8, 4, 2)
    sparsities: tuple[float, ...] = (0.25, 0.5, 0.75)
    lambdas: tuple[float, ...] = PAPER_LAMBDAS
    orders: tuple[str, ...] = ()
    seed: int = 0

    def recipe(self, *, lr: float, batch_size: int) -> Recipe:
        """Its epochs as phases; where weights are all that is trained, `lr` falls on a cosine."""
        warmup, search, finetune = self.epochs
        return Recipe(
            warmup=Phase(epochs=warmup, lr=lr, schedule=cosine),
            search=Phase(epochs=search, lr=lr, arch_lr=1e-2),
            finetune=Phase(epochs=finetune, lr=lr, schedule=cosine),
            batch_size=batch_size,
        )

    def space(self, usual: Space) -> Space:
        """What is searched where `usual` is, unless other orders were asked for."""
        return replace(usual, orders=self.orders or usual.orders)

    def beside_channels(self, space: Space) -> tuple[Baseline, ...]:
        """What a net of layers is compared with, chains in `space` with nets trained as long."""
        pit, fixed = grid(PITSettings(), self.lambdas), uniform(*self.w_bits)
        more = max(order.count(">") for order in space.orders)
        return (*fixed, *magnitude(*self.sparsities), *pit, *(longer(more, *fixed) if more else ()))

    @property
    def beside_choices(self) -> tuple[Baseline, ...]:
        """What a search among choices is compared with, on the same net of choices."""
        return (*free_choice(), *grid(SuperNetSettings(), self.lambdas))


SMOKE = Preset(
    most=256, epochs=(1, 2, 1), trials=2, w_bits=(8,), sparsities=(0.5,), lambdas=(1e-5,)
)
# Of the paper's nine: 1e-7 prunes little of these nets or nothing, 1e-5 leaves an eighth or less.
CPU_LAMBDAS = (1e-5, 1e-6, 1e-7)


def chosen(*, cpu: Preset, full: Preset) -> tuple[str, Preset]:
    """The preset that the environment names, with its name and those of all else it asks for.

    Args:
        cpu: For a few hours on two cores: some of the data, and short phases.
        full: For an accelerator: all data, and a warm-up as long as the training of the reference.

    Raises:
        ValueError: When there is no such preset, or epochs or seed are no whole numbers.
    """
    presets: Mapping[str, Preset] = {"smoke": SMOKE, "cpu": cpu, "full": full}
    name = os.environ.get(VARIABLE) or DEFAULT
    if name not in presets:
        raise ValueError(
            f"`{VARIABLE}` must be among {list(presets)}, but got {name!r}; leave it out for "
            f"{DEFAULT!r}."
        )
    seed = os.environ.get(SEED_VARIABLE) or "0"
    if not seed.isdecimal():
        raise ValueError(
            f"`{SEED_VARIABLE}` must be a whole number from 0, but got {seed!r}; leave it out to "
            f"have 0."
        )
    preset = replace(presets[name], seed=int(seed))
    if budget := os.environ.get(EPOCHS_VARIABLE):
        preset = replace(preset, epochs=_epochs(budget))
        name += f"-epochs{'-'.join(map(str, preset.epochs))}"
    if orders := os.environ.get(ORDERS_VARIABLE):
        preset = replace(preset, orders=_words(orders))
        name += "".join(f"-{order.replace('>', '.')}" for order in preset.orders)
    return f"{name}-seed{preset.seed}" if preset.seed else name, preset


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _epochs(text: str) -> tuple[int, int, int]:
    words = _words(text)
    if len(words) != 3 or not all(map(str.isdecimal, words)) or int(words[1]) < 1:
        raise ValueError(
            f"`{EPOCHS_VARIABLE}` must be the epochs of warm-up, search and fine-tuning, at least "
            f"one of them of search, but got {text!r}; write for instance 20,10,5."
        )
    warmup, search, finetune = map(int, words)
    return warmup, search, finetune


def layered(
    name: str,
    task: Task,
    preset: Preset,
    *,
    lr: float = 1e-3,
    batch_size: int,
    space: Space = CHANNELS_AND_BITS,
) -> Sweep:
    """The study of a net of layers: its first metric against bytes, in channels and in bits.

    Args:
        name: Of the study.
        task: What is learned.
        preset: How much of everything.
        lr: Of the weights, in every phase.
        batch_size: Items of one step.
        space: What is searched.
    """
    space = preset.space(space)
    return Sweep(
        name=name,
        task=task,
        recipe=preset.recipe(lr=lr, batch_size=batch_size),
        space=space,
        pressure=size_bytes,
        objectives=(f"-{next(iter(task.metrics))}", "size_bytes"),
        baselines=preset.beside_channels(space),
        trials=preset.trials,
        seed=preset.seed,
    )


def chosen_layers(plain: Sweep, name: str, net: NetFn, preset: Preset) -> Sweep:
    """The study of the same task on a net of choices, beside the net of layers.

    Args:
        plain: The study of a net of layers.
        name: Of the new one.
        net: Makes the net of choices.
        preset: How much of everything.
    """
    space = preset.space(CHOICES_TOO)
    layers = (replace(b, net=plain.task.net) for b in preset.beside_channels(space))
    return replace(
        plain,
        name=name,
        task=replace(plain.task, net=net),
        space=space,
        baselines=(*layers, *preset.beside_choices),
        reference=plain.task.net,
    )
