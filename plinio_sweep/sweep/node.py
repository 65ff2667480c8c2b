"""Comes to the outcome of a node: reads it where it is stored, trains and stores it where not.

A net that was read goes on exactly as one that was trained here would: what a trial comes to does
not depend on what ran before it, or where.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from plinio_sweep.methods.search import LayerChoice, Search
from plinio_sweep.sweep.failure import clause_of
from plinio_sweep.sweep.files import (
    damaged,
    load_json,
    load_tensors,
    load_weights,
    save_json,
    save_tensors,
    save_weights,
)
from plinio_sweep.sweep.path import Node
from plinio_sweep.sweep.stage import (
    Ground,
    Lease,
    LeaseLostError,
    Stage,
    StageOutcome,
    run_search,
    train_net,
)
from plinio_sweep.train.checkpoints import Checkpoints
from plinio_sweep.train.history import Epoch
from plinio_sweep.train.loop import Watch

SEARCH = "search.safetensors"
STAGE = "stage.json"
HISTORY = "history.json"

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What a node came to."""

    net: nn.Module  # in training mode
    history: list[Epoch]  # of this node alone
    search: StageOutcome | None = None  # of a search
    reused: bool = False  # whether it was stored, and not trained now


def seed_net(ground: Ground) -> nn.Module:
    """A new seed net on the device of the study.

    Raises:
        ValueError: When it can't run on the data, with what it said.
        TypeError: When the task gives no module.
    """
    try:
        net = ground.task.net()
    except Exception as error:
        raise ValueError(
            f"`net` must make the seed net, but failed: {clause_of(error)}; correct that function."
        ) from error
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"`net` must return a torch module, but returned {type(net).__name__}; return the net."
        )
    net = net.to(ground.device)
    example = ground.data.example()
    try:
        with torch.no_grad():
            outputs = copy.deepcopy(net).eval()(*example)
            ground.task.loss(outputs, ground.data.part("train").target[:2])
    except Exception as error:
        shapes = [tuple(value.shape) for value in example]
        reason = " ".join(str(error).split())
        raise ValueError(
            f"Net and loss must accept the data, but failed on inputs of shape {shapes} and type "
            f"{example[0].dtype}: {reason}; correct the net, the loss or the loader."
        ) from error
    return net


def outcome_of(ground: Ground, node: Node, parent: nn.Module | None, watch: Watch) -> Outcome:
    """What `node` comes to from the net of its parent, which is not changed.

    Args:
        ground: What the study stands on.
        node: No evaluation.
        parent: Where it starts; nothing for the warm-up.
        watch: Who looks on.

    Raises:
        DivergedError: When a loss is not finite.
        ValueError: When a stored file is damaged.
    """
    if parent is None:
        torch.manual_seed(node.seed)
    net = seed_net(ground) if parent is None else copy.deepcopy(parent)

    def make(looking: Watch) -> Outcome:
        return _train(ground, node, copy.deepcopy(net).train(), looking)

    def save(outcome: Outcome, draft: Path) -> None:
        _save(ground, outcome, draft)

    found = once(ground, node.key, watch, make, save)
    _keeper(ground, node, watch).clear()  # what it came to is stored
    return found[1] or _load(ground, node, net.train(), found[0])


def once(
    ground: Ground,
    key: str,
    watch: Watch,
    make: Callable[[Watch], Made],
    save: Callable[[Made, Path], None],
) -> tuple[Path, Made | None]:
    """The folder of `key`, and what was made for it where it was not there yet.

    Of all processes that need it one makes it; the others wait. Who finds that the lease went to
    somebody else meanwhile drops what it made, and waits as well.

    Args:
        ground: Where things are stored, and who says whose turn it is.
        key: Content key.
        watch: Who looks on, also while another process makes it.
        make: Makes it, looked on by what it is given.
        save: Writes it into an empty folder.
    """
    while (folder := ground.store.find(key)) is None:
        with _held(ground, key, watch) as lease:
            if (folder := ground.store.find(key)) is not None:
                break
            try:
                made = make(_leased(watch, lease))
                # While the folder appears the lease can't go to somebody else.
                return ground.store.write(key, partial(save, made), lease.sealed), made
            except LeaseLostError:
                continue
    return folder, None


def _held(ground: Ground, key: str, watch: Watch) -> AbstractContextManager[Lease]:
    if ground.leases is not None:
        return ground.leases.hold(key, watch.step)
    return _locked(ground, key)


@contextmanager
def _locked(ground: Ground, key: str) -> Iterator[Lease]:
    """The lock of the store, for a study without a database."""
    with ground.store.lock(key):
        yield _Lock()


class _Lock:
    """A lock that the system frees with its process, and never before."""

    def check(self) -> None: ...

    def sealed(self) -> AbstractContextManager[None]:
        return nullcontext()


def _leased(watch: Watch, lease: Lease) -> Watch:
    def step() -> None:
        lease.check()
        watch.step()

    return replace(watch, step=step)


# -- training -----------------------------------------------------------------------------------


def _keeper(ground: Ground, node: Node, watch: Watch) -> Checkpoints:
    """Checkpoints of the training of `node`, which whoever comes next goes on from."""
    return Checkpoints(
        ground.store.unfinished(node.key),
        key=node.key,
        seconds=ground.checkpoint,
        warn=watch.warn,
        mirror=ground.store.mirror(node.key),
    )


def _train(ground: Ground, node: Node, net: nn.Module, watch: Watch) -> Outcome:
    told: dict[str, Any] = {
        "name": node.name,
        "seed": node.seed,
        "step": node.step,
        "watch": watch,
        "keeper": _keeper(ground, node, watch),
    }
    if node.stage is None:
        history = train_net(ground, net, node.phase, **told)
        return Outcome(net=net.train(), history=history)
    found = run_search(ground, net, node.stage, **told)
    return Outcome(net=found.net.train(), history=found.history, search=found)


# -- files --------------------------------------------------------------------------------------


def _save(ground: Ground, outcome: Outcome, folder: Path) -> None:
    save_weights(outcome.net, folder)
    save_json([epoch.to_dict() for epoch in outcome.history], folder / HISTORY)
    if outcome.search is not None:
        stored = {"decisions": outcome.search.decisions, "models": ground.model_parts}
        save_json(stored, folder / STAGE)
        save_tensors(_state(outcome.search.search), folder / SEARCH)


def _state(search: Search) -> dict[str, torch.Tensor]:
    """All of a search: also the noise of its last step, which its relaxed costs hang on."""
    return {**search.state_dict(), **dict(search.named_buffers())}


def _load(ground: Ground, node: Node, net: nn.Module, folder: Path) -> Outcome:
    history = [Epoch(**epoch) for epoch in load_json(folder / HISTORY)]
    if node.stage is None:
        load_weights(net, folder)
        return Outcome(net=net, history=history, reused=True)
    stored = load_json(folder / STAGE)
    found = _reopen(ground, node.stage, net, folder, stored["decisions"], history)
    kept = [_known(ground, epoch, stored["models"]) for epoch in history]
    return Outcome(net=found.net.train(), history=kept, search=found, reused=True)


def _reopen(
    ground: Ground,
    stage: Stage,
    net: nn.Module,
    folder: Path,
    decisions: Mapping[str, Any],
    history: list[Epoch],
) -> StageOutcome:
    search = stage.method.open(net, ground.data.example(), ground.models)
    state = load_tensors(folder / SEARCH)
    try:
        search.load_state_dict({name: state[name] for name in search.state_dict()})
        for name, buffer in search.named_buffers():
            buffer.copy_(state[name])
        theta = search.decode(decisions)
        layers: Mapping[str, LayerChoice] = search.summary(theta)
        exported = search.export(theta, check=False)
    except (KeyError, RuntimeError) as error:
        raise ValueError(damaged(folder / SEARCH, error)) from error
    load_weights(exported, folder)
    return StageOutcome(
        search=search, net=exported, decisions=decisions, layers=layers, history=history
    )


def _known(ground: Ground, epoch: Epoch, models: Mapping[str, Any]) -> Epoch:
    """`epoch` without costs that mean something else in this study, or nothing.

    They belong to no key: whoever trained a search noted what its own study reports.
    """
    same = {name for name, part in ground.model_parts.items() if models.get(name) == part}
    return replace(epoch, costs={n: cost for n, cost in epoch.costs.items() if n in same})
