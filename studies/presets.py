"""How much of a study is run: enough to see that it works, to see a front, or all of it.

`PLINIO_SWEEP_PRESET` chooses among "smoke", "cpu" and "full". The choice is part of the name of a
study, so that their trials do not mix; workers on other machines have it with the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = "PLINIO_SWEEP_PRESET"
DEFAULT = "cpu"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much of everything.

    Args:
        most: Items of each split; all when left out.
        epochs: Of warm-up, search and fine-tuning.
        trials: How many in all.
    """

    most: int | None
    epochs: tuple[int, int, int]
    trials: int


SMOKE = Preset(most=256, epochs=(1, 2, 1), trials=2)


def chosen(*, cpu: Preset, full: Preset) -> tuple[str, Preset]:
    """The preset that the environment names, with its name.

    Args:
        cpu: For a few hours on two cores: some of the data, and short phases.
        full: For an accelerator: all data, and a warm-up as long as the training of the reference.

    Raises:
        ValueError: When there is no such preset.
    """
    presets: Mapping[str, Preset] = {"smoke": SMOKE, "cpu": cpu, "full": full}
    name = os.environ.get(VARIABLE) or DEFAULT
    if name not in presets:
        raise ValueError(
            f"`{VARIABLE}` must be among {list(presets)}, but got {name!r}; leave it out for "
            f"{DEFAULT!r}."
        )
    return name, presets[name]
