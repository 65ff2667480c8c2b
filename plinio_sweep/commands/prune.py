"""`plinio-sweep show --prune-cache`: what no trial needs any more, listed and then removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import click

from plinio_sweep.settings import Settings, load_settings, redacted
from plinio_sweep.store.items import Item, superfluous
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.needs import Needs, needs_of
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.storage import exclusive, explained, open_storage

AT_ONCE = 50  # items that are removed while no worker can claim a trial


def prune_cache(path: Path, *, remove: bool) -> None:
    """Prints what nobody needs, in the store of the study at `path`; removes it when told to.

    Raises:
        ValueError: When the database or the store can't be used.
    """
    settings = load_settings(path)
    # In a database that never heard of this study nobody needs anything.
    read_study(path, settings)
    look = partial(needs_of, open_storage(settings, create=False))
    with explained(settings):
        store = open_store(settings)
        store.ready()
        listed = list(store.items())
        needs = look()
        spare = superfluous(listed, _all(needs))
        _tell(settings, spare, needs)
        if not spare:
            return
        if not remove:
            click.echo("nothing was removed; --yes removes it")
            return
        gone = _remove(settings, look, listed, spare)
        click.echo(f"removed: {_sum(gone)}")


def _remove(
    settings: Settings, look: Callable[[], Needs], listed: list[Item], spare: list[Item]
) -> list[Item]:
    """Removes those of `spare` that still nobody needs; they are returned."""
    gone: list[Item] = []
    for start in range(0, len(spare), AT_ONCE):
        # Trials are claimed, and say what they need, before this lock is had or after it.
        with exclusive(settings):
            still = {item.place for item in superfluous(listed, _all(look()))}
            for item in spare[start : start + AT_ONCE]:
                if item.place in still:
                    item.remove()
                    gone.append(item)
    return gone


def _all(needs: Needs) -> frozenset[str] | None:
    return None if needs.silent else needs.keys


def _tell(settings: Settings, spare: list[Item], needs: Needs) -> None:
    for item in spare:
        click.echo(f"{item.kind:<10} {item.size_bytes:>14,} bytes  {redacted(item.place)}")
    if needs.silent:
        click.echo(
            f"all results are kept, since a trial of {', '.join(needs.silent)} does not say which "
            f"it needs: plinio-sweep run ends that, unless an older version made it"
        )
    place = redacted(settings.artifacts_url)
    click.echo(f"what no study in {redacted(settings.storage_url)} needs: {_sum(spare)} in {place}")


def _sum(items: Iterable[Item]) -> str:
    sizes = [item.size_bytes for item in items]
    return f"{len(sizes)} items, {sum(sizes):,} bytes"
