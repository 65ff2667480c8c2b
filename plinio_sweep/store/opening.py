"""The artefact store that the settings name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from plinio_sweep.settings import Settings, is_url
from plinio_sweep.store.artifacts import FolderStore, Warn

if TYPE_CHECKING:
    from plinio_sweep.store.remote import RemoteStore


def open_store(
    settings: Settings, *, warn: Warn | None = None, known: bool = False
) -> FolderStore | RemoteStore:
    """A folder for a path, the files behind it for a URL.

    Args:
        settings: Where it is.
        warn: Is told of what is damaged, which is then put aside and trained again; without it,
            for those who can train nothing, that is an error.
        known: Whether its server was there before, and is waited for if it is away.

    Raises:
        StoreError: When the URL is none that can be used here.
    """
    place = settings.artifacts_url
    if not is_url(place):
        return FolderStore(Path(place), warn=warn)
    if place.startswith(("file://", "local://")):
        return FolderStore(Path(unquote(urlsplit(place).path)), warn=warn)
    # Later than the rest: a study in a folder needs none of it.
    from plinio_sweep.store.link import Link
    from plinio_sweep.store.remote import RemoteStore

    link = Link(place, patience=settings.patience, known=known)
    name = hashlib.sha256(place.rstrip("/").encode()).hexdigest()[:12]
    return RemoteStore(link, settings.folder / "copies" / name, warn=warn)
