"""What optuna-dashboard 0.21 lacks for large studies and several plots; other versions stay as is.

It looks for the note and the files of each trial among all attributes of the study, which are
several for each trial: a page of 5,000 trials took minutes. And it has plots in a set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

LATE_FILES = "dashboard:artifacts:"  # of the names of attributes that hold files of finished trials


class Attributes(dict[str, Any]):
    """Attributes of a study, with those that hold files of its trials also by themselves."""

    def __init__(self, attrs: Mapping[str, Any]) -> None:
        super().__init__(attrs)
        self.late = {key: value for key, value in attrs.items() if key.startswith(LATE_FILES)}


def mend() -> None:
    """Puts our functions around those of optuna-dashboard, once, where it has them."""
    from optuna_dashboard import _app, _note, _serializer

    _around(_app, "get_plotly_graph_objects", _ordered)
    _around(_note, "get_note_from_system_attrs", _found)
    _around(_serializer, "list_trial_artifacts", _few)


def _around(module: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    inner = getattr(module, name, None)
    if inner is None or getattr(inner, "mended", False):
        return
    outer = wrap(inner)
    outer.mended = True
    setattr(module, name, outer)


def _ordered(inner: Any) -> Any:
    from plinio_sweep.view.panels.every import PANELS

    places = {name: place for place, name in enumerate(PANELS)}

    def ordered(attrs: dict[str, Any]) -> dict[str, str]:
        """Our panels first, in the order of a page."""
        found = inner(attrs)
        return dict(
            sorted(found.items(), key=lambda item: (places.get(item[0], len(places)), item[0]))
        )

    return ordered


def _found(inner: Any) -> Any:
    def found(attrs: dict[str, Any], trial: int | None) -> Any:
        """The note of a trial by its name, not by a look at all."""
        if trial is None or f"dashboard:{trial}:note_ver" not in attrs:
            return inner(attrs, trial)
        few = {f"dashboard:{trial}:note_ver": attrs[f"dashboard:{trial}:note_ver"]}
        while (key := f"dashboard:{trial}:note_str:{len(few) - 1}") in attrs:
            few[key] = attrs[key]
        return inner(few, trial)

    return found


def _few(inner: Any) -> Any:
    def few(attrs: dict[str, Any], *others: Any) -> Any:
        """The files of a trial, sought among files."""
        return inner(attrs.late if isinstance(attrs, Attributes) else attrs, *others)

    return few
