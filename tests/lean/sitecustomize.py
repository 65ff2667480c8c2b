"""Loaded by every Python that tests start: for most of them the dashboard is not installed.

It takes seconds to load in each process, and has each worker write graphs of the front for it.
"""

import os
import sys

if "TESTS_WITH_DASHBOARD" not in os.environ:
    sys.modules["optuna_dashboard"] = None  # type: ignore[assignment]
