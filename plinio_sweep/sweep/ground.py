"""What a study stands on, made ready on this machine: data loaded, device checked."""

from __future__ import annotations

import torch

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.failure import clause_of
from plinio_sweep.sweep.stage import Ground, Leases, Store
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.train.recipe import Splits


def ground_of(
    sweep: Sweep, settings: Settings, store: Store, leases: Leases | None = None
) -> Ground:
    """What all trials of `sweep` stand on; loads the data.

    Raises:
        ValueError: When the data can't be loaded or the device does not exist.
    """
    device = device_of(settings.devices[0])
    try:
        data = sweep.task.data()
    except Exception as error:
        raise ValueError(
            f"`data` must load the data, but failed: {clause_of(error)}; correct that function or "
            f"bring what it needs."
        ) from error
    if not isinstance(data, Splits):
        raise TypeError(
            f"`data` must return Splits(train=…, validation=…, test=…), but returned "
            f"{type(data).__name__}; wrap it."
        )
    return Ground(
        task=sweep.task,
        data=data.to(device),
        recipe=sweep.recipe,
        pressure=sweep.pressure,
        models=sweep.models,
        store=store,
        device=device,
        leases=leases,
        checkpoint=settings.checkpoint,
        nets=sweep.nets[1:],
    )


def device_of(name: str) -> torch.device:
    """The device called `name`, for this process to work on.

    Raises:
        ValueError: When this machine has none of that name.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"`device` must be one of this machine, but {name!r} is not: "
            f'{str(error).splitlines()[0]}; "cpu" always is.'
        ) from error
    if device.type == "cuda" and device.index is not None:
        # What is asked for without a number would go to the first one, and keep memory there.
        torch.cuda.set_device(device)
    return device
