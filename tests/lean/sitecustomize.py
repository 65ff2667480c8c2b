"""Loaded by every Python that tests start: most of them start without what only costs them time.

The dashboard is not installed for them: it takes seconds to load in each process, and has each
worker write graphs of the front for it. The compiler of torch, which each optimiser loads to say
at each step that a compiler has to break off there, is not loaded before somebody compiles: that
is half of the time that a worker takes to start.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


class _Later(ModuleType):
    """Stands for the compiler: does nothing for who does not compile, and is it for all others."""

    def graph_break(self, msg: str = "") -> None:
        """Where nothing is compiled, there is nothing to break off."""

    def disable(self, fn: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        """Where nothing is compiled, nothing is to be kept from it."""
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            # Asked of every module by `inspect`; the path is asked for when a part is imported.
            raise AttributeError(name)
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return getattr(importlib.import_module(COMPILER), name)


if "TESTS_WITH_DASHBOARD" not in os.environ:
    # Python's own word for a module that is not there: importing it raises ImportError, as it does
    # for people who have not installed the extra.
    sys.modules["optuna_dashboard"] = None  # type: ignore[assignment]
    sys.modules[COMPILER] = _Later(COMPILER)
