"""The nodes of a plan: what is trained and stored one by one, each under a content key.

A plan is a path: warm-up, then search and fine-tuning of every stage, then the evaluation; without
stages, the seed net is trained on in their place, and fine-tuned. The key of a node is a hash of
its parent's key and of what can change its own outcome, and of nothing else. So plans that begin
alike share nodes up to where they part, also plans of different studies: "pit" with "pit>mps", and
both with themselves under other objectives.

Seeds go along the same path: that of a stage follows from the seed of the plan and from the
stages up to it, settings and strengths included, never from the trial that happens to train it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from costs import CostModel
from plinio_sweep.sweep.definition import describe, digest
from plinio_sweep.sweep.result import SEED
from plinio_sweep.sweep.stage import CODE_VERSION, Ground, Plan, Stage
from plinio_sweep.train.pressure import Budget
from plinio_sweep.train.recipe import Phase

Kind = Literal["warmup", "seed", "search", "finetune", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One thing that is trained, or at the end of a path measured, and stored.

    Args:
        kind: What is done.
        key: Content key.
        name: Of its phase in curves: "pit#2.search".
        phase: Epochs and rates.
        seed: Of everything random in it.
        step: Number of epochs before it.
        stage: What is searched, for a search.
    """

    kind: Kind
    key: str
    name: str
    phase: Phase
    seed: int
    step: int
    stage: Stage | None = None


def path_of(ground: Ground, plan: Plan, warmup_seed: int) -> tuple[Node, ...]:
    """The nodes of `plan` in their order, the evaluation last."""
    ground, recipe = ground.on(plan.net), ground.recipe
    nodes = [
        Node(
            kind="warmup",
            key=_warmup_key(ground, warmup_seed),
            name="warmup",
            phase=recipe.warmup,
            seed=warmup_seed,
            step=0,
        )
    ]
    for node, known in _trained(ground, plan):
        last = nodes[-1]
        key = digest([node.kind, last.key, node.seed, describe(node.phase), known])
        nodes.append(replace(node, key=key, step=last.step + last.phase.epochs))
    last = nodes[-1]
    end = replace(
        last,
        kind="evaluation",
        key=digest(["evaluation", last.key, ground.model_parts]),
        name="evaluation",
        step=last.step + last.phase.epochs,
        stage=None,
    )
    return (*nodes, end)


def _trained(ground: Ground, plan: Plan) -> Iterator[tuple[Node, Any]]:
    """The nodes between warm-up and evaluation, and what their outcome hangs on by itself."""
    recipe = ground.recipe
    if not plan.stages:
        # What methods have to beat: it has the rates of a trial of one stage, not its epochs alone.
        yield _draft("seed", SEED, replace(recipe.search, arch_lr=None), plan.seed), None
        yield _draft("finetune", f"{SEED}.finetune", recipe.finetune, plan.seed + 1), None
    seed = plan.seed
    for turn, stage in enumerate(plan.stages):
        count = sum(s.method.name == stage.method.name for s in plan.stages[:turn]) + 1
        name = stage.method.name if count == 1 else f"{stage.method.name}#{count}"
        seed = int(digest([seed, stage.describe()])[:7], 16)
        search = _draft("search", f"{name}.search", recipe.search, seed)
        felt = [ground.parts["pressure"], _pressing(ground)]
        shape = [recipe.ramp, list(recipe.temperature)]
        yield replace(search, stage=stage), [stage.describe(), *felt, *shape]
        yield _draft("finetune", f"{name}.finetune", recipe.finetune, seed + 1), None


def _draft(kind: Kind, name: str, phase: Phase, seed: int) -> Node:
    return Node(kind=kind, key="", name=name, phase=phase, seed=seed, step=0)


def _warmup_key(ground: Ground, seed: int) -> str:
    """Of the seed net after its warm-up; all that every other node stands on, too, goes in here."""
    recipe = ground.recipe
    known = [ground.parts[name] for name in ("net", "loss", "metrics")]
    known += [ground.data_identity, describe(recipe.warmup), recipe.batch_size]
    if (augment := ground.parts["augment"]) is not None:  # else the key is that of earlier versions
        known.append({"augment": augment})
    # The kind of device: workers on equal accelerators share what they train.
    return digest(["warmup", CODE_VERSION, seed, *known, ground.device.type])


def _pressing(ground: Ground) -> dict[str, Any]:
    """The cost models that the gradient of a search may feel, by name.

    A function of several costs does not say which it reads: it may be any.
    """
    if isinstance(ground.pressure, CostModel):
        return {}  # says itself what it is
    named = ground.pressure.targets if isinstance(ground.pressure, Budget) else ground.models
    return {name: ground.model_parts[name] for name in named}
