"""Files behind an fsspec URL, on a server that may be away for a while and come back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import tenacity

from plinio_sweep.settings import redacted
from plinio_sweep.sweep.failure import StoreError

LONGEST_PAUSE = 5.0  # [s] between two attempts
# What no waiting mends.
_FINAL = (PermissionError, NotADirectoryError, NotImplementedError, TypeError, ValueError)

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class AwayError(OSError):
    """The server did not answer, or not as it should; it may do so later."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file as a listing shows it."""

    size_bytes: int
    age: float  # [s] 0 where the server does not say


class Link:
    """One folder behind a URL. Paths are relative to it.

    Each call is one attempt, as the driver makes them; `patiently` makes several.

    Args:
        url: Any that fsspec has a driver for.
        patience: How long to wait for a server that is lost [s].
        known: Whether the server is known to exist: the first contact then waits, too.

    Raises:
        StoreError: When there is no driver for the URL.
    """

    def __init__(self, url: str, *, patience: float, known: bool = False) -> None:
        self.url, self._patience, self._known = url, patience, known
        _check(url)
        try:
            # What another machine has just written is not in any listing of ours.
            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise StoreError(
                f"The driver of the artefact store must be installed, but {redacted(url)} finds "
                f"none: {self._reason(error)}; pip install 'plinio-sweep[s3]' brings that of s3://."
            ) from error
        except Exception as error:
            raise StoreError(
                f"`artifacts` must be a folder or a URL that fsspec knows, but got "
                f"{redacted(url)}: {self._reason(error)}; name for instance s3://bucket/folder."
            ) from error

    def patiently(self, action: Callable[[], Result]) -> Result:
        """What `action` returns, tried again while the server is away.

        Raises:
            StoreError: At the end of the patience.
        """
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(AwayError),
            stop=tenacity.stop_after_delay(self._patience if self._known else 0.0),
            # Workers that lost one server must not all come back at once.
            wait=tenacity.wait_exponential_jitter(multiplier=0.1, max=LONGEST_PAUSE),
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            result = attempts(action)
        except AwayError as error:
            raise StoreError(
                f"The artefact store must answer, but {redacted(self.url)} is away: {error}; run "
                f"the same command again when it is back: nothing that was stored is lost."
            ) from error
        self._known = True
        return result

    def get(self, path: str) -> bytes | None:
        """The contents of a file; nothing when it is not there.

        Raises:
            AwayError: When the server is away.
            StoreError: When it refuses.
        """
        try:
            data: bytes = self._ask(lambda: self._files.cat_file(self._at(path)))
        except FileNotFoundError:
            return None
        return data

    def put(self, path: str, data: bytes) -> None:
        """Writes a file, all of it or nothing where the server can do so.

        Raises:
            AwayError: When the server is away.
            StoreError: When it refuses.
        """
        place = self._at(path)
        try:
            try:
                self._ask(lambda: self._files.pipe_file(place, data))
            except FileNotFoundError:
                # Some have real folders. Those below the root are ours to make, the root is not.
                if not self._ask(lambda: self._files.isdir(self._root)):
                    raise
                parent = place.rpartition("/")[0]
                self._ask(lambda: self._files.makedirs(parent, exist_ok=True))
                self._ask(lambda: self._files.pipe_file(place, data))
        except FileNotFoundError as error:
            raise self._refused(error) from error

    def names(self, path: str = "") -> dict[str, Found]:
        """All files below `path`, however deep.

        Raises:
            AwayError: When the server is away.
            StoreError: When it refuses.
        """
        try:
            found = self._ask(lambda: self._files.find(self._at(path), detail=True))
        except FileNotFoundError:
            return {}
        return {
            name.removeprefix(self._root).lstrip("/"): Found(
                size_bytes=int(info["size"] or 0), age=_age(info)
            )
            for name, info in found.items()
        }

    def remove(self, paths: Iterable[str]) -> None:
        """Removes files; no error when they are gone.

        Raises:
            AwayError: When the server is away.
            StoreError: When it refuses.
        """
        for path in paths:
            with suppress(FileNotFoundError):
                self._ask(partial(self._files.rm_file, self._at(path)))

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}" if path else str(self._root)

    def _ask(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except FileNotFoundError:
            raise
        except Exception as error:
            # Of drivers that are not at hand here: by their names.
            if isinstance(error, _FINAL) or "Credentials" in type(error).__name__:
                raise self._refused(error) from error
            raise AwayError(self._reason(error)) from error

    def _refused(self, error: Exception) -> StoreError:
        return StoreError(
            f"The artefact store must let this program read and write, but {redacted(self.url)} "
            f"says {self._reason(error)}; check that it exists, its rights and the keys in the "
            f"environment: nothing that was stored is lost."
        )

    def _reason(self, error: Exception) -> str:
        text = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        password = urlsplit(self.url).password
        return redacted(text.replace(password, "***") if password else text)

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        url = redacted(self.url)
        _log.warning("the store %s is away, attempt %d: %s", url, state.attempt_number, error)


def _check(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme in ("s3", "s3a") and "@" in parts.netloc:
        raise StoreError(
            f"Keys of S3 must be in the environment (AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY), but {redacted(url)} holds some; take them out of `artifacts`."
        )
    if parts.scheme == "memory":
        raise StoreError(
            f"`artifacts` must be shared by processes, but {url} is the memory of one; name a "
            f"folder."
        )


def _age(info: dict[str, Any]) -> float:
    """How old a file is [s], by the name that its driver has for it."""
    changed = info.get("LastModified") or info.get("mtime") or info.get("updated")
    if isinstance(changed, datetime):
        changed = changed.timestamp()
    return time.time() - changed if isinstance(changed, float | int) else 0.0
