"""Results behind a URL, for machines that share no folder, and copies of them on this one.

    plinio-sweep.json               what this is
    keys/<key>.json                 manifest: the key is there since this is
    files/<key>/<writer>/<name>     its files; those of two writers never mix
    unfinished/<key>/<checkpoint>   of a training that any machine may go on with
    damaged/<key>-<writer>.json     manifest of files that were not as they were written

A server of objects renames nothing, so the manifest comes last: what it names is there.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, final

from plinio_sweep.store.artifacts import WAY_OUT, Fill, FolderStore, Seal, Warn
from plinio_sweep.store.items import Item, Kind, is_key
from plinio_sweep.store.link import AwayError, Found, Link
from plinio_sweep.store.manifest import Manifest, parsed, read_manifest, sum_of
from plinio_sweep.sweep.failure import StoreError
from plinio_sweep.train.checkpoints import SUFFIX, write_whole

MARK, VERSION = "plinio-sweep.json", 1


class _SpoiltError(Exception):
    """A file is not what its manifest says."""


@final
class RemoteStore:
    """Keeps results behind a URL; a folder of this machine has a copy of each that was used.

    What could not be taken there, because the server was away for too long, stays in the folder,
    and is taken there when it is next asked for.

    Args:
        link: To the server.
        copies: Folder of this machine, for this URL alone.
        warn: Is told of what is damaged, which is then put aside; without it, for those who can
            train nothing, that is an error.
    """

    def __init__(self, link: Link, copies: Path, *, warn: Warn | None = None) -> None:
        self._link, self._warn = link, warn
        # What only reads need not hear of a damaged copy: it is fetched again.
        self._copies = FolderStore(copies, warn=warn or (lambda text: None))
        self._marked = False

    def ready(self) -> None:
        """Finds out whether anything can be stored, before hours of training do.

        Raises:
            StoreError: When the server is away for too long, or refuses.
        """
        self._link.patiently(self._mark)

    def find(self, key: str) -> Path | None:
        """A folder with the files of `key`, when it is complete.

        Raises:
            StoreError: When the server is away for too long, or refuses.
            ValueError: When it is damaged, and nobody is there to be told.
        """
        self.ready()
        copy = self._copies.find(key)
        manifest = self._link.patiently(lambda: self._manifest(key))
        if manifest is None:
            if copy is not None:
                self._publish(key, copy)
            return copy
        if copy is not None:
            held = read_manifest(copy)
            if held is not None and held.files == manifest.files:
                return copy
            self._copies.drop(key)  # another machine was first, and all are to use the same
        return self._fetched(key, manifest)

    def read(self, key: str, names: Iterable[str]) -> dict[str, bytes] | None:
        """Some files of `key` alone: its weights, the most of it, are not fetched for them.

        Raises:
            StoreError: When the server is away for too long, or refuses.
            ValueError: When one is not as it was written.
        """
        self.ready()
        manifest = self._link.patiently(lambda: self._manifest(key))
        held = read_manifest(self._copies.root / key)
        if manifest is None or (held is not None and held.files == manifest.files):
            return self._copies.read(key, names)
        found: dict[str, bytes] = {}
        for name in names:
            path = f"{manifest.place}/{name}"
            found[name] = self._link.patiently(partial(self._link.get, path)) or b""
            if sum_of(found[name]) != manifest.files.get(name):
                raise ValueError(
                    f"The stored result {key} must be as it was written, but its {name} is not; "
                    f"{WAY_OUT}."
                )
        return found

    def write(self, key: str, fill: Fill, sealed: Seal = nullcontext) -> Path:
        """Has `fill` write the files of `key`, which others see all at once; where they lie here.

        Args:
            key: Content key.
            fill: Writes into an empty folder.
            sealed: Is entered for the moment in which others come to see them.

        Raises:
            StoreError: When the server is away for too long, or refuses; the files stay here.
        """
        drafts: list[Path] = []
        lost: list[StoreError] = []

        def filled(draft: Path) -> None:
            drafts.append(draft)
            fill(draft)

        @contextmanager
        def published() -> Iterator[None]:
            try:
                self._publish(key, drafts[0], sealed)
            except StoreError as error:
                lost.append(error)
            yield

        copy = self._copies.write(key, filled, published)
        if lost:
            raise lost[0]
        return self.find(key) or copy

    def unfinished(self, key: str) -> Path:
        """Where checkpoints lie on this machine until `key` is complete."""
        return self._copies.unfinished(key)

    def mirror(self, key: str) -> RemoteCheckpoints:
        """What carries checkpoints of `key` to other machines."""
        return RemoteCheckpoints(self._link, self.unfinished(key), f"unfinished/{key}")

    def lock(self, key: str) -> AbstractContextManager[Any]:
        """Keeps other processes on this machine from making `key` at the same time."""
        return self._copies.lock(key)

    def items(self) -> Iterator[Item]:
        """All that lies behind the URL, and the copies of this machine.

        Raises:
            StoreError: When the server is away for too long, or refuses.
        """
        names = self._link.patiently(self._link.names)
        stored = {_stem(name) for name in names if name.startswith("keys/")}
        groups: defaultdict[tuple[Kind, str], list[str]] = defaultdict(list)
        for name in sorted(names):
            if (what := _kind(name, stored)) is not None:
                groups[what].append(name)
        for (kind, key), paths in groups.items():
            yield self._item(kind, key, [names[path] for path in paths], paths)
        for item in self._copies.items():
            kind = "copy" if item.kind == "result" else item.kind
            yield Item(**{**vars(item), "kind": kind})

    def _item(self, kind: Kind, key: str, found: list[Found], paths: list[str]) -> Item:
        # The manifest first: nobody is to find a key without its files.
        paths.sort(key=lambda path: not path.startswith("keys/"))
        return Item(
            kind=kind,
            key=key,
            place=f"{self._link.url.rstrip('/')}/{paths[0]}",
            size_bytes=sum(file.size_bytes for file in found),
            age=min(file.age for file in found),
            remove=partial(self._link.patiently, partial(self._link.remove, paths)),
        )

    # -- files ------------------------------------------------------------------------------------

    def _mark(self) -> None:
        """Finds out at once whether this program may read and write there at all."""
        if self._marked:
            return
        mark = json.dumps({"version": VERSION}).encode()
        found = self._link.get(MARK)
        if found is None:
            self._link.put(MARK, mark)
        elif not mark.startswith(found):  # another may be writing it just now
            raise StoreError(
                f"The artefact store must have the form {VERSION}, but {MARK} in it says "
                f"{found.decode(errors='replace')[:80]!r}; name another in `artifacts`."
            )
        self._marked = True

    def _manifest(self, key: str) -> Manifest | None:
        data = self._link.get(f"keys/{key}.json")
        return None if data is None else parsed(data)  # a part is none: its writer is at it

    def _publish(self, key: str, folder: Path, sealed: Seal = nullcontext) -> None:
        held = read_manifest(folder)
        assert held is not None  # it has just been written, or looked at
        place = f"files/{key}/{uuid.uuid4().hex}"
        for name in held.files:
            data = (folder / name).read_bytes()
            self._link.patiently(partial(self._link.put, f"{place}/{name}", data))
        manifest = Manifest(files=held.files, place=place).to_bytes()

        def appear() -> None:
            with sealed():
                if self._manifest(key) is None:
                    self._link.put(f"keys/{key}.json", manifest)

        self._link.patiently(appear)

    def _fetched(self, key: str, manifest: Manifest) -> Path | None:
        """A copy of what `manifest` names; nothing when it is not what it was."""
        try:
            return self._copies.write(key, partial(self._fill, manifest))
        except _SpoiltError as error:
            fault = str(error)
        if self._link.patiently(lambda: self._manifest(key)) != manifest:
            return self.find(key)  # it was removed meanwhile, or is another's by now
        said = f"The stored result {key} must be as it was written, but {fault}"
        if self._warn is None:
            raise ValueError(f"{said}; {WAY_OUT}.")
        aside = f"damaged/{key}-{manifest.place.rpartition('/')[2]}.json"
        self._link.patiently(partial(self._link.put, aside, manifest.to_bytes()))
        self._link.patiently(partial(self._link.remove, [f"keys/{key}.json"]))
        self._warn(f"{said}; it was put aside as {aside} and is made anew.")
        return None

    def _fill(self, manifest: Manifest, draft: Path) -> None:
        for name, known in manifest.files.items():
            path = f"{manifest.place}/{name}"
            data = self._link.patiently(partial(self._link.get, path))
            if data is None:
                raise _SpoiltError(f"lacks {path}")
            if sum_of(data) != known:
                raise _SpoiltError(f"has other contents in {path}")
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(data)


@final
class RemoteCheckpoints:
    """The checkpoints of one training behind a URL. Each is one file that tells if it is whole.

    Args:
        link: To the server.
        folder: Of the training on this machine.
        place: Of the training behind the URL.
    """

    def __init__(self, link: Link, folder: Path, place: str) -> None:
        self._link, self._folder, self._place = link, folder, place

    def fetch(self) -> None:
        """Brings those that are not here into the folder."""
        try:
            for path in self._link.patiently(partial(self._link.names, self._place)):
                own = self._folder / path.rpartition("/")[2]
                if own.suffix == SUFFIX and not own.exists():
                    data = self._link.patiently(partial(self._link.get, path))
                    if data is not None:
                        write_whole(own, data)
        except StoreError as error:
            raise AwayError(str(error).rstrip(".")) from error

    def share(self, path: Path) -> None:
        """Keeps `path` for others, and of those before it what the folder has.

        One attempt: the training is not to wait, and there will be another checkpoint.
        """
        try:
            self._link.put(f"{self._place}/{path.name}", path.read_bytes())
            # Whoever slept for long and wakes up takes nothing from who is further.
            old = [
                name
                for name in self._link.names(self._place)
                if (own := name.rpartition("/")[2]) < path.name
                and not (self._folder / own).exists()
            ]
            self._link.remove(old)
        except StoreError as error:
            raise AwayError(str(error).rstrip(".")) from error

    def clear(self) -> None:
        """Removes all of this training."""
        try:
            self._link.remove(self._link.names(self._place))
        except StoreError as error:
            raise AwayError(str(error).rstrip(".")) from error


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def _kind(name: str, stored: set[str]) -> tuple[Kind, str] | None:
    """What a file belongs to: a kind and a key; nothing for what is not ours."""
    first, _, rest = name.partition("/")
    key = re.split("[/.-]", rest)[0]
    if not is_key(key):
        return None
    if first in ("keys", "files"):
        return ("result" if key in stored else "draft"), key
    kinds: dict[str, Kind] = {"unfinished": "checkpoint", "damaged": "damaged"}
    return (kinds[first], key) if first in kinds else None
